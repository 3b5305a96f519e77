"""The bins of a Profile: the top 13 bits of a float32, its sign, exponent and 4 bits of mantissa.

Such bins need no range beforehand, hold 1e-38 and 1e38 alike, and add without error. Their middles
are within 1/32 of every value in them.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

SHIFT = 19  # bits of a float32 that a bin does not tell apart
BINS = 1 << (32 - SHIFT)
HALF = BINS // 2

F4: TypeAlias = NDArray[np.float32]
F8: TypeAlias = NDArray[np.float64]
I8: TypeAlias = NDArray[np.int64]


def _edges() -> tuple[F8, F8]:
    """Smallest and largest magnitude of each bin of one sign."""
    with np.errstate(invalid="ignore"):  # the last bins are those of NaN
        low = (np.arange(HALF, dtype=np.uint32) << SHIFT).view(np.float32).astype(np.float64)
    high = np.append(low[1:], np.nan)
    finite = np.isfinite(low)
    high[finite & ~np.isfinite(high)] = float(np.finfo(np.float32).max)
    return low, high


_LOW, _HIGH = _edges()
FINITE = int(np.isfinite(_LOW).sum())  # bins of one sign that hold finite values
_LOW, _HIGH = _LOW[:FINITE], _HIGH[:FINITE]
# Zeros share a bin with what is below 1e-38, of both signs.
LOW = np.concatenate([-_HIGH[::-1], _LOW])  # edges of the finite bins in order, negative ones first
HIGH = np.concatenate([-_LOW[::-1], _HIGH])
MIDDLE = (LOW + HIGH) / 2.0
MIDDLE[FINITE - 1 : FINITE + 1] = 0.0
RELATIVE_ERROR = 1.0 / 32.0


@njit(cache=True, error_model="numpy")
def reached(histogram: I8, ranks: I8) -> I8:
    """The bin, counted in order of value, that holds the value of each rank [Q, F], from 1 on."""
    found = np.zeros(ranks.shape, np.int64)
    for j in range(histogram.shape[0]):
        below, q = 0, 0
        for at in range(2 * FINITE):
            bin_ = HALF + FINITE - 1 - at if at < FINITE else at - FINITE
            below += histogram[j, bin_]
            while q < ranks.shape[0] and below >= ranks[q, j]:
                found[q, j] = at
                q += 1
            if q == ranks.shape[0]:
                break
    return found


@njit(cache=True, error_model="numpy")
def magnitudes_reached(histogram: I8, ranks: I8) -> I8:
    """The bin of the magnitude of each rank [Q, F], from 1 on, among values that are not 0."""
    found = np.zeros(ranks.shape, np.int64)
    for j in range(histogram.shape[0]):
        below, q = 0, 0
        for at in range(1, FINITE):
            below += histogram[j, at] + histogram[j, HALF + at]
            while q < ranks.shape[0] and below >= ranks[q, j]:
                found[q, j] = FINITE + at
                q += 1
            if q == ranks.shape[0]:
                break
    return found


def in_order(counts: I8) -> I8:
    """The counts of a column's finite bins in order of value."""
    return np.concatenate([counts[HALF : HALF + FINITE][::-1], counts[:FINITE]])


@njit(cache=True, error_model="numpy")
def scan(
    x: F4, bits: NDArray[np.uint32], histogram: I8, counts: I8, extremes: F4, moments: F8, share: F8
) -> int:
    """Adds rows [n, F] to the counts; `moments` are set to those of these rows alone.

    Returns the rows without a hole, which the row-wise shares are of.
    """
    n, width = x.shape
    whole = 0
    total = np.zeros(width)
    finite = np.zeros(width)
    largest = np.finfo(np.float32).max
    for i in range(n):
        squares = 0.0
        for j in range(width):
            v = np.float64(x[i, j])
            squares += v * v
        known = squares == squares and squares < np.inf
        whole += known
        scale = 1.0 / squares if known and squares > 0.0 else 0.0
        for j in range(width):
            histogram[j, bits[i, j] >> SHIFT] += 1
        if known:
            for j in range(width):
                v = x[i, j]
                w = np.float64(v)
                total[j] += w
                finite[j] += 1.0
                share[j] += w * w * scale
                extremes[0, j] = min(extremes[0, j], v)
                extremes[1, j] = max(extremes[1, j], v)
                counts[0, j] += v == 0.0
        else:
            for j in range(width):
                v = x[i, j]
                if v != v:
                    counts[1, j] += 1
                elif v > largest:
                    counts[2, j] += 1
                elif v < -largest:
                    counts[3, j] += 1
                else:
                    total[j] += np.float64(v)
                    finite[j] += 1.0
                    extremes[0, j] = min(extremes[0, j], v)
                    extremes[1, j] = max(extremes[1, j], v)
                    counts[0, j] += v == 0.0
    for j in range(width):
        counts[4, j] += int(finite[j])
        moments[0, j] = total[j] / finite[j] if finite[j] > 0.0 else 0.0
        moments[1, j] = moments[2, j] = moments[3, j] = 0.0
    for i in range(n):
        for j in range(width):
            v = x[i, j]
            d = np.float64(v) - moments[0, j] if abs(v) <= largest else 0.0
            square = d * d
            moments[1, j] += square
            moments[2, j] += square * d
            moments[3, j] += square * square
    return whole
