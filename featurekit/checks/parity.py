"""Parity: batch, stream, resume, append and rebuild give the same bits."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featurekit.build import build
from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import Subject, Tell, apart
from featurekit.errors import FeaturekitError
from featurekit.pipeline import Pipeline
from featurekit.stream import Stream

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.dataset import Dataset

CHUNKS = (1, 7, 333)  # rows computed at a time
RESUMED = 41  # updates from one save of the stream to the next
MOST = 3_000  # updates of a stream, without `thorough`


def parity(subject: Subject, folder: Path, tell: Tell, *, thorough: bool) -> Proof:
    """Every path from bars to rows against the one call of `transform`."""
    paths: list[tuple[str, Callable[[], tuple[NDArray[Any], NDArray[np.int64]]]]] = [
        (f"batch in chunks of {rows}", partial(_chunks, subject, rows)) for rows in CHUNKS
    ]
    most = len(subject.closes) if thorough else MOST
    paths += [
        ("stream, resumed now and then", lambda: _updates(subject, most)),
        ("stream, warm and bar by bar", lambda: _pushes(subject, most)),
    ]
    if subject.builds:
        paths += [
            ("build", lambda: _rows_of(subject, whole_of(subject, folder))),
            (
                "build in two, the second appended",
                lambda: _rows_of(subject, _grown(subject, folder)),
            ),
        ]
    findings: list[Finding] = []
    for done, (path, run) in enumerate(paths):
        tell("parity", done, len(paths))
        try:
            rows, at = run()
        except FeaturekitError as error:
            problem = error.problems[0]
            findings.append(
                subject.finding(
                    "parity",
                    "",
                    None,
                    f"{path} refuses what transform takes: {problem.what}",
                    expected=problem.expected,
                    got=problem.got,
                    fix=problem.fix,
                )
            )
            continue
        findings += _differences(subject, path, rows, at)
    tell("parity", len(paths), len(paths))
    looked = f"{len(paths)} paths: " + "; ".join(path for path, _ in paths)
    return Proof("parity", looked, tuple(findings))


def _differences(
    subject: Subject, path: str, rows: NDArray[np.float32], at: NDArray[np.int64]
) -> Iterator[Finding]:
    """The first bar at which rows are other bits than those of `transform` at places `at`."""
    want = subject.rows[at]
    differ = apart(rows, want)
    if not differ.any():
        return
    hit = np.flatnonzero(differ.any(1))
    first = int(hit[np.argmin(subject.closes[at[hit]])])
    j = int(np.flatnonzero(differ[first])[0])
    columns = int(differ.any(0).sum())
    yield subject.finding(
        "parity",
        subject.names[j],
        int(at[first]),
        f"{path} gives {subject.names[j]} another value than transform",
        expected=f"{want[first, j]!r}",
        got=f"{rows[first, j]!r}; {columns} columns and {hit.size} rows differ",
        fix="report this as a bug, with the pipeline and these bars",
    )


def _chunks(subject: Subject, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    pipeline, program = subject.pipeline, subject.pipeline.program
    rows = np.empty_like(subject.rows)
    for symbol, first, count in subject.spans:
        table = pipeline.inputs(subject.prepared, (symbol, first, count), subject.fills)
        fresh = {0, *pipeline.restarts(table.closes)}
        cuts = sorted({*range(0, count, size), *fresh, count})
        state = program.new_state()
        for start, stop in itertools.pairwise(cuts):
            state = program.new_state() if start in fresh else state
            out = np.empty((stop - start, program.width), np.float32)
            rows[first + start : first + stop] = program.run_rows(
                state, table.read(start, stop), out
            )
    return rows, np.arange(len(rows))


def _hours(subject: Subject) -> list[tuple[int, NDArray[np.int64]]]:
    """Closes in order, and the rows that close then."""
    order = np.argsort(subject.closes, kind="stable")
    closes, starts = np.unique(subject.closes[order], return_index=True)
    return list(zip(closes.tolist(), np.split(order, starts[1:]), strict=True))


def _due(subject: Subject, close: int, after: int | None) -> pl.DataFrame | None:
    """Fills that bars which close then may show, and those before might not."""
    if subject.fills is None:
        return None
    time = pl.col("time").dt.epoch("ns")
    this = subject.pipeline.account.fill_at_close == "this"
    now = time <= close if this else time < close
    seen = pl.lit(False) if after is None else (time <= after if this else time < after)
    return subject.fills.filter(now & ~seen)


def _updates(subject: Subject, most: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    stream = Stream(subject.pipeline, [name for name, _, _ in subject.spans])
    places = {name: at for at, (name, _, _) in enumerate(subject.spans)}
    rows, at, last = [], [], None
    for k, (close, which) in enumerate(_hours(subject)[:most]):
        bars = subject.prepared[which]
        given = stream.update(bars, _due(subject, close, last))
        rows.append(given[[places[name] for name in bars["symbol"].to_list()]])
        at.append(which)
        last = close
        if k % RESUMED == RESUMED - 1:
            stream = Stream.resume(subject.pipeline, stream.state())
    return np.concatenate(rows), np.concatenate(at)


def _pushes(subject: Subject, most: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    hours = _hours(subject)
    begin = max(len(hours) // 2, len(hours) - most // 2)
    close = hours[begin - 1][0] if begin else None
    stream = Stream(subject.pipeline, [name for name, _, _ in subject.spans])
    if close is not None:
        known = subject.prepared.filter(pl.Series(subject.closes <= close))
        stream.warm(known, _due(subject, close, None))
    names = subject.inputs
    rows, at = [], []
    for now, which in hours[begin:]:
        if (due := _due(subject, now, close)) is not None:
            stream.fill(due)
        close = now
        if subject.pipeline.account.scope == "portfolio":
            bars = subject.prepared[which]
            given = stream.update(bars)
            rows += [given[stream.symbols.index(name)] for name in bars["symbol"].to_list()]
        else:
            for row in which.tolist():
                bar = subject.prepared.row(row, named=True)
                stamp = int(subject.prepared["time"].dt.epoch("ns")[row])
                values = {name: bar[name] for name in dict.fromkeys([*names, *_BARS])}
                rows.append(stream.push(bar["symbol"], stamp, **values))
        at.append(which)
    return np.stack(rows), np.concatenate(at)


_BARS = ("open", "high", "low", "close", "volume")


# --- datasets -------------------------------------------------------------------------------------


def on_disk(subject: Subject, folder: Path) -> Pipeline:
    """The pipeline with these bars and fills, as files in a folder, in place of its own."""
    assert subject.pipeline.bars is not None  # noqa: S101  # as callers have checked
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"stamp": subject.pipeline.bars.stamp, "bar": subject.pipeline.bars.bar}
    keys |= {"timezone": "UTC", "exchange_timezone": subject.pipeline.bars.exchange_timezone}
    if subject.pipeline.bars.schema:
        keys["schema"] = subject.pipeline.bars.schema
    document = subject.pipeline.document()
    subject.prepared.write_parquet(folder / "bars.parquet")
    document["bars"] = {**keys, "path": str(folder / "bars.parquet")}
    document.pop("fills", None)
    if subject.fills is not None and subject.fills.height:
        subject.fills.write_parquet(folder / "fills.parquet")
        document["fills"] = {"path": str(folder / "fills.parquet"), "timezone": "UTC"}
    return Pipeline(**document)


def whole_of(subject: Subject, folder: Path) -> Dataset:
    """The dataset that is built of all bars at once."""
    pipeline = on_disk(subject, folder / "files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a part of the data scales are no matter
        return build(pipeline, out=folder / "whole").dataset


def _grown(subject: Subject, folder: Path) -> Dataset:
    """The dataset of the earlier two thirds, and then of all bars."""
    closes = np.unique(subject.closes)
    counts = [count for _, _, count in subject.spans]
    warmup = min(subject.pipeline.memory + 100, max(counts) - 1)
    cut = int(closes[max(2 * len(closes) // 3, min(warmup, len(closes) - 2))])
    earlier = replace(subject, bars=subject.bars.filter(pl.Series(subject.closes <= cut)))
    earlier.__dict__["prepared"] = subject.prepared.filter(pl.Series(subject.closes <= cut))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(on_disk(earlier, folder / "files"), out=folder / "grown")
        return build(on_disk(subject, folder / "files"), out=folder / "grown").dataset


def _rows_of(subject: Subject, dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows of a dataset, and their places among the bars."""
    table = dataset.to_polars()
    keys = subject.bars.select("symbol", pl.col("time").cast(table.schema["time"]))
    places = table.select("symbol", "time").join(
        keys.with_row_index("place"), on=["symbol", "time"], how="left", maintain_order="left"
    )["place"]
    return table.select(subject.names).to_numpy(), places.to_numpy().astype(np.int64)
