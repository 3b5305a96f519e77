"""Markup: what pages of HTML have in common, so that none of them can be made to run anything."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def escaped(value: object) -> str:
    """Text for an element or a quoted attribute.

    Example:
        >>> escaped("<b> & 'c'")
        '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return html.escape(str(value).replace("\0", "�"))


def source_of(text: str) -> str:
    """What a Content-Security-Policy allows a style or a script by: this text, and no other.

    Example:
        >>> source_of("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def filled(template: str, parts: Mapping[str, str]) -> str:
    """A template with its parts, in one pass: a placeholder in the data stays what it is.

    Example:
        >>> filled("<p>{{a}}</p>{{b}}", {"a": "{{b}}", "b": "!"})
        '<p>{{b}}</p>!'
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
