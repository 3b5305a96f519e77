"""What the audit advises was tried: applied, the finding is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit.conditions import MOST, Conditions
from featurekit.errors import ConfigError
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport

    Rows = NDArray[np.float64]

NAMES = [f"{block}.f{k}" for block in ("market", "indicator") for k in range(6)]
N = 6_000
LINEAR = ScalingSpec(kind="standard", squash="none")
NONE = ScalingSpec(kind="none", squash="none")
SQUASHED = ScalingSpec()


def rows_with(column: Callable[[Rows], Rows]) -> Rows:
    """Normal rows (simulated), one column changed."""
    table = np.random.default_rng(3).normal(size=(N, len(NAMES)))
    table[:, 2] = column(table[:, 2])
    return table


def judged(table: Rows, spec: ScalingSpec) -> AuditReport:
    scaling = Scaling.fit(Profile.of(table, NAMES), spec)
    return fk.audit(pl.DataFrame(table, schema=NAMES), scaling=scaling, layer_norm=False)


def with_fix(spec: ScalingSpec, document: dict[str, Any]) -> ScalingSpec:
    features = {name: Treatment(**how) for name, how in document["scaling"]["features"].items()}
    return ScalingSpec(spec.kind, spec.squash, features=features)


CASES = {
    "tails are squashed": (lambda x: np.sinh(1.6 * x), LINEAR, "tail weight"),
    "the largest is squashed": (lambda x: np.append(x[1:], 60.0), LINEAR, "max-to-sum"),
    "no scale at all": (lambda x: 1e3 * x, NONE, "norm share"),
    "a spike hides the bulk": (
        lambda x: np.where(np.abs(x) > 2.6, 1e4 * x, 1e-2 * x), LINEAR, "scale outlier",
    ),
    "robust lets tails through": (
        lambda x: np.where(np.abs(x) > 2.6, 1e4 * x, x),
        ScalingSpec(kind="robust", squash="none"), "norm share",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_scaling_that_is_advised_mends_it(case: str) -> None:
    change, spec, metric = CASES[case]
    table = rows_with(change)
    (found,) = (f for f in judged(table, spec).findings if f.metric == metric)
    assert found.feature == "market.f2"
    document = yaml.safe_load(found.fix)
    assert set(document) == {"scaling"}, found.fix
    again = judged(table, with_fix(spec, document)).findings
    assert (metric, found.feature) not in {(f.metric, f.feature) for f in again}


def test_what_no_scaling_mends_is_a_limit_or_a_feature_less() -> None:
    table = rows_with(lambda x: np.where(x > 0.0, 6.0 * x, 0.2 * x))
    (found,) = (f for f in judged(table, SQUASHED).findings if f.metric == "quantile skew")
    limits = yaml.safe_load(found.fix)["audit"]["limits"]
    assert limits["quantile skew"]["features"]["market.f2"]["warn"] > found.value
    assert found.fix.endswith("# or leave market.f2 out")


def test_slices_are_few_and_a_value_that_is_not_known_is_in_none() -> None:
    many = {f"s{k}": f'"a" > {k}' for k in range(MOST + 1)}
    with pytest.raises(ConfigError, match="too many slices"):
        Conditions(many, ["a"])
    several = dict(list(many.items())[:MOST])
    rows = np.array([[100.0], [np.nan], [-1.0]], np.float32)
    assert Conditions(several, ["a"]).of(rows).tolist() == [(1 << MOST) - 1, 0, 0]
    other = Conditions({"not": '"a" != 0', "up": '"a" > 0'}, ["a"])
    assert other.of(rows).tolist() == [3, 0, 1]


def test_few_rows_are_no_silent_pass_and_their_slice_does_not_fail() -> None:
    table = np.random.default_rng(0).normal(size=(50, 3))
    (found,) = fk.audit(table).findings
    assert (found.metric, found.severity, found.slice) == ("unrepresentative", "warn", "")
    table = np.random.default_rng(0).normal(size=(4_000, 6))
    table[:300] += 4.0  # a slice of its own, with an offset that would fail
    frame = pl.DataFrame(table, schema=[f"a.x{k}" for k in range(6)])
    report = fk.audit(frame, slices={"rare": '"a.x0" > 2.9'}, layer_norm=False)
    rare = {f.metric: f.severity for f in report.findings if f.slice == "rare"}
    assert rare["offset"] == rare["unrepresentative"] == "warn"


def test_the_limits_shown_are_those_it_was_judged_with() -> None:
    table = np.random.default_rng(0).normal(size=(2_000, 6))
    checks = fk.audit(table).columns[0]["checks"]
    assert checks["norm share"]["fail"] == pytest.approx(2 / 6)
    assert checks["tail weight"]["fail"] == 3.0
    (column, *_) = judged(np.random.default_rng(0).normal(size=(N, 12)), SQUASHED).columns
    assert np.isnan(column["checks"]["tail weight"]["fail"])  # it warns, once it is scaled
