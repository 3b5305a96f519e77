"""What the page carries of the audit document: fewer digits, no keys twice, extremes on request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

DIGITS = 4  # of the numbers that the page draws; audit.json has them all
OTHER = {"stats": 6, "quantiles": 6, "time": 3}  # digits of those that are read, or only drawn
EXTREME = (0.0, 0.001, 0.999, 1.0)  # probabilities whose quantiles are of a few rows
INSIDE = ("stats", "scaled", "reference")  # parts of a feature that hold extremes
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
    """A copy without the extremes of every feature, and of the one that it is compared with."""
    probabilities = listed(document, "probabilities")
    kept = [at for at, p in enumerate(probabilities) if p not in EXTREME]

    def without(values: Any) -> Any:  # noqa: ANN401  # any JSON
        if not isinstance(values, Mapping):
            return values
        cut = {key: each for key, each in values.items() if key not in ("min", "max")}
        for key in ("quantiles", "abs_quantiles"):
            if cut.get(key):
                cut[key] = [cut[key][at] for at in kept]
        if cut.get("histogram"):
            bins = cut["histogram"]
            cut["histogram"] = {"edges": bins["edges"][1:-1], "counts": bins["counts"][1:-1]}
        return cut

    features = []
    for feature in listed(document, "features"):
        cut = {**without(feature), **{k: without(feature.get(k)) for k in INSIDE}}
        cut["slices"] = {k: without(v) for k, v in (feature.get("slices") or {}).items()}
        features.append(cut)
    return {
        **document,
        "redacted": True,
        "probabilities": [probabilities[at] for at in kept],
        "features": features,
    }


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
            [own.get("value"), rounded(own.get("level"), 3), own.get("severity") or ""]
            if (own := met.get(check.get("metric")))
            else None
            for check in checks
        ],
        "slices": [
            [(inside.get(each.get("name")) or {}).get(key) for key in IN_SLICE] for each in slices
        ],
    }


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
    """Edges to a tenth of the bin that they begin: more cannot be seen, and is a lot of text."""
    return [
        round(low, 1 - math.floor(math.log10(high - low))) if high > low else low
        for low, high in zip(edges, [*edges[1:], 2 * edges[-1] - edges[-2]], strict=True)
    ]
