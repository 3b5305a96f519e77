"""Holes: what a missing value, and missing bars, do to each column, and for how long."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featurekit.checks.result import Finding, Proof

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.checks.subject import Subject, Tell

AFTER = 50  # rows at least after a hole has been forgotten
GAP = 30  # bars that are missing
WRONG = 1e-4  # standard deviations: a gap may be a longer step than a history starts with


def holes(subject: Subject, tell: Tell, *, thorough: bool) -> Proof:
    """One hole in each input, and bars that are missing: each column recovers, or it is told.

    A column recovers if it is as without the hole once its memory has passed. One that stays is NaN
    from then on; one that is silently wrong has other values.
    """
    symbol = max(subject.spans, key=lambda span: span[2])[0]
    alone = subject.one(symbol)
    bars, fills = alone.prepared, alone.fills
    memory = np.array([feature.memory for feature in subject.pipeline.features])
    count = bars.height
    room = count - int(memory.max()) - AFTER - GAP
    if room < 2:
        return _too_few(subject, int(memory.max()) + AFTER + GAP)
    places = [int(at) for at in np.linspace(1, room, 6 if thorough else 2)]
    inputs = [name for name in subject.inputs if name in bars.columns]
    whole = alone.table(bars, fills, "float64")
    scale = np.maximum(subject.deviations, 1e-12)
    kinds: dict[str, dict[str, str]] = {name: {} for name in subject.names}
    findings: list[Finding] = []
    cases = [(name, at) for name in (*inputs, "gap of 1", f"gap of {GAP}") for at in places]
    for done, (case, at) in enumerate(cases):
        tell("holes", done, len(cases))
        kept = np.ones(count, bool)
        if case.startswith("gap of"):
            kept[at : at + int(case.split()[-1])] = False
            holed = bars.filter(pl.Series(kept))
        else:
            values = bars[case].cast(pl.Float64).to_numpy().copy()
            values[at] = np.nan
            holed = bars.with_columns(pl.Series(case, values))
        rows = alone.table(holed, fills, "float64")
        want = whole[kept]
        with np.errstate(invalid="ignore"):
            off = np.abs(rows - want) / scale
        off[(rows == want) | (np.isnan(rows) & np.isnan(want))] = 0.0
        for j, name in enumerate(subject.names):
            # What counts bars of a position is as before when the position is another.
            room = count - at - AFTER if subject.of_account[j] else int(memory[j])
            kind, row = _kind(off[:, j], rows[:, j], want[:, j], at, room)
            if _RANK[kind] > _RANK[kinds[name].get(case, "untouched")]:
                if kind in ("stays", "silently wrong") and kinds[name].get(case) != kind:
                    findings.append(_finding(alone, name, case, kind, row, int(memory[j])))
                kinds[name][case] = kind
            kinds[name].setdefault(case, kind)
    tell("holes", len(cases), len(cases))
    looked = f"{len(inputs)} inputs and 2 gaps at {len(places)} bars of {symbol}: "
    counts = Counter(kind for each in kinds.values() for kind in each.values())
    looked += ", ".join(f"{counts[kind]} {kind}" for kind in _RANK if counts[kind])
    columns: dict[str, dict[str, Any]] = {name: dict(each) for name, each in kinds.items()}
    return Proof("holes", looked, tuple(findings), columns)


_RANK = {"untouched": 0, "recovers": 1, "silently wrong": 2, "stays": 3}


def _kind(
    off: NDArray[np.float64],
    rows: NDArray[np.float64],
    want: NDArray[np.float64],
    at: int,
    memory: int,
) -> tuple[str, int]:
    """What became of a column after a hole, and the row that says so."""
    changed = off > WRONG
    changed |= np.isnan(off)
    if not changed.any():
        return "untouched", 0
    later = at + memory + 1
    wrong = np.flatnonzero(changed[later:])
    if not wrong.size:
        return "recovers", 0
    row = later + int(wrong[0])
    lost = np.isnan(rows[later:]) & ~np.isnan(want[later:])
    return ("stays" if lost[-1] and lost.any() else "silently wrong"), row


def _finding(subject: Subject, name: str, case: str, kind: str, row: int, memory: int) -> Finding:
    gap = case.startswith("gap of")
    cause = f"a {case} bars" if gap else f"one NaN in {case}"
    what = (
        f"{name} stays NaN after {cause}" if kind == "stays" else f"{name} is wrong after {cause}"
    )
    return subject.finding(
        "holes",
        name,
        min(row, subject.bars.height - 1),
        what,
        expected=f"as without it after {memory} rows",
        got="NaN to the end" if kind == "stays" else "other values",
        fix=f"{case}.fill({case}.lag(1))   # before a recursion, or declare .named(memory=...)"
        if not gap
        else "segments: {max_gap: 4d, reset: true}   # or a window in place of what counts rows",
    )


def _too_few(subject: Subject, needed: int) -> Proof:
    found = subject.finding(
        "holes",
        "",
        None,
        "no symbol has so many bars that a hole could be forgotten",
        severity="warn",
        expected=f"more than {needed} bars",
        got=f"{max(count for _, _, count in subject.spans)} at most",
        fix="more bars, or blocks of a shorter memory",
    )
    return Proof("holes", "nothing: too few bars", (found,))
