"""All that was measured of each feature, as plain data: what the page draws and JSON keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.audit.rules import severity_of
from featurekit.audit.scales import tail_weight
from featurekit.audit.slices import independent_rows, slice_scales
from featurekit.audit.views import PROBABILITIES, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from featurekit.audit.measures import Measured
    from featurekit.audit.metric import Measure
    from featurekit.audit.report import Finding
    from featurekit.audit.rules import Judged
    from featurekit.audit.subject import Subject
    from featurekit.audit.views import F8
    from featurekit.profile import Profile

OUTLINE = 40  # bins of a histogram that hold something


def describe(subject: Subject, measured: Measured) -> list[dict[str, Any]]:
    """One entry a feature: what it is, its statistics, quantiles, histogram and slices."""
    profile, view = measured.profiles[""], measured.natural[""]
    scaled, scaling = measured.scaled.get(""), subject.scaling
    statistics = _statistics(profile, view)
    statistics["independent"] = independent_rows(view, subject.sample().numbers)
    magnitudes = profile.absolute_quantiles(PROBABILITIES)
    slices = _slices(measured)
    found = []
    for k, feature in enumerate(subject.features):
        entry: dict[str, Any] = {
            "name": feature.name,
            "block": feature.block,
            "unit": feature.unit,
            "doc": feature.doc,
            "lookback": feature.lookback,
            "memory": feature.memory,
            "status": "ok",
            "repaired": False,
            "stats": {name: float(values[k]) for name, values in statistics.items()},
            "quantiles": view.quantiles[:, k].tolist(),
            "abs_quantiles": magnitudes[:, k].tolist(),
            "histogram": outline(profile, k),
            "checks": {},
            "slices": {
                name: {key: float(values[k]) for key, values in each.items()}
                for name, each in slices.items()
            },
            "time": measured.drift[:, k].tolist(),
            "scaled": None,
            "contract": None,
            "reference": None,
        }
        if scaled is not None and scaling is not None:
            squashed = scaled.quantiles[:, k]
            entry["scaled"] = {
                "center": float(scaling.center[k]),
                "scale": float(scaling.scale[k]),
                "squash": bool(scaling.squash[k]),
                "quantiles": squashed.tolist(),
                "abs_quantiles": _absolute(scaled, k),
            }
        found.append(entry)
    return found


def complete(
    columns: Sequence[dict[str, Any]],
    subject: Subject,
    measures: Sequence[Measure],
    judged: Judged,
    reference: Mapping[str, Mapping[str, Any]],
) -> None:
    """Adds to each entry what was judged of it: checks, status, contract and reference."""
    checks = _checks(measures, judged)
    status = _worst(judged.findings)
    repaired = {finding.feature for finding in judged.repaired}
    for k, entry in enumerate(columns):
        name = entry["name"]
        entry["status"] = status.get(name, "ok")
        entry["repaired"] = name in repaired
        entry["checks"] = {each: values[k] for each, values in checks.items() if values[k]}
        entry["contract"] = _contract(subject, judged, k)
        entry["reference"] = reference.get(name)


def outline(profile: Profile, column: int) -> dict[str, list[float] | list[int]]:
    """A histogram of few bins whose edges are edges of the profile's: neighbours are joined.

    Example:
        >>> from featurekit.profile import Profile
        >>> outline(Profile.of(np.array([[1.0], [1.0], [2.0]])), 0)
        {'edges': [1.0, 1.0625, 2.0, 2.125], 'counts': [2, 0, 1]}
    """
    low, high, counts = profile.bins(column)
    if not len(counts):
        return {"edges": [], "counts": []}
    places = profile.bin_places(column)
    shift = 0
    while len(np.unique(places >> shift)) > OUTLINE:
        shift += 1
    starts = np.flatnonzero(np.diff(places >> shift, prepend=-1))
    stops = np.append(starts[1:], len(counts)) - 1
    edges, held = [float(low[starts[0]])], []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if low[start] > edges[-1]:
            edges.append(float(low[start]))
            held.append(0)
        edges.append(float(high[stop]))
        held.append(int(counts[start : stop + 1].sum()))
    return {"edges": edges, "counts": held}


def _statistics(profile: Profile, view: View) -> dict[str, F8]:
    rows = max(profile.rows, 1)
    known = profile.count > 0
    return {
        "count": profile.count.astype(np.float64),
        "nan": profile.nan / rows,
        "inf": profile.infinite / rows,
        "zeros": profile.zeros / rows,
        "min": np.where(known, profile.minimum, np.nan),
        "max": np.where(known, profile.maximum, np.nan),
        "mean": np.where(known, profile.mean, np.nan),
        "std": np.where(known, profile.std, np.nan),
        "rms": np.where(known, profile.rms, np.nan),
        "rms_nonzero": view.live,
        "median": view.at(0.5),
        "scale": view.scale,
        "skew": profile.skewness,
        "kurtosis": profile.kurtosis,
        "tail": tail_weight(view),
        "error": view.error,
    }


def _checks(measures: Sequence[Measure], judged: Judged) -> dict[str, list[dict[str, Any] | None]]:
    """Value, level and severity of each metric of a feature: the worst of its slices."""
    found: dict[str, list[dict[str, Any] | None]] = {}
    for measure in measures:
        if measure.of != "feature":
            continue
        level = judged.levels[measure.metric, measure.slice]
        held = found.setdefault(measure.metric, [None] * len(level))
        for k in np.flatnonzero(~np.isnan(level)).tolist():
            before = held[k]
            if before is None or level[k] > before["level"]:
                warn, fail = judged.bounds[measure.metric, measure.slice]
                held[k] = {
                    "value": float(measure.values[k]),
                    "level": float(level[k]),
                    "severity": severity_of(level[k]),
                    "warn": float(warn[k]),
                    "fail": float(fail[k]),
                }
    return found


def _slices(measured: Measured) -> dict[str, dict[str, F8]]:
    logs = slice_scales(measured.natural)
    return {
        name: {
            "rows": np.full(len(view.mean), float(view.count)),
            "scale": view.scale,
            "log2": logs[name],
            "median": view.at(0.5),
            "zeros": measured.profiles[name].zeros / max(view.count, 1),
            "mean": view.mean,
        }
        for name, view in measured.natural.items()
        if name
    }


def _absolute(view: View, column: int) -> list[float]:
    """Quantiles of the magnitudes of the sample that are not 0."""
    values = np.abs(view.rows[:, column].astype(np.float64))
    values = values[np.isfinite(values) & (values > 0.0)]
    if not len(values):
        return [float("nan")] * len(PROBABILITIES)
    found: list[float] = np.quantile(values, PROBABILITIES, method="inverted_cdf").tolist()
    return found


def _worst(findings: Sequence[Finding]) -> dict[str, str]:
    worst: dict[str, str] = {}
    for finding in findings:
        if finding.feature and worst.get(finding.feature) != "fail":
            worst[finding.feature] = finding.severity
    return worst


def _contract(subject: Subject, judged: Judged, column: int) -> Mapping[str, Any] | None:
    feature = subject.features[column]
    expect = subject.spec.expected(feature.name, feature.block)
    told: dict[str, Any] = {name: list(ends) for name, ends in expect.ranges.items()}
    told |= {name: f"<{bound:g}" for name, bound in expect.below.items()}
    told |= {name: True for name in ("sparse", "constant") if getattr(expect, name)}
    if not told:
        return None
    broken = [
        f.metric.removeprefix("expected ")
        for f in judged.findings
        if f.feature == feature.name and f.metric.startswith("expected ")
    ]
    return {"expect": told, "broken": broken}
