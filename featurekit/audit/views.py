"""Views of some rows: as they are in natural units, and as the model's input treatment leaves them.

What is counted comes from a Profile and is exact. Differences of close quantiles, ranks, and all
that a model makes of whole rows come from the sample of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurekit.bins import RELATIVE_ERROR
from featurekit.scaling import NORMAL_IQR

if TYPE_CHECKING:
    from featurekit.profile import Profile
    from featurekit.scaling import Scaling

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]

PROBABILITIES = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
INFLATED = 0.1  # share of exact zeros from which on a feature is looked at where it is not 0
EPSILON = 1e-5  # torch's layer_norm adds it to the variance of a row


@dataclass(frozen=True, slots=True)
class View:
    """F features on some rows: moments, quantiles [Q, F], the largest magnitude, the tail.

    `quartiles` and `tails` [2, F] are the 25% and 75%, and the 1% and 99% quantile. Of a feature
    that is `inflated` by zeros they are those of its other values, taken to lie around 0: an
    account that is flat half of the time says nothing of the size of its positions.
    `tail_index` is Hill's estimate of how fast the tail falls, and `tail_error` its standard error.
    `ordered` [F, m] are the finite values of the sample in natural units, in order, and `known`
    how many there are. `row_share` is the mean share of a feature in the squared norm of a row.
    `rows` are those of the sample, `count` all there are; `error` bounds the relative error of a
    quantile.
    """

    rows: F4
    count: int
    mean: F8
    std: F8
    quantiles: F8
    quartiles: F8
    tails: F8
    inflated: NDArray[np.bool_]
    largest: F8
    live: F8
    row_share: F8
    ordered: F4
    known: NDArray[np.int64]
    tail_index: F8
    tail_error: float
    error: F8

    @property
    def square(self) -> F8:
        """Mean square."""
        total: F8 = self.mean**2 + self.std**2
        return total

    def at(self, probability: float) -> F8:
        """One of the quantiles."""
        found: F8 = self.quantiles[PROBABILITIES.index(probability)]
        return found

    @property
    def scale(self) -> F8:
        """Robust scale: the distance of the quartiles over that of a normal distribution."""
        spread: F8 = (self.quartiles[1] - self.quartiles[0]) / NORMAL_IQR
        return np.nan_to_num(spread)

    def column(self, at: int) -> View:
        """The view of one feature alone."""
        one = slice(at, at + 1)
        return replace(
            self,
            rows=self.rows[:, one],
            mean=self.mean[one],
            std=self.std[one],
            quantiles=self.quantiles[:, one],
            quartiles=self.quartiles[:, one],
            tails=self.tails[:, one],
            inflated=self.inflated[one],
            largest=self.largest[one],
            live=self.live[one],
            row_share=self.row_share[one],
            ordered=self.ordered[one],
            known=self.known[one],
            tail_index=self.tail_index[one],
            error=self.error[one],
        )

    @property
    def deviation(self) -> F8:
        """Standard deviation; of an inflated feature, the rms of what is not 0."""
        return np.where(self.inflated, self.live, self.std)


def inflated(profile: Profile) -> NDArray[np.bool_]:
    """Features that are exactly 0 on a tenth of the rows or more, and not on all."""
    return (profile.zeros >= INFLATED * profile.rows) & (profile.zeros < profile.count)


def live_quantiles(profile: Profile, zero: NDArray[np.bool_], natural: F8) -> tuple[F8, F8]:
    """Quartiles and tails [2, F] of `natural` quantiles, of inflated features of what is not 0."""
    # Around 0, the quartile is the median of the magnitude, and the 99% quantile is its 98%.
    middle, far = profile.absolute_quantiles([0.5, 0.98])
    at = [PROBABILITIES.index(each) for each in (0.25, 0.75, 0.01, 0.99)]
    quartiles = np.where(zero, [-middle, middle], natural[at[:2]])
    return quartiles, np.where(zero, [-far, far], natural[at[2:]])


def natural_view(profile: Profile, rows: F4, zero: NDArray[np.bool_]) -> View:
    """The rows of a profile in natural units.

    Args:
        profile: Of all rows.
        rows: The sample of them [m, F].
        zero: Features that are inflated by zeros in all of train.
    """
    values, counts = sorted_columns(rows)
    whole = len(rows) == profile.rows
    sampled = _quantiles(values, counts)
    binned = sampled if whole else profile.quantiles(PROBABILITIES)
    # Of 1e6 and a little noise the bins see one value: there the sample is the better witness.
    middle = slice(PROBABILITIES.index(0.25), PROBABILITIES.index(0.75) + 1)
    spread = sampled[middle][-1] - sampled[middle][0]
    coarse = np.abs(sampled[middle]).max(axis=0) * RELATIVE_ERROR > 0.02 * spread
    quantiles = np.where(coarse & (counts > 0), sampled, binned)
    quantiles[0] = np.where(profile.count > 0, profile.minimum, np.nan)
    quantiles[-1] = np.where(profile.count > 0, profile.maximum, np.nan)
    error = np.zeros(rows.shape[1]) if whole else np.where(coarse, 0.03, RELATIVE_ERROR)
    index, tail_error = _tail_index(values, counts)
    quartiles, tails = live_quantiles(profile, zero, quantiles)
    squares = profile.sum_of_squares / np.maximum(profile.count - profile.zeros, 1)
    return View(
        rows=rows,
        count=profile.rows,
        quartiles=quartiles,
        tails=tails,
        inflated=zero,
        live=np.sqrt(squares),
        mean=profile.mean,
        std=profile.std,
        quantiles=quantiles,
        largest=np.where(
            profile.count > 0, np.maximum(np.abs(profile.minimum), np.abs(profile.maximum)), 0.0
        ),
        row_share=profile.row_share,
        ordered=values,
        known=counts,
        tail_index=index,
        tail_error=tail_error,
        error=error,
    )


def scaled_view(natural: View, scaling: Scaling) -> View:
    """The same rows after the fitted scaling and its squash.

    Both are monotone, so quantiles of what is scaled are scaled quantiles. Moments of what is not
    squashed are exact, those of what is squashed are the sample's.
    """
    rows = scaling.apply(natural.rows)
    quantiles = scaling.apply(natural.quantiles).astype(np.float64)
    mean, std = moments(rows)
    linear = scaling.squash == 0
    mean = np.where(linear, (natural.mean - scaling.center) * scaling.gain, mean)
    std = np.where(linear, natural.std * scaling.gain, std)
    index, tail_error = _tail_index(natural.ordered, natural.known, scaling)
    return View(
        rows=rows,
        count=natural.count,
        quartiles=scaling.apply(natural.quartiles).astype(np.float64),
        tails=scaling.apply(natural.tails).astype(np.float64),
        inflated=natural.inflated,
        live=_live(natural.rows, rows, scaling),
        mean=mean,
        std=std,
        quantiles=quantiles,
        largest=np.nan_to_num(np.maximum(np.abs(quantiles[0]), np.abs(quantiles[-1]))),
        row_share=row_shares(rows),
        ordered=natural.ordered,
        known=natural.known,
        tail_index=index,
        tail_error=tail_error,
        error=natural.error,
    )


def _live(natural: F4, scaled: F4, scaling: Scaling) -> F8:
    """Root mean square, about what becomes of 0, of the values that were not 0."""
    zero = scaling.apply(np.zeros(natural.shape[1]))
    alive = np.isfinite(natural) & (natural != 0.0)
    square = np.where(alive, scaled.astype(np.float64) - zero, 0.0) ** 2
    mean: F8 = square.sum(axis=0) / np.maximum(alive.sum(axis=0), 1)
    return np.sqrt(mean)


def layer_norm(rows: F4) -> F4:
    """Each row less its mean, over its standard deviation, as torch's F.layer_norm does.

    Example:
        >>> layer_norm(np.array([[1.0, 3.0]], np.float32)).round(3)
        array([[-1.,  1.]], dtype=float32)
    """
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    variance = np.mean(centred**2, axis=1, keepdims=True)
    normal: F4 = (centred / np.sqrt(variance + EPSILON)).astype(np.float32)
    return normal


def finite_rows(rows: F4) -> F4:
    """The rows without a hole: what a model could be given."""
    return rows[np.isfinite(rows).all(axis=1)]


def moments(rows: F4) -> tuple[F8, F8]:
    """Mean and standard deviation of the finite values of each column; 0 where there is none."""
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    values = np.where(known, rows, 0.0).astype(np.float64)
    mean = values.sum(axis=0) / count
    deviation = np.where(known, values - mean, 0.0)
    return mean, np.sqrt((deviation**2).sum(axis=0) / count)


def row_shares(rows: F4) -> F8:
    """Mean share of each column in the squared norm of a row, over rows without a hole."""
    square = finite_rows(rows).astype(np.float64) ** 2
    total = square.sum(axis=1, keepdims=True)
    shares = np.divide(square, total, out=np.zeros_like(square), where=total > 0.0)
    mean: F8 = shares.sum(axis=0) / max(len(square), 1)
    return mean


def sorted_columns(rows: F4) -> tuple[F4, NDArray[np.int64]]:
    """Finite values of each column in order [F, m], NaN behind them, and how many there are."""
    columns = np.ascontiguousarray(rows.T)
    columns = np.where(np.isfinite(columns), columns, np.float32(np.nan))
    columns.sort(axis=1)
    return columns, np.isfinite(columns).sum(axis=1)


def repeated(values: F4, counts: NDArray[np.int64]) -> tuple[F8, F8]:
    """Share of the most frequent value of sorted columns, and of distinct values among all."""
    top, distinct = np.zeros(len(values)), np.zeros(len(values))
    for k, count in enumerate(counts.tolist()):
        if count:
            starts = np.flatnonzero(np.diff(values[k, :count], prepend=np.float32(np.nan)) != 0.0)
            top[k] = np.diff(starts, append=count).max() / count
            distinct[k] = len(starts) / count
    return top, distinct


def _quantiles(values: F4, counts: NDArray[np.int64]) -> F8:
    """Quantiles [Q, F] of sorted columns: the smallest value that so many do not exceed."""
    if not values.shape[1]:
        return np.full((len(PROBABILITIES), len(values)), np.nan)
    ranks = np.ceil(np.outer(PROBABILITIES, counts)).astype(np.int64)
    at = np.clip(ranks - 1, 0, values.shape[1] - 1)
    found: F8 = np.take_along_axis(values, at.T, axis=1).T.astype(np.float64)
    return found


def _tail_index(
    ordered: F4, known: NDArray[np.int64], scaling: Scaling | None = None
) -> tuple[F8, float]:
    """Hill's index of the distances from the median, on the largest sqrt(m) of m; inf: no tail.

    Of what a scaling makes of the values, if there is one: it keeps their order, so that the
    largest distances are those of the first and the last values before it as well. The standard
    error, as a share of the index, is 1/sqrt(k).
    """
    index = np.full(len(ordered), np.inf)
    m = ordered.shape[1]
    k = int(np.sqrt(m))
    if k < 10:
        return index, np.inf
    middle = ordered[np.arange(len(ordered)), np.maximum((known - 1) // 2, 0)]
    far = np.concatenate([ordered[:, : k + 1], ordered[:, -k - 1 :]], axis=1)
    if scaling is not None:
        middle, far = scaling.apply(middle), scaling.apply(far.T).T
    distance = np.nan_to_num(np.abs(far - middle[:, None]), nan=0.0)
    largest = np.sort(distance, axis=1)[:, -k - 1 :].astype(np.float64)
    base = largest[:, 0]
    whole = (base > 0.0) & (known == m)
    excess = np.log(largest[whole, 1:] / base[whole, None]).mean(axis=1)
    index[whole] = np.divide(1.0, excess, out=np.full_like(excess, np.inf), where=excess > 0.0)
    return index, float(1.0 / np.sqrt(k))
