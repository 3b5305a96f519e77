"""What the page carries of the audit document: fewer digits, no keys twice, extremes on request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

Json = Mapping[str, Any]

DIGITS = 4  # of the numbers that the page draws; audit.json has them all
OTHER = {"stats": 6, "quantiles": 6, "time": 3}  # digits of those that are read, or only drawn
LEAST, MOST = 0.01, 0.99  # a redacted page tells nothing beyond these quantiles of a feature
# Statistics that a redacted page tells: from a mean and a count a single outlier can be had.
ROBUST = ("count", "nan", "inf", "zeros", "median", "scale", "tail", "independent", "error")
# What of a finding is a value of a single row, by its metric; of a constant the limit is one, too.
OF_ROWS = {
    "expected range": ("value", "margin", "fix"),
    "expected constant": ("value", "limit", "margin", "fix"),
}
IN_SLICE = ("scale", "log2", "median", "zeros")


def embedded(document: Json) -> str:
    """JSON of what report.js draws; no text of it can end the element that it stands in."""
    features = listed(document, "features")
    checks = _met(document, "checks", "metric")
    slices = _met(document, "slices", "name")
    drawn = ("chunks", "probabilities", "reference", "redacted")
    packed = {
        **{key: document.get(key) for key in drawn},
        "checks": checks,
        "slices": slices,
        "features": [_packed(each, checks, slices) for each in features],
    }
    text = json.dumps(rounded(packed), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def redacted(document: Json) -> dict[str, Any]:
    """A copy that tells the value of no outermost row, neither of the features nor the reference.

    Only robust statistics stay, and of quantiles and histograms what lies between 1% and 99%.
    """
    probabilities = listed(document, "probabilities")
    findings = {
        key: [_without(each, *OF_ROWS.get(str(each.get("metric")), ())) for each in found]
        for key in ("findings", "repaired", "waived")
        if (found := listed(document, key))
    }
    told = {**document, **findings, "redacted": True}
    worst = next(iter(findings.get("findings", ())), {})
    if worst.get("metric") in OF_ROWS:
        told["sentence"] = f"{worst.get('feature')}: {worst['metric']}; {worst.get('why')}."
    told["probabilities"] = [p for p in probabilities if LEAST <= p <= MOST]
    told["features"] = [_robust(each, probabilities) for each in listed(document, "features")]
    return told


def _robust(feature: Json, probabilities: Sequence[float]) -> dict[str, Any]:
    """A feature without its extremes, and without what they can be computed from."""
    stats, slices = feature.get("stats") or {}, feature.get("slices") or {}
    # The centre and scale of a standard scaling are mean and standard deviation.
    scaled = _without(feature.get("scaled") or {}, "center", "scale")
    return {
        **_clipped(feature, probabilities),
        "stats": {key: stats[key] for key in ROBUST if key in stats},
        "slices": {name: _without(each, "mean") for name, each in slices.items()},
        "scaled": _clipped(scaled, probabilities) or None,
        "reference": _clipped(feature.get("reference") or {}, probabilities) or None,
    }


def _clipped(values: Json, probabilities: Sequence[float]) -> dict[str, Any]:
    """Quantiles and histogram of a feature, or of what it is compared with, without their ends."""
    clipped = dict(values)
    quantiles = dict(zip(probabilities, values.get("quantiles") or (), strict=False))
    low, high = (quantiles.get(p) or 0.0 for p in (LEAST, MOST))  # unknown: nothing is between
    farthest = max(abs(low), abs(high))
    if quantiles:
        clipped["quantiles"] = [each for p, each in quantiles.items() if LEAST <= p <= MOST]
    if values.get("abs_quantiles"):
        # Of values that are not 0: where these are few, every quantile is of a few rows.
        sizes = zip(probabilities, values["abs_quantiles"], strict=False)
        inner = [size for p, size in sizes if LEAST <= p <= MOST]
        cut = [None if size is None else min(size, farthest) for size in inner]
        clipped["abs_quantiles"] = cut if farthest else None
    if values.get("histogram"):
        clipped["histogram"] = _between(values["histogram"], low, high)
    return clipped


def _between(histogram: Json, low: float, high: float) -> dict[str, Any]:
    """The rows of a histogram between the two quantiles, where its bins that are cut now end."""
    edges, counts = histogram["edges"], histogram["counts"]
    total = sum(counts)
    outside = round(LEAST * total)
    below = [min(max(n, outside), total - outside) for n in accumulate(counts, initial=0)]
    inside = [
        after - before if first <= high and last >= low else 0
        for (before, after), (first, last) in zip(pairwise(below), pairwise(edges), strict=True)
    ]
    held = [at for at, count in enumerate(inside) if count]
    if not held:
        return {"edges": [], "counts": []}
    start, stop = held[0], held[-1] + 1
    return {
        "edges": [min(max(edge, low), high) for edge in edges[start : stop + 1]],
        "counts": inside[start:stop],
    }


def _without(values: Json, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def listed(document: Json, key: str) -> Sequence[Any]:
    """One of the document's lists; empty where it has none."""
    return document.get(key) or ()


def _met(document: Json, key: str, name: str) -> list[Json]:
    """What features have, as the document lists it: some of the list is of no single feature."""
    known = {each.get(name): each for each in listed(document, key)}
    met = dict.fromkeys(own for each in listed(document, "features") for own in each.get(key) or ())
    order = [own for own in known if own in met] + [own for own in met if own not in known]
    return [known.get(own, {name: own}) for own in order]


def _packed(feature: Json, checks: Sequence[Json], slices: Sequence[Json]) -> dict[str, Any]:
    """A feature whose checks and slices are lists in order: their keys would be half of it all."""
    met, inside = feature.get("checks") or {}, feature.get("slices") or {}
    return {
        **feature,
        "checks": [
            _check(own, check) if (own := met.get(check.get("metric"))) else None
            for check in checks
        ],
        "slices": [
            [(inside.get(each.get("name")) or {}).get(key) for key in IN_SLICE] for each in slices
        ],
    }


def _check(own: Json, usual: Json) -> list[Any]:
    """What a feature's check says, and its limits where they are not the usual ones."""
    told = [own.get("value"), rounded(own.get("level"), 3), own.get("severity") or ""]
    limits = {key: usual.get(key) for key in ("warn", "fail")}
    given = {key: own.get(key, limit) for key, limit in limits.items()}
    return told if given == limits else [*told, *given.values()]


def rounded(value: Any, digits: int = DIGITS) -> Any:  # noqa: ANN401  # any JSON
    """The same with fewer digits; what is not finite is null."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key: _edges(each) if key == "edges" else rounded(each, OTHER.get(key, digits))
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    return value


def _edges(edges: Sequence[float]) -> list[float]:
    """Edges to 3 digits, and to a tenth of the narrower bin beside them: so they still increase."""
    widths = [high - low for low, high in pairwise(edges)]
    narrower = map(min, [*widths[:1], *widths], [*widths, *widths[-1:]])
    return [_to_a_tenth(edge, width) for edge, width in zip(edges, narrower, strict=False)]


def _to_a_tenth(edge: float, width: float) -> float:
    if width <= 0.0:
        return edge  # of a bin that is one value, both edges stay that value
    place = math.floor(math.log10(width)) - 1
    if edge:
        place = min(place, math.floor(math.log10(abs(edge))) - 2)
    return round(edge, -place)
