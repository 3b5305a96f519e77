"""The audit: every metric finds what is planted, at a value worked by hand, and nothing below.

The rows are a normal distribution's own quantiles, so that every column has the same scale, and
what is expected of them is computed here in plain numpy.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit.audit.limits import LIMITS
from featurekit.errors import DataError
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport

    Rows = NDArray[np.float64]

N, WIDTH = 6_000, 8
NAMES = [f"{block}.f{k}" for block in ("market", "position", "indicator") for k in range(WIDTH)]
F = len(NAMES)
GRID = np.array([NormalDist().inv_cdf((k + 0.5) / N) for k in range(N)])
NIGHT = {"night": '"market.f0" > 0', "day": '"market.f0" <= 0'}
AS_IT_IS = ScalingSpec(kind="none", squash="none")


def clean(seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.permutation(GRID) for _ in NAMES])


def frame(rows: Rows, *, timed: bool = False) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=NAMES)
    if not timed:
        return table
    hours = pl.Series("time", np.arange(len(rows)) * 3_600 * 10**9).cast(pl.Datetime("ns", "UTC"))
    return table.with_columns(hours, symbol=pl.lit("X"))


@dataclass(frozen=True)
class Case:
    """A metric, what plants it at a level, levels beyond and within its limit, and where it is."""

    metric: str
    severity: str
    limit: float
    plant: Callable[[Rows, Any], object]
    over: Any
    under: Any
    expected: Callable[[Rows], float]
    of: str = "market.f5"
    slice: str = ""
    scaling: ScalingSpec | None = None
    norm: bool = False
    slices: dict[str, str] = field(default_factory=dict)
    against: str = ""  # "whole": compared with clean rows; "rows": and joined with them
    within: float = 1e-5  # relative error of the value that is told

    def report(self, level: Any) -> tuple[AuditReport, Rows]:  # noqa: ANN401  # of the case
        rows = clean()
        self.plant(rows, level)
        table = frame(rows, timed=self.against == "rows")
        options: dict[str, Any] = {"slices": self.slices, "layer_norm": self.norm}
        if self.scaling is not None:
            options["scaling"] = Scaling.fit(Profile.of(rows, NAMES), self.scaling)
        if self.against:
            options["against"] = frame(clean(), timed=self.against == "rows")
        if self.metric == "unmatched rows":
            table = table.head(N - level)
        if self.metric == "missing column":
            table = table.drop(level)
        if self.metric == "new column":
            options["against"] = options["against"].drop(level)
        return fk.audit(table, **options), rows


def times(column: int | slice) -> Callable[[Rows, float], object]:
    def plant(rows: Rows, factor: float) -> None:
        rows[:, column] *= factor

    return plant


def put(column: int | slice, value: float) -> Callable[[Rows, int], object]:
    """So many rows at one value."""

    def plant(rows: Rows, count: int) -> None:
        rows[:count, column] = value

    return plant


def add(column: int | slice) -> Callable[[Rows, float], object]:
    def plant(rows: Rows, value: float) -> None:
        rows[:, column] += value

    return plant


def bend(rows: Rows, power: float) -> None:
    """Heavier tails, of the same deviation."""
    rows[:, 5] = np.sinh(power * rows[:, 5])
    rows[:, 5] /= rows[:, 5].std()


def pareto(rows: Rows, alpha: float) -> None:
    """Both tails of an exact Pareto distribution of this index around 0."""
    magnitude = ((np.arange(N // 2) + 0.5) / (N // 2)) ** (-1.0 / alpha)
    rows[:, 5] = np.random.default_rng(1).permutation(np.concatenate([magnitude, -magnitude]))


def overflowing(rows: Rows, value: float) -> None:
    rows[7, 5] = value


def constant_but(column: int | slice) -> Callable[[Rows, int], object]:
    """Constant but for so many rows."""

    def plant(rows: Rows, count: int) -> None:
        rows[count:, column] = 0.5

    return plant


def still_at_night(rows: Rows, count: int) -> None:
    night = np.flatnonzero(rows[:, 0] > 0.0)
    rows[night[count:], 20] = 0.5


def leaning(rows: Rows, factor: float) -> None:
    rows[:, 5] = np.where(rows[:, 5] > 0.0, factor, 1.0) * rows[:, 5]


def clipped(rows: Rows, count: int) -> None:
    np.minimum(rows[:, 5], GRID[N - count], out=rows[:, 5])


def louder_at_night(rows: Rows, factor: float) -> None:
    rows[rows[:, 0] > 0.0, 5] *= factor


def few_nights(rows: Rows, count: int) -> None:
    rows[:, 0] = np.where(np.arange(N) < count, 1.0, -1.0) * np.abs(rows[:, 0])


def louder_later(rows: Rows, factor: float) -> None:
    rows[N // 2 :, 5] *= factor


def spike(rows: Rows, value: float) -> None:
    rows[11, 5] = value


def one_direction(rows: Rows, rest: float) -> None:
    rows[:, 3:] = rows[:, :1] + rest * rows[:, 3:]


def by_hour(rows: Rows, count: int) -> None:
    rows[:count, 5] *= -1.0


def share(square: Rows, column: int = 5) -> float:
    return float(square[column] / square.sum())


def robust(column: Rows) -> float:
    low, high = np.quantile(column, [0.25, 0.75], method="inverted_cdf")
    return float(high - low) / 1.349


def quantiles(rows: Rows, *q: float) -> Rows:
    return np.quantile(rows[:, 5].astype(np.float32), q, method="inverted_cdf").astype(float)


def tail_weight(rows: Rows) -> float:
    a, b, c, d = quantiles(rows, 0.01, 0.25, 0.75, 0.99)
    return float((d - a) / (c - b) / 3.449)


def hill(rows: Rows) -> float:
    """On the largest 77 of 6,000 distances from the lower median, 2.5 standard errors up."""
    far = np.sort(np.abs(rows[:, 5] - quantiles(rows, 0.5)[0]))[::-1]
    return float(1.0 / np.log(far[:77] / far[77]).mean() * (1.0 + 2.5 / math.sqrt(77)))


def max_to_sum(rows: Rows) -> float:
    square = rows[:, 5] ** 2
    return float(square.max() / square.sum()) - (2.0 * math.log(N) + 6.0) / N


def block_share(rows: Rows) -> float:
    """A third of the features over their share of the squared norm."""
    square = (rows**2).mean(axis=0)
    return float(square.sum() / square[8:16].sum() / 3.0)


def block_scale(rows: Rows) -> float:
    scales = np.log([robust(column) for column in rows.T])
    return float(np.exp(scales.mean() - scales[8:16].mean()))


def effective(rows: Rows) -> float:
    square = (rows**2).mean(axis=0)
    return float(square.sum() ** 2 / (square**2).sum() / F)


def night_over_day(rows: Rows) -> float:
    night = rows[:, 0] > 0.0
    return math.log2(robust(rows[night, 5]) / robust(rows[~night, 5]))


def drift(rows: Rows) -> float:
    whole = robust(rows[:, 5])
    return max(abs(math.log2(robust(part) / whole)) for part in np.split(rows[:, 5], 12))


def conditioning(rows: Rows) -> float:
    covariance, correlation = np.cov(rows.T), np.corrcoef(rows.T)
    return float(np.linalg.cond(covariance) / np.linalg.cond(correlation))


def entropy_rank(rows: Rows) -> float:
    singular = np.linalg.svd(rows, compute_uv=False)
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()) / F)


def dead_units(rows: Rows) -> float:
    """Of 20,000 random units; of 512 others a share of .4 is within .05 of it (2.3 errors)."""
    rng = np.random.default_rng(9)
    weights, bias = rng.uniform(-1, 1, (F, 20_000)) / F**0.5, rng.uniform(-1, 1, 20_000) / F**0.5
    fires = (rows[:500] @ weights + bias > 0.0).mean(axis=0)
    return float((fires < 0.01).mean())


def squash(rows: Rows) -> float:
    import torch

    normal = torch.nn.functional.layer_norm(torch.tensor(rows), (F,)).numpy()
    return float(np.median(rows.std(axis=0) / normal.std(axis=0)))


def psi(rows: Rows) -> float:
    """Over the tenths of the reference."""
    edges = np.quantile(GRID, np.arange(1, 10) / 10)
    now = np.bincount(np.searchsorted(edges, rows[:, 5]), minlength=10) / N
    return float(((now - 0.1) * np.log(now / 0.1)).sum())


SIGMA = robust(GRID)
CASES = [
    Case("non-finite", "fail", 0, put(5, np.nan), 3, 0, lambda _: 3 / N),
    Case("non-finite", "fail", 0, put(5, np.inf), 2, 0, lambda _: 2 / N),
    Case("non-finite", "fail", 0, put(5, -np.inf), 1, 0, lambda _: 1 / N),
    Case("overflow", "fail", 0, overflowing, 1e300, 3e38, lambda _: 1 / N),
    Case("dead", "fail", 0, constant_but(5), 0, 1, lambda _: 1.0),
    Case("dead block", "warn", 0, constant_but(slice(8, 16)), 0, 1, lambda _: 1, "block position"),
    Case(
        "dead in slice",
        "warn",
        0,
        still_at_night,
        0,
        1,
        lambda _: 1.0,
        "indicator.f4",
        slice="night",
        slices=NIGHT,
    ),
    Case("near-constant", "warn", 0.95, put(5, 1.5), 5_701, 5_699, lambda _: 5_701 / N),
    Case("zeros", "warn", 0.5, put(5, 0.0), 3_001, 2_999, lambda _: 3_001 / N),
    Case("zeros", "fail", 0.95, put(5, 0.0), 5_701, 2_999, lambda _: 5_701 / N),
    # Neighbouring float32 around 4e6 are 1/4 apart, around 1e7 they are 1.
    Case("resolution", "warn", 16, add(5), 4e6, 1e6, lambda t: 8 * robust(t[:, 5].astype("f4"))),
    Case("resolution", "fail", 4, add(5), 1e7, 1e6, lambda t: 2 * robust(t[:, 5].astype("f4"))),
    Case("norm share", "fail", 0.25, times(5), 2.8, 2.7, lambda t: share((t**2).mean(axis=0))),
    Case("norm lift", "warn", 10, times(5), 4.1, 4.0, lambda t: F * share((t**2).mean(axis=0))),
    Case("centred share", "fail", 0.25, times(5), 2.8, 2.7, lambda t: share(t.var(axis=0))),
    Case(
        "row share",
        "fail",
        0.25,
        times(5),
        3.4,
        3.1,
        lambda t: share((t**2 / (t**2).sum(axis=1, keepdims=True)).mean(axis=0)),
    ),
    Case("effective features", "warn", 0.25, times(5), 3.9, 3.6, effective, "all features"),
    Case("effective features", "fail", 0.10, times(5), 7.0, 3.6, effective, "all features"),
    Case("scale outlier", "warn", 1, times(5), 0.09, 0.11, lambda _: -math.log10(0.09)),
    Case("scale outlier", "fail", 2, times(5), 101.0, 9.9, lambda _: math.log10(101)),
    Case("tail weight", "warn", 1.5, bend, 1.0, 0.6, tail_weight),
    Case("tail weight", "fail", 3, bend, 1.7, 0.6, tail_weight),
    Case("tail index", "warn", 4, pareto, 2.6, 3.6, hill),
    Case("tail index", "fail", 2, pareto, 1.4, 3.6, hill),
    Case("max-to-sum", "warn", 0.01, spike, 9.3, 9.0, max_to_sum),
    Case("max-to-sum", "fail", 0.1, spike, 26.6, 9.0, max_to_sum),
    Case("spread ratio", "warn", 2, bend, 1.3, 0.9, lambda t: t[:, 5].std() / robust(t[:, 5])),
    Case("spread ratio", "fail", 5, bend, 1.9, 0.9, lambda t: t[:, 5].std() / robust(t[:, 5])),
    # The upper quartile is c times as far as the lower one: (c - 1) / (c + 1).
    Case("quantile skew", "warn", 0.5, leaning, 3.1, 2.9, lambda _: 2.1 / 4.1, within=2e-3),
    Case("pile-up", "warn", 0.05, clipped, 303, 297, lambda _: 303 / N),
    Case("block share", "warn", 3, times(slice(8, 16)), 0.48, 0.52, block_share, "block position"),
    Case("block share", "fail", 10, times(slice(8, 16)), 0.25, 0.52, block_share, "block position"),
    Case("block scale", "warn", 3, times(slice(8, 16)), 0.19, 0.20, block_scale, "block position"),
    Case("block scale", "fail", 10, times(slice(8, 16)), 0.03, 0.20, block_scale, "block position"),
    Case("conditional scale", "warn", 1, louder_at_night, 2.2, 1.8, night_over_day, slices=NIGHT),
    Case("conditional scale", "fail", 3, louder_at_night, 9.0, 1.8, night_over_day, slices=NIGHT),
    Case("scale drift", "warn", 1, louder_later, 8.0, 1.8, drift, within=0.05),
    Case("conditioning", "fail", 1e4, times(5), 0.008, 0.012, conditioning, "all features"),
    Case(
        "weakest block",
        "fail",
        0.05,
        times(slice(8, 16)),
        0.32,
        0.33,
        lambda t: t[:, 8:16].var(axis=0).sum() / t.var(axis=0).sum(),
        "block position",
        scaling=AS_IT_IS,
    ),
    Case(
        "dominance",
        "fail",
        0.30,
        times(5),
        3.15,
        3.12,
        lambda t: share((t**2).mean(axis=0)),
        scaling=AS_IT_IS,
    ),
    Case(
        "starved features",
        "fail",
        0.08,
        lambda t, columns: times(slice(0, columns))(t, 0.09),
        2,
        1,
        lambda _: 2 / 24,
        "all features",
        scaling=AS_IT_IS,
    ),
    # Each mean m over a deviation of 1.
    Case("offset", "fail", 1, add(slice(0, F)), 1.01, 0.99, lambda _: 1.01, "all features",
         scaling=AS_IT_IS, within=1e-3),
    Case("entropy rank", "warn", 0.45, one_direction, 0.10, 0.30, entropy_rank, "all features",
         scaling=AS_IT_IS),
    Case("dead at initialisation", "warn", 0.05, add(slice(0, F, 2)), 9.0, 0.1, dead_units,
         "all features", scaling=AS_IT_IS, within=0.12),
    Case("layer_norm squash", "warn", 3, times(slice(0, 4)), 14.0, 11.0, squash, "all features",
         scaling=AS_IT_IS, norm=True),
    Case("unrepresentative", "warn", 1_000, few_nights, 999, 1_000,
         lambda _: 999.0, "all features", "night", slices=NIGHT),
    Case("scale change", "warn", 0.5, times(5), 1.45, 1.38, lambda _: math.log2(1.45),
         against="whole"),
    Case("scale change", "fail", 1, times(5), 0.45, 1.38, lambda _: -math.log2(0.45),
         against="whole"),
    Case("median shift", "warn", 0.25, add(5), 0.3, 0.2, lambda _: 0.3 / SIGMA, against="whole",
         within=0.01),
    Case("median shift", "fail", 0.5, add(5), -0.6, 0.2, lambda _: 0.6 / SIGMA, against="whole",
         within=0.01),
    Case("shape drift", "warn", 0.1, add(5), 0.4, 0.25, psi, against="whole", within=0.15),
    Case("shape drift", "fail", 0.25, add(5), 0.7, 0.25, psi, against="whole", within=0.15),
    # What is moved by d is that far from where it was.
    Case("shape distance", "warn", 0.1, add(5), 0.15, 0.08, lambda _: 0.15 / SIGMA,
         against="whole", within=0.1),
    Case("shape distance", "fail", 0.25, add(5), 0.3, 0.08, lambda _: 0.3 / SIGMA,
         against="whole", within=0.1),
    Case("mismatch", "fail", 0, by_hour, 1, 0, lambda _: 1 / N, against="rows"),
    Case("unit change", "fail", 0, times(5), 100.0, 1.005, lambda _: math.log2(100),
         against="rows"),
    Case("unmatched rows", "warn", 0.01, lambda _, count: count, 61, 59, lambda _: 61 / N,
         "all features", against="rows"),
    Case("missing column", "fail", 0, lambda _, name: name, "market.f5", [], lambda _: 1.0,
         against="whole"),
    Case("new column", "warn", 0, lambda _, name: name, "market.f5", [], lambda _: 1.0,
         against="whole"),
]  # fmt: skip


def told_by(case: Case) -> str:
    return f"{case.metric}-{case.severity}"


@pytest.mark.parametrize("case", CASES, ids=told_by)
def test_what_is_planted_is_found_where_it_is(case: Case) -> None:
    report, rows = case.report(case.over)
    found = [f for f in report.findings if f.metric == case.metric]
    (first,) = (f for f in found if (f.of, f.slice) == (case.of, case.slice))
    value = case.expected(rows)
    assert first.value == pytest.approx(value, rel=case.within)
    assert (value < case.limit) if LIMITS[case.metric].low else (value > case.limit)
    assert (first.severity, first.limit) == (case.severity, case.limit)
    low, high = sorted([abs(first.value), case.limit])
    assert first.margin == pytest.approx(min(high / low if low else math.inf, 1e12))
    assert first.why
    assert first.fix
    assert report.verdict == ("fail" if case.severity == "fail" else report.verdict)


@pytest.mark.parametrize(
    "case", {(case.metric, str(case.under)): case for case in CASES}.values(), ids=told_by
)
def test_just_within_the_limit_it_is_silent(case: Case) -> None:
    report, _ = case.report(case.under)
    assert [f for f in report.findings if f.metric == case.metric] == []


@pytest.mark.parametrize("metric", LIMITS)
def test_every_fix_is_a_line_of_yaml(metric: str) -> None:
    document = yaml.safe_load(LIMITS[metric].fix.replace("FEATURE", "a.x"))
    assert document is None or set(document) <= {"scaling", "audit", "slices", "splits", "fills"}


def test_every_metric_is_planted() -> None:
    assert {case.metric for case in CASES} == set(LIMITS)


@pytest.mark.parametrize("spec", [None, ScalingSpec(), AS_IT_IS], ids=["bare", "scaled", "as is"])
def test_clean_rows_pass(spec: ScalingSpec | None) -> None:
    scaling = None if spec is None else Scaling.fit(Profile.of(clean(), NAMES), spec)
    report = fk.audit(frame(clean()), scaling=scaling, slices=NIGHT)
    assert (report.verdict, report.findings, report.repaired) == ("pass", (), ())
    assert report.effective == pytest.approx(F, rel=1e-3)
    assert {column["status"] for column in report.columns} == {"ok"}
    assert not any(map(report.breaches, ("warn", "fail", "never")))


# --- what is judged, and where -------------------------------------------------------------------


def metrics(report: AuditReport, feature: str = "") -> set[str]:
    return {f.metric for f in report.findings if feature in ("", f.feature)}


def test_shares_are_worked_by_hand() -> None:
    # Mean squares of 1 and 9 in two columns each: shares of 5% and 45%.
    rows = np.tile([[1.0, 1.0, 3.0, 3.0], [-1.0, -1.0, -3.0, -3.0]], (100, 1))
    report = fk.audit(rows)
    assert report.effective == pytest.approx(1 / (2 * 0.05**2 + 2 * 0.45**2))
    # Without the largest 1, 1 and 9 are left.
    assert report.peeled[1].effective == pytest.approx(11**2 / (1 + 1 + 81))
    assert [peel.without for peel in report.peeled] == ["", "x2", "x3", "x0"]


def test_among_scales_of_all_sizes_none_is_an_outlier() -> None:
    # A decade and more from the median, but so are others: z is 1.35/(1.4826 * 0.75) = 1.2.
    rows = clean() * np.logspace(-1.5, 1.5, F)
    assert "scale outlier" not in metrics(fk.audit(frame(rows)))


@pytest.mark.parametrize("sign", ["> 0", "<= 0"])
def test_zeros_are_judged_where_a_feature_lives(sign: str) -> None:
    rows = clean()
    rows[rows[:, 0] > 0.0, 8] = 0.0
    rows[:300, 8] = 0.0
    assert "zeros" in metrics(fk.audit(frame(rows)))
    assert "zeros" not in metrics(fk.audit(frame(rows), slices={"one": f'"market.f0" {sign}'}))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_of_few_features_each_may_have_a_large_share(width: int) -> None:
    assert fk.audit(clean()[:, :width]).verdict == "pass"


def test_a_slice_may_be_constant_in_what_it_is_a_condition_on() -> None:
    rows = clean()
    rows[:, 0] = np.sign(rows[:, 0])
    plain = pl.DataFrame(rows, schema=[name.replace(".", "_") for name in NAMES])
    report = fk.audit(plain, slices={"up": "market_f0 = 1", "down": "market_f0 = -1"})
    assert "dead in slice" not in metrics(report)


def test_a_pair_that_is_one_feature_is_named() -> None:
    rows = clean()
    rows[:, 3], rows[:, 9] = -2.0 * rows[:, 20], rows[:, 1] + 0.2 * rows[:, 9]
    (pair,) = fk.audit(frame(rows)).redundant
    assert pair[:2] == ("market.f3", "indicator.f4")
    assert pair[2] == pytest.approx(-1.0)


@pytest.mark.parametrize("constant", [0.1, 1e-3, 1e7])
def test_a_constant_has_no_say_in_the_conditioning(constant: float) -> None:
    rows = clean()
    rows[:, 20] = constant
    assert metrics(fk.audit(frame(rows))) <= {"dead", *SIZES}


SIZES = {
    "norm share", "norm lift", "row share", "effective features", "scale outlier", "offset",
    "dominance", "starved features", "block share", "dead at initialisation", "entropy rank",
    "weakest block",
}  # fmt: skip


def test_the_worst_comes_first() -> None:
    rows = clean()
    rows[:, 5] *= 100.0
    rows[:, 9] = 4.0
    report = fk.audit(frame(rows))
    keys = [({"fail": 0, "warn": 1}[f.severity], -f.margin) for f in report.findings]
    assert len(keys) > 3
    assert keys == sorted(keys)


# --- what mends it -------------------------------------------------------------------------------


def test_the_scaling_repairs_and_is_named() -> None:
    rows = clean()
    rows[:, 5] *= 1e4
    bare = fk.audit(frame(rows))
    fitted = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec())
    scaled = fk.audit(frame(rows), scaling=fitted)
    assert (bare.verdict, bare.repaired, scaled.verdict) == ("fail", (), "pass")
    repaired = {(f.metric, f.feature) for f in scaled.repaired}
    of_scaling = {(f.metric, f.feature) for f in bare.findings} - {
        (metric, feature)
        for metric in ("dominance", "starved features", "entropy rank", "dead at initialisation")
        for feature in ("", "market.f5")
    }
    assert repaired == of_scaling - {("weakest block", "")}
    assert {f.repaired_by for f in scaled.repaired} == {"scaling, fitted on train, asinh"}
    assert {f.repaired_by for f in bare.findings} == {""}
    (told,) = (c for c in scaled.columns if c["repaired"])
    assert (told["name"], told["status"]) == ("market.f5", "ok")


def _planted_scales() -> Rows:
    """Scales, tails and offsets of many kinds."""
    rows = clean()
    rows[:, 1] *= 1e4
    rows[:, 4] *= 1e-4
    rows[:, 8:16] *= 50.0
    rows[:, 17] = np.sinh(2.0 * rows[:, 17])
    rows[:, 20] = np.where(rows[:, 20] > 3.2, 1e5, rows[:, 20] * 1e-2)
    rows[:, 21] += 40.0
    return rows


def _applied(spec: ScalingSpec, fix: str) -> ScalingSpec:
    """A pipeline's scaling with a line of YAML added to it."""
    given = yaml.safe_load(fix)["scaling"]
    features = dict(spec.features)
    for name, treatment in given.pop("features", {}).items():
        known = features.get(name, Treatment())
        features[name] = replace(known, **treatment)
    return replace(spec, features=features, **given)


