"""Columns of higher bars: a block that is computed once every 4 hours, and held in between."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from featurekit.clock import CLOCK_COLUMNS, PERIOD, at_timeframe
from featurekit.column import Col
from featurekit.errors import ConfigError, Problem
from featurekit.ledger import ACCOUNT_COLUMNS
from featurekit.timeline import DAY, duration, duration_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# What a higher bar makes of the bars in it; `execute` of the kernel knows the numbers.
AGGREGATES = {"first": 0, "max": 1, "min": 2, "last": 3, "sum": 4}
_OF_BARS = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def timeframe_problem(timeframe: object, bar: str | None) -> Problem | None:
    """Why bars of this length cannot be made of the pipeline's bars, if they cannot."""
    if bar is None:
        return Problem(
            "a timeframe needs to know how long a bar is",
            expected="the length of a bar",
            got="none",
            fix="bars: {..., stamp: open, bar: 1h}",
        )
    one, length = duration(bar), 0
    with contextlib.suppress(ConfigError):
        length = duration(str(timeframe))
    if length > one and length % one == 0 and (DAY % length == 0 or length % DAY == 0):
        return None
    lengths = [n * one for n in (4, 2, 3, 6, 12, 24) if DAY % (n * one) == 0]
    return Problem(
        "this is no timeframe of these bars",
        expected=f"a multiple of {bar} that divides a day, or whole days",
        got=repr(timeframe)[:80],
        fix=f"timeframe: {duration_text(lengths[0] if lengths else max(7 * DAY, 7 * one))}",
    )


def aggregate_problems(inputs: Iterable[str], told: object) -> list[Problem]:
    """What `aggregate:` says wrong, or leaves unsaid, of the inputs of a block."""
    told = {} if told is None else told
    usual = (*_OF_BARS, *CLOCK_COLUMNS, *ACCOUNT_COLUMNS)
    own = [name for name in inputs if name not in usual]
    line = "aggregate: {" + ", ".join(f"{name}: last" for name in own) + "}"
    if not isinstance(told, dict):
        return [
            Problem(
                "an aggregate is said by column",
                expected=" | ".join(AGGREGATES),
                got=repr(told)[:80],
                fix=line,
            )
        ]
    problems = [
        Problem(
            f"nothing says what a higher bar makes of {name!r}",
            expected=" | ".join(AGGREGATES),
            got="nothing",
            fix=line,
        )
        for name in own
        if name not in told
    ]
    return problems + [
        Problem(
            f"{name!r} cannot be aggregated so",
            expected=f"one of the block's own inputs ({', '.join(own) or 'it has none'}), and "
            + " | ".join(AGGREGATES),
            got=f"{name}: {how}"[:80],
            fix=line if own else "leave aggregate: out",
        )
        for name, how in told.items()
        if name not in own or how not in AGGREGATES
    ]


def of_higher_bars(
    columns: Mapping[str, Col],
    timeframe: str,
    bar: str,
    aggregate: Mapping[str, str],
    exact: Collection[str] = (),
) -> dict[str, Col]:
    """The same columns computed on bars of `timeframe`, each visible from the close of its bar on.

    A higher bar is made of the bars that close in its period, however few; it is visible on the
    row that closes with the period or, if that one is missing, on the next. The period that a
    history begins in is left out, as its start may not have been seen.
    """
    period = Col.input(at_timeframe(PERIOD, timeframe), exact=True)
    rows = float(duration(timeframe) // duration(bar))
    known: dict[int, Col] = {}

    def sample(col: Col, how: str) -> Col:
        return Col("sample", (col, period), (float(AGGREGATES[how]),))

    def higher(col: Col) -> Col:
        if id(col) not in known:
            known[id(col)] = find(col)
        return known[id(col)]

    def find(col: Col) -> Col:
        if col.op == "input":
            if col.name in CLOCK_COLUMNS:
                return sample(Col.input(at_timeframe(col.name, timeframe)), "last")
            how = {**_OF_BARS, **aggregate}.get(col.name, "last")
            return sample(Col.input(col.name, exact=col.name in exact), how)
        if col.op == "const":
            return col
        args = [higher(arg) for arg in col.args]
        if all(arg.op == "const" for arg in args):  # it still counts higher bars, not rows
            args[0] = sample(args[0], "last")
        return replace(col, args=tuple(args))

    held = {}
    for name, col in columns.items():
        doc = f"{(col.label.doc or name).rstrip('.')}, on bars of {timeframe}."
        label = replace(col.label, doc=doc, memory=None)
        held[name] = Col("held", (higher(col), period), (rows,), label=label)
    return held
