"""Judging: what of the measures is a finding, by the limits, the contract and the waivers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.audit.fixes import Fixes, line
from featurekit.audit.limits import LIMITS
from featurekit.audit.report import Finding, Waived
from featurekit.audit.scales import tail_weight
from featurekit.audit.waivers import waive
from featurekit.contract import Expect, rounded_down, rounded_up
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurekit.audit.metric import Measure
    from featurekit.audit.subject import Subject
    from featurekit.audit.views import F8, View
    from featurekit.contract import AuditSpec, Bound
    from featurekit.feature import Feature
    from featurekit.profile import Profile

CLOSE = 2.0  # how far beyond its limits a level goes on: a hundred times the limit
ORDER = {"fail": 0, "warn": 1}
EXCUSES = {"zeros": "sparse", "near-constant": "sparse", "dead": "constant"}  # what expect may say


@dataclass(frozen=True, slots=True)
class Judged:
    """Findings, what the scaling repairs, what is waived, and the level of every measure.

    A level is below 1 within the limits, from 1 on beyond the one that warns, from 2 on beyond the
    one that fails. `levels` are by metric and slice, and so are `bounds`, what they are levels of.
    """

    findings: tuple[Finding, ...]
    repaired: tuple[Finding, ...]
    waived: tuple[Waived, ...]
    levels: Mapping[tuple[str, str], F8]
    bounds: Mapping[tuple[str, str], tuple[F8, F8]]
    notes: tuple[str, ...] = field(default=())


def judge(
    subject: Subject,
    measures: Sequence[Measure],
    profile: Profile,
    view: View,
    scaled: View | None = None,
    found: Sequence[Finding] = (),
) -> Judged:
    """Compares measures with their limits.

    Args:
        subject: What is audited.
        measures: The values.
        profile: Of all rows of train.
        view: Theirs in natural units, for the contract.
        scaled: Theirs after the scaling, if there is one.
        found: Findings that no limit is asked for.

    Raises:
        ConfigError: when the contract names a metric, a block or a feature that there is not.
    """
    check_names(subject.spec, subject.features)
    bench = _Bench(subject, profile, Fixes(subject, profile, view, scaled))
    findings: list[Finding] = []
    natural: list[Finding] = []
    levels, bounds = {}, {}
    for measure in measures:
        level = bench.levels(measure)
        levels[measure.metric, measure.slice] = level
        bounds[measure.metric, measure.slice] = bench.bounds(measure, before=False)
        findings += bench.findings(measure, measure.values, level)
        if measure.natural is not None:
            before = bench.levels(measure, before=True)
            natural += bench.findings(measure, measure.natural, before, repaired=True)
    findings += [*bench.contract(view), *found]
    left = {(f.metric, f.feature, f.block) for f in findings}
    repaired = [f for f in natural if (f.metric, f.feature, f.block) not in left]
    kept, waived, notes = waive(findings, subject)
    return Judged(in_order(kept), in_order(repaired), tuple(waived), levels, bounds, tuple(notes))


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first."""
    return tuple(
        sorted(findings, key=lambda f: (ORDER[f.severity], -f.margin, f.metric, f.feature, f.slice))
    )


def check_names(spec: AuditSpec, columns: Sequence[Feature]) -> None:
    """Compares the names in the contract with what there is.

    Raises:
        ConfigError: naming each that there is not.
    """
    features = {feature.name for feature in columns}
    blocks = {feature.block for feature in columns}
    named: list[tuple[str, str, object, str]] = []
    for metric, bounds in spec.limits.items():
        named.append(("metric", metric, LIMITS, f"audit.limits.{metric}"))
        named += [("block", b, blocks, f"audit.limits.{metric}.blocks") for b in bounds.blocks]
        named += [("feature", f, features, f"audit.limits.{metric}") for f in bounds.features]
    named += [("feature or block", name, features | blocks, "audit.expect") for name in spec.expect]
    for waiver in spec.waivers:
        named.append(("metric", waiver.metric, {*LIMITS, *EXPECTED}, "audit.waivers"))
        if waiver.feature:
            named.append(("feature", waiver.feature, features, "audit.waivers"))
        if waiver.block:
            named.append(("block", waiver.block, blocks, "audit.waivers"))
    problems = [
        Problem(
            f"the audit names a {what} that there is not",
            where=where,
            expected=", ".join(sorted(known)[:40]),  # type: ignore[call-overload]  # sets and a dict
            got=name,
        )
        for what, name, known, where in named
        if name not in known  # type: ignore[operator]  # sets and a dict
    ]
    if problems:
        raise ConfigError(*problems)


