"""Views: what the model would meet, and every statistic of it, on rows worked by hand."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from featurekit.audit.model import ModelView, model_view
from featurekit.audit.rules import level_of
from featurekit.audit.scales import effective_features, tail_weight
from featurekit.audit.slices import independent_rows
from featurekit.audit.views import (
    PROBABILITIES,
    View,
    inflated,
    layer_norm,
    natural_view,
    row_shares,
    scaled_view,
)
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

NORMAL = np.array([NormalDist().inv_cdf((k + 0.5) / 10_000) for k in range(10_000)])


def view_of(rows: np.ndarray) -> View:
    rows = rows.astype(np.float32)
    profile = Profile.of(rows)
    return natural_view(profile, rows, inflated(profile))


def met(rows: np.ndarray, blocks: str, *, norm: bool = False) -> ModelView:
    view = model_view(rows.astype(np.float32), np.array(list(blocks)), norm=norm)
    assert view is not None
    return view


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4, 1e15])
@pytest.mark.parametrize("width", [2, 129])
def test_layer_norm_is_torchs(scale: float, width: int) -> None:
    rows = np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)
    rows = (rows + 3.0) * np.float32(scale)
    exact = torch.nn.functional.layer_norm(torch.tensor(rows, dtype=torch.float64), (width,))
    np.testing.assert_allclose(layer_norm(rows), exact.numpy(), atol=1e-5)


def test_layer_norm_of_equal_values_is_0() -> None:
    np.testing.assert_array_equal(layer_norm(np.full((2, 5), 7.0, np.float32)), 0.0)


def test_a_share_of_a_row_is_worked_by_hand() -> None:
    # 9 of 25 and 16 of 25; all of the second; none of a row of zeros; the hole does not count.
    rows = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0], [np.nan, 1.0]], np.float32)
    np.testing.assert_allclose(row_shares(rows), [0.36 / 3, 1.64 / 3])


# --- the model -----------------------------------------------------------------------------------

SIGNS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # two orthogonal columns


def test_the_weakest_block_is_worked_by_hand() -> None:
    # Variances 1, 1 | 4: shares of 2/6 and 4/6; 1 | 1 + 4: the first.
    rows = np.column_stack([SIGNS, 2.0 * SIGNS[:, 0]])
    view = met(rows, "aab")
    assert (view.weakest, view.weakest_block) == ("a", pytest.approx(1 / 3))
    view = met(rows, "abb")
    assert (view.weakest, view.weakest_block) == ("a", pytest.approx(1 / 6))
    assert met(rows, "aaa").weakest_block is None


def test_dominance_starved_and_offset_are_worked_by_hand() -> None:
    # Mean squares 1, 9 + 16, 0.01: the root of their mean is 2.94, a tenth of it is above 0.1.
    rows = np.column_stack([SIGNS[:, 0], 4.0 + 3.0 * SIGNS[:, 1], 0.1 * SIGNS[:, 0] * SIGNS[:, 1]])
    view = met(rows, "aaa")
    assert view.largest == 1
    assert view.dominance == pytest.approx(25 / 26.01)
    assert view.starved == pytest.approx(1 / 3)
    assert view.offset == pytest.approx(math.sqrt(16 / 10.01))
    np.testing.assert_allclose(view.shares, np.array([1, 25, 0.01]) / 26.01, rtol=1e-6)


def test_a_block_that_is_constant_on_these_rows_is_not_judged() -> None:
    rows = np.column_stack([SIGNS, np.full((4, 2), 1e6)])
    view = met(rows, "aabb")
    assert view.weakest_block is None
    assert view.dominance == pytest.approx(0.5)
    assert view.starved == 0.0
    assert model_view(np.full((4, 2), 3.0, np.float32), np.array(["a", "a"]), norm=False) is None
    assert model_view(np.full((4, 2), np.nan, np.float32), np.array(["a", "a"]), norm=True) is None


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_the_entropy_rank_counts_orthogonal_directions(rank: int) -> None:
    # Columns of a Fourier basis, as many of one size and the rest 0.
    k = np.arange(64)
    rows = np.column_stack([np.cos(2 * np.pi * k * f / 64) for f in range(1, 9)])
    rows[:, rank:] = 0.0
    assert met(rows, "abcdefgh").entropy_rank == pytest.approx(rank, rel=1e-6)


def test_the_entropy_rank_of_unequal_directions_is_worked_by_hand() -> None:
    # Singular values in the proportion 3:1: exp of the entropy of (3/4, 1/4).
    view = met(np.tile(SIGNS * [3.0, 1.0], (10, 1)), "aa")
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert view.entropy_rank == pytest.approx(expected)
    assert met(SIGNS * [3.0, 1.0], "aa").entropy_rank is None  # of so few rows


def test_half_of_the_units_are_dead_where_rows_are_one_direction() -> None:
    # All rows are one vector but for a little: a unit fires on all of them or on none.
    rng = np.random.default_rng(0)
    rows = 100.0 * rng.choice([-1.0, 1.0], 32) + 0.01 * rng.normal(size=(2_000, 32))
    assert met(rows, "a" * 32).dead_units == pytest.approx(0.5, abs=0.1)
    assert met(rng.normal(size=(2_000, 32)), "a" * 32).dead_units == 0.0
    assert met(rng.normal(size=(2_000, 3)), "aaa").dead_units is None  # that is their bias


def test_what_layer_norm_squashes_is_worked_by_hand() -> None:
    # 8 and -8, and seven times 1 and -1: each row's mean is 0, its variance (2 * 64 + 14)/16.
    half = np.random.default_rng(1).choice([-1.0, 1.0], (400, 8)) * np.array([8.0] + [1.0] * 7)
    rows = np.column_stack([half, -half])
    assert met(rows, "a" * 16, norm=True).squash == pytest.approx(math.sqrt(142 / 16), rel=1e-3)
    assert met(rows, "a" * 16).squash == 1.0


@pytest.mark.parametrize("size", [1e-42, 1e-20, 1e20, 3e38])
def test_the_model_view_is_of_any_size(size: float) -> None:
    rows = np.tile(SIGNS * [1.0, 0.5], (20, 1)) * size
    view = met(rows, "ab")
    assert view.dominance == pytest.approx(0.8, rel=1e-2)
    assert view.weakest_block == pytest.approx(0.2, rel=1e-2)
    assert view.entropy_rank is not None
    assert 1.0 < view.entropy_rank < 2.0


# --- shapes --------------------------------------------------------------------------------------


def test_of_a_normal_distribution_scale_and_tails_are_1() -> None:
    view = view_of(5.0 + 3.0 * NORMAL[:, None])
    assert view.scale[0] == pytest.approx(3.0, rel=1e-3)
    assert tail_weight(view)[0] == pytest.approx(1.0, rel=1e-3)
    assert view.std[0] / view.scale[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_the_hill_index_of_a_pareto_sample_is_its_own(alpha: float) -> None:
    # Both tails around 0, at the quantiles of a Pareto distribution: 100 of 10,000 are looked at.
    size = ((np.arange(5_000) + 0.5) / 5_000) ** (-1.0 / alpha)
    view = view_of(np.concatenate([size, [0.0], -size])[:, None])
    assert view.tail_index[0] == pytest.approx(alpha, rel=0.05)
    assert view.tail_error == pytest.approx(0.1)


def test_what_has_no_tail_has_no_hill_index() -> None:
    rows = np.column_stack([np.tile(SIGNS[:, 0], 100), np.full(400, 2.0)])
    assert np.isinf(view_of(rows).tail_index).all()
    assert np.isinf(view_of(NORMAL[:50, None]).tail_index).all()


def test_an_inflated_feature_is_looked_at_where_it_is_not_0() -> None:
    rows = np.zeros((20_000, 2))
    rows[::2, 0], rows[:, 1] = NORMAL, np.repeat(NORMAL, 2)
    view = view_of(rows)
    assert view.inflated.tolist() == [True, False]
    np.testing.assert_allclose(view.scale, 1.0, rtol=2 / 32)
    np.testing.assert_allclose(tail_weight(view), 1.0, rtol=3 / 32)
    np.testing.assert_allclose(view.deviation, 1.0, rtol=1e-3)
    assert view.at(0.25)[0] == pytest.approx(NormalDist().inv_cdf(0.5), abs=0.01)


def test_a_little_spread_on_a_large_level_is_seen() -> None:
    rows = (1e6 + 10.0 * np.random.default_rng(0).permutation(NORMAL))[:, None]
    profile = Profile.of(rows)
    view = natural_view(profile, rows[:4_000].astype(np.float32), inflated(profile))
    assert view.scale[0] == pytest.approx(10.0, rel=0.06)  # of bins it would be 65,536 or 0


@pytest.mark.parametrize("squash", ["none", "asinh"])
def test_a_scaled_view_is_the_view_of_scaled_rows(squash: str) -> None:
    rows = np.random.default_rng(0).normal(size=(3_000, 3)) * [1.0, 1e4, 1e-3] + [0.0, 5e3, 1.0]
    profile = Profile.of(rows)
    scaling = Scaling.fit(profile, ScalingSpec(squash=squash))  # type: ignore[arg-type]
    direct, through = view_of(scaling.apply(rows)), scaled_view(view_of(rows), scaling)
    for name in ("mean", "std", "quantiles", "quartiles", "tails", "row_share", "tail_index"):
        a, b = getattr(direct, name), getattr(through, name)
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(through.quantiles) == len(PROBABILITIES)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.25] * 4, 4.0), ([1.0, 0.0, 0.0], 1.0), ([0.9, 0.1], 1 / 0.82), ([0.0, 0.0], 0.0)],
)
def test_effective_features_by_hand(shares: list[float], expected: float) -> None:
    assert effective_features(np.array(shares)) == pytest.approx(expected)


@pytest.mark.parametrize(("rho", "tolerance"), [(0.0, 0.5), (0.5, 0.5), (0.9, 0.6), (0.95, 0.7)])
def test_neighbours_that_are_alike_count_less(rho: float, tolerance: float) -> None:
    # Of an AR(1) of n rows, n (1 - rho)/(1 + rho) tell as much of the mean.
    rng = np.random.default_rng(0)
    noise, rows = rng.normal(size=(8_000, 40)), np.empty((8_000, 40))
    rows[0] = noise[0]
    for k in range(1, 8_000):
        rows[k] = rho * rows[k - 1] + math.sqrt(1 - rho**2) * noise[k]
    found = independent_rows(view_of(rows), np.arange(8_000))
    expected = 8_000 * (1 - rho) / (1 + rho)
    assert abs(math.log2(np.median(found) / expected)) < tolerance
    assert (found <= 8_000).all()


@pytest.mark.parametrize(
    ("value", "warn", "fail", "low", "expected"),
    [
        (0.5, 1.0, 2.0, False, 0.5),
        (1.0, 1.0, 2.0, False, 1.0),  # at the limit it is not beyond it
        (1.5, 1.0, 2.0, False, 1.5),
        (2.0, 1.0, 2.0, False, 1.999),
        (20.0, 1.0, 2.0, False, 3.0),  # a decade beyond
        (1e9, 1.0, 2.0, False, 4.0),
        (math.inf, 1.0, 2.0, False, 4.0),
        (1e9, math.nan, math.nan, False, 0.0),  # never
        (0.0, math.nan, 0.0, False, 0.0),
        (1e-9, math.nan, 0.0, False, 4.0),
        (8.0, 16.0, 4.0, True, 1.333),  # a third of the way from 1/16 to 1/4
        (0.0, 16.0, 4.0, True, 4.0),
        (32.0, 16.0, 4.0, True, 0.5),
    ],
)
def test_levels_are_worked_by_hand(
    value: float, warn: float, fail: float, low: bool, expected: float
) -> None:
    found = level_of(np.array([value]), np.array([warn]), np.array([fail]), low=low)[0]
    assert found == pytest.approx(expected, abs=1e-3)
    assert (found < 1.0) == (expected <= 1.0)


def test_what_has_no_value_has_no_level() -> None:
    nan = np.array([np.nan])
    assert np.isnan(level_of(nan, np.ones(1), np.ones(1), low=False))
