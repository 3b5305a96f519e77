"""Canonical columns of any table of bars or fills: found by name, cast, and no cell lost.

Columns are found by name, whatever its case; `ts`, `timestamp`, `date` and `datetime` are taken
for `time`. Anything else is declared with `columns: {canonical: name in the file}`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.schema import ROW, VIOLATIONS, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

BARS = ("symbol", "time", "open", "high", "low", "close", "volume")
FILLS = ("time", "symbol", "side", "quantity", "price", "fee")
FILLS_OPTIONAL = ("stop", "target", "realized_pnl", "trade_id")
TEXT = ("symbol", "side", "trade_id")
TIME_NAMES = ("time", "ts", "timestamp", "date", "datetime")
EPOCHS = {"epoch_s": "s", "epoch_ms": "ms", "epoch_us": "us", "epoch_ns": "ns"}


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
    found = _found(names, (*required, *optional), source, required)
    columns = {name: pl.col(held).alias(name) for name, held in found.items()}
    if "symbol" not in found and source.symbol is not None:
        columns["symbol"] = pl.lit(source.symbol).alias("symbol")
    raw_values = raw.select(
        ROW,
        *columns.values(),
        *(pl.col(n) for n in names if further_numbers and n not in found.values()),
    )
    kinds = raw_values.collect_schema()
    casts: dict[str, pl.Expr] = {}
    for name, dtype in kinds.items():
        if name == "time":
            casts[name] = _times(raw_values, dtype, source)
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
    names: list[str], wanted: tuple[str, ...], source: Source, required: tuple[str, ...]
) -> dict[str, str]:
    """The file's column of each canonical name."""
    lower: dict[str, list[str]] = {}
    for name in names:
        lower.setdefault(name.lower().strip(), []).append(name)
    found, problems = {}, []
    for name, held in source.columns.items():
        if held in names:
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


def _times(raw: pl.LazyFrame, dtype: pl.DataType, source: Source) -> pl.Expr:
    """The time column in UTC ns; null where it is none."""
    x = pl.col("time")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return x.dt.convert_time_zone("UTC").dt.cast_time_unit("ns")
    if dtype.is_numeric() or source.time_format in EPOCHS:
        if source.time_format not in EPOCHS:
            raise DataError(
                Problem(
                    "times are numbers, and their unit is not declared",
                    where=f"{source.path}, column time",
                    expected=" | ".join(EPOCHS),
                    fix="time_format: epoch_ms",
                )
            )
        per = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[EPOCHS[source.time_format]]
        return (x.cast(pl.Int64, strict=False) * per).cast(pl.Datetime("ns", "UTC"))
    if dtype == pl.String:
        first = raw.select(x.drop_nulls().first()).collect().item() or ""
        if source.time_format is None and (first.endswith("Z") or first[-6:-5] in ("+", "-")):
            return x.str.to_datetime(time_unit="ns", time_zone="UTC", strict=False)
        _check_format(first, source)
        x = x.str.to_datetime(source.time_format, time_unit="ns", strict=False)
    elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
        x = x.cast(pl.Datetime("ns"))
    else:
        return pl.lit(None, pl.Datetime("ns", "UTC")).alias("time")
    if source.timezone is None:
        raise DataError(
            Problem(
                "times have no time zone, and none is declared",
                where=f"{source.path}, column time",
                expected="the zone of the clock that wrote them",
                fix="timezone: UTC",
            )
        )
    try:
        pl.Series([0]).cast(pl.Datetime("ns", "UTC")).dt.convert_time_zone(source.timezone)
    except pl.exceptions.PolarsError:
        raise ConfigError(
            Problem(
                "there is no such time zone",
                expected="such as Europe/Helsinki",
                got=source.timezone,
            )
        ) from None
    # An hour that the clock shows twice in autumn is the first of the two; one that it leaves out
    # in spring is no time, and told as such.
    local = x.dt.replace_time_zone(source.timezone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _check_format(first: str, source: Source) -> None:
    """Refuses a format that is none, or times that no known format fits."""
    if not first:
        return
    try:
        pl.Series([first]).str.to_datetime(source.time_format, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            Problem(
                "the format of the times cannot be read",
                where=f"{source.path}, column time",
                expected="a format of strftime with a date, or " + " | ".join(EPOCHS),
                got=f"{source.time_format or first}: {str(error).splitlines()[0]}",
                fix='time_format: "%Y-%m-%d %H:%M:%S"',
            )
        ) from error


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
                f"is a {'time' if name == 'time' else 'text' if name in TEXT else 'number'}"
            ).alias("check"),
            pl.lit(name).alias("column"),
            pl.lit(None, pl.String).alias("symbol"),
            pl.lit(None, VIOLATIONS["time"]).alias("time"),
            pl.col(ROW).cast(pl.Int64),
            pl.col(name).cast(pl.String).alias("value"),
            pl.lit("fail").alias("severity"),
        )
        .collect()
        for name, mark in lost.items()
        if count[name]
    ]
    if bad:
        refuse(pl.concat(bad), source.path)
