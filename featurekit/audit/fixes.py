"""Fixes: the line of YAML that mends a finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml

from featurekit.audit.limits import LIMITS, RESCALED, ROBUST, SCALED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurekit.audit.metric import Measure
    from featurekit.audit.subject import Subject
    from featurekit.profile import Profile


class Fixes:
    """What mends findings of a subject; what is done already is not advised again."""

    def __init__(self, subject: Subject, profile: Profile) -> None:
        self.subject, self.profile = subject, profile
        self.features = [feature.name for feature in subject.features]
        low, high = profile.quantiles([0.25, 0.75])
        self._spreads = high > low  # what a robust scaling can divide by

    def of(self, measure: Measure, at: int, severity: str, value: float, block: str) -> str:
        """The line that mends a value of a measure; `block` is that of a measure of blocks."""
        metric, limit = measure.metric, LIMITS[measure.metric]
        feature = self.features[at] if measure.of == "feature" else ""
        if limit.fix not in RESCALED or self.subject.scaling is None:
            shown = " ".join(feature.split())  # a comment ends with its line
            return limit.fix.replace("{FEATURE:", f"{{{_key(feature)}:").replace("FEATURE", shown)
        better = self._rescaled(metric, at) if feature else self._all_rescaled()
        if better is not None:
            return better
        # Scaled and squashed as well as it can be: either it goes, or it is known.
        bound = float(f"{value / 1.25 if limit.low else value * 1.25:.2g}")
        known: dict[str, Any] = {severity: bound}
        if severity == "fail" and limit.warn is not None:
            known = {"warn": bound, "fail": bound}
        if feature or block:
            known = {"features": {feature: known}} if feature else {"blocks": {block: known}}
        told = line({"audit": {"limits": {metric: known}}})
        gone = " ".join((feature or (f"block {block}" if block else "")).split())
        return f"{told}  # or leave {gone} out" if gone else told

    def _rescaled(self, metric: str, at: int) -> str | None:
        """A scaling of one feature that does more than the present one."""
        scaling, kind = self.subject.scaling, self._kind(at)
        if LIMITS[metric].fix != SCALED and scaling is not None and not scaling.squash[at]:
            better = {"squash": "asinh"}
        elif kind == "none":
            better = {"kind": "standard"}
        elif kind == "standard" and metric != "scale drift" and self._spreads[at]:
            better = {"kind": "robust"}
        else:
            return None
        return line({"scaling": {"features": {self.features[at]: better}}})

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
