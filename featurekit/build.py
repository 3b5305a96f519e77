"""build: bars and fills into a dataset on disk, in one pass and in memory bounded by blocks."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from featurekit import __version__
from featurekit.audit import audit_subject, check_names
from featurekit.cells import ProfileGrid, chunk_edges
from featurekit.conditions import Conditions
from featurekit.dataset import DatasetWriter, Target
from featurekit.dataset.audited import subject
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.ingest import ingest
from featurekit.inputs import missing_columns, pieces, symbol_spans
from featurekit.ledger import Ledger
from featurekit.sample import row_keys
from featurekit.scaling import Scaling
from featurekit.timeline import duration, forward, instant, segment_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.audit import AuditReport
    from featurekit.dataset import Dataset
    from featurekit.ingest import Ingested
    from featurekit.pipeline import Pipeline

PIECE = 4_096  # rows computed, profiled and written at a time; moments are merged by these
SPLITS = ("train", "validation", "test")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the rows done and all rows."""


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build: the dataset, its audit, what was set aside and what should be known."""

    dataset: Dataset
    audit: AuditReport
    quarantined: int
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The bars of one symbol: where they lie, where features start afresh, what is kept."""

    symbol: str
    first: int
    rows: int
    restarts: list[int]
    kept: int

    def since(self, warmup: int) -> int:
        """The number of its first row that is kept."""
        starts = self.restarts or [0]
        stops = [*starts[1:], self.rows]
        pairs = zip(starts, stops, strict=True)
        return next(start + warmup for start, stop in pairs if stop - start > warmup)


def build(
    pipeline: Pipeline,
    *,
    out: str | Path | None = None,
    executor: str = "local",
    on_bad: Literal["fail", "quarantine"] = "fail",
    progress: Progress | None = None,
) -> Build:
    """Builds the dataset of a pipeline and makes it current, all of it or nothing.

    Bars are checked against their schema first; rows that break it stop the build, or with
    `on_bad="quarantine"` are set aside in the dataset with their reason.

    Raises:
        ConfigError: when the pipeline names no bars or an executor that there is not.
        DataError: when bars or fills cannot be used.
        DatasetError: when the directory cannot be written.
    """
    started = time.monotonic()
    tell = progress or (lambda what, done, rows: None)
    if executor != "local":
        raise ConfigError(
            Problem(
                "there is no such executor", expected="local", got=executor, fix='executor="local"'
            )
        )
    root = Path(out) if out is not None else Path("build") / _directory(pipeline)
    slices = Conditions(pipeline.slices, pipeline.columns, pipeline.source)
    check_names(pipeline.audit, pipeline.features)
    with tempfile.TemporaryDirectory(prefix="featurekit-") as scratch:
        data = ingest(pipeline, Path(scratch), on_bad=on_bad, tell=tell)
        warmup = _warmup(pipeline)
        parts, notes = _plan(pipeline, data.bars, warmup)
        times = data.bars["time"].unique().sort().dt.epoch("ns").to_numpy()
        cuts = _cuts(pipeline, times)
        firsts = data.bars["time"].gather([part.first + part.since(warmup) for part in parts])
        kept = times[times >= firsts.dt.epoch("ns").min()]
        grid = ProfileGrid(pipeline.columns, SPLITS, list(pipeline.slices), chunk_edges(kept))
        writer = DatasetWriter(
            root,
            fingerprint=pipeline.fingerprint,
            features=pipeline.features,
            targets=[Target(n, t.kind, t.horizon) for n, t in pipeline.targets.items()],
            plan=[(part.symbol, part.kept) for part in parts],
            max_gap=duration(pipeline.segments.max_gap),
        )
        with writer:
            _write_rows(pipeline, data, parts, warmup, cuts, slices, writer, grid, tell)
            cells = grid.cells()
            train = cells.profile("train")
            if not train.rows:
                raise DataError(
                    Problem(
                        "the train split has no rows",
                        expected="rows before the first cut that are not warm-up",
                        got=f"the first cut is at {np.datetime64(cuts[0], 'ns')}",
                        fix="splits: {train: 0.7, validation: 0.15, test: 0.15}"
                        if pipeline.warmup == "lookback"
                        else "warmup: lookback",
                    )
                )
            scaling = Scaling.fit(train, pipeline.scaling)
            report = audit_subject(
                subject(
                    pipeline.to_yaml(),
                    name=pipeline.name,
                    path=root,
                    digest=writer.data_digest(cuts, pipeline.splits.embargo),
                    features=pipeline.features,
                    cells=cells,
                    scaling=scaling,
                    rows=writer,
                    symbols=len(parts),
                    span=writer.span,
                    spec=pipeline.audit,
                )
            )
            cells.save(Path(scratch) / "profile")
            report.to_html(Path(scratch) / "report.html")
            files: dict[str, bytes | Path] = {
                "audit.json": report.to_json().encode(),
                "profile": Path(scratch) / "profile",
                "report.html": Path(scratch) / "report.html",
            }
            for name, frame in data.quarantined.items():
                frame.write_parquet(Path(scratch) / name)
                files[f"quarantine/{name}"] = Path(scratch) / name
            dataset = writer.commit(
                name=pipeline.name,
                pipeline=pipeline.to_yaml(),
                fingerprints={"pipeline": pipeline.fingerprint, "data": data.fingerprint},
                cuts=cuts,
                embargo=pipeline.splits.embargo,
                window_max=pipeline.windows.max,
                scaling=scaling.to_json(),
                versions=_versions(),
                files=files,
            )
    return Build(
        dataset=dataset,
        audit=report,
        quarantined=sum(frame.height for frame in data.quarantined.values()),
        notes=(*data.notes, *notes),
        seconds=time.monotonic() - started,
    )