EXPECTED = tuple(f"expected {field.name}" for field in fields(Expect) if field.name != "sparse")


class _Bench:
    """The limits of every feature and block, and how a value beyond one becomes a finding."""

    def __init__(self, subject: Subject, profile: Profile, fixes: Fixes) -> None:
        self.subject, self.profile = subject, profile
        self.features = [feature.name for feature in subject.features]
        self.of_block = [feature.block for feature in subject.features]
        self.blocks = list(dict.fromkeys(self.of_block))
        self.expected = [
            subject.spec.expected(name, block)
            for name, block in zip(self.features, self.of_block, strict=True)
        ]
        self._fixes = fixes
        self._line = scaling_line(subject)

    def bounds(self, measure: Measure, *, before: bool) -> tuple[F8, F8]:
        """What each value of a measure warns and fails beyond; NaN where it does not."""
        limit = LIMITS[measure.metric]
        given = self.subject.spec.limits.get(measure.metric)
        size = measure.values.size
        warn, fail = np.full(size, _number(limit.warn)), np.full(size, _number(limit.fail))
        if limit.share:  # of few features each has a large share
            warn, fail = (np.maximum(bound, 2.0 / len(self.features)) for bound in (warn, fail))
        if measure.mild and not before:
            warn, fail = np.where(np.isnan(warn), fail, warn), np.full(size, np.nan)
        if given is not None:
            _override(warn, fail, np.ones(size, bool), given)
            blocks = self.of_block if measure.of == "feature" else self.blocks
            for block, bound in given.blocks.items():
                if measure.of != "all":
                    _override(warn, fail, np.array([each == block for each in blocks]), bound)
            for feature, bound in given.features.items():
                if measure.of == "feature":
                    at = np.array([each == feature for each in self.features])
                    _override(warn, fail, at, bound)
        return warn, fail

    def levels(self, measure: Measure, *, before: bool = False) -> F8:
        """How near to its limits each value is, or was before the scaling; NaN: not judged."""
        values = measure.natural if before and measure.natural is not None else measure.values
        limit = LIMITS[measure.metric]
        warn, fail = self.bounds(measure, before=before)
        excuse = EXCUSES.get(measure.metric)
        if excuse is not None:
            spared = np.array([bool(getattr(each, excuse)) for each in self.expected])
            values = np.where(spared, np.nan, values)
        level = level_of(values, warn, fail, low=limit.low)
        if measure.quiet is not None:
            level = np.where(measure.quiet & (level < 2.0), np.minimum(level, 0.999), level)
        return level

    def findings(
        self, measure: Measure, values: F8, level: F8, *, repaired: bool = False
    ) -> Iterator[Finding]:
        """The findings of a measure: each value beyond a limit."""
        limit = LIMITS[measure.metric]
        warn, fail = self.bounds(measure, before=repaired)
        for at in np.flatnonzero(level >= 1.0).tolist():
            severe = bool(level[at] >= 2.0)
            bound, value = float((fail if severe else warn)[at]), float(values[at])
            above = value / bound if bound else float("inf")
            below = bound / value if value else float("inf")
            feature = self.features[at] if measure.of == "feature" else ""
            block = self.blocks[at] if measure.of == "block" else ""
            yield Finding(
                severity="fail" if severe else "warn",
                metric=measure.metric,
                feature=feature,
                block=self.of_block[at] if feature else block,
                slice=measure.slice,
                value=value,
                limit=bound,
                margin=min(below if limit.low else above, 1e12),
                why=limit.why,
                fix=limit.fix if repaired else self._fix(measure, at, severe, block, warn, fail),
                command=self.subject.command(measure.metric, feature),
                repaired_by=self._line if repaired else "",
            )

    def _fix(self, measure: Measure, at: int, severe: bool, block: str, warn: F8, fail: F8) -> str:
        bounds = np.array([warn[at], fail[at]])
        return self._fixes.of(measure, at, "fail" if severe else "warn", block, bounds)

    def contract(self, view: View) -> Iterator[Finding]:
        """What a column is not, although the contract says that it is."""
        rows, profile = max(view.count, 1), self.profile
        low, high = view.at(0.0), view.at(1.0)
        ranges = {"scale": [view.scale] * 2, "median": [view.at(0.5)] * 2, "range": [low, high]}
        below = {
            "zeros": profile.zeros / rows,
            "nan": (profile.nan + profile.infinite) / rows,
            "tail": tail_weight(view),
        }
        for at, expect in enumerate(self.expected):
            for what, ends in expect.ranges.items():
                found = [float(values[at]) for values in ranges[what]]
                if not ends[0] <= found[0] <= found[1] <= ends[1]:
                    out, end = (0, 0) if not ends[0] <= found[0] else (1, 1)
                    kept: Any = []  # of no value any range is broken
                    if not math.isnan(found[0]):
                        least, most = min(ends[0], found[0]), max(ends[1], found[1])
                        kept = [rounded_down(least), rounded_up(most)]
                    yield self._broken(at, what, found[out], ends[end], kept)
            for what, bound in expect.below.items():
                value = float(below[what][at])
                if value >= bound:
                    kept = f"<{rounded_up(value * 1.01 + 1e-9):g}"
                    yield self._broken(at, what, value, bound, kept)
            if expect.constant and low[at] < high[at]:
                yield self._broken(at, "constant", float(high[at]), float(low[at]), False)

    def _broken(self, at: int, what: str, value: float, limit: float, kept: object) -> Finding:
        feature = self.features[at]
        bigger = max(abs(value), abs(limit)) / max(min(abs(value), abs(limit)), 1e-300)
        return Finding(
            severity="fail",
            metric=f"expected {what}",
            feature=feature,
            block=self.of_block[at],
            slice="",
            value=value,
            limit=limit,
            margin=min(bigger, 1e12) if math.isfinite(bigger) else 1e12,
            why="the contract says what this column is, and these rows are something else",
            fix=line({"audit": {"expect": {feature: {what: kept}}}}),
            command=self.subject.command("", feature),
        )


