"""Block: a named function from input columns to feature columns, and `@block`, which makes one."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from featurekit.column import Col
from featurekit.errors import ConfigError, Problem

Definition: TypeAlias = Callable[..., "Mapping[str, Col] | Iterable[tuple[str, Col]]"]

_BLOCKS: dict[str, Block] = {}


@dataclass(frozen=True, slots=True)
class Block:
    """A definition of columns: positional parameters are inputs, keyword-only ones are options."""

    name: str
    unit: str
    scale: tuple[float, float] | None
    doc: str
    inputs: tuple[str, ...]
    options: Mapping[str, object]
    where: str
    _define: Definition = field(repr=False)

    def columns(self, options: Mapping[str, object], exact: Collection[str] = ()) -> dict[str, Col]:
        """The block's columns by name, each with a unit, a scale and a doc.

        `exact` names the inputs whose history is known from its very start.

        Raises:
            ConfigError: when an option is unknown, or the definition returns something else than
                columns by distinct names.
        """
        problems = [
            Problem(
                f"block {self.name!r} has no option {name!r}",
                where=self.where,
                expected=", ".join(self.options) or "no options",
                got=f"{name}: {options[name]!r}",
                fix=next(iter(difflib.get_close_matches(name, self.options, 1)), ""),
            )
            for name in options
            if name not in self.options
        ]
        if problems:
            raise ConfigError(*problems)
        inputs = [Col.input(name, exact=name in exact) for name in self.inputs]
        try:
            returned = self._define(*inputs, **options)
            pairs = [(n, c) for n, c in _items(returned)]
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's block raises is told as it is
            raise ConfigError(
                Problem(
                    f"block {self.name!r} cannot be computed",
                    where=self.where,
                    expected="a mapping of names to expressions of the input columns",
                    got=f"{type(error).__name__}: {error}",
                    fix='return {"name": expression}',
                )
            ) from error
        return self._checked(pairs)

    def _checked(self, pairs: list[tuple[str, Col]]) -> dict[str, Col]:
        problems = []
        columns: dict[str, Col] = {}
        if not pairs:
            problems.append(
                Problem(
                    f"block {self.name!r} returns no column",
                    where=self.where,
                    expected="one column or more",
                    got="none",
                    fix='return {"name": expression}',
                )
            )
        for name, col in pairs:
            if not isinstance(name, str) or not name.isidentifier():
                problems.append(
                    Problem(
                        f"block {self.name!r} returns a column with no usable name",
                        where=self.where,
                        expected="letters, digits and _",
                        got=repr(name),
                        fix='return {"name": expression}',
                    )
                )
            elif name in columns:
                problems.append(_duplicate(self.name, name, self.where))
            elif not isinstance(col, Col):
                problems.append(
                    Problem(
                        f"block {self.name!r} returns no column for {name!r}",
                        where=self.where,
                        expected="an expression of the input columns",
                        got=f"{type(col).__name__} {col!r}"[:80],
                        fix=f"{self.inputs[0] if self.inputs else 'close'} * 0.0 + ...",
                    )
                )
            else:
                label = col.label
                columns[name] = col.named(
                    unit=self.unit if label.unit is None else label.unit,
                    scale=self.scale if label.scale is None else label.scale,
                    doc=self.doc if label.doc is None else label.doc,
                )
        if problems:
            raise ConfigError(*problems)
        return columns


def block(
    *, unit: str = "", scale: tuple[float, float] | None = None, name: str | None = None
) -> Callable[[Definition], Block]:
    """Makes a block of a function of columns, and lets pipelines find it by name.

    `unit` and `scale` hold for every column that does not say otherwise with `Col.named`.

    Raises:
        ConfigError: when the function has no docstring, repeats a column name, takes * or **
            arguments, or has the name of another block.

    Example:
        >>> @block(unit="bps", scale=(-50, 50))
        ... def doc_spread(bid, ask, *, window: int = 20):
        ...     "Bid-ask spread, and against its own recent mean."
        ...     s = 1e4 * (ask - bid) / ((ask + bid) / 2)
        ...     return {"spread": s, f"spread_over_mean_{window}": s / s.mean(window)}
        >>> doc_spread.inputs, dict(doc_spread.options)
        (('bid', 'ask'), {'window': 20})
    """

    def make(define: Definition) -> Block:
        title = name or define.__name__
        where = _where(define)
        problems = [
            _duplicate(title, key, f"{where.rsplit(':', 1)[0]}:{line}")
            for key, line in _repeated_keys(define)
        ]
        parameters = inspect.signature(define).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            problems.append(
                Problem(
                    f"block {title!r} takes * or ** arguments",
                    where=where,
                    expected="input columns by name, then keyword-only options",
                    fix=f"def {title}(high, low, *, window: int = 20):",
                )
            )
        doc = inspect.getdoc(define)
        if not doc:
            problems.append(
                Problem(
                    f"block {title!r} has no docstring",
                    where=where,
                    expected="one sentence that says what its columns are",
                    fix='"""Bid-ask spread, and against its own recent mean."""',
                )
            )
        old = _BLOCKS.get(title)
        if old is not None and old.where != where:
            problems.append(
                Problem(
                    f"two blocks are named {title!r}",
                    where=where,
                    expected="distinct names",
                    got=f"also at {old.where}",
                    fix=f'@block(name="{title}_2")',
                )
            )
        if problems:
            raise ConfigError(*problems)
        made = Block(
            name=title,
            unit=unit,
            scale=scale,
            doc=(doc or "").split("\n\n")[0].replace("\n", " "),
            inputs=tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
            options={p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY},
            where=where,
            _define=define,
        )
        _BLOCKS[title] = made
        return made

    return make


def find_block(name: str, where: str = "") -> Block:
    """The block of that name.

    Raises:
        ConfigError: when there is none.
    """
    import featurekit.blocks  # noqa: F401  # defines the built-in blocks the first time

    if name not in _BLOCKS:
        raise ConfigError(
            Problem(
                f"there is no block {name!r}",
                where=where,
                expected="one of " + ", ".join(sorted(_BLOCKS)) + ", or one of yours",
                fix="use: [the.module.that.defines.it]",
            )
        )
    return _BLOCKS[name]


def use_module(module: str, where: str = "") -> None:
    """Imports a module that defines a user's blocks, from the working directory too.

    Raises:
        ConfigError: when it cannot be imported.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module raises is told as it is
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        mend = f"a file {module}.py under {here}" if absent else f"python -c 'import {module}'"
        raise ConfigError(
            Problem(
                f"cannot import {module!r}",
                where=where,
                expected=f"a module on the Python path or under {here}",
                got=f"{type(error).__name__}: {error}",
                fix=mend,
            )
        ) from error
    finally:
        sys.path.remove(here)


def _items(returned: Mapping[str, Col] | Iterable[tuple[str, Col]]) -> Iterable[tuple[str, Col]]:
    return returned.items() if isinstance(returned, Mapping) else returned


def _duplicate(block: str, column: str, where: str) -> Problem:
    return Problem(
        f"block {block!r} returns the column {column!r} twice",
        where=where,
        expected="distinct names",
        got=column,
        fix=f'"{column}_2": ...',
    )


def _where(define: Definition) -> str:
    code: Any = getattr(define, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(define)


def _repeated_keys(define: Definition) -> list[tuple[str, int]]:
    """Keys that a dict display of the function repeats: Python keeps the last and says nothing."""
    try:
        lines, first = inspect.getsourcelines(define)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return []  # no source, as in an interactive session
    repeated = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            seen = set()
            for key in node.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    if key.value in seen:
                        repeated.append((key.value, first + key.lineno - 1))
                    seen.add(key.value)
    return repeated
