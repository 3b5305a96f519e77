"""Canonical columns of any table of bars or fills: found by name, cast, and no cell lost.

Columns are found by name, whatever its case; `ts`, `timestamp`, `date` and `datetime` are taken
for `time`. Anything else is declared with `columns: {canonical: name in the file}`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from featurekit.errors import DataError, Problem
from featurekit.stamps import stamps
from featurekit.timeline import FIRST_YEAR, LAST_YEAR
from featurekit.violations import ROW, VIOLATIONS, refuse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

BARS = ("symbol", "time", "open", "high", "low", "close", "volume")
FILLS = ("time", "symbol", "side", "quantity", "price", "fee")
FILLS_OPTIONAL = ("stop", "target", "realized_pnl", "trade_id")
TEXT = ("symbol", "side", "trade_id")
TIME_CHECK = f"time from {FIRST_YEAR} to {LAST_YEAR - 1}"
TIME_NAMES = ("time", "ts", "timestamp", "date", "datetime")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, a directory or a pattern, and how its columns and times are to be read."""

    path: str
    symbol: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    timezone: str | None = None
    time_format: str | None = None


def canonical(
    raw: pl.LazyFrame,
    source: Source,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    *,
    further_numbers: bool,
) -> pl.LazyFrame:
    """The canonical columns of a table, lazily, and with `further_numbers` its other numbers.

    Raises:
        DataError: when a column is missing, or a cell cannot be what its column is.
        ConfigError: when a declared name or time zone is none.
    """
    kinds = raw.collect_schema()
    names = [name for name in kinds.names() if name != ROW]
    wanted = (*required, *optional)
    found = _found(names, wanted, source, required, further_numbers=further_numbers)
    columns = {name: pl.col(held).alias(name) for name, held in found.items()}
    if "symbol" not in found and source.symbol is not None:
        columns["symbol"] = pl.lit(source.symbol).alias("symbol")
    raw_values = raw.select(
        ROW,
        *columns.values(),
        *(
            pl.col(name)
            for name in names
            if further_numbers and name not in found.values() and name not in columns
        ),
    )
    kinds = raw_values.collect_schema()
    _check_kinds({name: kinds[name] for name in columns}, found, source)
    casts: dict[str, pl.Expr] = {}
    for name, dtype in kinds.items():
        if name == "time":
            casts[name] = stamps(
                raw_values, dtype, source.path, source.timezone, source.time_format
            )
        elif name in TEXT:
            casts[name] = pl.col(name).cast(pl.String)
        elif name != ROW and (name in columns or dtype.is_numeric() or dtype == pl.String):
            casts[name] = pl.col(name).cast(pl.Float64, strict=False)
    never_empty = tuple(name for name in required[:2] if name == "time" or further_numbers)
    _check_cells(raw_values, casts, columns, source, never_empty)
    # Further columns of text are no input of any block.
    order = [name for name in (*required, *optional) if name in casts]
    further = [name for name in casts if name not in order and _is_number(raw_values, casts, name)]
    return raw_values.select(ROW, *(casts[name] for name in (*order, *further)))


def _is_number(raw: pl.LazyFrame, casts: Mapping[str, pl.Expr], name: str) -> bool:
    """Whether a further column holds numbers only."""
    lost = pl.col(name).is_not_null() & casts[name].is_null()
    return not raw.select(lost.any()).collect().item()


def _found(
    names: list[str],
    wanted: tuple[str, ...],
    source: Source,
    required: tuple[str, ...],
    *,
    further_numbers: bool,
) -> dict[str, str]:
    """The file's column of each canonical name."""
    lower: dict[str, list[str]] = {}
    for name in names:
        lower.setdefault(name.lower().strip(), []).append(name)
    found, problems = {}, _columns_twice(names, source)
    for name, held in source.columns.items():
        if name not in wanted and not further_numbers:
            problems.append(unknown_column(name, held, wanted, source.path))
        elif held in names:
            found[name] = held
        else:
            near = difflib.get_close_matches(held, names, 1)
            problems.append(
                Problem(
                    f"columns: {{{name}: {held}}} names a column that the file does not have",
                    where=source.path,
                    expected=", ".join(names),
                    fix=f"columns: {{{name}: {near[0] if near else names[0]}}}",
                )
            )
    for name in wanted:
        if name in source.columns:
            continue
        options = [
            n for alias in (TIME_NAMES if name == "time" else (name,)) for n in lower.get(alias, [])
        ]
        if len(options) > 1:
            problems.append(
                Problem(
                    f"two columns could be {name!r}",
                    where=source.path,
                    got=", ".join(options),
                    fix=f"columns: {{{name}: {options[0]}}}",
                )
            )
        elif options:
            found[name] = options[0]
        elif name == "symbol" and source.symbol is not None:
            continue
        elif name in required:
            near = difflib.get_close_matches(name, list(lower), 1)
            fix = f"columns: {{{name}: {lower[near[0]][0] if near else 'its name in the file'}}}"
            problems.append(
                Problem(
                    f"the file has no column {name!r}",
                    where=source.path,
                    expected=", ".join(required),
                    got=", ".join(names),
                    fix="symbol: EURUSD" if name == "symbol" and not near else fix,
                )
            )
    if problems:
        raise DataError(*problems)
    return found


