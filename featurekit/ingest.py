"""Ingest: bars and fills read, checked against their schemas, and set aside where they break them.

Bars go through a file of this process, mapped into memory: what a build holds of them does not
grow with their number, whatever they were read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import xxhash

from featurekit.canonical import Source
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.inputs import symbol_spans
from featurekit.ledger import fills_outside
from featurekit.schema import ROW, refuse, validate
from featurekit.sources import readable, scan_bars, scan_fills

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from featurekit.pipeline import Pipeline
    from featurekit.sections import Bars, Fills

BARS_SCHEMA, FILLS_SCHEMA = "schemas/bars.yaml", "schemas/fills.yaml"
PIECE = 262_144  # rows hashed at a time


@dataclass(frozen=True, slots=True)
class Ingested:
    """Bars by symbol and time, fills by time, what was set aside, and what should be known."""

    bars: pl.DataFrame
    fills: pl.DataFrame | None
    quarantined: dict[str, pl.DataFrame]
    notes: tuple[str, ...]
    fingerprint: str


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
    violations = validate(bars, pipeline.bars.schema or BARS_SCHEMA)
    notes += _warnings(violations, "bars")
    bad = violations.filter(pl.col("severity") == "fail")
    if on_bad == "fail":
        fix = "featurekit build ... --on-bad quarantine"
        refuse(bad, source.path, fix if bad["row"].null_count() < max(bad.height, 1) else "")
    else:
        refuse(bad.filter(pl.col("row").is_null()), source.path)
        if bad.height:
            bars, quarantined["bars.parquet"] = _set_aside(bars, bad, scratch, pipeline)
    bars = bars.drop(ROW)
    fills = None
    if pipeline.fills is not None:
        fills = _fills(pipeline, bars, on_bad, notes, quarantined)
    elif any(feature.startswith("position.") for feature in pipeline.columns):
        notes.append("the pipeline names no fills: the position block is 0")
    return Ingested(bars, fills, quarantined, tuple(notes), _fingerprint(bars, fills))


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
    bars: pl.DataFrame, bad: pl.DataFrame, scratch: Path, pipeline: Pipeline
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars without the rows that break the schema, and these with their reasons."""
    reasons = (
        bad.select(pl.col(ROW), pl.col("column") + ": " + pl.col("check"))
        .group_by(ROW, maintain_order=True)
        .agg(pl.col("column").str.join("; ").alias("reason"))
    )
    set_aside = bars.with_columns(pl.col(ROW).cast(pl.Int64)).join(
        reasons, on=ROW, maintain_order="left"
    )
    kept = bars.lazy().filter(~pl.col(ROW).is_in(reasons[ROW].implode()))
    kept = kept.with_columns(pl.col("symbol").cast(pl.String))
    frame = _mapped(kept, scratch / f"kept-{bars.height}")
    if frame.is_empty():
        raise DataError(
            Problem(
                "every bar breaks the schema",
                where=str(_source(pipeline.bars).path) if pipeline.bars else "",
                got="; ".join(reasons["reason"].unique().sort().head(3)),
            )
        )
    # A row is judged by the one before it: with bad rows gone, what is left is judged again.
    schema = (pipeline.bars.schema if pipeline.bars else None) or BARS_SCHEMA
    again = validate(frame, schema).filter(pl.col("severity") == "fail")
    if again.is_empty():
        return frame, set_aside
    frame, more = _set_aside(frame, again, scratch, pipeline)
    return frame, pl.concat([set_aside, more])


def _fills(
    pipeline: Pipeline,
    bars: pl.DataFrame,
    on_bad: Literal["fail", "quarantine"],
    notes: list[str],
    quarantined: dict[str, pl.DataFrame],
) -> pl.DataFrame:
    assert pipeline.fills is not None  # noqa: S101  # the caller looked
    source = _source(pipeline.fills)
    if pipeline.fills.format != "canonical":
        raise ConfigError(
            Problem(
                "fills of this format cannot be read",
                where=f"{pipeline.source}, key fills.format",
                expected="canonical",
                got=pipeline.fills.format,
            )
        )
    with readable(source):
        fills = scan_fills(source).collect()
    violations = validate(fills, pipeline.fills.schema or FILLS_SCHEMA)
    notes += _warnings(violations, "fills")
    # An account cannot be replayed with fills left out: they are refused, never set aside.
    refuse(violations, source.path)
    spans = pl.DataFrame(
        [
            (
                symbol,
                *pipeline.closes(bars.slice(at, 1)),
                *pipeline.closes(bars.slice(at + n - 1, 1)),
            )
            for symbol, at, n in symbol_spans(bars)
        ],
        schema={"symbol": pl.String, "first": pl.Int64, "last": pl.Int64},
        orient="row",
    ).with_columns(pl.col("first", "last").cast(pl.Datetime("ns", "UTC")))
    opens = {symbol: bars["time"][at] for symbol, at, _ in symbol_spans(bars)}
    spans = spans.with_columns(
        pl.col("symbol").replace_strict(opens, return_dtype=pl.Datetime("ns", "UTC")).alias("first")
    )
    problems = []
    for symbol, count, before, after in fills_outside(
        fills, spans, pipeline.account.fill_at_close
    ).rows():
        if before is None:
            problems.append(
                Problem(
                    f"{count} fills are of the symbol {symbol!r}, which has no bars",
                    where=source.path,
                    expected=", ".join(opens)
                    if len(opens) <= 10
                    else f"one of {len(opens)} symbols",
                    got=str(symbol),
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


def _fingerprint(bars: pl.DataFrame, fills: pl.DataFrame | None) -> str:
    """Hash of the values, whatever file they came from."""
    digest = xxhash.xxh3_128()
    for frame in (bars, fills) if fills is not None else (bars,):
        digest.update(",".join(frame.columns).encode())
        for start in range(0, frame.height, PIECE):
            hashed = frame.slice(start, PIECE).hash_rows(seed=0).to_numpy()
            digest.update(np.ascontiguousarray(hashed).data)
    return digest.hexdigest()
