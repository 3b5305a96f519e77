"""Comparison with a reference: another dataset, a file, or what an earlier audit wrote of one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.audit.joined import joined_rows
from featurekit.audit.limits import LIMITS
from featurekit.audit.metric import Measure
from featurekit.audit.report import VERSION, Finding
from featurekit.audit.views import PROBABILITIES
from featurekit.bins import HIGH, LOW
from featurekit.contract import Bound
from featurekit.errors import DataError, Problem
from featurekit.psi import chance_index, stability_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from featurekit.audit.subject import Subject
    from featurekit.audit.views import F8
    from featurekit.profile import Profile

GROUPS = 10  # of the reference's rows, as equal as its bins let them be
FALSE_ALARM = 0.01  # that any feature of all is said to have another shape, and has not
SCALE_ERROR = 1.17 / math.log(2.0)  # of log2 of the distance of quartiles, over that of a mean
MEDIAN_ERROR = 1.2533  # of the median, over that of the mean of normal rows


@dataclass(frozen=True, slots=True)
class Reference:
    """Features as an audit told them, by name, and the rows if they are at hand."""

    name: str
    columns: Mapping[str, Mapping[str, Any]]
    rows: Callable[[], pl.DataFrame] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs from a reference: measures, findings that are of no limit, and a summary."""

    measures: tuple[Measure, ...]
    findings: tuple[Finding, ...]
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_reference(path: Path) -> Reference:
    """The reference that an `audit.json` holds.

    Raises:
        DataError: when it is none, or of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["version"]
        if version != VERSION:
            raise ValueError(f"version {version}, not {VERSION}")
        columns = {column["name"]: column for column in document["features"]}
        for column in columns.values():
            _check_column(column)
        return Reference(str(document["subject"]["name"]), columns)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            Problem(
                "this is no audit.json that can be compared with",
                where=str(path),
                expected=f"what featurekit audit --json printed, version {VERSION}",
                got=f"{type(error).__name__}: {error}"[:200],
            )
        ) from error


def _check_column(column: Mapping[str, Any]) -> None:
    """Raises what `read_reference` tells, where there is no such column in an audit.json."""
    edges = np.array(column["histogram"]["edges"], np.float64)
    counts = np.array(column["histogram"]["counts"], np.float64)
    if edges.ndim != 1 or counts.ndim != 1 or len(edges) != (len(counts) + 1 if len(counts) else 0):
        raise ValueError(f"the histogram of {column['name']} is none")
    for key in ("quantiles", "abs_quantiles"):
        if len(column[key]) != len(PROBABILITIES):
            raise ValueError(f"{key} of {column['name']}")
    for name in ("scale", "median", "std", "independent"):
        value = column["stats"][name]
        if not isinstance(value, (int, float, type(None))):
            raise ValueError(f"{name} of {column['name']} is {value!r}"[:80])


def compare(
    subject: Subject, profile: Profile, now: Sequence[Mapping[str, Any]], reference: Reference
) -> Comparison:
    """Compares features with those of the same name in the reference.

    Args:
        subject: What is audited.
        profile: Of its train rows.
        now: Its features, as the audit tells them.
        reference: What it is compared with.
    """
    names = [column["name"] for column in now]
    before = [reference.columns.get(name) for name in names]
    new = {name for name, column in zip(names, before, strict=True) if column is None}
    missing = [name for name in reference.columns if name not in set(names)]
    scale, median, shape, distance = (np.full(len(names), np.nan) for _ in range(4))
    told: dict[str, dict[str, Any]] = {}
    for k, (column, old) in enumerate(zip(now, before, strict=True)):
        if old is None:
            continue
        stats, past = column["stats"], old["stats"]
        chance = Chance.of(stats, past, len(names))
        size, was = _number(stats["scale"]), _number(past["scale"])
        if size > 0.0 and was > 0.0:
            log = abs(math.log2(size / was))
            scale[k] = _beyond(log, SCALE_ERROR * chance.error)
            moved = abs(_number(stats["median"]) - _number(past["median"])) / was
            median[k] = _beyond(moved, MEDIAN_ERROR * chance.error)
        edges, counts = old["histogram"]["edges"], old["histogram"]["counts"]
        drift, critical = _psi(edges, counts, profile, k, chance)
        shape[k] = _beyond(drift, critical)
        if was > 0.0:
            moved = _distance(edges, counts, profile, k) / was
            distance[k] = _beyond(moved, _number(past["std"]) / was * chance.error)
        told[names[k]] = {
            "quantiles": old["quantiles"],
            "abs_quantiles": old["abs_quantiles"],
            "histogram": old["histogram"],
            "scale": past["scale"],
            "psi": drift,
            "critical": critical,
            "log2": math.log2(size / was) if size > 0.0 and was > 0.0 else None,
        }
    measures = [
        Measure("new column", "feature", np.array([float(name in new) for name in names])),
        Measure("scale change", "feature", scale),
        Measure("median shift", "feature", median),
        Measure("shape drift", "feature", shape),
        Measure("shape distance", "feature", distance),
    ]
    findings = [found for name in missing if (found := _missing(subject, name)) is not None]
    notes: list[str] = []
    if subject.rows is not None and reference.rows is not None:
        shared = [name for name in names if name not in new]
        joined = joined_rows(subject.rows(), reference.rows(), names, shared)
        if isinstance(joined, str):
            notes.append(joined)
        else:
            measures += joined
    summary = {
        "name": reference.name,
        "new": [name for name in names if name in new],
        "missing": missing,
    }
    return Comparison(tuple(measures), tuple(findings), told, summary, tuple(notes))


def _missing(subject: Subject, name: str) -> Finding | None:
    """A finding of no feature that there is, and so of no measure."""
    limit = LIMITS["missing column"]
    given = subject.spec.limits.get("missing column", Bound())
    bounds = {"fail": (given.fail, limit.fail), "warn": (given.warn, limit.warn)}
    for severity, (own, usual) in bounds.items():
        bound = usual if own is None else own
        if isinstance(bound, float) and bound < 1.0:
            return Finding(
                severity="fail" if severity == "fail" else "warn",
                metric="missing column",
                feature=name,
                block=name.partition(".")[0] if "." in name else "",
                slice="",
                value=1.0,
                limit=bound,
                margin=1e12,
                why=limit.why,
                fix=limit.fix.replace("FEATURE", name),
                command=subject.command("missing column"),
            )
    return None


@dataclass(frozen=True, slots=True)
class Chance:
    """What may differ by chance between two draws from one source.

    `inverse` is 1/n + 1/m, of rows that are independent of each other; `error` is the bound of a
    mean in standard deviations; `false` is the share of features that may be beyond it.
    """

    inverse: float
    error: float
    false: float

    @staticmethod
    def of(now: Mapping[str, Any], old: Mapping[str, Any], features: int) -> Chance:
        """Of one of so many features, by the statistics of both sides."""
        rows = [max(_number(each["independent"]), 1.0) for each in (now, old)]
        inverse, false = 1.0 / rows[0] + 1.0 / rows[1], FALSE_ALARM / features
        z = NormalDist().inv_cdf(1.0 - false / 2.0)
        return Chance(inverse, z * math.sqrt(inverse), false)


def _beyond(value: float, critical: float) -> float:
    """The value, 0 where chance may reach it."""
    return value if not value <= critical else 0.0


# --- shapes ---------------------------------------------------------------------------------------


def _psi(
    edges: Sequence[float],
    counts: Sequence[int],
    profile: Profile,
    column: int,
    chance: Chance,
) -> tuple[float, float]:
    """Population stability index over groups of the reference, and what chance alone may reach."""
    if not counts:
        return 0.0, 0.0
    present = _counts_between(edges, profile, column)
    past = np.array([0, *counts, 0], float)
    target = past.sum() / GROUPS
    groups, held = np.zeros(len(past), np.int64), 0.0
    for at in range(1, len(past)):
        held += past[at - 1]
        groups[at] = groups[at - 1] + (held >= target)
        held = 0.0 if held >= target else held
    if len(counts) == 1:  # a constant: below it, as it is, and above it
        groups = np.arange(3)
    p, q = (np.bincount(groups, weights=each) for each in (past, present))
    return float(stability_index(p, q)), chance_index(chance.inverse, len(p), chance.false)


def _counts_between(edges: Sequence[float], profile: Profile, column: int) -> F8:
    """Values of the profile below, between and above edges that are edges of its bins."""
    low, high, counts = profile.bins(column)
    middle = (low + high) / 2.0
    where = np.searchsorted(_snapped(edges), middle, side="right")
    return np.bincount(where, weights=counts, minlength=len(edges) + 1).astype(np.float64)


def _snapped(edges: Sequence[float]) -> F8:
    """Edges as the bins have them, after they were rounded to be written."""
    known = np.unique(np.concatenate([LOW, HIGH]))
    values = np.asarray(edges, np.float64)
    at = np.clip(np.searchsorted(known, values), 1, len(known) - 1)
    nearer = np.abs(values - known[at - 1]) < np.abs(known[at] - values)
    snapped: F8 = known[np.where(nearer, at - 1, at)]
    return snapped


def _distance(
    edges: Sequence[float], counts: Sequence[int], profile: Profile, column: int
) -> float:
    """Wasserstein distance: the area between the two distribution functions, inside the edges."""
    if not counts:
        return float("nan")
    present = _counts_between(edges, profile, column)
    past = np.cumsum([0, *counts]) / max(sum(counts), 1)
    now = np.cumsum(present)[:-1] / max(present.sum(), 1.0)
    gap = np.abs(past - now)
    return float(((gap[1:] + gap[:-1]) / 2.0 * np.diff(_snapped(edges))).sum())


def _number(value: Any) -> float:  # noqa: ANN401  # of a JSON document
    return float("nan") if value is None else float(value)
