"""Profile: a summary of columns that adds up, exact in everything that is counted.

A value's place in the histogram is the top 13 bits of its float32: sign, exponent and 4 bits of
mantissa. Such bins need no range beforehand, hold 1e-38 and 1e38 alike, and add without error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from featurekit.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIFT = 19  # bits of a float32 that a bin does not tell apart
BINS = 1 << (32 - SHIFT)
HALF = BINS // 2
CHUNK = 4_096  # rows whose moments are taken together

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


LOW, HIGH = _edges()
FINITE = int(np.isfinite(LOW).sum())  # bins of one sign that hold finite values
MIDDLE = np.where(np.isfinite(LOW), (LOW + HIGH) / 2.0, 0.0)
MIDDLE[0] = 0.0  # zeros, and what is below 1e-38
RELATIVE_ERROR = 1.0 / 32.0


@njit(cache=True, error_model="numpy")
def _scan(
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


@dataclass(frozen=True, slots=True)
class Profile:
    """Counts, moments, extremes, row-wise shares and a histogram of each of F columns.

    `a + b` is the profile of both: bit for bit in counts, extremes and the histogram, to rounding
    in moments and shares. Moments are of the finite values, taken over chunks of 4,096 rows.

    Example:
        >>> one, two = Profile.of(np.ones((3, 1))), Profile.of(np.array([[3.0], [np.nan]]))
        >>> both = one + two
        >>> both.rows, both.mean, both.nan
        (5, array([1.5]), array([1]))
    """

    names: tuple[str, ...]
    rows: int
    whole_rows: int
    counts: I8
    extremes: F4
    moments: F8
    share: F8
    histogram: I8

    @staticmethod
    def empty(names: Sequence[str]) -> Profile:
        """The profile of no rows."""
        width = len(names)
        extremes = np.repeat(np.array([[np.inf], [-np.inf]], np.float32), width, axis=1)
        return Profile(
            tuple(names),
            0,
            0,
            np.zeros((5, width), np.int64),
            extremes,
            np.zeros((4, width)),
            np.zeros(width),
            np.zeros((width, BINS), np.int64),
        )

    @staticmethod
    def of(data: pl.DataFrame | NDArray[Any], names: Sequence[str] | None = None) -> Profile:
        """The profile of a frame's numeric columns, or of an array [rows, F].

        Raises:
            DataError: when there is no numeric column, or the names are not as many as these.
        """
        if isinstance(data, pl.DataFrame):
            kinds = data.schema.items()
            numeric = [name for name, kind in kinds if kind.is_numeric() or kind == pl.Boolean]
            columns = [data[n].cast(pl.Float32).fill_null(float("nan")) for n in numeric]
            names = numeric if names is None else names
            data = np.column_stack([c.to_numpy() for c in columns]) if columns else np.empty((0, 0))
        if data.ndim != 2 or not data.shape[1]:
            expected, got = "rows x columns", str(data.shape)
            raise DataError(Problem("there is no column of numbers", expected=expected, got=got))
        names = [f"x{k}" for k in range(data.shape[1])] if names is None else names
        if len(names) != data.shape[1]:
            expected, got = f"{data.shape[1]} names", f"{len(names)} names"
            raise DataError(Problem("each column has a name", expected=expected, got=got))
        profile = Profile.empty(names)
        with np.errstate(over="ignore"):  # what float32 cannot hold is counted as infinite
            rows = np.ascontiguousarray(data, np.float32)
        for start in range(0, len(rows), CHUNK):
            profile = profile.updated(rows[start : start + CHUNK])
        return profile

    def updated(self, rows: F4) -> Profile:
        """This profile with a chunk of rows [n, F] added; the arrays of counts are reused."""
        rows = np.ascontiguousarray(rows)
        before = self.counts[4].copy()
        moments = np.empty((4, len(self.names)))
        whole = _scan(
            rows,
            rows.view(np.uint32),
            self.histogram,
            self.counts,
            self.extremes,
            moments,
            self.share,
        )
        return Profile(
            self.names,
            self.rows + len(rows),
            self.whole_rows + int(whole),
            self.counts,
            self.extremes,
            _merge_moments(self.moments, before, moments, self.counts[4] - before),
            self.share,
            self.histogram,
        )

    def __add__(self, other: Profile) -> Profile:
        if self.names != other.names:
            expected, got = ", ".join(self.names[:5]), ", ".join(other.names[:5])
            raise DataError(
                Problem("profiles of other columns do not add", expected=expected, got=got)
            )
        low = np.minimum(self.extremes[0], other.extremes[0])
        high = np.maximum(self.extremes[1], other.extremes[1])
        return Profile(
            self.names,
            self.rows + other.rows,
            self.whole_rows + other.whole_rows,
            self.counts + other.counts,
            np.stack([low, high]),
            _merge_moments(self.moments, self.counts[4], other.moments, other.counts[4]),
            self.share + other.share,
            self.histogram + other.histogram,
        )

    @property
    def count(self) -> I8:
        """Finite values of each column."""
        found: I8 = self.counts[4]
        return found

    @property
    def zeros(self) -> I8:
        """Values that are exactly 0."""
        found: I8 = self.counts[0]
        return found

    @property
    def nan(self) -> I8:
        """Values that are NaN."""
        found: I8 = self.counts[1]
        return found

    @property
    def infinite(self) -> I8:
        """Values that are infinite, of either sign."""
        found: I8 = self.counts[2] + self.counts[3]
        return found

    @property
    def minimum(self) -> F8:
        """Smallest finite value; inf where there is none."""
        found: F8 = self.extremes[0].astype(np.float64)
        return found

    @property
    def maximum(self) -> F8:
        """Largest finite value; -inf where there is none."""
        found: F8 = self.extremes[1].astype(np.float64)
        return found

    @property
    def mean(self) -> F8:
        """Mean of the finite values."""
        found: F8 = self.moments[0]
        return found

    @property
    def std(self) -> F8:
        """Standard deviation of the finite values (ddof 0)."""
        deviation: F8 = np.sqrt(self.moments[1] / np.maximum(self.count, 1))
        return deviation

    @property
    def rms(self) -> F8:
        """Root of the mean square of the finite values."""
        root: F8 = np.sqrt(self.mean**2 + self.std**2)
        return root

    @property
    def row_share(self) -> F8:
        """Mean share of a row's squared norm, over rows without a hole."""
        return self.share / max(self.whole_rows, 1)

    def quantile(self, q: float) -> F8:
        """Quantile q of each column, within 1/32 of its value (below 1e-37: within 1e-38).

        The smallest value that a share q of the finite values does not exceed; 0 and the extremes
        are exact. NaN where there is no finite value.
        """
        values, weights = self.bins()
        reached = np.cumsum(weights, axis=1)
        rank = np.maximum(np.ceil(q * self.count), 1.0)
        at = np.minimum((reached < rank[:, None]).sum(axis=1), values.size - 1)
        found = np.clip(values[at], self.minimum, self.maximum)
        return np.where(self.count > 0, found, np.nan)

    def bins(self) -> tuple[F8, I8]:
        """Middles of the finite bins in order, and how many values of each column are in each."""
        values = np.concatenate([-MIDDLE[:FINITE][::-1], MIDDLE[:FINITE]])
        negative = self.histogram[:, HALF : HALF + FINITE][:, ::-1]
        return values, np.concatenate([negative, self.histogram[:, :FINITE]], axis=1)


def _merge_moments(a: F8, n_a: I8, b: F8, n_b: I8) -> F8:
    """Mean and sums of powers about it, of both (Pebay 2008)."""
    na, nb = n_a.astype(np.float64), n_b.astype(np.float64)
    n = np.maximum(na + nb, 1.0)
    d = np.where((na > 0) & (nb > 0), b[0] - a[0], 0.0)
    mean = np.where(na > 0, a[0] + d * nb / n, b[0])
    second = a[1] + b[1] + d**2 * na * nb / n
    third = a[2] + b[2] + d**3 * na * nb * (na - nb) / n**2 + 3.0 * d * (na * b[1] - nb * a[1]) / n
    fourth = (
        a[3]
        + b[3]
        + d**4 * na * nb * (na**2 - na * nb + nb**2) / n**3
        + 6.0 * d**2 * (na**2 * b[1] + nb**2 * a[1]) / n**2
        + 4.0 * d * (na * b[2] - nb * a[2]) / n
    )
    return np.stack([mean, second, third, fourth])
