"""Scales and shapes of features, before and after the scaling, and pairs that are one feature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from featurekit.audit.metric import Measure
from featurekit.audit.model import SPECTRUM_FEATURES, SPECTRUM_ROWS
from featurekit.audit.views import F8, View, finite_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.audit.model import ModelView

NORMAL_TAIL = 3.449  # (q99 - q01) / (q75 - q25) of a normal distribution
TAIL_ERRORS = 2.5  # standard errors that Hill's index has to be beyond its limit
OUTLIER_Z = 3.5  # Iglewicz and Hoaglin 1993
REDUNDANT = 0.999  # correlation beyond which two columns are one


def scale_measures(
    natural: Mapping[str, View],
    scaled: Mapping[str, View],
    model: ModelView | None,
    blocks: NDArray[np.str_],
) -> Iterator[Measure]:
    """Each feature's and each block's part of the whole, and how far its scale is from the rest.

    Parts of the whole are those that the model meets, where it is known what it does to rows.
    """
    before, after = natural[""], scaled.get("")

    def both(metric: str, of: Literal["feature", "block", "all"], values: list[F8]) -> Measure:
        return Measure(metric, of, values[-1], values[0] if len(values) > 1 else None)

    views = [before] if after is None else [before, after]
    shares = [shares_of(view.square) for view in views]
    centred = [shares_of(view.std**2) for view in views]
    rows = [view.row_share for view in views]
    if after is not None and model is not None:
        shares[1], centred[1], rows[1] = model.shares, model.centred, model.row_share
    yield both("norm share", "feature", shares)
    yield both("norm lift", "feature", [share * share.size for share in shares])
    yield both("centred share", "feature", centred)
    yield both("row share", "feature", rows)
    effective = [np.array([effective_features(share) / share.size]) for share in shares]
    yield both("effective features", "all", effective)
    distances = [outliers(view.square, view.scale) for view in views]
    yield Measure(
        "scale outlier",
        "feature",
        distances[-1][0],
        distances[0][0] if len(distances) > 1 else None,
        quiet=distances[-1][1],
    )
    names = list(dict.fromkeys(blocks.tolist()))
    yield both(
        "block share",
        "block",
        [
            np.array(
                [
                    _either_way(share[blocks == name].sum() / (blocks == name).mean())
                    if view.std[blocks == name].any()
                    else np.nan
                    for name in names
                ]
            )
            for view, share in zip(views, shares, strict=True)
        ],
    )
    yield both("block scale", "block", [_block_scales(view, blocks, names) for view in views])


def shares_of(square: F8) -> F8:
    """Parts of the whole; 0 where the whole is 0."""
    # Squares of float32 fit in float64, their sum over any number of columns too.
    total = square.sum()
    share: F8 = square / total if total > 0.0 else np.zeros_like(square)
    return share


def effective_features(shares: F8) -> float:
    """Inverse Simpson index: as many equal features would be as uneven.

    Example:
        >>> effective_features(np.array([0.5, 0.5, 0.0]))
        2.0
    """
    total = float((shares**2).sum())
    return 1.0 / total if total else 0.0


def outliers(square: F8, scale: F8) -> tuple[F8, NDArray[np.bool_]]:
    """Decades from the median feature, and whether that is little among decades as these are."""
    scales = (np.sqrt(square), scale)
    distance = np.max([np.abs(_decades(scale)) for scale in scales], axis=0)
    z = np.max([_modified_z(scale) for scale in scales], axis=0)
    return distance, z <= OUTLIER_Z


def _decades(scale: F8) -> F8:
    """Decades from the median feature; 0 where there is no scale."""
    known = scale > 0.0
    if not known.any():
        return np.zeros_like(scale)
    log = np.log10(np.where(known, scale, 1.0))
    return np.where(known, log - np.median(log[known]), 0.0)


def _modified_z(scale: F8) -> F8:
    """Distance in robust deviations of the decades."""
    distance = _decades(scale)
    known = scale > 0.0
    spread = 1.4826 * np.median(np.abs(distance[known])) if known.any() else 0.0
    z: F8 = np.abs(distance) / spread if spread else np.where(distance != 0.0, np.inf, 0.0)
    return z


def _either_way(ratio: float) -> float:
    return max(ratio, 1.0 / ratio) if ratio > 0.0 else math.inf


def _block_scales(view: View, blocks: NDArray[np.str_], names: list[str]) -> F8:
    known = view.scale > 0.0
    log = np.log(np.where(known, view.scale, 1.0))
    found = []
    for name in names:
        inside = known & (blocks == name)
        judged = inside.any() and (known & ~inside).any()
        ratio = math.exp(log[inside].mean() - log[known].mean()) if judged else math.nan
        found.append(ratio if math.isnan(ratio) else _either_way(ratio))
    return np.array(found)


# --- shapes ---------------------------------------------------------------------------------------


def shape_measures(natural: Mapping[str, View], scaled: Mapping[str, View]) -> Iterator[Measure]:
    """Tails and skew."""
    before, after = natural[""], scaled.get("")
    for metric, compute in SHAPES.items():
        values = compute(before)
        if after is None:
            yield Measure(metric, "feature", values)
        else:
            # What a model makes of tails was no part of what told failing from learning ones: once
            # they are scaled, they do not fail.
            yield Measure(metric, "feature", compute(after), values, mild=True)


def tail_weight(view: View) -> F8:
    """Distance of the tails over that of the quartiles, 1 for a normal distribution."""
    spread = (view.quartiles[1] - view.quartiles[0]) * NORMAL_TAIL
    return _divided(view.tails[1] - view.tails[0], spread)


def _tail(view: View) -> F8:
    index: F8 = view.tail_index * (1.0 + TAIL_ERRORS * view.tail_error)
    return np.where(np.isfinite(index), index, np.nan)


def _max_to_sum(view: View) -> F8:
    share = _divided(view.largest**2, view.square * view.count)
    expected = (2.0 * math.log(view.count) + 6.0) / view.count
    return np.where(np.isnan(share), share, np.maximum(share - expected, 0.0))


def _spread_ratio(view: View) -> F8:
    return _divided(view.deviation, view.scale)


def _quantile_skew(view: View) -> F8:
    low, middle, high = view.at(0.25), view.at(0.5), view.at(0.75)
    skew = np.abs(_divided(high + low - 2.0 * middle, high - low))
    return np.where((low < middle) & (middle < high) & ~view.inflated, skew, np.nan)


SHAPES: dict[str, Callable[[View], F8]] = {
    "tail weight": tail_weight,
    "tail index": _tail,
    "max-to-sum": _max_to_sum,
    "spread ratio": _spread_ratio,
    "quantile skew": _quantile_skew,
}


def _divided(a: F8, b: F8) -> F8:
    """Quotient; NaN where the divisor is 0 or there is none."""
    quotient: F8 = np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0.0)
    return quotient


# --- pairs of features ----------------------------------------------------------------------------


def correlations(view: View) -> F8 | None:
    """Correlations of the sample; NaN of a constant. None of too few rows or too many features."""
    rows = finite_rows(view.rows)[:SPECTRUM_ROWS].astype(np.float64)
    if len(rows) < 4 * rows.shape[1] or rows.shape[1] > SPECTRUM_FEATURES:
        return None
    varies = rows.max(axis=0) > rows.min(axis=0)  # the mean of a constant is rounded
    rows -= rows.mean(axis=0)
    rows /= np.where(varies, np.abs(rows).max(axis=0), np.nan)
    rows /= np.sqrt((rows**2).sum(axis=0))
    found: F8 = rows.T @ rows
    return found


def conditioning(before: View, after: View | None, correlation: F8 | None) -> Iterator[Measure]:
    """How much of the condition number is pure scale."""
    if correlation is None:
        return
    known = ~np.isnan(np.diagonal(correlation))
    if known.sum() < 2:
        return
    pure = correlation[np.ix_(known, known)]

    def ratio(view: View) -> F8:
        deviation = view.std[known] / view.std[known].max()
        return np.array([_condition(pure * np.outer(deviation, deviation)) / _condition(pure)])

    if after is None:
        yield Measure("conditioning", "all", ratio(before))
    else:
        yield Measure("conditioning", "all", ratio(after), ratio(before))


def _condition(matrix: F8) -> float:
    """Largest over smallest eigenvalue, of those that rounding leaves standing."""
    values = np.linalg.eigvalsh(matrix)
    return float(values[-1] / max(values[0], values[-1] * 1e-13))


def redundant(correlation: F8 | None) -> tuple[tuple[int, int, float], ...]:
    """Pairs of features that are one, or each other's opposite, and their correlation."""
    if correlation is None:
        return ()
    pairs = np.argwhere(np.triu(np.abs(np.nan_to_num(correlation)) > REDUNDANT, 1))
    return tuple((int(a), int(b), float(correlation[a, b])) for a, b in pairs)
