"""Splits: what is trained on is not what is tested on, and scaling saw train only."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.build import build
from featurekit.checks.parity import on_disk, whole_of
from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import Subject, Tell
from featurekit.dataset.windows import SPLITS
from featurekit.errors import FeaturekitError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurekit.dataset import Dataset

WINDOWS = (1, 20)  # rows of a window, and the longest that the pipeline allows


def splits(subject: Subject, folder: Path, tell: Tell) -> Proof:
    """Every window of every split: its rows, its target and the embargo, by their times.

    A probe that trains on one side of a cut and predicts on the other could say no more than this:
    the windows are listed, and each is looked at.
    """
    if not subject.builds:
        few = "too few bars" if subject.pipeline.bars else "the pipeline names no bars"
        return Proof("splits", f"nothing: {few}, and so no dataset is built")
    tell("splits", 0, 2)
    try:
        dataset = whole_of(subject, folder)
    except FeaturekitError as error:
        problem = error.problems[0]
        what = f"no dataset could be built: {problem.what}"
        found = subject.finding("splits", "", None, what, got=problem.got, fix=problem.fix)
        return Proof("splits", "nothing", (found,))
    sizes = sorted({*WINDOWS, dataset.manifest.window_max})
    findings = [each for size in sizes for each in _windows(subject, dataset, size)]
    tell("splits", 1, 2)
    findings += _scaling(subject, dataset, folder)
    tell("splits", 2, 2)
    count = sum(dataset.windows(split, size) for split in SPLITS for size in sizes)
    return Proof("splits", f"{count:,} windows, and the scaling", tuple(findings))


def _windows(subject: Subject, dataset: Dataset, size: int) -> Iterator[Finding]:
    time = dataset.to_numpy().time
    code = dataset.to_numpy().symbol
    cuts = dataset.manifest.cuts
    begins = (np.iinfo(np.int64).min, *cuts)
    ends = (*cuts, np.iinfo(np.int64).max)
    horizon, embargo = dataset.manifest.horizon, dataset.manifest.embargo
    for split, begin, end in zip(SPLITS, begins, ends, strict=True):
        starts = dataset.starts(split, size)
        if not len(starts):
            continue
        outside = starts + size > len(time)
        starts = np.minimum(starts, len(time) - size)
        last = starts + size - 1
        target = last + horizon
        inside = target < len(time)
        beyond = np.zeros(len(starts), bool)
        beyond[inside] = (time[target[inside]] >= end) & (
            code[target[inside]] == code[last[inside]]
        )
        first_of = np.searchsorted(code, code[starts])  # rows are sorted by symbol
        held_back = np.zeros(len(starts), bool)
        if split != SPLITS[0] and embargo:
            for symbol in np.unique(code[starts]):
                mine = code[starts] == symbol
                low, high = np.searchsorted(code, [symbol, symbol + 1])
                after = low + int(np.searchsorted(time[low:high], begin))
                held_back[mine] = starts[mine] < after + embargo
        tests = {
            "ends after the last row": outside,
            "begins before its split": time[starts] < begin,
            "ends after its split": time[last] >= end,
            "is of two symbols": code[starts] != code[last],
            "has rows out of order": time[last] - time[starts] < 0,
            "has a target in the next split": beyond,
            "lies in the embargo": held_back,
            "begins before its symbol": starts < first_of,
        }
        for what, wrong in tests.items():
            if wrong.any():
                at = int(starts[np.argmax(wrong)])
                symbol = dataset.symbols[int(code[at])]
                yield Finding(
                    "splits",
                    "fail",
                    "",
                    "",
                    symbol,
                    f"{np.datetime64(int(time[at]), 'ns').astype('M8[s]')}Z",
                    f"a window of {split} {what}",
                    f"no window of {size} rows that does",
                    f"{int(wrong.sum())} of {len(starts)}",
                    "report this as a bug, with the pipeline and these bars",
                )


def _scaling(subject: Subject, dataset: Dataset, folder: Path) -> Iterator[Finding]:
    """Whether the scaling is the same when all that comes after train is another."""
    if dataset.scaling is None:
        return
    cut = dataset.manifest.cuts[0]
    stamps = subject.bars["time"].dt.epoch("ns").to_numpy()
    before = subject.closes[stamps < cut]
    if not before.size or before.size == len(stamps):
        return
    bars, _ = subject.other_future(int(before.max()), "noise")
    late = pl.Series(stamps >= cut)
    numbers = [n for n, kind in subject.prepared.schema.items() if kind.is_numeric()]
    mixed = subject.prepared.with_columns(
        pl.when(late).then(bars[name]).otherwise(pl.col(name)).alias(name)
        for name in numbers
        if name in bars.columns
    )
    other = Subject(subject.pipeline, mixed, subject.fills)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = build(on_disk(other, folder / "other"), out=folder / "perturbed").dataset
    except FeaturekitError:
        return  # what was made up breaks the user's schema: nothing to be said
    if again.manifest.scaling != dataset.manifest.scaling:
        yield subject.finding(
            "splits",
            "",
            None,
            "the scaling changes with what comes after the train split",
            expected="a scaling fitted on train only",
            got="another one when validation and test are others",
            fix="report this as a bug, with the pipeline and these bars",
        )
