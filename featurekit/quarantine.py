"""Quarantine: which rows have to go so that the others keep the schema, and why each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.violations import ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.schema import Schema

ORDER = ("each time once", "times increase")
BESIDE = ("times in order", "no jump")  # with those above, the checks against the row before


def to_set_aside(bars: pl.DataFrame, bad: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The rows to set aside, by their row of the file, each with its reason.

    Rows that a check judges by themselves go. Of times that do not increase as few go as can: what
    is later than all that follow is itself the bad one. Where nothing else is wrong, of rows that
    jump in a run the first goes. What is left has to be judged again.

    Args:
        bars: Bars by symbol, with their rows of the file in the column `ROW`.
        bad: Their violations that fail.
        schema: What they violate.
    """
    alone = bad.filter(~pl.col("check").is_in((*ORDER, *BESIDE)))
    reasons = [_reason(alone)]
    ordered = bad.filter(pl.col("check").is_in(ORDER))
    if schema.increasing is not None and ordered.height:
        rows = bars.filter(
            pl.col("symbol").cast(pl.String).is_in(ordered["symbol"].implode())
            & ~pl.col(ROW).is_in(alone["row"].implode())
        ).select(
            pl.col(ROW).cast(pl.Int64).alias("row"),
            pl.col(schema.increasing.time).to_physical().alias("time"),
            pl.col(schema.increasing.by).rle_id().alias("run"),
        )
        reasons.append(_out_of_order(rows, schema.increasing.time))
    elif alone.is_empty():
        places = bars.select(pl.arg_where(pl.col(ROW).is_in(bad["row"].implode()))).to_series()
        firsts = bars[ROW].gather(places.filter(places.diff().fill_null(0) != 1))
        reasons.append(_reason(bad.filter(pl.col("row").is_in(firsts.implode()))))
    return (
        pl.concat(reasons)
        .group_by("row", maintain_order=True)
        .agg(pl.col("reason").str.join("; "))
        .rename({"row": ROW})
    )


def _reason(bad: pl.DataFrame) -> pl.DataFrame:
    return bad.select("row", (pl.col("column") + ": " + pl.col("check")).alias("reason"))


def _out_of_order(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """The rows without which the times of each run increase."""
    time, run = rows["time"].to_numpy(), rows["run"].to_numpy()
    gone: list[int] = []
    checks: list[str] = []
    for code in np.unique(run):
        first, stop = np.searchsorted(run, [code, code + 1])
        times = time[first:stop]
        kept = _longest_increasing(times)
        left = np.flatnonzero(~kept)
        before = np.cumsum(kept)[left] - 1  # the last kept row before each
        same = (before >= 0) & (times[kept][before] == times[left])
        gone += (first + left).tolist()
        checks += [ORDER[0] if twice else ORDER[1] for twice in same]
    reasons = [f"{column}: {check}" for check in checks]
    return pl.DataFrame({"row": rows["row"].gather(gone), "reason": reasons})


def _longest_increasing(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks a longest part that increases strictly; of equal values, the first.

    Example:
        >>> _longest_increasing(np.array([1, 2, 9, 3, 3, 0, 4])).tolist()
        [True, True, False, True, False, False, True]
    """
    # Patience sorting: ends[n] is the smallest last value of the increasing parts of n + 1 values.
    ends, places = array("q"), array("q")
    previous = np.empty(len(values), np.int64)
    for at, value in enumerate(values.tolist()):
        length = bisect_left(ends, value)
        previous[at] = places[length - 1] if length else -1
        if length == len(ends):
            ends.append(value)
            places.append(at)
        elif value < ends[length]:
            ends[length], places[length] = value, at
    kept = np.zeros(len(values), bool)
    at = places[-1] if places else -1
    while at >= 0:
        kept[at] = True
        at = int(previous[at])
    return kept
