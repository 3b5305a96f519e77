"""The message of a library that an integration needs and cannot import."""

from __future__ import annotations

from featurekit.errors import MissingExtraError, Problem


def missing(extra: str, library: str, error: Exception) -> MissingExtraError:
    """Names the extra that brings a library, and the line that installs it.

    Example:
        >>> print(missing("sb3", "gymnasium", ImportError("No module named 'gymnasium'")))
        the library gymnasium cannot be imported
          expected: the extra 'sb3'
          got:      No module named 'gymnasium'
          Fix: pip install "featurekit[sb3]"
    """
    return MissingExtraError(
        Problem(
            f"the library {library} cannot be imported",
            expected=f"the extra {extra!r}",
            got=str(error),
            fix=f'pip install "featurekit[{extra}]"',
        )
    )
