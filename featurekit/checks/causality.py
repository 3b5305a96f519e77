"""Causality: whatever comes after a row, the row stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import How, Subject, Tell, apart
from featurekit.errors import DataError
from featurekit.timeline import duration, segment_starts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HOWS: tuple[How, ...] = ("cut off", "noise", "returns turned round", "NaN")
CUTS, MOST_CUTS = 20, 200  # evenly spread, without and with `thorough`
OWN_CUTS = 150  # more of them where only columns of the user's are computed again
SPECIAL = 6  # at most of each kind: gaps, fills, ends of periods, extremes
FIRST = (0, 1, 10, 40)  # rows after a symbol's first
EXACT = 1e-12  # of a column's deviation: beyond what sums of another length round to
NEAR = 1e-6  # the same of float32


@dataclass(slots=True)
class _Leak:
    """Rows of one column that changed with the future, and the first of them all.

    They are those of the cut that reached furthest back.
    """

    column: int
    cut: int
    how: How
    rows: NDArray[np.int64]
    first: int
    size: float  # in deviations of the column


def causality(subject: Subject, tell: Tell, *, thorough: bool) -> Proof:
    """Every column at many cuts, against four other futures of bars and of fills."""
    hows = _futures(subject)
    cuts = cut_points(subject, MOST_CUTS if thorough else CUTS)
    leaks: dict[str, _Leak] = {}
    more = cut_points(subject, OWN_CUTS) if subject.prepare is not None and subject.own else []
    steps = [(cut, how, True) for cut in more for how in hows[:2]]
    steps += [(cut, how, False) for cut in cuts for how in hows]
    names = [*(subject.own if subject.prepare is not None else []), *subject.names]
    whole = _columns(subject, subject.bars, subject.fills)
    known = {False: whole, True: whole[:, : len(subject.own)]}
    for done, (cut, how, only) in enumerate(steps):
        tell("causality", done, len(steps))
        bars, fills = subject.other_future(cut, how, seed=done)
        other = _columns(subject, bars, fills, only)
        before = np.flatnonzero(subject.closes <= cut)
        mine = before if how != "cut off" else np.arange(len(other))
        differ = apart(known[only][before], other[mine])
        for j in np.flatnonzero(differ.any(0)).tolist():
            rows = before[differ[:, j]]
            size = _size(known[only][:, j], before, other[mine, j])
            leak = leaks.setdefault(names[j], _Leak(j, cut, how, rows, int(rows[0]), size))
            if cut - subject.closes[rows[0]] > leak.cut - subject.closes[leak.rows[0]]:
                leak.cut, leak.how, leak.rows = cut, how, rows
            leak.first = min(leak.first, int(rows[0]), key=lambda row: subject.closes[row])
            leak.size = max(leak.size, size)
    tell("causality", len(steps), len(steps))
    own = [leak.size for name, leak in leaks.items() if name in subject.own]
    rounding = bool(own) and max(own) <= EXACT
    findings = [
        _rounded(subject, name, leak)
        if rounding and leak.size <= (EXACT if name in subject.own else NEAR)
        else _finding(subject, name, leak, whole, hows)
        for name, leak in leaks.items()
    ]
    looked = f"{len(subject.names)} columns, {len(cuts)} cuts, {len(hows)} futures after each"
    if more:
        looked += f"; {len(subject.own)} of your own at {len(more)} cuts"
    if len(hows) < len(HOWS):
        looked += "; none with holes: prepare takes no NaN"
    return Proof("causality", looked, tuple(findings))


def _futures(subject: Subject) -> tuple[How, ...]:
    """All of them, but for holes that `prepare` does not take."""
    if subject.prepare is None or len(subject.closes) < 3:
        return HOWS
    bars, _ = subject.other_future(int(np.median(subject.closes)), "NaN")
    try:
        subject.with_own(bars)
    except DataError:
        return tuple(how for how in HOWS if how != "NaN")
    return HOWS


def _size(
    known: NDArray[np.float64], before: NDArray[np.int64], other: NDArray[np.float64]
) -> float:
    """How far a column moved at most, in its deviations; infinite where a hole came or went."""
    finite = known[np.isfinite(known)]
    deviation = max(float(np.std(finite)) if finite.size else 0.0, 1e-300)
    off = np.abs(known[before] - other)
    off[~apart(known[before], other)] = 0.0
    return float(np.nan_to_num(off, nan=np.inf).max()) / deviation


def cut_points(subject: Subject, many: int) -> list[int]:
    """Closes at which the future is made another: evenly spread, and where things happen."""
    closes = np.unique(subject.closes)
    if len(closes) < 3:
        return []
    at = {int(closes[k]) for k in np.linspace(1, len(closes) - 2, many).astype(int)}
    at |= {int(close) for close in _around_gaps(subject, closes)}
    day = 86_400_000_000_000
    ends = closes[closes % day == 0][::-1]
    at |= {int(close) for close in ends[: SPECIAL * 5 : 5]}
    for _, first, count in subject.spans:
        at |= {int(subject.closes[first + row]) for row in FIRST if row < count - 1}
    if subject.prepare is not None:
        at |= {int(subject.closes[row]) for name in subject.own for row in _odd(subject, name)}
    if subject.fills is not None and subject.fills.height:
        times = np.unique(subject.fills["time"].dt.epoch("ns").to_numpy())
        inside = times[(times > closes[0]) & (times < closes[-1])]
        for time in inside[:: max(len(inside) // SPECIAL, 1)][:SPECIAL]:
            k = int(np.searchsorted(closes, time))
            at |= {int(closes[k - 1]), int(closes[k])}
    return sorted(cut for cut in at if cut < closes[-1])


def _around_gaps(subject: Subject, closes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Closes before and after gaps of two kinds: of segments, and where any bar is missing."""
    pipeline = subject.pipeline
    found = []
    steps = np.diff(closes)
    for longest in (duration(pipeline.segments.max_gap), int(1.5 * np.median(steps))):
        gaps = segment_starts(closes, longest)[1:]
        few = gaps[:: max(len(gaps) // SPECIAL, 1)][:SPECIAL]
        found += [closes[few], closes[few - 1]]
    return np.concatenate(found)


def _odd(subject: Subject, name: str) -> NDArray[np.int64]:
    """Rows at which a column has its greatest, least and rarest values: where it says something."""
    x = subject.prepared[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = np.flatnonzero(np.isfinite(x))
    if not known.size:
        return known
    order = known[np.argsort(x[known], kind="stable")]
    _, back, counts = np.unique(x[known], return_inverse=True, return_counts=True)
    rare = known[np.argsort(counts[back], kind="stable")]
    return np.concatenate([order[:SPECIAL], order[-SPECIAL:], rare[:SPECIAL]])


def _columns(
    subject: Subject, bars: pl.DataFrame, fills: pl.DataFrame | None, only_own: bool = False
) -> NDArray[np.float64]:
    """What `prepare` made, and the features beside it `[n, F]` unless only that is asked for."""
    made = subject.with_own(bars)
    if subject.prepare is None or not subject.own:
        return subject.table(made, fills)
    own = made.select(pl.col(subject.own).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    return own if only_own else np.concatenate([own, subject.table(made, fills)], axis=1)


def _rounded(subject: Subject, name: str, leak: _Leak) -> Finding:
    return subject.finding(
        "causality",
        name,
        leak.first,
        f"the last bits of {name} are others when what comes after is",
        severity="warn",
        expected="the same bits whatever comes later",
        got=f"{leak.size:.0e} of its deviation: sums that depend on how many rows there are",
        fix=f"{name}: nothing, if a matrix product or FFT over all rows makes it",
    )


def _finding(
    subject: Subject, name: str, leak: _Leak, known: NDArray[np.float64], hows: tuple[How, ...]
) -> Finding:
    horizon, ends = _horizon(subject, leak, known, hows)
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


def _horizon(
    subject: Subject, leak: _Leak, known: NDArray[np.float64], hows: tuple[How, ...]
) -> tuple[int, bool]:
    """How many bars ahead the column sees at a leaking row, and whether that is to the end."""
    worst, ends = 1, False
    how: How = "noise" if leak.how == "cut off" else leak.how
    j = leak.column
    for row in {int(leak.rows[0]), int(leak.rows[-1])}:
        span = next((f, n) for _, f, n in subject.spans if f <= row < f + n)
        last = span[0] + span[1] - 1

        def sees(ahead: int, row: int = row, last: int = last) -> bool:
            """Whether the row changes with the bars that are more than `ahead` after it."""
            if row + ahead >= last:
                return False
            for way in dict.fromkeys((how, *hows[1:])):
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
