"""Ingest: bars and fills read, checked against their schemas, and set aside where they break them.

Bars go through a file of this process, mapped into memory: what a build holds of them does not
grow with their number, whatever they were read from.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from featurekit.canonical import Source
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.inputs import symbol_spans
from featurekit.ledger import ACCOUNT_COLUMNS, fills_outside
from featurekit.quarantine import to_set_aside
from featurekit.schema import load_schema, validate
from featurekit.sources import readable, scan_bars, scan_fills
from featurekit.timeline import DAY, HOUR, duration, duration_text
from featurekit.violations import ROW, refuse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from featurekit.pipeline import Pipeline
    from featurekit.schema import Schema
    from featurekit.sections import Bars, Fills

BARS_SCHEMA, FILLS_SCHEMA = "schemas/bars.yaml", "schemas/fills.yaml"
ROUNDS = 10  # of setting aside, after which what still fails cannot be mended by it
LISTED = 10


@dataclass(frozen=True, slots=True)
class Ingested:
    """Bars by symbol and time, fills by time, what was set aside, and what should be known."""

    bars: pl.DataFrame
    fills: pl.DataFrame | None
    quarantined: dict[str, pl.DataFrame]
    notes: tuple[str, ...]


def ingest(
    pipeline: Pipeline,
    scratch: Path,
    *,
    on_bad: Literal["fail", "quarantine"],
    tell: Callable[[str, int, int], None],
) -> Ingested:
    """Reads and checks what the pipeline names; `scratch` holds the bars while they are used.

    Raises:
        ConfigError: when the pipeline names no bars.
        DataError: when they cannot be read, or break their schema and are not to be set aside.
    """
    if pipeline.bars is None:
        raise ConfigError(
            Problem(
                "the pipeline names no bars",
                where=pipeline.source,
                fix="bars: {path: data/bars.parquet, bar: 1h, timezone: UTC}",
            )
        )
    notes: list[str] = []
    quarantined: dict[str, pl.DataFrame] = {}
    tell("reading bars", 0, 1)
    source = _source(pipeline.bars)
    with readable(source):
        bars = _mapped(scan_bars(source), scratch / "read")
    tell("reading bars", 1, 1)
    schema = load_schema(pipeline.bars.schema or BARS_SCHEMA)
    violations = validate(bars, schema)
    notes += _warnings(violations, "bars")
    bad = violations.filter(pl.col("severity") == "fail")
    if on_bad == "fail":
        fix = "featurekit build ... --on-bad quarantine"
        refuse(bad, source.path, fix if bad["row"].null_count() < max(bad.height, 1) else "")
    else:
        refuse(bad.filter(pl.col("row").is_null()), source.path)
        if bad.height:
            bars, quarantined["bars.parquet"] = _set_aside(bars, bad, scratch, schema, source.path)
    bars = bars.drop(ROW)
    _check_spacing(pipeline.bars, bars)
    fills = _fills(pipeline, pipeline.fills, bars, notes) if pipeline.fills is not None else None
    if (fills is None or fills.is_empty()) and not set(ACCOUNT_COLUMNS).isdisjoint(
        pipeline.program.inputs
    ):
        why = "the pipeline names no fills" if fills is None else "the file of fills has no rows"
        notes.append(f"{why}: the position block is that of an account that never trades")
    return Ingested(bars, fills, quarantined, tuple(notes))


def _mapped(rows: pl.LazyFrame, directory: Path) -> pl.DataFrame:
    """The rows written to one file a column, a batch at a time, and mapped into memory."""
    directory.mkdir()
    kinds = rows.collect_schema()
    symbols: dict[str, int] = {}
    files = {name: (directory / str(k)).open("wb") for k, name in enumerate(kinds)}
    try:
        for batch in rows.collect_batches(maintain_order=True):
            for name, file in files.items():
                column = batch[name]
                if kinds[name] == pl.String:
                    for symbol in column.unique(maintain_order=True).to_list():
                        symbols.setdefault(symbol, len(symbols))
                    column = column.replace_strict(symbols, return_dtype=pl.UInt32)
                elif kinds[name] == pl.Float64:
                    column = column.fill_null(float("nan"))
                file.write(np.ascontiguousarray(column.to_physical().to_numpy()).data)
    finally:
        for file in files.values():
            file.close()
    columns = []
    for k, (name, kind) in enumerate(kinds.items()):
        empty = pl.Series([], dtype=pl.UInt32 if kind == pl.String else kind)
        physical = empty.to_physical().to_numpy().dtype
        path = directory / str(k)
        held = np.memmap(path, physical, "r") if path.stat().st_size else np.empty(0, physical)
        column = pl.Series(name, held)
        if kind == pl.String:
            known = pl.Series(name, list(symbols), pl.Enum(list(symbols)))
            columns.append(known.gather(column))
        else:
            columns.append(column.cast(kind))
    return pl.DataFrame(columns)


def _source(section: Bars | Fills) -> Source:
    return Source(
        str(section.path),
        section.symbol,
        section.columns,
        section.timezone,
        section.time_format,
    )


def _set_aside(
    bars: pl.DataFrame, bad: pl.DataFrame, scratch: Path, schema: Schema, where: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars without the rows that break the schema, and these with their reasons.

    A row is judged by the one before it: with bad rows gone, what is left is judged again.
    """
    aside = []
    for round_ in range(ROUNDS):
        reasons = to_set_aside(bars, bad, schema)
        rows = bars.with_columns(pl.col(ROW).cast(pl.Int64), pl.col("symbol").cast(pl.String))
        aside.append(rows.lazy().join(reasons.lazy(), on=ROW, maintain_order="left").collect())
        kept = rows.lazy().filter(~pl.col(ROW).is_in(reasons[ROW].implode()))
        bars = _mapped(kept, scratch / f"kept-{round_}")
        # Mapped still where it is in use; the disk holds two rounds at most.
        shutil.rmtree(scratch / (f"kept-{round_ - 1}" if round_ else "read"))
        if bars.is_empty():
            raise DataError(
                Problem(
                    "every bar breaks the schema",
                    where=where,
                    expected=f"bars that keep {schema.name}",
                    got="; ".join(reasons["reason"].unique().sort().head(3)),
                    fix="schema: a file of what these bars are",
                )
            )
        bad = validate(bars, schema).filter(pl.col("severity") == "fail")
        if bad.is_empty():
            break
    refuse(bad, where)  # the bars stay on another level: no row of them is the bad one
    columns = {} if "row" in bars.columns else {ROW: "row"}
    return bars, pl.concat(aside).rename(columns)