def unknown_column(name: str, held: str, known: Collection[str], where: str) -> Problem:
    """The problem of a name declared in `columns:` that nothing reads.

    Example:
        >>> unknown_column("clsoe", "bid", ["open", "close"], "bars.csv").fix
        'columns: {close: bid}'
    """
    near = difflib.get_close_matches(name, known, 1)
    return Problem(
        f"columns: {{{name}: {held}}} declares a column that nothing reads",
        where=where,
        expected=", ".join(known),
        got=name,
        fix=f"columns: {{{near[0]}: {held}}}" if near else f"columns without {name!r}",
    )


def _columns_twice(names: list[str], source: Source) -> list[Problem]:
    """Problems of a header that has a name twice: polars numbers all but the first of them."""
    numbered = (re.fullmatch(r"(.*)_duplicated_\d+", name) for name in names)
    twice = dict.fromkeys(each[1] for each in numbered if each and each[1] in names)
    return [
        Problem(
            f"two columns of the file are named {name!r}",
            where=source.path,
            expected="distinct names in its first line",
            got=", ".join(names),
            fix=f"rename one of them: {name}_2",
        )
        for name in twice
    ]


def _check_kinds(
    kinds: Mapping[str, pl.DataType], found: Mapping[str, str], source: Source
) -> None:
    """Refuses columns of a type that is no time, text or number, whatever a cast would make of it.

    Raises:
        DataError: when there is one.
    """
    problems = []
    for name, dtype in kinds.items():
        if name == "time":
            what, usable = "times", dtype.is_numeric() or dtype in (pl.Date, pl.Datetime)
        elif name in TEXT:
            what, usable = "text", dtype.is_integer() or dtype in (pl.Categorical, pl.Enum)
        else:
            what, usable = "numbers", dtype.is_numeric()
        if not usable and dtype not in (pl.String, pl.Null):
            problems.append(
                Problem(
                    f"the column of {name!r} does not hold {what}",
                    where=f"{source.path}, column {found[name]}",
                    expected=what,
                    got=str(dtype),
                    fix=f"columns: {{{name}: the name of a column of {what}}}",
                )
            )
    if problems:
        raise DataError(*problems)


def _check_cells(
    raw: pl.LazyFrame,
    casts: Mapping[str, pl.Expr],
    columns: Mapping[str, pl.Expr],
    source: Source,
    never_empty: tuple[str, ...],
) -> None:
    """Refuses cells that are lost in the cast, all of them with their rows."""
    lost = {
        name: pl.col(name).is_not_null() & casts[name].is_null()
        for name in columns
        if name in casts and name not in TEXT
    }
    for name in never_empty:
        lost[name] = casts[name].is_null()
    counts = raw.select(mark.sum().alias(name) for name, mark in lost.items())
    count = counts.collect(engine="streaming").row(0, named=True)
    bad = [
        raw.filter(mark)
        .select(
            pl.lit(
                f"is a {TIME_CHECK if name == 'time' else 'text' if name in TEXT else 'number'}"
            ).alias("check"),
            pl.lit(name).alias("column"),
            pl.lit(None, pl.String).alias("symbol"),
            pl.lit(None, VIOLATIONS["time"]).alias("time"),
            pl.col(ROW).cast(pl.Int64).alias("row"),
            pl.col(name).cast(pl.String).alias("value"),
            pl.lit("fail").alias("severity"),
        )
        .collect()
        for name, mark in lost.items()
        if count[name]
    ]
    if bad:
        refuse(pl.concat(bad), source.path)
