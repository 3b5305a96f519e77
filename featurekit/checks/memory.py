"""Memory: a history that starts later gives the same rows, once `memory` rows have passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import TOLERANCE, Subject, Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

STARTS, MOST_STARTS = 4, 24  # histories that start later, without and with `thorough`
FAIL = 10.0 * TOLERANCE  # a history that starts further off than is usual takes a little longer
AFTER = 50  # rows at least after the longest memory


def memory(subject: Subject, tell: Tell, *, thorough: bool) -> Proof:
    """The influence of old rows, measured, against the memory that is computed.

    Columns that fills move are judged only where they are warm before the first fill.
    """
    features = subject.pipeline.features
    computed = np.array([feature.memory for feature in features])
    measured = np.full(len(features), -1)
    worst: dict[int, tuple[int, float]] = {}  # of a column: row, and how far it is off
    tried = 0
    bars = subject.prepared
    for symbol, first, count in subject.spans:
        own = bars.slice(first, count)
        fills = _of(subject, symbol)
        whole = subject.table(own, fills, "float64")
        traded = np.iinfo(np.int64).max
        if fills is not None and fills.height:
            traded = int(fills["time"].dt.epoch("ns")[0])
        scale = np.maximum(subject.deviations, 1e-12)
        last = count - int(computed.max()) - AFTER
        if last < 1:
            continue
        for k, start in enumerate(np.linspace(1, last, MOST_STARTS if thorough else STARTS)):
            tell("memory", k, MOST_STARTS if thorough else STARTS)
            late = int(start)
            # An account is known from its start, and what is held since an entry is as warm as the
            # columns were then: such columns are judged if all are warm before the first fill.
            warm = subject.closes[first + np.minimum(late + computed, count - 1)]
            judged = ~subject.of_account | (warm < traded)
            part = subject.table(own.slice(late), fills, "float64")
            off = _off(part, whole[late:]) / scale
            tried += 1
            for j in np.flatnonzero(judged).tolist():
                rows = np.flatnonzero(off[:, j] > TOLERANCE)
                needed = int(rows[-1]) + 1 if rows.size else 0
                measured[j] = max(measured[j], needed)
                if needed > computed[j]:
                    at = int(computed[j]) + int(np.argmax(off[computed[j] :, j] > TOLERANCE))
                    worst.setdefault(j, (first + late + at, float(off[at, j])))
    tell("memory", 1, 1)
    columns = {
        feature.name: {"computed": feature.memory, "measured": int(rows) if rows >= 0 else None}
        for feature, rows in zip(features, measured, strict=True)
    }
    findings = [
        subject.finding(
            "memory",
            features[j].name,
            row,
            f"{features[j].name} remembers longer than its memory",
            severity="fail" if off_by > FAIL else "warn",
            expected=f"within {TOLERANCE:g} standard deviations after {computed[j]} rows",
            got=_told(off_by) + f", and apart until row {measured[j]}",
            fix=f".named(memory={int(measured[j]) + 1})",
        )
        for j, (row, off_by) in sorted(worst.items())
    ]
    return Proof(
        "memory",
        *_looked(subject, tried, int(measured.max()), int(computed.max()), findings),
        columns,
    )


def _looked(
    subject: Subject, tried: int, measured: int, longest: int, findings: list[Finding]
) -> tuple[str, tuple[Finding, ...]]:
    if tried:
        looked = f"{len(subject.names)} columns, {tried} histories that start later: the longest "
        return looked + f"memory is {measured} rows, computed {longest}", tuple(findings)
    none = subject.finding(
        "memory",
        "",
        None,
        "no symbol has so many bars that a memory could be measured",
        severity="warn",
        expected=f"more than {longest + AFTER} bars",
        got=f"{max(count for _, _, count in subject.spans)} at most",
        fix="more bars, or blocks of a shorter memory",
    )
    return "nothing: too few bars", (none,)


def _of(subject: Subject, symbol: str) -> pl.DataFrame | None:
    if subject.fills is None:
        return None
    return subject.fills.filter(pl.col("symbol") == symbol)


def _off(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart two arrays are; inf where one of them alone is NaN."""
    off = np.abs(a - b)
    off[np.isnan(a) & np.isnan(b)] = 0.0
    off[a == b] = 0.0  # infinities too
    found: NDArray[np.float64] = np.nan_to_num(off, nan=np.inf)
    return found


def _told(off: float) -> str:
    return "a hole in one of them" if np.isinf(off) else f"{off:.1e} standard deviations off"