def test_what_is_advised_mends_it() -> None:
    """Each scaling that a finding advises is applied, until none is: then there is none left."""
    rows = _planted_scales()
    profile, spec = Profile.of(rows, NAMES), AS_IT_IS
    advised = []
    for _ in range(6):
        report = fk.audit(frame(rows), scaling=Scaling.fit(profile, spec), layer_norm=True)
        fixes = [f.fix for f in report.findings if f.fix.startswith("scaling: ")]
        advised.append(len(report.findings))
        for fix in dict.fromkeys(fixes):
            spec = _applied(spec, fix)
        if not fixes:
            break
    assert advised[0] > 20
    assert [f for f in report.findings if f.fix.startswith("scaling: ")] == []
    assert report.verdict != "fail"
    # What is left, a feature that lives in its tail, is told to be left out or known.
    assert {f.feature for f in report.findings} <= {"indicator.f4", "indicator.f1"}


def test_of_a_bare_table_the_line_is_a_scaling_of_all() -> None:
    rows = _planted_scales()
    finding = next(f for f in fk.audit(frame(rows)).findings if f.metric == "norm share")
    spec = _applied(AS_IT_IS, finding.fix)
    scaled = fk.audit(frame(rows), scaling=Scaling.fit(Profile.of(rows, NAMES), spec))
    assert "norm share" not in metrics(scaled)