def _check_spacing(section: Bars, bars: pl.DataFrame) -> None:
    """Refuses bars that are declared longer than they lie apart: their closes would look ahead.

    A day of 23 hours, in spring, is a day.

    Raises:
        DataError: when there is such a symbol.
    """
    if section.bar is None or section.stamp != "open":
        return
    length = duration(section.bar)
    least = length - HOUR if length % DAY == 0 else length
    problems = []
    for symbol, first, rows in symbol_spans(bars):
        steps = np.diff(bars["time"].slice(first, rows).to_physical().to_numpy())
        if not steps.size or steps.min() >= least:
            continue
        at, step = first + int(steps.argmin()), duration_text(int(steps.min()))
        problems.append(
            Problem(
                f"bars of {symbol} are closer together than they are long",
                where=f"{section.path}, {bars['time'][at + 1]}",
                expected=f"at least bar: {section.bar} between the opens of two bars",
                got=f"{step} after {bars['time'][at]}",
                fix=f"bar: {step}",
            )
        )
    if problems:
        raise DataError(*problems[:LISTED])


def _fills(
    pipeline: Pipeline, section: Fills, bars: pl.DataFrame, notes: list[str]
) -> pl.DataFrame:
    source = _source(section)
    if section.format != "canonical":
        raise ConfigError(
            Problem(
                "fills of this format cannot be read",
                where=f"{pipeline.source}, key fills.format",
                expected="canonical",
                got=section.format,
                fix="format: canonical",
            )
        )
    with readable(source):
        fills = scan_fills(source).collect()
    violations = validate(fills, section.schema or FILLS_SCHEMA)
    notes += _warnings(violations, "fills")
    # An account cannot be replayed with fills left out: they are refused, never set aside.
    refuse(violations, source.path)
    # A bar spans its length up to its close, wherever it is stamped.
    ends = {
        symbol: pipeline.closes(bars["time"].gather([at, at + n - 1]).to_frame())
        for symbol, at, n in symbol_spans(bars)
    }
    length = duration(pipeline.bars.bar) if pipeline.bars and pipeline.bars.bar else 0
    spans = pl.DataFrame(
        {
            "symbol": list(ends),
            "first": [int(first) - length for first, _ in ends.values()],
            "last": [int(last) for _, last in ends.values()],
        },
        schema={"symbol": pl.String, "first": pl.Int64, "last": pl.Int64},
    ).with_columns(pl.col("first", "last").cast(pl.Datetime("ns", "UTC")))
    opens = dict(spans.select("symbol", "first").iter_rows())
    problems = []
    for symbol, count, before, after in fills_outside(
        fills, spans, pipeline.account.fill_at_close, scope=pipeline.account.scope
    ).rows():
        if before is None:
            problems.append(
                Problem(
                    f"{count} fills are of the symbol {symbol!r}, which has no bars",
                    where=source.path,
                    expected=", ".join(opens)
                    if len(opens) <= LISTED
                    else f"one of {len(opens)} symbols",
                    got=str(symbol),
                    fix=f"bars of {symbol!r}, or fills without it",
                )
            )
        elif before:
            first = str(fills.filter(pl.col("symbol") == symbol)["time"].min())
            problems.append(
                Problem(
                    f"{before} fills of {symbol} are before its first bar",
                    where=f"{source.path}, {first}",
                    expected=f"at or after {opens[symbol]}: the account is known from its start",
                    got=first,
                    fix="bars from before the first fill, or fills from a flat account on",
                )
            )
        if after:
            notes.append(f"{after} fills of {symbol} are after its last bar and change nothing")
    if problems:
        raise DataError(*problems)
    return fills.drop(ROW)


def _warnings(violations: pl.DataFrame, what: str) -> list[str]:
    counts = (
        violations.filter(pl.col("severity") == "warn")
        .group_by("check", "column", maintain_order=True)
        .agg(pl.len(), pl.first("symbol"), pl.first("time"))
    )
    return [
        f"{what}: {column}: {check} does not hold in {count} rows, "
        f"first {symbol} {time:%Y-%m-%d %H:%M}"
        for check, column, count, symbol, time in counts.rows()
    ]
