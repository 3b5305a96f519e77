"""Cells: they add up to any split, slice and stretch of time, and come back from their file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from featurekit.cells import Cells, ProfileGrid, chunk_edges
from featurekit.errors import DatasetError
from featurekit.profile import Profile
from featurekit.sample import row_keys
from tests.test_profile import assert_same, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SPLITS, SLICES, NAMES = ("train", "validation", "test"), ("up", "down"), ("a", "b", "c", "d")
HOUR = 3_600 * 10**9


class Dealt:
    """A table with the split, the slices and the time of each row, and cells of it in pieces."""

    def __init__(self, seed: int, rows: int, piece: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = rows_of(seed, rows)
        self.split = np.sort(rng.integers(0, 3, rows))
        self.slices = rng.integers(0, 4, rows)
        self.time = np.arange(rows, dtype=np.int64) * HOUR
        self.edges = tuple(int(edge) for edge in self.time[rows // 3 :: max(rows // 3, 1)])
        self.keys, self.numbers = row_keys("X", self.time), np.arange(rows)
        grid = ProfileGrid(NAMES, SPLITS, SLICES, self.edges)
        for start in range(0, rows, piece):
            at = slice(start, start + piece)
            grid.update(
                self.table[at],
                self.split[at],
                self.slices[at],
                self.time[at],
                self.keys[at],
                self.numbers[at],
            )
        self.cells = grid.cells()

    def held(self, split: str | None, slice_: str | None, chunk: int | None) -> NDArray[np.bool_]:
        held = np.ones(len(self.table), bool)
        if split is not None:
            held &= self.split == SPLITS.index(split)
        if slice_ is not None:
            held &= self.slices >> SLICES.index(slice_) & 1 == 1
        if chunk is not None:
            edges = [-1, *self.edges, 10**18, 10**18, 10**18]  # of few rows there are fewer
            held &= (self.time >= edges[chunk]) & (self.time < edges[chunk + 1])
        return held


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    rows=st.integers(1, 400),
    piece=st.sampled_from([1, 7, 128, 4_096]),
    split=st.sampled_from([None, *SPLITS]),
    slice_=st.sampled_from([None, *SLICES]),
    chunk=st.sampled_from([None, 0, 1, 2]),
)
def test_parts_add_up_to_any_split_slice_and_stretch(
    seed: int, rows: int, piece: int, split: str | None, slice_: str | None, chunk: int | None
) -> None:
    dealt = Dealt(seed, rows, piece)
    held = dealt.held(split, slice_, chunk)
    part = dealt.cells.profile(split, slice_, chunk)
    assert_same(part, Profile.of(dealt.table[held], NAMES), 1e-12)
    assert dealt.cells.count(split, slice_, chunk) == held.sum()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("slice_", [None, *SLICES])
def test_the_sample_of_a_part_is_of_its_rows(split: str, slice_: str | None) -> None:
    dealt = Dealt(3, 300, 64)
    held = np.flatnonzero(dealt.held(split, slice_, None))
    sample = dealt.cells.sample(split, slice_)
    assert sorted(sample.numbers.tolist()) == held.tolist()
    assert sample.keys.tolist() == sorted(dealt.keys[held].tolist())


def test_what_has_no_rows_is_empty() -> None:
    cells = ProfileGrid(NAMES, SPLITS, SLICES).cells()
    assert_same(cells.profile("train"), Profile.empty(NAMES))
    assert len(cells.sample("train", "up")) == 0
    assert cells.count() == 0


@pytest.mark.parametrize("rows", [1, 999, 1_000, 4_097, 9_000])
def test_cells_of_a_table_are_its_profile(rows: int) -> None:
    table = rows_of(rows, rows)
    up = table[:, 0] > 0
    cells = Cells.of_table(table, NAMES, {"up": up})
    assert_same(cells.profile(), Profile.of(table, NAMES), 1e-12)
    assert_same(cells.profile("train", "up"), Profile.of(table[up], NAMES), 1e-12)
    assert len(cells.sample("train")) == rows
    assert len(cells.chunks) == max(min(rows // 500, 12) - 1, 0)


@pytest.mark.parametrize(("features", "parts"), [(9, 12), (12, 10), (60, 2), (61, 1), (500, 1)])
def test_a_wide_table_has_fewer_stretches(
    features: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurekit.cells.WIDE", 120)
    cells = Cells.of_table(np.zeros((6_000, features), np.float32), ["x"] * features)
    assert len(cells.chunks) == parts - 1


@pytest.mark.parametrize(
    ("times", "parts"), [(0, 1), (999, 1), (1_000, 2), (5_999, 11), (6_000, 12), (10**6, 12)]
)
def test_stretches_hold_as_many_times_each(times: int, parts: int) -> None:
    edges = [0, *chunk_edges(np.arange(times)), times]
    assert len(edges) == parts + 1
    assert np.ptp(np.diff(edges)) <= 1


# --- the file ------------------------------------------------------------------------------------


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    cells = Dealt(5, 900, 128).cells
    cells.save(tmp_path / "profile")
    again = Cells.load(tmp_path / "profile")
    assert (again.names, again.slices, again.chunks) == (cells.names, cells.slices, cells.chunks)
    assert again.profiles.keys() == cells.profiles.keys()
    assert again.samples.keys() == cells.samples.keys()
    for cell, profile in cells.profiles.items():
        assert_same(again.profiles[cell], profile)
    for where, sample in cells.samples.items():
        np.testing.assert_array_equal(again.samples[where].keys, sample.keys)
        np.testing.assert_array_equal(again.samples[where].numbers, sample.numbers)
        assert again.samples[where].seen == sample.seen
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "profile").read_bytes()


def test_a_file_is_small(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(20_000, 129)).astype(np.float32)
    cells = Cells.of_table(table, [f"x{k}" for k in range(129)])
    cells.save(tmp_path / "profile")
    raw = sum(profile.histogram.nbytes for profile in cells.profiles.values())
    # Of 12 cells of 129 histograms of 64 KB it keeps what is not 0; a normal column fills about
    # 300 of its 8,192 bins.
    assert (tmp_path / "profile").stat().st_size < raw / 50
    assert (tmp_path / "profile").stat().st_size < table.nbytes / 5


def drop(key: str) -> Callable[[Path], None]:
    """Takes a tensor away, or makes another format of it."""

    def change(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(path, "numpy") as file:
            described = dict(file.metadata())
        if key == "format":
            described["cells"] = described["cells"].replace('"format": "2"', '"format": "1"')
        elif key == "cells":
            described["cells"] = json.dumps({"format": "2", "names": ["a"]})
        else:
            del tensors[key]
        save_file(tensors, path, metadata=described)

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\xff" * 99),
    "empty": lambda path: path.write_bytes(b""),
    "of another version": drop("format"),
    "of other cells": drop("cells"),
    "without its histograms": drop("0.bins"),
    "without its moments": drop("0.moments"),
    "without its sample": drop("sample.0.keys"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_old_file_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "profile"
    Dealt(0, 50, 50).cells.save(path)
    DAMAGE[damage](path)
    with pytest.raises(DatasetError, match="profile") as told:
        Cells.load(path)
    assert told.value.problems[0].where == str(path)
