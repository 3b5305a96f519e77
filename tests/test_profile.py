"""Profiles: what is counted is exact and adds up, quantiles keep their bound, files come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.cells import ProfileGrid, load_profiles, merged, save_profiles
from featurekit.errors import DataError, DatasetError
from featurekit.profile import RELATIVE_ERROR, Profile

if TYPE_CHECKING:
    from pathlib import Path

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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(0, 60))
def test_two_parts_add_up_to_the_whole(seed: int, first: int, second: int) -> None:
    table = rows_of(seed, first + second)
    parts = Profile.of(table[:first]) + Profile.of(table[first:])
    assert_same(parts, Profile.of(table), 1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_parts_is_not_counted(seed: int) -> None:
    a, b, c = (Profile.of(rows_of(seed + k, 20)) for k in range(3))
    assert_same((a + b) + c, a + (c + b), 1e-12)


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
    centred = finite - np.nanmean(finite, axis=0)
    for power in (3, 4):
        expected = np.nansum(centred**power, axis=0)
        size = np.nansum(np.abs(centred) ** power, axis=0)
        np.testing.assert_allclose(profile.moments[power - 1] / size, expected / size, atol=1e-12)


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


def test_a_column_without_values_has_no_quantile() -> None:
    assert np.isnan(Profile.of(np.full((3, 1), np.nan)).quantile(0.5)[0])


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


@pytest.fixture
def grid() -> tuple[ProfileGrid, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    table, rng = rows_of(5, 900), np.random.default_rng(5)
    split, slices = np.sort(rng.integers(0, 3, 900)), rng.integers(0, 4, 900)
    grid = ProfileGrid(["a", "b", "c", "d"], ["train", "validation", "test"], ["up", "down"])
    for start in range(0, 900, 128):
        part = slice(start, start + 128)
        grid.update(table[part], split[part], slices[part])
    return grid, table, split, slices


def test_cells_add_up_to_any_split_and_slice(
    grid: tuple[ProfileGrid, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    filled, table, split, slices = grid
    cells = filled.profiles()
    names = ["a", "b", "c", "d"]
    for at, where in enumerate(("train", "validation", "test")):
        whole = merged(cells, where)
        assert whole is not None
        assert_same(whole, Profile.of(table[split == at], names), 1e-12)
        for bit, slice_ in enumerate(("up", "down")):
            part = merged(cells, where, slice_)
            held = (split == at) & (slices >> bit & 1 == 1)
            assert part is not None
            assert_same(part, Profile.of(table[held], names), 1e-12)
    assert sum(profile.rows for profile in cells.values()) == len(table)


def test_a_split_without_rows_has_no_profile() -> None:
    cells = ProfileGrid(["a"], ["train"], ["active"]).profiles()
    assert merged(cells, "train") is None
    assert cells["train/active"].rows == 0


def test_a_file_gives_back_every_bit(
    tmp_path: Path,
    grid: tuple[ProfileGrid, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    cells = grid[0].profiles()
    save_profiles(tmp_path / "profile", cells)
    again = load_profiles(tmp_path / "profile")
    assert again.keys() == cells.keys()
    for name, profile in cells.items():
        assert_same(again[name], profile)


@pytest.mark.parametrize("damage", ["missing", "cut short", "garbage", "empty"])
def test_a_damaged_file_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "profile"
    if damage != "missing":
        save_profiles(path, {"train/-": Profile.of(rows_of(0, 50))})
        whole = path.read_bytes()
        path.write_bytes(
            {"cut short": whole[: len(whole) // 2], "garbage": b"\xff" * 99, "empty": b""}[damage]
        )
    with pytest.raises(DatasetError, match="profile"):
        load_profiles(path)
