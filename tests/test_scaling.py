"""Scaling: fitted on the train profile alone, named where it cannot scale, kept bit for bit."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from featurekit.errors import ConfigError, DataError, DatasetError
from featurekit.profile import Profile
from featurekit.scaling import NORMAL_IQR, Kind, Scaling, ScalingSpec, Squash, Treatment

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


def test_zero_inflated_features_are_refused_under_robust() -> None:
    rows = ROWS.copy()
    rows[: 4 * len(rows) // 5, 1] = 0.0
    with pytest.raises(ConfigError, match=r"a\.y") as told:
        Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(kind="robust"))
    assert "80% zeros" in str(told.value)
    assert "blocks: {a: {kind: standard}}" in str(told.value)
    mended = ScalingSpec(kind="robust", blocks={"a": Treatment(kind="standard")})
    assert Scaling.fit(Profile.of(rows, NAMES), mended).scale[1] == pytest.approx(
        Profile.of(rows).std[1]
    )


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
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    for name in ("center", "scale", "squash"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scaling, name))
    assert (again.names, again.constant) == (scaling.names, scaling.constant)


@pytest.mark.parametrize(
    "change", [{"names": ["a"]}, {"scale": "x"}, {"center": None}, {"constant": 3}]
)
def test_a_damaged_scaling_is_told(change: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match="scaling"):
        Scaling.from_json(fitted(ScalingSpec()).to_json() | change)
