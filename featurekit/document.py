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
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from featurekit.errors import ConfigError, Problem

T = TypeVar("T")
Path = tuple[str | int, ...]
MOST_KEYS = 100_000  # of a document, aliases written out


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
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        data = None if root is None else loader.construct_document(root)
        _note_lines(root, (), source)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        deep = isinstance(error, RecursionError)
        raise ConfigError(
            Problem(
                "this is not YAML",
                where=name + (f", line {mark.line + 1}" if mark else ""),
                expected="keys and values",
                got="sections within sections without end"
                if deep
                else str(getattr(error, "problem", None) or error),
                fix="key: value, a line each",
            )
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(
            Problem(
                "this is not a mapping",
                where=name,
                expected="keys and values",
                got=repr(data)[:80],
                fix="key: value, a line each",
            )
        )
    source.check()
    return data, source


class _Loader(yaml.SafeLoader):
    """YAML whose dates stay as they were written, and whose mistakes all have their line."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # yaml declares it as one of an instance
        start: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401  # of any type
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # a number of thousands of digits, !!timestamp
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


def _note_lines(node: Any, path: Path, source: Source) -> None:  # noqa: ANN401  # yaml has no types
    if len(source.lines) > MOST_KEYS:
        raise yaml.MarkedYAMLError(
            problem=f"more than {MOST_KEYS} keys", problem_mark=node.start_mark
        )
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at: Path = (*path, str(key.value))
            if at in source.lines:
                source.lines[at] = key.start_mark.line + 1
                source.add(
                    f"the key {key.value!r} stands twice",
                    at,
                    expected="once",
                    fix=f"one line with {key.value}:",
                )
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
        source.add(
            "a section is a mapping",
            path,
            expected="{key: value}",
            got=_shown(data),
            fix=_line(path, f"{{{dataclasses.fields(grammar)[0].name}: ...}}"),  # type: ignore[arg-type]  # a dataclass
        )
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
            source.add(
                f"the key {key!r} is missing",
                path,
                expected=f"{key}: {_words(kinds[field.name])}",
                fix=f"{key}: {_example(kinds[field.name])}",
            )
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
    source.add(
        "a value is of the wrong kind",
        path,
        expected=_words(kind),
        got=_shown(value),
        fix=_line(path, _example(kind)),
    )
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
    if kind in (float, int):
        # A whole number that a machine can count to: one of 400 digits is no float either.
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return whole or (kind is float and isinstance(value, float))
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
        item = get_args(kind)[0]
        return "a list" if item is Any else f"a list of {_words(item)}"
    if origin is not None or dataclasses.is_dataclass(kind):
        return "a mapping"
    plain = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    return "nothing" if kind in (None, type(None)) else plain.get(kind, str(kind))


def _example(kind: Any) -> str:  # noqa: ANN401  # of any type
    """What could stand there, as YAML."""
    origin = get_origin(kind)
    if origin is Literal:
        return str(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        return _example(get_args(kind)[0])
    if origin is tuple:
        return f"[{_example(get_args(kind)[0])}]"
    plain = {float: "1.0", int: "1", str: "mine", bool: "true", Any: "..."}
    return plain.get(kind, "{}")


def _line(path: Path, value: str) -> str:
    """The line of a document that gives a key this value."""
    return f"{path[-1]}: {value}" if path and isinstance(path[-1], str) else value


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within itself
        return type(value).__name__


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


def to_yaml(document: Mapping[str, Any], *, flow: bool = False) -> str:
    r"""The document as YAML text that `read_yaml` reads back as the same.

    With `flow`, what holds no other mapping or list stands on one line.

    Example:
        >>> to_yaml({"width": 129})
        'width: 129\n'
    """
    # Escaped to ASCII: YAML takes more characters for line breaks than it gives back.
    text: str = yaml.safe_dump(
        dict(document),
        sort_keys=False,
        allow_unicode=False,
        width=100,
        default_flow_style=None if flow else False,
    )
    return text