def severity_of(level: float) -> str:
    """The severity of a level: fail, warn, or empty within the limits; empty of NaN."""
    return "fail" if level >= 2.0 else "warn" if level >= 1.0 else ""


def level_of(values: F8, warn: F8, fail: F8, *, low: bool) -> F8:
    """Where values lie among their limits: 0 to 1, 1 to 2 beyond `warn`, 2 to 4 beyond `fail`.

    Example:
        >>> warn, fail = np.full(3, 0.2), np.full(3, 0.4)
        >>> level_of(np.array([0.1, 0.3, 6.0]), warn, fail, low=False).round(2)
        array([0.5 , 1.5 , 3.18])
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if low:  # turned round, so that what is small is beyond
            values, warn, fail = 1.0 / np.maximum(values, 1e-300), 1.0 / warn, 1.0 / fail
        first = np.where(np.isnan(warn), fail, warn)
        none = np.where((first == 0.0) & (values > 0.0), 1.0, 0.0)  # beyond 0, or of no limit
        level = np.where(first > 0.0, np.abs(values) / first, none)
        level = np.minimum(level, 1.0 - 1e-9)
        beyond = values > warn
        share = np.where(
            np.isnan(fail),
            np.log10(values / np.maximum(warn, 1e-300)),
            (values - warn) / (fail - warn),
        )
        level = np.where(beyond, 1.0 + np.clip(np.nan_to_num(share), 0.0, 0.999), level)
        decades = np.clip(np.nan_to_num(np.log10(values / np.maximum(fail, 1e-300))), 0.0, CLOSE)
        level = np.where(values > fail, 2.0 + decades, level)
    return np.where(np.isnan(values), np.nan, level)


def scaling_line(subject: Subject) -> str:
    """What the pipeline does to the features, in a few words."""
    if subject.scaling is None:
        return ""
    return ", ".join(filter(None, ["scaling, fitted on train", subject.scaling.squashes]))


def _number(bound: float | None) -> float:
    return float("nan") if bound is None else bound


def _override(warn: F8, fail: F8, at: NDArray[np.bool_], bound: Bound) -> None:
    for held, given in ((warn, bound.warn), (fail, bound.fail)):
        if given is not None:
            held[at] = float("nan") if isinstance(given, str) else given
