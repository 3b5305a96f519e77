"""Scales of slices and of stretches of time, against those of all rows, beyond what chance does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from featurekit.audit.metric import Measure
from featurekit.audit.views import F8, PROBABILITIES, View, live_quantiles
from featurekit.scaling import NORMAL_IQR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.audit.subject import Subject

SLICE_ROWS = 500  # that a slice or a stretch of time needs before its scale is compared
STRETCH = 64  # consecutive rows that count as one: neighbours are not independent
STRETCHES = 40  # of all rows, long enough that the means of neighbours are independent
FALSE_ALARMS = 0.01  # share of false ones among the differences of slices that are called real


def slice_scales(natural: Mapping[str, View]) -> dict[str, F8]:
    """Log2 of the robust scale in each slice over that of all rows; NaN where one is 0."""
    whole = natural[""].scale
    found = {}
    for name, view in natural.items():
        enough = bool(name) and view.count >= SLICE_ROWS
        known = (view.scale > 0.0) & (whole > 0.0) if enough else np.zeros(len(whole), bool)
        ratio = np.divide(view.scale, whole, out=np.ones_like(whole), where=known)
        if name:
            found[name] = np.where(known, np.log2(ratio), np.nan)
    return found


def slice_measures(
    subject: Subject, natural: Mapping[str, View], scaled: Mapping[str, View]
) -> Iterator[Measure]:
    """The largest difference of scale between slices, where it is more than chance."""
    if len(natural) < 2:
        return
    real = _real_differences(subject, natural)

    def spread(views: Mapping[str, View]) -> F8:
        logs = np.array([*slice_scales(views).values(), np.zeros(len(real))])
        with np.errstate(invalid="ignore"):
            widest = np.nanmax(logs, axis=0) - np.nanmin(logs, axis=0)
        judged = ~np.isnan(logs[:-1]).all(axis=0)
        return np.where(judged, np.where(real, widest, np.minimum(widest, 1.0)), np.nan)

    values = spread(natural)
    if scaled:
        yield Measure("conditional scale", "feature", spread(scaled), values)
    else:
        yield Measure("conditional scale", "feature", values)


def independent_rows(view: View, numbers: NDArray[np.int64]) -> F8:
    """How many independent rows would tell as much of the mean as the rows of the sample do.

    From the spread of the means of long stretches against that of single rows.
    """
    values = np.nan_to_num(view.rows.astype(np.float64), posinf=0.0, neginf=0.0)
    long = max((int(numbers.max()) - int(numbers.min()) + 1) // STRETCHES, 1)
    means, rows = _stretch_means(values, numbers // long)
    variance = values.var(axis=0)
    effect = np.divide(
        means.var(axis=0) * rows.mean(), variance, out=np.ones_like(variance), where=variance > 0.0
    )
    independent: F8 = len(values) / np.maximum(effect, 1.0)
    return independent


def _stretch_means(values: F8, places: NDArray[np.int64]) -> tuple[F8, NDArray[np.int64]]:
    """Mean of the rows of each stretch, and how many of them there are."""
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    rows = np.diff(starts, append=len(places))
    means: F8 = np.add.reduceat(values[order], starts, axis=0) / rows[:, None]
    return means, rows


def _real_differences(subject: Subject, natural: Mapping[str, View]) -> NDArray[np.bool_]:
    """Brown and Forsythe's test on stretches of rows; Benjamini and Hochberg over all features.

    Rows of one stretch are not independent: each stretch counts once.
    """
    groups = []
    for name, view in natural.items():
        numbers = subject.sample(name or None).numbers
        deviation = np.abs(view.rows.astype(np.float64) - view.at(0.5))
        deviation = np.nan_to_num(deviation, posinf=0.0)
        means, _ = _stretch_means(deviation, numbers // STRETCH)
        groups.append((means.mean(axis=0), means.var(axis=0) / max(len(means) - 1, 1)))
    centre, error = (np.array(each) for each in zip(*groups, strict=True))
    columns = np.arange(centre.shape[1])
    high, low = centre.argmax(axis=0), centre.argmin(axis=0)
    difference = centre[high, columns] - centre[low, columns]
    noise = np.sqrt(error[high, columns] + error[low, columns])
    z = np.divide(difference, noise, out=np.zeros_like(noise), where=noise > 0.0)
    p = np.array([math.erfc(each / math.sqrt(2.0)) for each in z])
    order = np.argsort(p)
    below = p[order] <= FALSE_ALARMS * (np.arange(len(p)) + 1.0) / len(p)
    real = np.zeros(len(p), bool)
    real[order[: int(np.flatnonzero(below).max(initial=-1)) + 1]] = True
    return real


def stretches(subject: Subject, whole: View) -> list[tuple[F8, F8]]:
    """Quartiles of each stretch of time, and log2 of its robust scale over that of train."""
    cells = subject.cells
    found = []
    for chunk in range(len(cells.chunks) + 1) if cells.chunks else ():
        part = cells.profile(chunk=chunk)
        binned = part.quantiles(PROBABILITIES)
        quartiles, _ = live_quantiles(part, whole.inflated, binned)
        spread = quartiles[1] - quartiles[0]
        live = np.where(whole.inflated, part.count - part.zeros, part.count)
        # Bins are a sixteenth of a value wide: of quartiles that are closer they say nothing.
        coarse = np.abs(quartiles).max(axis=0) / 16.0 > 0.25 * spread
        known = (live >= SLICE_ROWS) & ~coarse & (spread > 0.0) & (whole.scale > 0.0)
        ratio = np.divide(spread, whole.scale * NORMAL_IQR, out=np.ones_like(spread), where=known)
        found.append((quartiles, np.where(known, np.log2(ratio), np.nan)))
    return found


def drift_measures(
    drift: list[tuple[F8, F8]], scaled: View | None, subject: Subject
) -> Iterator[Measure]:
    """The largest difference of scale between a stretch of time and all of train."""
    if not drift:
        return

    def largest(logs: F8) -> F8:
        known = ~np.isnan(logs).all(axis=0)
        return np.where(known, np.nanmax(np.abs(np.where(known, logs, 0.0)), axis=0), np.nan)

    values = largest(np.array([log for _, log in drift]))
    if scaled is None or subject.scaling is None:
        yield Measure("scale drift", "feature", values)
        return
    after = []
    for quartiles, log in drift:
        ends = subject.scaling.apply(quartiles).astype(np.float64)
        spread = (ends[1] - ends[0]) / NORMAL_IQR
        known = ~np.isnan(log) & (spread > 0.0) & (scaled.scale > 0.0)
        ratio = np.divide(spread, scaled.scale, out=np.ones_like(spread), where=known)
        after.append(np.where(known, np.log2(ratio), np.nan))
    yield Measure("scale drift", "feature", largest(np.array(after)), values)
