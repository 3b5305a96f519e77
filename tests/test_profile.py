"""Profiles: what is counted is exact and adds up, moments and quantiles keep their bound."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.bins import BINS, RELATIVE_ERROR
from featurekit.errors import DataError
from featurekit.profile import Profile

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray

COUNTED = ("rows", "whole_rows", "counts", "extremes", "histogram")


def assert_same(a: Profile, b: Profile, tolerance: float = 0.0) -> None:
    assert a.names == b.names
    for name in COUNTED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("moments", "share"):
        x, y = getattr(a, name), getattr(b, name)
        size = np.maximum(np.abs(x), np.abs(y)).max(initial=0.0, axis=-1, keepdims=True)
        assert (np.abs(x - y) <= tolerance * size).all(), name


def rows_of(seed: int, rows: int, width: int = 4) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(rows, width)) * np.logspace(-3, 4, width)
    table[rng.random(table.shape) < 0.1] = 0.0
    table[rng.random(table.shape) < 0.02] = np.nan
    table[rng.random(table.shape) < 0.01] = np.inf
    table[rng.random(table.shape) < 0.01] = -np.inf
    return table.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 120),
    cuts=st.lists(st.integers(0, 120), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_parts_in_any_order_add_up_to_the_whole(
    seed: int, rows: int, cuts: list[int], order: random.Random
) -> None:
    table = rows_of(seed, rows)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [Profile.of(table[a:b]) for a, b in pairwise(edges)]
    order.shuffle(parts)
    whole = Profile.of(table)
    assert_same(Profile.total(parts), whole, 1e-12)
    assert_same(reduce(Profile.__add__, parts), whole, 1e-12)


def test_adding_changes_neither_side() -> None:
    a, b = Profile.of(rows_of(0, 50)), Profile.of(rows_of(1, 50))
    _ = a + b, Profile.total([a, b])
    assert_same(a, Profile.of(rows_of(0, 50)))
    assert_same(b, Profile.of(rows_of(1, 50)))
    assert_same(Profile.total([a]), a)


def test_the_histogram_is_of_the_top_bits() -> None:
    table = rows_of(2, 500)
    bins = table.view(np.uint32) >> 19
    for k in range(table.shape[1]):
        expected = np.bincount(bins[:, k], minlength=BINS)
        np.testing.assert_array_equal(Profile.of(table).histogram[k], expected)


def test_cuts_at_whole_chunks_give_the_same_bits() -> None:
    table = rows_of(0, 3 * 4096 + 17)
    parts = Profile.of(table[:4096])
    for start in (4096, 8192, 12288):
        parts = parts.updated(table[start : start + 4096])
    assert_same(parts, Profile.of(table))


def test_counts_and_moments_are_numpys() -> None:
    table = rows_of(1, 10_000)
    profile = Profile.of(table)
    finite = np.where(np.isfinite(table), table.astype(np.float64), np.nan)
    np.testing.assert_array_equal(profile.count, np.isfinite(table).sum(axis=0))
    np.testing.assert_array_equal(profile.zeros, (table == 0).sum(axis=0))
    np.testing.assert_array_equal(profile.nan, np.isnan(table).sum(axis=0))
    np.testing.assert_array_equal(profile.infinite, np.isinf(table).sum(axis=0))
    np.testing.assert_array_equal(profile.minimum, np.nanmin(finite, axis=0))
    np.testing.assert_array_equal(profile.maximum, np.nanmax(finite, axis=0))
    np.testing.assert_allclose(profile.mean, np.nanmean(finite, axis=0), rtol=1e-10)
    np.testing.assert_allclose(profile.std, np.nanstd(finite, axis=0), rtol=1e-12)
    np.testing.assert_allclose(profile.rms, np.sqrt(np.nanmean(finite**2, axis=0)), rtol=1e-12)
    np.testing.assert_allclose(profile.sum_of_squares, np.nansum(finite**2, axis=0), rtol=1e-12)
    z = (finite - np.nanmean(finite, axis=0)) / np.nanstd(finite, axis=0)
    np.testing.assert_allclose(profile.skewness, np.nanmean(z**3, axis=0), atol=1e-10)
    np.testing.assert_allclose(profile.kurtosis, np.nanmean(z**4, axis=0) - 3.0, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 200), offset=st.sampled_from([0, 1e3]))
def test_moments_are_those_of_the_definition(seed: int, rows: int, offset: float) -> None:
    column = (np.random.default_rng(seed).standard_t(3, rows) + offset).astype(np.float32)
    values = [Fraction(float(value)) for value in column]
    profile = Profile.of(column[:, None])
    mean = sum(values) / len(values)
    for power in (2, 3, 4):
        exact = sum((value - mean) ** power for value in values)
        size = float(sum(abs(value - mean) ** power for value in values))
        assert abs(profile.moments[power - 1, 0] - float(exact)) <= 1e-12 * max(size, 1e-300)
    assert profile.mean[0] == pytest.approx(float(mean), abs=1e-12 * (abs(offset) + 1))


@pytest.mark.parametrize(
    ("rows", "skewness", "kurtosis"),
    [
        ([0.0, 0.0, 0.0, 1.0], 2 / 3**0.5, -2 / 3),  # Bernoulli of 1/4: (1-2p)/sqrt(pq), 1/pq - 6
        ([-1.0, 1.0], 0.0, -2.0),
        ([5.0, 5.0, 5.0], 0.0, 0.0),
        ([0.1] * 5_000, 0.0, 0.0),
    ],
)
def test_skewness_and_kurtosis_by_hand(rows: list[float], skewness: float, kurtosis: float) -> None:
    profile = Profile.of(np.array(rows)[:, None])
    assert profile.skewness[0] == pytest.approx(skewness, abs=1e-12)
    assert profile.kurtosis[0] == pytest.approx(kurtosis, abs=1e-12)


def test_a_small_spread_on_a_large_mean_is_kept() -> None:
    table = (1e6 + np.random.default_rng(0).normal(size=(50_000, 1))).astype(np.float32)
    exact = table.astype(np.float64)
    assert Profile.of(table).std[0] == pytest.approx(exact.std(), rel=1e-9)


def test_row_shares_are_worked_by_hand() -> None:
    # 9 of 25 and 16 of 25; then all of the second; the row with a hole does not count.
    profile = Profile.of(np.array([[3.0, 4.0], [0.0, 2.0], [np.nan, 1.0]]))
    assert profile.whole_rows == 2
    np.testing.assert_allclose(profile.row_share, [0.18, 0.82])


SERIES = {
    "normal": lambda rng: rng.normal(size=20_000),
    "lognormal": lambda rng: rng.lognormal(0, 3, 20_000),
    "student t(2)": lambda rng: rng.standard_t(2, 20_000),
    "zero-inflated": lambda rng: rng.normal(size=20_000) * (rng.random(20_000) < 0.3),
    "1e-30..1e30": lambda rng: 10 ** rng.uniform(-30, 30, 20_000) * rng.choice([-1, 1], 20_000),
    "constant": lambda rng: np.full(100 + rng.integers(3), 7.0),
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("q", [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
def test_quantiles_are_within_their_bound(name: str, q: float) -> None:
    values = SERIES[name](np.random.default_rng(3)).astype(np.float32)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    got = Profile.of(values[:, None]).quantile(q)[0]
    assert abs(got - exact) <= RELATIVE_ERROR * abs(exact) + 1e-38


@pytest.mark.parametrize("name", SERIES)
def test_quantile_bounds_hold_the_order_statistic(name: str) -> None:
    values = np.sort(SERIES[name](np.random.default_rng(4)).astype(np.float32)).astype(np.float64)
    profile = Profile.of(values[:, None])
    for q in (0.0, 1e-4, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0):
        exact = values[max(math.ceil(q * len(values)) - 1, 0)]
        low, high = (float(bound[0]) for bound in profile.quantile_bounds(q))
        assert low <= exact <= high, q
        assert low <= float(profile.quantile(q)[0]) <= high
        assert high - low <= 2 * RELATIVE_ERROR * max(abs(low), abs(high)) + 2e-38


@pytest.mark.parametrize("name", SERIES)
def test_absolute_quantiles_are_of_the_magnitudes_that_are_not_0(name: str) -> None:
    values = SERIES[name](np.random.default_rng(5)).astype(np.float32)
    magnitudes = np.abs(values[values != 0.0]).astype(np.float64)
    probabilities = [0.01, 0.25, 0.5, 0.98, 1.0]
    found = Profile.of(values[:, None]).absolute_quantiles(probabilities)[:, 0]
    exact = np.quantile(magnitudes, probabilities, method="inverted_cdf")
    np.testing.assert_allclose(found, exact, rtol=RELATIVE_ERROR)


def test_of_zeros_alone_there_is_no_magnitude() -> None:
    assert np.isnan(Profile.of(np.zeros((3, 1))).absolute_quantiles([0.5])[0, 0])


NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "count", "ends", "median"),
    [
        ([NAN] * 3, 0, (math.inf, -math.inf), NAN),
        ([math.inf, -math.inf], 0, (math.inf, -math.inf), NAN),
        ([7.0], 1, (7.0, 7.0), 7.0),
        ([0.0, -0.0], 2, (0.0, 0.0), 0.0),
        ([1e-45, 3e-45, 1e-40], 3, (1e-45, 1e-40), 3e-45),
        ([-3e38, 0.0, 3e38], 3, (-3e38, 3e38), 0.0),
        ([1e300, 1.0], 1, (1.0, 1.0), 1.0),
    ],
    ids=["nan", "inf", "one row", "zeros", "subnormal", "1e38", "1e300"],
)
def test_what_is_extreme_is_counted(
    rows: list[float], count: int, ends: tuple[float, float], median: float
) -> None:
    profile = Profile.of(np.array(rows)[:, None])
    assert profile.rows == len(rows)
    assert profile.count[0] == count
    assert profile.nan[0] + profile.infinite[0] == len(rows) - count
    exact = tuple(float(np.float32(end)) for end in ends)
    assert (profile.minimum[0], profile.maximum[0]) == exact
    got = profile.quantile(0.5)[0]
    np.testing.assert_allclose(got, median, rtol=RELATIVE_ERROR, atol=1e-38)
    numbers = [profile.mean, profile.std, profile.rms, profile.skewness, profile.kurtosis]
    assert np.isfinite(numbers).all()
    finite = np.array([r for r in rows if abs(r) < 1e39], np.float32).astype(float)
    if count:
        assert profile.rms[0] == pytest.approx(np.sqrt((finite**2).mean()), rel=1e-12)
        assert profile.std[0] == pytest.approx(finite.std(), rel=1e-12, abs=0.0)


def test_five_thousand_columns() -> None:
    table = np.arange(3 * 5_000, dtype=np.float32).reshape(3, 5_000)
    profile = Profile.of(table)
    np.testing.assert_array_equal(profile.mean, table[1].astype(np.float64))
    np.testing.assert_array_equal(profile.quantile(1.0), table[2])
    assert (profile.histogram.sum(axis=1) == 3).all()


def test_a_frame_gives_its_numeric_columns() -> None:
    frame = pl.DataFrame({"t": ["a", "b"], "x": [1, None], "flag": [True, False]})
    profile = Profile.of(frame)
    assert profile.names == ("x", "flag")
    assert profile.nan.tolist() == [1, 0]
    assert profile.mean.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (pl.DataFrame({"t": ["a"]}), None),
        (np.empty((3, 0)), None),
        (np.empty(3), None),
        (np.empty((3, 2)), ["x"]),
        (np.empty((3, 2), complex), None),
        (np.empty((3, 2), object), None),
        (np.empty(3, [("x", "f8")]), None),
    ],
)
def test_what_has_no_columns_is_refused(
    data: pl.DataFrame | NDArray[np.float64], names: list[str] | None
) -> None:
    with pytest.raises(DataError):
        Profile.of(data, names)


def test_profiles_of_other_columns_do_not_add() -> None:
    with pytest.raises(DataError, match="other columns"):
        _ = Profile.of(np.ones((1, 1)), ["a"]) + Profile.of(np.ones((1, 1)), ["b"])
