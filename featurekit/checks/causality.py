"""Causality: whatever comes after a row, the row stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import How, Subject, Tell, apart
from featurekit.timeline import duration, segment_starts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HOWS: tuple[How, ...] = ("cut off", "noise", "returns turned round", "NaN")
CUTS, MOST_CUTS = 20, 200  # evenly spread, without and with `thorough`
SPECIAL = 6  # at most of each kind: gaps, fills, ends of periods, cuts of splits


@dataclass(slots=True)
class _Leak:
    """Rows of one column that changed with the future: of one cut, and the first of all."""

    cut: int
    how: How
    rows: NDArray[np.int64]
    first: int


def causality(subject: Subject, tell: Tell, *, thorough: bool) -> Proof:
    """Every column at many cuts, against four other futures of bars and of fills."""
    cuts = cut_points(subject, MOST_CUTS if thorough else CUTS)
    names = [*subject.own, *subject.names] if subject.prepare else list(subject.names)
    known = _columns(subject, subject.bars, subject.fills)
    leaks: dict[str, _Leak] = {}
    total = len(cuts) * len(HOWS)
    for done, (cut, how) in enumerate((c, h) for c in cuts for h in HOWS):
        tell("causality", done, total)
        bars, fills = subject.other_future(cut, how, seed=done)
        other = _columns(subject, bars, fills)
        before = np.flatnonzero(subject.closes <= cut)
        mine = before if how != "cut off" else np.arange(len(other))
        differ = apart(known[before], other[mine])
        for j in np.flatnonzero(differ.any(0)):
            rows = before[differ[:, j]]
            leak = leaks.setdefault(names[j], _Leak(cut, how, rows, int(rows[0])))
            leak.first = min(leak.first, int(rows[0]), key=lambda row: subject.closes[row])
    tell("causality", total, total)
    findings = [_finding(subject, name, leak, names) for name, leak in leaks.items()]
    ends = f"{len(subject.names)} columns, {len(cuts)} cuts, {len(HOWS)} futures after each"
    return Proof("causality", ends, tuple(findings))


def cut_points(subject: Subject, many: int) -> list[int]:
    """Closes at which the future is made another: evenly spread, and where things happen."""
    closes = np.unique(subject.closes)
    if len(closes) < 3:
        return []
    at = {int(closes[k]) for k in np.linspace(1, len(closes) - 2, many).astype(int)}
    pipeline = subject.pipeline
    gaps = segment_starts(closes, duration(pipeline.segments.max_gap))
    at |= {int(closes[k]) for k in [*gaps[1:], *(gaps[1:] - 1)][: 2 * SPECIAL]}
    day = 86_400_000_000_000
    ends = closes[closes % day == 0][::-1]
    at |= {int(close) for close in ends[: SPECIAL * 5 : 5]}
    if subject.fills is not None and subject.fills.height:
        times = np.unique(subject.fills["time"].dt.epoch("ns").to_numpy())
        inside = times[(times > closes[0]) & (times < closes[-1])]
        for time in inside[:: max(len(inside) // SPECIAL, 1)][:SPECIAL]:
            k = int(np.searchsorted(closes, time))
            at |= {int(closes[k - 1]), int(closes[k])}
    return sorted(at)


def _columns(
    subject: Subject, bars: pl.DataFrame, fills: pl.DataFrame | None
) -> NDArray[np.float64]:
    """The features `[n, F]`, with `prepare` after the columns that it made."""
    made = subject.with_own(bars)
    rows = subject.table(made, fills)
    if subject.prepare is None:
        return rows
    own = made.select(pl.col(subject.own).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    return np.concatenate([own, rows], axis=1)


def _finding(subject: Subject, name: str, leak: _Leak, names: list[str]) -> Finding:
    horizon, ends = _horizon(subject, names.index(name), leak)
    far = "to the end of the data" if ends else f"{horizon} bar{'s' if horizon != 1 else ''} ahead"
    own = name in subject.own
    where = "the column of the bars" if own else "the column"
    lag = f"{name}.lag({horizon})" if own else f"{subject.blocks.get(name, '')}: leave {name} out"
    fix = (
        f"compute {name} from rows up to its own only"
        if ends
        else f"{lag}   # or compute it from rows up to its own only"
    )
    return subject.finding(
        "causality",
        name,
        leak.first,
        f"{where} {name} sees {far}",
        expected="the same value whatever comes later",
        got=f"another one when the bars after {_text(leak.cut)} are {_told(leak.how)}",
        fix=fix,
    )


def _told(how: How) -> str:
    return {"noise": "others", "NaN": "holes"}.get(how, how)


def _horizon(subject: Subject, j: int, leak: _Leak) -> tuple[int, bool]:
    """How many bars ahead the column sees at a leaking row, and whether that is to the end."""
    worst, ends = 1, False
    how: How = "noise" if leak.how == "cut off" else leak.how
    known = _columns(subject, subject.bars, subject.fills)
    for row in {int(leak.rows[0]), int(leak.rows[-1])}:
        span = next((f, n) for _, f, n in subject.spans if f <= row < f + n)
        last = span[0] + span[1] - 1

        def sees(ahead: int, row: int = row, last: int = last) -> bool:
            """Whether the row changes with the bars that are more than `ahead` after it."""
            if row + ahead >= last:
                return False
            for way in dict.fromkeys((how, "noise", "NaN")):
                cut = int(subject.closes[row + ahead])
                bars, fills = subject.other_future(cut, way, seed=ahead)
                if bool(apart(_columns(subject, bars, fills)[row, j], known[row, j])):
                    return True
            return False

        low, high = 0, 1  # it is taken to see beyond `low` and not beyond `high`
        while sees(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sees(middle) else (low, middle)
        worst, ends = max(worst, high), ends or row + high >= last
    return worst, ends


def _text(close: int) -> str:
    return f"{np.datetime64(close, 'ns').astype('M8[m]')}Z"


def targets(subject: Subject, tell: Tell) -> Iterator[Finding]:
    """Whether targets look ahead exactly as far as they say."""
    from featurekit.timeline import forward

    for done, (name, target) in enumerate(subject.pipeline.targets.items()):
        tell("targets", done, len(subject.pipeline.targets))
        horizon = target.horizon
        for _, first, count in subject.spans:
            close = subject.bars["close"].cast(pl.Float64).to_numpy()[first : first + count]
            starts = segment_starts(
                subject.closes[first : first + count],
                duration(subject.pipeline.segments.max_gap),
            )
            known = forward(close, starts, target.kind, horizon)
            for row in np.linspace(0, count - 1, 12).astype(int):
                later = close.copy()
                later[row + horizon + 1 :] *= 1.5
                other = forward(later, starts, target.kind, horizon)
                at = np.flatnonzero(apart(known[: row + 1], other[: row + 1]))
                if at.size:
                    yield subject.finding(
                        "causality",
                        name,
                        first + int(at[0]),
                        f"the target {name} looks further ahead than it says",
                        expected=f"{horizon} bars",
                        got="more",
                        fix=f"targets: {{{name}: {{{target.kind}: {horizon + 1}}}}}",
                    )
