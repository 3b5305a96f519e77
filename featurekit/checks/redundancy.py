"""Redundancy: columns that say nothing, or what others say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurekit.checks.result import Finding, Proof

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.checks.subject import Subject, Tell

ROWS = 20_000  # at most, evenly spread
EXACT = 1e-4  # of a column's deviation that the others leave unsaid
TERM = 1e-3  # deviations that a term of a combination has at least
TERMS = 6  # that are written out


def redundancy(subject: Subject, tell: Tell) -> Proof:
    """Constant columns, duplicates, and columns that are a linear combination of those before."""
    tell("redundancy", 0, 1)
    rows = subject.rows[np.isfinite(subject.rows).all(1)].astype(np.float64)
    rows = rows[:: max(len(rows) // ROWS, 1)]
    names, findings = subject.names, []
    if len(rows) <= len(names):
        return Proof("redundancy", f"nothing: {len(rows)} rows without a hole are too few")
    deviation = rows.std(0)
    constant = deviation <= 1e-12 * np.maximum(np.abs(rows).max(0), 1e-300)
    for j in np.flatnonzero(constant):
        value = f"{rows[0, j]:.6g}"
        findings.append(
            _finding(subject, names[j], f"{names[j]} is constant", "values that vary", value)
        )
    z = (rows - rows.mean(0)) / np.where(constant, 1.0, deviation)
    basis: list[int] = []
    directions = np.zeros((len(rows), 0))
    for j in np.flatnonzero(~constant).tolist():
        tell("redundancy", j, len(names))
        rest = z[:, j].copy()
        for _ in range(2):  # twice is enough (Giraud et al. 2005)
            rest -= directions @ (directions.T @ rest)
        left = float(np.sqrt(rest @ rest / len(rows)))
        if left > EXACT:
            basis.append(j)
            directions = np.column_stack([directions, rest / np.linalg.norm(rest)])
            continue
        terms = _terms(z, basis, j)
        if len(terms) == 1:
            sign = "" if terms[0][1] > 0 else "minus "
            what = f"{names[j]} is {sign}{names[terms[0][0]]}, but for level and scale"
        else:
            said = " ".join(f"{weight:+.3g} {names[k]}" for k, weight in terms[:TERMS])
            more = f" and {len(terms) - TERMS} more" if len(terms) > TERMS else ""
            what = f"{names[j]} is a combination of others: {said}{more} (in deviations)"
        findings.append(_finding(subject, names[j], what, "something of its own", "nothing"))
    tell("redundancy", 1, 1)
    return Proof("redundancy", f"{len(names)} columns, {len(rows):,} rows", tuple(findings))


def _terms(z: NDArray[np.float64], basis: list[int], j: int) -> list[tuple[int, float]]:
    """Columns and weights that make a column, the heaviest first; as few as are needed."""
    weights, *_ = np.linalg.lstsq(z[:, basis], z[:, j], rcond=1e-10)
    order = np.argsort(-np.abs(weights))
    for count in (1, 2, 3, 4, TERMS, len(order)):
        kept = [basis[k] for k in order[:count]]
        few, *_ = np.linalg.lstsq(z[:, kept], z[:, j], rcond=None)
        if np.std(z[:, j] - z[:, kept] @ few) <= EXACT:
            break
    return [(k, float(w)) for k, w in zip(kept, few, strict=True) if abs(w) > TERM]


def _finding(subject: Subject, name: str, what: str, expected: str, got: str) -> Finding:
    return subject.finding(
        "redundancy",
        name,
        None,
        what,
        severity="warn",
        expected=expected,
        got=got,
        fix=f"leave {name} out of the block, if the model need not have it said twice",
    )
