"""Scaling: fitted on the train profile alone, named where it cannot scale, kept bit for bit."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pytest

from featurekit.errors import ConfigError, DataError, DatasetError, UnrepresentativeWarning
from featurekit.profile import Profile
from featurekit.scaling import BOUND, NORMAL_IQR, Kind, Scaling, ScalingSpec, Squash, Treatment

NAMES = ("a.x", "a.y", "b.z")
ROWS = np.random.default_rng(0).normal([0.0, 5.0, -1e4], [1e-3, 2.0, 1e6], (5000, 3))
ROWS32 = ROWS.astype(np.float32).astype(np.float64)


def fitted(spec: ScalingSpec) -> Scaling:
    return Scaling.fit(Profile.of(ROWS, NAMES), spec)


def test_standard_is_mean_and_standard_deviation() -> None:
    scaling = fitted(ScalingSpec(squash="none"))
    np.testing.assert_allclose(scaling.center, ROWS32.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(scaling.scale, ROWS32.std(axis=0), rtol=1e-9)
    got = scaling.apply(ROWS32)
    expected = (ROWS32 - ROWS32.mean(axis=0)) / ROWS32.std(axis=0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_robust_is_median_and_quartiles_within_the_bound() -> None:
    scaling = fitted(ScalingSpec(kind="robust", squash="none"))
    low, middle, high = np.quantile(ROWS32, [0.25, 0.5, 0.75], axis=0)
    # A quantile is off by at most 1/32 of its value.
    bound = (np.abs(low) + np.abs(high)) / 32
    np.testing.assert_array_less(np.abs(scaling.center - middle), np.abs(middle) / 32 + 1e-30)
    np.testing.assert_array_less(np.abs(scaling.scale * NORMAL_IQR - (high - low)), bound)


def test_asinh_comes_after() -> None:
    plain, squashed = fitted(ScalingSpec(squash="none")), fitted(ScalingSpec())
    np.testing.assert_allclose(
        squashed.apply(ROWS32), np.arcsinh(plain.apply(ROWS32).astype(np.float64)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("feature", "expected"),
    [("a.x", ("none", "asinh")), ("a.y", ("robust", "none")), ("b.z", ("standard", "asinh"))],
)
def test_features_override_blocks_override_the_whole(
    feature: str, expected: tuple[Kind, Squash]
) -> None:
    spec = ScalingSpec(
        blocks={"a": Treatment(kind="none")},
        features={"a.y": Treatment(kind="robust", squash="none")},
    )
    assert spec.of(feature) == expected


def test_none_leaves_a_feature_as_it_is() -> None:
    scaling = fitted(ScalingSpec(kind="none", squash="none"))
    np.testing.assert_array_equal(scaling.apply(ROWS32), ROWS32.astype(np.float32))
    assert scaling.scaled == ()


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_constants_are_named_and_centred(kind: Kind) -> None:
    # The last is a constant but for the rounding of float32.
    rounding = np.float32(0.1) + np.array([0, 1, 0, 0], np.float32) * np.float32(7e-9)
    rows = np.stack([np.full(4, 7.0), np.array([1.0, 2.0, 3.0, 4.0]), rounding], axis=1)
    scaling = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(kind=kind, squash="none"))
    assert scaling.constant == ("a.x", "b.z")
    assert scaling.apply(rows)[:, 0].tolist() == [0.0] * 4


def test_a_constant_stays_0_whatever_it_is_later() -> None:
    rows = np.stack([np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)], axis=1)
    scaling = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec())
    later = scaling.apply(np.array([[1e5, 2.5, -3.0]]))
    assert later[0, [0, 2]].tolist() == [0.0, 0.0]
    assert np.isnan(scaling.apply(np.array([[np.nan, 1.0, np.inf]]))[0, [0, 2]]).all()


@pytest.mark.parametrize(("zeros", "spread"), [(0.3, True), (0.8, False)])
def test_zero_inflated_features_are_named_and_keep_a_scale_of_theirs(
    zeros: float, spread: bool
) -> None:
    rows = ROWS.copy()
    rows[: int(zeros * len(rows)), 1] = 0.0
    profile = Profile.of(rows, NAMES)
    scaling = Scaling.fit(profile, ScalingSpec(kind="robust"))
    assert scaling.inflated == ("a.y",)
    iqr = (profile.quantile(0.75) - profile.quantile(0.25))[1]
    assert scaling.scale[1] == (iqr / NORMAL_IQR if spread else profile.std[1])
    assert scaling.center[1] == profile.quantile(0.5)[1]


def test_quartiles_that_coincide_elsewhere_than_0_are_named_too() -> None:
    rows = ROWS.copy()
    rows[: 4 * len(rows) // 5, 1] = 1.0
    assert Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(kind="robust")).inflated == ("a.y",)


@pytest.mark.parametrize(("active", "thin"), [(999, ("a.y",)), (1000, ())])
def test_fewer_than_1000_active_rows_are_warned_of(active: int, thin: tuple[str, ...]) -> None:
    rows = ROWS.copy()
    rows[active:, 1] = 0.0
    profile = Profile.of(rows, NAMES)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scaling = Scaling.fit(profile, ScalingSpec())
    assert scaling.thin == thin
    assert [each.category for each in told] == [UnrepresentativeWarning] * len(thin)
    if thin:
        assert "999 of a.y" in str(told[0].message)
        assert "Fix: splits:" in str(told[0].message)


def test_the_smooth_clip_is_the_identity_near_0_and_bounded() -> None:
    plain = fitted(ScalingSpec(squash="none")).apply(ROWS32).astype(np.float64)
    clipped = fitted(ScalingSpec(squash="clip")).apply(ROWS32)
    np.testing.assert_allclose(clipped, plain / np.sqrt(1 + (plain / 3) ** 2), atol=1e-6)
    assert np.abs(clipped).max() <= BOUND


@pytest.mark.parametrize(
    "spec",
    [
        ScalingSpec(blocks={"c": Treatment(kind="none")}),
        ScalingSpec(features={"a.q": Treatment(kind="none")}),
    ],
)
def test_names_that_there_are_not_are_told(spec: ScalingSpec) -> None:
    with pytest.raises(ConfigError, match="that there is not"):
        fitted(spec)


def test_no_rows_fit_nothing() -> None:
    with pytest.raises(DataError, match="none"):
        Scaling.fit(Profile.empty(NAMES), ScalingSpec())


def test_a_frame_and_an_array_are_scaled_alike() -> None:
    scaling = fitted(ScalingSpec())
    frame = pl.DataFrame(ROWS32, schema=list(NAMES)).with_columns(symbol=pl.lit("X"))
    scaled = scaling.apply_frame(frame)
    assert scaled["symbol"].to_list() == frame["symbol"].to_list()
    np.testing.assert_array_equal(scaled.select(NAMES).to_numpy(), scaling.apply(ROWS32))
    with pytest.raises(DataError, match=r"a\.y"):
        scaling.apply_frame(frame.drop("a.y"))


def test_json_keeps_every_bit() -> None:
    scaling = fitted(ScalingSpec(features={"a.x": Treatment(squash="none")}))
    rows = ROWS.copy()
    rows[1:, 2] = 0.0
    thin = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(squash="clip"))
    assert Scaling.from_json(thin.to_json()).to_json() == thin.to_json()
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    for name in ("center", "scale", "squash"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scaling, name))
    assert (again.names, again.constant) == (scaling.names, scaling.constant)
    before = scaling.to_json() | {"squash": [False, True, True]}  # as datasets had it
    assert Scaling.from_json({k: v for k, v in before.items() if k != "thin"}).squashes == "asinh"


@pytest.mark.parametrize(
    "change", [{"names": ["a"]}, {"scale": "x"}, {"center": None}, {"constant": 3}]
)
def test_a_damaged_scaling_is_told(change: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match="scaling"):
        Scaling.from_json(fitted(ScalingSpec()).to_json() | change)
