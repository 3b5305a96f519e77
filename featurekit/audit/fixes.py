"""Fixes: the line of YAML that mends a finding."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from featurekit.audit.limits import LIMITS, RESCALED, ROBUST, SCALED
from featurekit.audit.scales import SHAPES, outliers, shares_of
from featurekit.audit.views import scaled_view
from featurekit.errors import UnrepresentativeWarning
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from featurekit.audit.metric import Measure
    from featurekit.audit.subject import Subject
    from featurekit.audit.views import F8, View
    from featurekit.profile import Profile


TRIED = ("norm share", "norm lift", "centred share", "row share", "dominance", "scale outlier")


class Fixes:
    """What mends findings of a subject; of a scaling only what was tried on the sample, and does.

    Args:
        subject: What is audited.
        profile: Of its train rows.
        natural: Their view in natural units.
        scaled: Their view after the scaling, if there is one.
    """

    def __init__(
        self, subject: Subject, profile: Profile, natural: View, scaled: View | None
    ) -> None:
        self.subject, self.profile = subject, profile
        self.natural, self.scaled = natural, scaled
        self.features = [feature.name for feature in subject.features]
        low, high = profile.quantiles([0.25, 0.75])
        self._spreads = high > low  # what a robust scaling can divide by

    def of(self, measure: Measure, at: int, severity: str, block: str, bounds: F8) -> str:
        """The line that mends a value of a measure.

        Args:
            measure: Whose value is beyond a limit.
            at: Its place among the values.
            severity: Of the finding.
            block: That of a measure of blocks.
            bounds: What the value warns and fails beyond.
        """
        metric, limit, value = measure.metric, LIMITS[measure.metric], float(measure.values[at])
        feature = self.features[at] if measure.of == "feature" else ""
        if limit.fix not in RESCALED or self.subject.scaling is None:
            shown = " ".join(feature.split())  # a comment ends with its line
            return limit.fix.replace("{FEATURE:", f"{{{_key(feature)}:").replace("FEATURE", shown)
        bound = float(bounds[1] if np.isnan(bounds[0]) else bounds[0])
        better = self._rescaled(metric, at, bound) if feature else self._all_rescaled()
        if better is not None:
            return better
        # Scaled and squashed as well as it can be: either it goes, or it is known.
        near = float(f"{value / 1.25 if limit.low else value * 1.25:.2g}")
        known: dict[str, Any] = {severity: near}
        if severity == "fail" and limit.warn is not None:
            known = {"warn": near, "fail": near}
        if feature or block:
            known = {"features": {feature: known}} if feature else {"blocks": {block: known}}
        told = line({"audit": {"limits": {metric: known}}})
        gone = " ".join((feature or (f"block {block}" if block else "")).split())
        return f"{told}  # or leave {gone} out" if gone else told

    def _rescaled(self, metric: str, at: int, bound: float) -> str | None:
        """A scaling of one feature that brings it within a limit; None if there is none."""
        for other in self._others(at):
            value = self._after(metric, at, other)
            if value is None or (value >= bound if LIMITS[metric].low else value <= bound):
                return line({"scaling": {"features": {self.features[at]: other}}})
        return None

    def _others(self, at: int) -> Iterator[dict[str, str]]:
        """Scalings of a feature other than the present one, the nearest first."""
        kind, scaling = self._kind(at), self.subject.scaling
        squashed = scaling is not None and bool(scaling.squash[at])
        kinds = [each for each in ("standard", "robust") if each != kind]
        if not self._spreads[at]:
            kinds = [each for each in kinds if each != "robust"]
        squashes = [] if squashed else [{"squash": "asinh"}]
        yield from squashes
        yield from ({"kind": each} for each in kinds)
        yield from ({"kind": each, **squash} for each in kinds for squash in squashes)

    def _after(self, metric: str, at: int, other: Mapping[str, str]) -> float | None:
        """What a metric of a feature would be after another scaling; None if that is not tried."""
        scaling, scaled = self.subject.scaling, self.scaled
        if scaling is None or scaled is None:
            return None
        bad = 0.0 if LIMITS[metric].low else float("inf")
        squash = np.array([bool(scaling.squash[at]) or "squash" in other])
        one = Scaling(
            (self.features[at],), scaling.center[at : at + 1], scaling.scale[at : at + 1], squash
        )
        if "kind" in other:
            spec = ScalingSpec(kind=other["kind"])  # type: ignore[arg-type]  # of those there are
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnrepresentativeWarning)  # only tried, not used
                fitted = Scaling.fit(self.profile.column(at), spec)
            if fitted.constant:
                return bad
            one = replace(fitted, squash=squash)
        view = scaled_view(self.natural.column(at), one)
        if metric in SHAPES:
            return float(SHAPES[metric](view)[0])
        if metric not in TRIED:
            return None if other == {"squash": "asinh"} else bad
        square, spread_of = scaled.square.copy(), scaled.scale.copy()
        square[at], spread_of[at] = view.square[0], view.scale[0]
        if metric == "scale outlier":
            return float(outliers(square, spread_of)[0][at])
        if metric == "centred share":
            variance = scaled.std**2
            variance[at] = view.std[0] ** 2
            return float(shares_of(variance)[at])
        share = float(shares_of(square)[at])
        return share * len(square) if metric == "norm lift" else share

    def _all_rescaled(self) -> str | None:
        """A scaling of all features that does more than the present one."""
        scaling, kinds = self.subject.scaling, {self._kind(k) for k in range(len(self.features))}
        if scaling is None or "none" in kinds or not scaling.squash.all():
            return SCALED
        return ROBUST if "standard" in kinds and self._spreads.all() else None

    def _kind(self, at: int) -> str:
        scaling = self.subject.scaling
        if scaling is None or (scaling.center[at] == 0.0 and scaling.scale[at] == 1.0):
            return "none"
        deviation = self.profile.std[at]
        return "standard" if abs(scaling.scale[at] - deviation) <= 1e-6 * deviation else "robust"


def line(document: Mapping[str, Any]) -> str:
    """A document on one line of YAML, as it may stand in a pipeline.

    Example:
        >>> line({"scaling": {"features": {"a: b": {"kind": "robust"}}}})
        "scaling: {features: {'a: b': {kind: robust}}}"
    """
    text: str = yaml.safe_dump(
        document, sort_keys=False, default_flow_style=True, allow_unicode=True, width=math.inf
    )
    return text[1:-2]


def _key(name: str) -> str:
    """A name as a key of YAML."""
    return line({name: 0}).removesuffix(": 0")