def _directory(pipeline: Pipeline) -> str:
    """The pipeline's name as that of a directory; a name is never a path."""
    name = pipeline.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(
            Problem(
                "the pipeline's name cannot be that of a directory",
                where=f"{pipeline.source}, key name",
                expected="letters, digits, _, - and .",
                got=repr(name),
                fix="featurekit build ... --out build/mine",
            )
        )
    return name


def _plan(pipeline: Pipeline, bars: pl.DataFrame, warmup: int) -> tuple[list[_Part], list[str]]:
    """The symbols that have rows after the warm-up, and a note on those that have none."""
    spans = symbol_spans(bars)
    _check_inputs(pipeline, bars, [symbol for symbol, _, _ in spans])
    parts, short = [], []
    for symbol, first, rows in spans:
        restarts = pipeline.restarts(pipeline.closes(bars.slice(first, rows)))
        stretches = np.diff([*(restarts or [0]), rows])
        kept = int(np.maximum(stretches - warmup, 0).sum())
        if kept:
            parts.append(_Part(symbol, first, rows, restarts, kept))
        else:
            short.append(f"{symbol} ({stretches.max()})")
    if not parts:
        least = max(feature.lookback for feature in pipeline.features)
        raise DataError(
            Problem(
                "no symbol has more bars than the warm-up",
                where=pipeline.source,
                expected=f"more than {warmup} bars: from there on the start of the history no "
                "longer matters",
                got=", ".join(short[:10]),
                fix=f"bars of more than {warmup} rows"
                if pipeline.warmup == "lookback"
                else f"warmup: lookback   # {least} bars, the first value of every column",
            )
        )
    notes = []
    if short:
        notes.append(f"{len(short)} symbols are shorter than the warm-up: " + ", ".join(short[:10]))
    return parts, notes


def _check_inputs(pipeline: Pipeline, bars: pl.DataFrame, symbols: Sequence[str]) -> None:
    """Refuses before anything is written what the first row of a symbol would be refused for."""
    problems = missing_columns(pipeline.program.inputs, bars)
    account = pipeline.account
    ledger = Ledger(account.cash, account.multiplier, account.leverage, account.scope)
    for symbol in symbols:
        try:
            ledger.multiplier(symbol)
        except ConfigError as error:  # noqa: PERF203  # all symbols are named at once
            problems += [replace(it, where=pipeline.source) for it in error.problems]
    if problems:
        raise DataError(*problems)


def _warmup(pipeline: Pipeline) -> int:
    if pipeline.warmup == "memory":
        return pipeline.memory
    return max(feature.lookback for feature in pipeline.features)


def _cuts(pipeline: Pipeline, times: NDArray[np.int64]) -> tuple[int, int]:
    """UTC ns at which validation and test start: quantiles of the unique times, or dates."""
    splits = pipeline.splits
    if isinstance(splits.validation, str) and isinstance(splits.test, str):
        return instant(splits.validation), instant(splits.test)  # in this order, as was checked
    shares = (1.0 - float(splits.validation) - float(splits.test), 1.0 - float(splits.test))
    last = int(times[-1]) + 1
    first, second = (
        int(times[at]) if (at := round(share * len(times))) < len(times) else last
        for share in shares
    )
    return first, second


def _write_rows(
    pipeline: Pipeline,
    data: Ingested,
    parts: Sequence[_Part],
    warmup: int,
    cuts: tuple[int, int],
    slices: Conditions,
    writer: DatasetWriter,
    grid: ProfileGrid,
    tell: Progress,
) -> None:
    """Computes every symbol a piece at a time; a piece is profiled and written while in cache."""
    everything, done = sum(part.rows for part in parts), 0
    rows32 = np.empty((PIECE, len(pipeline.columns)), np.float32)
    for part in parts:
        bars = data.bars.slice(part.first, part.rows)
        table = pipeline.inputs(data.bars, (part.symbol, part.first, part.rows), data.fills)
        stamps = bars["time"].dt.epoch("ns").to_numpy()
        targets = _targets(pipeline, bars, stamps)
        number = writer.first_number(part.symbol)
        for start, stop, fresh in pieces(part.rows, PIECE, part.restarts):
            if fresh:
                state, since = pipeline.program.new_state(), start
            inputs = table.read(start, stop)
            rows = pipeline.program.run_rows(state, inputs, rows32[: stop - start])
            skip = min(max(since + warmup - start, 0), stop - start)
            if skip < stop - start:
                kept, when = rows[skip:], stamps[start + skip : stop]
                split = np.searchsorted(np.array(cuts), when, side="right")
                numbers = np.arange(number, number + len(kept))
                number += len(kept)
                keys = row_keys(part.symbol, when)
                grid.update(kept, split, slices.of(kept), when, keys, numbers)
                writer.write(part.symbol, when, kept, targets[start + skip : stop])
            done += stop - start
            tell("rows", done, everything)


def _targets(
    pipeline: Pipeline, bars: pl.DataFrame, stamps: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Targets [rows, K]; they never reach across a segment."""
    starts = segment_starts(stamps, duration(pipeline.segments.max_gap))
    close = bars["close"].cast(pl.Float64).to_numpy() if pipeline.targets else np.empty(0)
    columns = [forward(close, starts, t.kind, t.horizon) for t in pipeline.targets.values()]
    return np.column_stack(columns) if columns else np.empty((bars.height, 0), np.float32)


def _versions() -> dict[str, str]:
    packages = ("numba", "numpy", "polars")
    others = {name: importlib.metadata.version(name) for name in packages}
    return {"featurekit": __version__, **others}
