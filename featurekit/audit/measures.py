"""Measures: the value of every metric, of each feature, block or all, before any is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from featurekit.audit.limits import REPRESENTATIVE
from featurekit.audit.metric import Measure
from featurekit.audit.model import ModelView, model_view
from featurekit.audit.scales import (
    conditioning,
    correlations,
    redundant,
    scale_measures,
    shape_measures,
)
from featurekit.audit.slices import drift_measures, slice_measures, stretches
from featurekit.audit.views import (
    F8,
    View,
    inflated,
    natural_view,
    repeated,
    scaled_view,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.audit.subject import Subject
    from featurekit.profile import Profile

SLICE_SHARE = 0.01  # of the rows: a smaller slice may be constant


@dataclass(frozen=True, slots=True)
class Measured:
    """All measures, and the views that they are of, by slice; "" is all rows of train."""

    measures: tuple[Measure, ...]
    natural: Mapping[str, View]
    scaled: Mapping[str, View]
    model: Mapping[str, ModelView]
    profiles: Mapping[str, Profile]
    drift: F8
    redundant: tuple[tuple[int, int, float], ...]


def measure(subject: Subject) -> Measured:
    """Computes every metric of the train split of a subject."""
    blocks = np.array([feature.block for feature in subject.features])
    slices = subject.cells.slices
    profiles = {"": subject.cells.profile("train")}
    profiles |= {name: subject.cells.profile("train", name) for name in slices}
    zero = inflated(profiles[""])
    natural, scaled, model = {}, {}, {}
    for name, profile in profiles.items():
        if not profile.rows:
            continue
        rows = subject.take(subject.sample(name or None).numbers)
        natural[name] = natural_view(profile, rows, zero)
        seen = natural[name]
        if subject.scaling is not None:
            seen = scaled[name] = scaled_view(natural[name], subject.scaling)
        view = model_view(seen.rows, blocks, norm=subject.norm)
        if view is not None:
            model[name] = view
    drift = stretches(subject, natural[""])
    correlation = correlations(natural[""])
    measures = [
        *_counts(subject, profiles),
        *_repeats(subject, natural, blocks),
        *scale_measures(natural, scaled, model.get(""), blocks),
        *shape_measures(natural, scaled),
        *slice_measures(subject, natural, scaled),
        *drift_measures(drift, scaled.get(""), subject),
        *conditioning(natural[""], scaled.get(""), correlation),
    ]
    for name, view in model.items():
        # Of few rows a statistic may be chance: it warns, and so does that they are few.
        few = bool(name) and profiles[name].rows < REPRESENTATIVE
        measures += [replace(each, mild=few) for each in _model(view, blocks, name)]
    measures += [
        Measure("unrepresentative", "all", np.array([float(profiles[name].rows)]), slice=name)
        for name in ("", *slices)
    ]
    return Measured(
        tuple(measures),
        natural,
        scaled,
        model,
        profiles,
        np.array([log for _, log in drift]).reshape(-1, len(blocks)),
        redundant(correlation),
    )


# --- what no scaling mends ------------------------------------------------------------------------


def _counts(subject: Subject, profiles: Mapping[str, Profile]) -> Iterator[Measure]:
    everything, train = subject.cells.profile(), profiles[""]
    blocks = np.array([feature.block for feature in subject.features])
    bad = (everything.nan + everything.infinite) / max(everything.rows, 1)
    if subject.overflow is not None:
        yield Measure("overflow", "feature", subject.overflow)
        bad = np.maximum(bad - subject.overflow, 0.0)
    yield Measure("non-finite", "feature", bad)
    dead = (train.maximum <= train.minimum) | (train.count == 0)
    names = list(dict.fromkeys(blocks.tolist()))
    whole = np.array([bool(dead[blocks == name].all()) for name in names])
    several = np.array([(blocks == name).sum() > 1 for name in names])
    yield Measure("dead block", "block", (whole & several).astype(np.float64))
    spared = np.isin(blocks, np.array(names)[whole & several])
    yield Measure("dead", "feature", np.where(spared, np.nan, dead.astype(np.float64)))
    for name, part in profiles.items():
        if name and part.rows >= max(SLICE_SHARE * train.rows, 2):
            # A slice that is a condition on a column says by itself what its block is there.
            own = np.isin([feature.name for feature in subject.features], subject.own(name))
            own |= np.isin(blocks, np.setdiff1d(blocks[own], [""]))
            still = (part.maximum <= part.minimum).astype(np.float64)
            yield Measure(
                "dead in slice", "feature", np.where(own | dead, np.nan, still), slice=name
            )
    zeros = train.zeros / max(train.rows, 1)
    for part in (part for name, part in profiles.items() if name):
        if 0 < part.rows < train.rows:
            rest = (train.zeros - part.zeros) / (train.rows - part.rows)
            zeros = np.minimum(zeros, np.minimum(part.zeros / part.rows, rest))
    yield Measure("zeros", "feature", np.where(dead, np.nan, zeros))


def _repeats(
    subject: Subject, natural: Mapping[str, View], blocks: NDArray[np.str_]
) -> Iterator[Measure]:
    """Near-constant columns, piles at an edge, and the levels that float32 leaves."""
    least = np.full(len(blocks), np.inf)
    piles = np.zeros(len(blocks))
    for name, view in natural.items():
        top, distinct = repeated(view.ordered, view.known)
        least = np.minimum(least, np.where(distinct <= 0.1, top, 0.0))
        if not name:
            piles = _piles(subject, view, distinct)
    view = natural[""]
    moves = view.at(1.0) > view.at(0.0)
    yield Measure("near-constant", "feature", np.where(moves, least, np.nan))
    yield Measure("pile-up", "feature", piles)
    with np.errstate(invalid="ignore"):
        # Around a median of 0 the values are as large as their scale.
        size = np.maximum(np.abs(view.at(0.5)), view.scale)
        step = np.spacing(size.astype(np.float32)).astype(np.float64)
    levels = np.divide(2.0 * view.scale, step, out=np.full(len(step), np.nan), where=step > 0.0)
    yield Measure("resolution", "feature", np.where(view.scale > 0.0, levels, np.nan))


def _piles(subject: Subject, view: View, distinct: F8) -> F8:
    """Share of the rows at the very minimum or maximum, where nothing says that it is a bound."""
    piles = np.zeros(len(distinct))
    for probability, end in ((0.0, 0), (1.0, 1)):
        edge = view.at(probability)
        known = edge != 0.0
        declared = np.array([np.nan if f.scale is None else f.scale[end] for f in subject.features])
        known &= ~np.isclose(edge, declared, rtol=1e-6)
        share = (view.rows == edge.astype(np.float32)).mean(axis=0) if len(view.rows) else 0.0
        piles = np.maximum(piles, np.where(known, share, 0.0))
    # Of few distinct values each is frequent.
    return np.where(distinct * len(view.rows) > 50.0, piles, np.nan)


# --- the model ------------------------------------------------------------------------------------


def _model(view: ModelView, blocks: NDArray[np.str_], slice_: str) -> Iterator[Measure]:
    names = list(dict.fromkeys(blocks.tolist()))
    if view.weakest_block is not None:
        one = [view.weakest_block if name == view.weakest else np.nan for name in names]
        yield Measure("weakest block", "block", np.array(one), slice=slice_)
    dominance = np.full(len(blocks), np.nan)
    dominance[view.largest] = view.dominance
    yield Measure("dominance", "feature", dominance, slice=slice_)
    for metric, value in (
        ("starved features", view.starved),
        ("offset", view.offset),
        ("entropy rank", None if view.entropy_rank is None else view.entropy_rank / len(blocks)),
        ("dead at initialisation", view.dead_units),
        ("layer_norm squash", view.squash),
    ):
        if value is not None:
            yield Measure(metric, "all", np.array([value]), slice=slice_)
