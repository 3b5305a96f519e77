"""Profile: a summary of columns that adds up, exact in everything that is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featurekit.bins import (
    BINS,
    F4,
    F8,
    HALF,
    HIGH,
    I8,
    LOW,
    MIDDLE,
    in_order,
    magnitudes_reached,
    reached,
    scan,
)
from featurekit.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHUNK = 4_096  # rows whose moments are taken together


@dataclass(frozen=True, slots=True)
class Profile:
    """Counts, moments, extremes, row-wise shares and a histogram of each of F columns.

    `a + b` is the profile of both: bit for bit in counts, extremes and the histogram, to rounding
    in moments and shares. Moments are of the finite values, taken over chunks of 4,096 rows.

    A value's place in the histogram is the top 13 bits of its float32 (`featurekit/bins.py`).

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
        if data.ndim != 2 or not data.shape[1] or data.dtype.kind not in "fiub":
            expected, got = "rows x columns", f"{data.dtype} {data.shape}"
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
        whole = scan(
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
        return Profile.total([self, other])

    @staticmethod
    def total(profiles: Sequence[Profile]) -> Profile:
        """The profile of all of one or more, added up in their order.

        Raises:
            DataError: when they are of different columns.
        """
        first, *others = profiles
        counts, histogram = first.counts.copy(), first.histogram.copy()
        extremes, moments, share = first.extremes.copy(), first.moments, first.share.copy()
        for other in others:
            if first.names != other.names:
                expected, got = ", ".join(first.names[:5]), ", ".join(other.names[:5])
                raise DataError(
                    Problem("profiles of other columns do not add", expected=expected, got=got)
                )
            moments = _merge_moments(moments, counts[4], other.moments, other.counts[4])
            counts += other.counts
            histogram += other.histogram
            share += other.share
            np.minimum(extremes[0], other.extremes[0], out=extremes[0])
            np.maximum(extremes[1], other.extremes[1], out=extremes[1])
        return Profile(
            first.names,
            sum(profile.rows for profile in profiles),
            sum(profile.whole_rows for profile in profiles),
            counts,
            extremes,
            moments,
            share,
            histogram,
        )

    def column(self, at: int) -> Profile:
        """The profile of one column alone."""
        one = slice(at, at + 1)
        return Profile(
            self.names[one],
            self.rows,
            self.whole_rows,
            self.counts[:, one],
            self.extremes[:, one],
            self.moments[:, one],
            self.share[one],
            self.histogram[one],
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

    @property
    def sum_of_squares(self) -> F8:
        """Sum of the squares of the finite values."""
        total: F8 = self.moments[1] + self.count * self.mean**2
        return total

    @property
    def skewness(self) -> F8:
        """Population skewness of the finite values; 0 of a constant."""
        third = self.moments[2] / np.maximum(self.count, 1)
        return _over(third, self.std**3)

    @property
    def kurtosis(self) -> F8:
        """Population excess kurtosis of the finite values; 0 of a constant."""
        fourth = self.moments[3] / np.maximum(self.count, 1)
        return np.where(self.std > 0.0, _over(fourth, self.std**4) - 3.0, 0.0)

    def quantile(self, q: float) -> F8:
        """Quantile q of each column, within 1/32 of its value (below 1e-37: within 1e-38).

        The smallest value that a share q of the finite values does not exceed; 0 and the extremes
        are exact. NaN where there is no finite value.
        """
        found: F8 = self.quantiles([q])[0]
        return found

    def quantiles(self, probabilities: Sequence[float]) -> F8:
        """Quantiles [Q, F] of ascending probabilities, each as `quantile` gives it."""
        ranks = self._ranks(probabilities)
        found = self._clipped(MIDDLE[reached(self.histogram, ranks)])
        found = np.where(ranks <= 1, self.minimum, found)
        found = np.where(ranks >= self.count, self.maximum, found)
        return np.where(self.count > 0, found, np.nan)

    def quantile_bounds(self, q: float) -> tuple[F8, F8]:
        """What quantile q lies between, exactly: the edges of its bin, within the extremes.

        Example:
            >>> low, high = Profile.of(np.array([[1.0], [2.0], [3.0]])).quantile_bounds(0.5)
            >>> low, high
            (array([2.]), array([2.125]))
        """
        at = reached(self.histogram, self._ranks([q]))
        return self._clipped(LOW[at])[0], self._clipped(HIGH[at])[0]

    def absolute_quantiles(self, probabilities: Sequence[float]) -> F8:
        """Quantiles [Q, F] of the magnitudes of what is not 0; NaN where all is."""
        count = self.count - (self.histogram[:, 0] + self.histogram[:, HALF])
        ranks = np.maximum(np.ceil(np.outer(probabilities, count)), 1.0).astype(np.int64)
        largest = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        found = np.minimum(MIDDLE[magnitudes_reached(self.histogram, ranks)], largest)
        return np.where(count > 0, found, np.nan)

    def bins(self, column: int) -> tuple[F8, F8, I8]:
        """Lower and upper edges of the bins that hold values of a column, in order, and counts."""
        counts = in_order(self.histogram[column])
        held = np.flatnonzero(counts)
        return LOW[held], HIGH[held], counts[held]

    def bin_places(self, column: int) -> I8:
        """Where the bins that `bins` tells stand among all bins, in order."""
        places: I8 = np.flatnonzero(in_order(self.histogram[column]))
        return places

    def _ranks(self, probabilities: Sequence[float]) -> I8:
        ranks = np.ceil(np.outer(probabilities, self.count))
        whole: I8 = np.maximum(ranks, 1.0).astype(np.int64)
        return whole

    def _clipped(self, values: F8) -> F8:
        inside = np.clip(values, self.minimum, self.maximum)
        return np.where(self.count > 0, inside, np.nan)


def _over(a: F8, b: F8) -> F8:
    """Quotient, 0 where the divisor is."""
    quotient: F8 = np.divide(a, b, out=np.zeros_like(a), where=b > 0.0)
    return quotient


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
