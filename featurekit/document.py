"""YAML documents with a closed grammar: every key is known, every mistake has its line.

A document's grammar is a frozen dataclass: its fields are the keys, their types what may stand
there, their defaults what is meant where a key is absent.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from featurekit.errors import ConfigError, Problem

T = TypeVar("T")
Path = tuple[str | int, ...]


@dataclasses.dataclass(slots=True)
class Source:
    """Where a document came from, and the line of each of its keys."""

    name: str
    lines: dict[Path, int] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def where(self, path: Path) -> str:
        """The file, the line and the key, as far as they are known."""
        line = next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0
        )
        parts = [
            self.name,
            f"line {line}" if line else "",
            "key " + ".".join(map(str, path)) if path else "",
        ]
        return ", ".join(part for part in parts if part)

    def add(
        self, what: str, path: Path, *, expected: str = "", got: str = "", fix: str = ""
    ) -> None:
        """Notes one mistake, to be told with the others."""
        self.problems.append(
            Problem(what, where=self.where(path), expected=expected, got=got, fix=fix)
        )

    def check(self) -> None:
        """Tells all mistakes at once.

        Raises:
            ConfigError: when there is one.
        """
        if self.problems:
            raise ConfigError(*self.problems)


def read_yaml(text: str, name: str) -> tuple[dict[str, Any], Source]:
    """A mapping from YAML text, and the line of each key.

    Raises:
        ConfigError: when the text is no YAML, is no mapping, or repeats a key.

    Example:
        >>> read_yaml("bars: {path: a.csv}", "demo.yaml")[0]
        {'bars': {'path': 'a.csv'}}
    """
    source = Source(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            Problem(
                "this is not YAML",
                where=name + line,
                got=str(getattr(error, "problem", None) or error),
            )
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(
            Problem(
                "this is not a mapping", where=name, expected="keys and values", got=repr(data)[:80]
            )
        )
    _note_lines(root, (), source)
    source.check()
    return _with_dates_as_text(data), source


def _with_dates_as_text(value: Any) -> Any:  # noqa: ANN401  # of any type
    """YAML makes dates of what looks like one; the grammar wants them as they were written."""
    if isinstance(value, dict):
        return {key: _with_dates_as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_dates_as_text(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value


def _note_lines(node: Any, path: Path, source: Source) -> None:  # noqa: ANN401  # yaml has no types
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at: Path = (*path, str(key.value))
            if at in source.lines:
                source.lines[at] = key.start_mark.line + 1
                source.add(f"the key {key.value!r} stands twice", at, expected="once")
            source.lines[at] = key.start_mark.line + 1
            _note_lines(value, at, source)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            at = (*path, number)
            source.lines[at] = item.start_mark.line + 1
            _note_lines(item, at, source)


def parse(grammar: type[T], data: object, source: Source, path: Path = ()) -> T | None:
    """A section of a document as its dataclass; None, and problems noted, where it is wrong.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Split:
        ...     train: float = 0.7
        >>> parse(Split, {"train": 0.8}, Source("demo.yaml"))
        Split(train=0.8)
    """
    if not isinstance(data, Mapping):
        source.add("a section is a mapping", path, expected="{key: value}", got=repr(data)[:80])
        return None
    kinds = typing.get_type_hints(grammar)
    known = {f.name.rstrip("_"): f for f in dataclasses.fields(grammar)}  # type: ignore[arg-type]  # a dataclass
    before = len(source.problems)
    for key in data:
        if key not in known:
            source.add(
                f"unknown key {key!r}",
                (*path, key),
                expected="one of " + ", ".join(known),
                fix=next(
                    (f"{near}:" for near in difflib.get_close_matches(str(key), known, 1)), ""
                ),
            )
    values = {}
    for key, field in known.items():
        if key in data:
            values[field.name] = _value(kinds[field.name], data[key], source, (*path, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            source.add(f"the key {key!r} is missing", path, expected=f"{key}: ...")
    return grammar(**values) if len(source.problems) == before else None


def _value(kind: Any, value: Any, source: Source, path: Path) -> Any:  # noqa: ANN401  # of any type
    """The value, converted where nothing is lost; a problem is noted where the type is wrong."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        kinds = get_args(kind)
        for option in kinds:
            if _fits(option, value):
                return _value(option, value, source, path)
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return parse(kind, value, source, path)
    elif origin is tuple and isinstance(value, (list, tuple)):
        item = get_args(kind)[0]
        return tuple(_value(item, each, source, (*path, at)) for at, each in enumerate(value))
    elif origin is not None and issubclass(_class(origin), Mapping) and isinstance(value, Mapping):
        item = get_args(kind)[1]
        return {str(k): _value(item, each, source, (*path, str(k))) for k, each in value.items()}
    elif _fits(kind, value):
        return float(value) if kind is float else value
    source.add("a value is of the wrong kind", path, expected=_words(kind), got=repr(value)[:80])
    return None


def _fits(kind: Any, value: Any) -> bool:  # noqa: ANN401  # of any type
    origin = get_origin(kind)
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin is Literal:
        return value in get_args(kind) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, (list, tuple))
    if origin is not None:
        return isinstance(value, Mapping)
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _class(origin: Any) -> type:  # noqa: ANN401  # of any type
    return origin if isinstance(origin, type) else object


def _words(kind: Any) -> str:  # noqa: ANN401  # of any type
    origin = get_origin(kind)
    if origin is Literal:
        return " | ".join(str(option) for option in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in get_args(kind))
    if origin is tuple:
        return f"a list of {_words(get_args(kind)[0])}"
    if origin is not None or dataclasses.is_dataclass(kind):
        return "a mapping"
    plain = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    return "nothing" if kind in (None, type(None)) else plain.get(kind, str(kind))


def without_defaults(section: Any) -> dict[str, Any]:  # noqa: ANN401  # any section
    """A section as plain data: what `parse` makes an equal one of."""
    document = {}
    for key in dataclasses.fields(section):
        value = getattr(section, key.name)
        default = key.default_factory() if callable(key.default_factory) else key.default
        if value != default:
            document[key.name] = _plain(value)
    return document


def _plain(value: Any) -> Any:  # noqa: ANN401  # any value
    if dataclasses.is_dataclass(value):
        return without_defaults(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def to_yaml(document: Mapping[str, Any]) -> str:
    r"""The document as YAML text that `read_yaml` reads back as the same.

    Example:
        >>> to_yaml({"width": 129})
        'width: 129\n'
    """
    # Escaped to ASCII: YAML takes more characters for line breaks than it gives back.
    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=False, width=100)
    return text
