"""Evidence: whether a column that the user computed knows the future, from its values alone.

Where there is no recipe (`prepare`), or it takes its values from elsewhere, nothing can be proved.
But most leaks show: the column says more of the closes ahead than all that is known can say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.checks.result import Finding, Proof
from featurekit.checks.subject import PRICES, Subject, Tell
from featurekit.inputs import symbol_spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEADS = 24  # bars ahead that are looked at
LAGS = 24
WARN, FAIL = 0.1, 0.3  # of what the past leaves unsaid, said by the future, on rows not fitted on
LEAST = 500  # rows
SYMBOLS = 20  # at most
STANDARD = 1e-6  # mean and deviation of a whole history that are 0 and 1 to this


def evidence(subject: Subject, tell: Tell) -> Proof:
    """Of each column of the user's: does the future explain it, and is it scaled by all of it."""
    if not subject.own:
        return Proof("evidence", "nothing: all inputs are open, high, low, close and volume")
    findings: list[Finding] = []
    given = subject.with_own(subject.bars if subject.given is None else subject.given)
    for done, name in enumerate(subject.own):
        tell("evidence", done, len(subject.own))
        enough = False
        for _, first, count in symbol_spans(given)[:SYMBOLS]:
            known, found = _of(subject, name, given.slice(first, count))
            enough |= known
            if found is not None:
                findings.append(found)
                break
        if not enough:
            findings.append(_too_few(subject, name))
    tell("evidence", 1, 1)
    looked = (
        f"{len(subject.own)} columns of your own against {LEADS} bars ahead, beside {LAGS} past"
    )
    return Proof("evidence", looked, tuple(findings))


def _too_few(subject: Subject, name: str) -> Finding:
    return subject.finding(
        "evidence",
        name,
        None,
        f"the column of the bars {name} was not looked at",
        severity="warn",
        expected=f"{LEAST} values or more of a symbol that are not all the same",
        got="fewer",
        fix="more bars",
    )


def _of(subject: Subject, name: str, part: pl.DataFrame) -> tuple[bool, Finding | None]:
    """Whether there was enough to look at, and what was found."""
    x = part[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = x[np.isfinite(x)]
    if len(known) < LEAST or np.std(known) == 0.0:
        return False, None
    halves = (known[: len(known) // 2], known[len(known) // 2 :])
    whole = max(abs(known.mean()), min(abs(known.std() - 1), abs(known.std(ddof=1) - 1)))
    if whole < STANDARD and max(abs(half.mean()) for half in halves) > 1e3 * STANDARD:
        return True, subject.finding(
            "evidence",
            name,
            None,
            f"the column of the bars {name} has mean 0 and deviation 1 over the whole history",
            expected="a scale of past rows, or of the train split",
            got="one that knows all rows: it sees to the end of the data",
            fix=f"give {name} raw, and `scaling: {{kind: standard}}` fits it on train",
        )
    said = future_share(x, part.select(PRICES).to_numpy().astype(np.float64))
    if said is None:
        return False, None
    share, lead = said
    if share <= WARN:
        return True, None
    return True, subject.finding(
        "evidence",
        name,
        None,
        f"the column of the bars {name} knows closes ahead",
        severity="fail" if share > FAIL else "warn",
        expected=f"{WARN:.0%} at most of what past and present leave unsaid",
        got=f"{share:.0%} is said by the next {LEADS} bars, most by {lead} ahead",
        fix=f"{name}.lag({lead})   # or compute it of rows up to its own; --prepare proves it",
    )


def future_share(x: NDArray[np.float64], prices: NDArray[np.float64]) -> tuple[float, int] | None:
    """How much of what the past leaves unsaid of `x` the future says, and how far ahead most.

    Linear regressions on log prices of the last 24 bars, and on them and the closes of the next 24;
    both are fitted on the even tenths of the rows and judged on the odd ones. With the column's own
    last two values and without: a column that mostly repeats itself has little unsaid. None where
    there are too few rows to say anything.
    """
    prices = pl.DataFrame(prices).fill_nan(None).fill_null(strategy="forward").to_numpy()
    logs = np.log(prices) if np.nanmin(prices) > 0.0 else prices
    close = logs[:, 3]
    rows = np.arange(LAGS, len(x) - LEADS)
    now = close[rows]
    past = [now, *(logs[rows, k] - now for k in range(3))]
    past += [logs[rows - lag, k] - now for lag in range(1, LAGS + 1) for k in range(4)]
    own = [x[rows - lag] for lag in (1, 2)]
    ahead = np.column_stack([close[rows + lead] - now for lead in range(1, LEADS + 1)])
    before = np.column_stack([np.ones(len(rows)), *past, *own])
    kept = np.isfinite(before).all(1) & np.isfinite(ahead).all(1) & np.isfinite(x[rows])
    if kept.sum() < LEAST:
        return None
    before, ahead, y = before[kept], ahead[kept], x[rows][kept]
    return max(_said(y, before[:, : -len(own)], ahead), _said(y, before, ahead))


def _said(
    y: NDArray[np.float64], before: NDArray[np.float64], ahead: NDArray[np.float64]
) -> tuple[float, int]:
    """What `ahead` says of `y` beyond `before`, on the rows not fitted on, and how far ahead."""
    fitted_on = (np.arange(len(y)) * 10 // len(y)) % 2 == 0
    other = y[~fitted_on]
    least, weights = [], np.zeros(LEADS)
    for design in (before, np.column_stack([before, ahead])):
        scale = np.maximum(np.sqrt((design[fitted_on] ** 2).mean(0)), 1e-12)
        found, *_ = np.linalg.lstsq(design[fitted_on] / scale, y[fitted_on], rcond=1e-9)
        least.append(float(((other - design[~fitted_on] / scale @ found) ** 2).sum()))
        weights = (found / scale)[-LEADS:]
    if least[0] <= 1e-9 * float(((other - other.mean()) ** 2).sum()):
        return 0.0, 0  # the past says all
    returns = np.abs(np.cumsum(weights[::-1])[::-1])  # the weight of each return ahead
    strong = np.flatnonzero(returns > 0.1 * returns.max())
    return 1.0 - least[1] / least[0], int(strong[-1]) + 1 if strong.size else 1