def test_robust_is_not_advised_where_it_cannot_divide() -> None:
    rows = clean()
    rows[:, 5] = np.where(np.abs(rows[:, 5]) < 1.0, 0.0, rows[:, 5] ** 9)
    fitted = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec())
    report = fk.audit(frame(rows), scaling=fitted)
    fixes = {f.fix for f in report.findings if f.feature == "market.f5"}
    assert fixes
    assert not any("robust" in fix for fix in fixes)


# --- the report ----------------------------------------------------------------------------------


def seven_digits(text: str) -> float:
    """Further ones would tell the order apart in which a sum was added up."""
    assert float(f"{float(text):.7g}") == float(text)
    return float(text)


def test_json_is_the_same_bytes_twice_and_holds_no_infinity() -> None:
    rows = clean()
    rows[:, 8:16] = 0.0
    rows[0, 0] = np.inf
    one, two = fk.audit(frame(rows)).to_json(), fk.audit(frame(rows.copy())).to_json()
    assert one == two
    document = json.loads(one, parse_float=seven_digits, parse_constant=pytest.fail)
    assert document["version"] == 2
    assert document["verdict"] == "fail"
    assert document["counts"]["fail"] == sum(f["severity"] == "fail" for f in document["findings"])


def test_no_rows_are_no_pass() -> None:
    with pytest.raises(DataError, match="no rows"):
        fk.audit(clean()[:0])
