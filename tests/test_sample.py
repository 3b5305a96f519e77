"""Samples: the rows of the smallest keys, whatever the order and the pieces they came in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.sample import SIZE, RowSample, Sampler, row_keys

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray


def keys_of(seed: int, rows: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).permutation(row_keys("EURUSD", np.arange(rows)))


def bottom(keys: NDArray[np.uint64], size: int) -> list[tuple[int, int]]:
    """The smallest keys and their numbers, by Python's own sorting."""
    return sorted(zip(keys.tolist(), range(len(keys)), strict=True))[:size]


def told(sample: RowSample) -> list[tuple[int, int]]:
    return list(zip(sample.keys.tolist(), sample.numbers.tolist(), strict=True))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Samples of 25 rows, so that few rows are enough to fill one."""
    monkeypatch.setattr("featurekit.sample.SIZE", 25)
    return 25


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 120),
    cuts=st.lists(st.integers(0, 120), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_pieces_in_any_order_make_the_same_sample(
    seed: int, rows: int, cuts: list[int], order: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurekit.sample.SIZE", 25)
        keys, numbers = keys_of(seed, rows), np.arange(rows)
        edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
        pieces = [slice(a, b) for a, b in pairwise(edges)]
        order.shuffle(pieces)
        sampler, added = Sampler(), RowSample.empty()
        for piece in pieces:
            sampler.add(keys[piece], numbers[piece])
            added = added + RowSample.of(keys[piece], numbers[piece])
        expected = bottom(keys, 25)
        for sample in (RowSample.of(keys, numbers), added, sampler.sample(), sampler.sample()):
            assert told(sample) == expected
            assert sample.seen == rows
            assert sample.whole == (rows <= 25)


def test_first_is_a_sample_again(small: int) -> None:
    keys = keys_of(0, 300)
    sample = RowSample.of(keys, np.arange(300))
    assert told(sample.first(7)) == bottom(keys, 7)
    assert not sample.first(7).whole
    assert len(sample.first(10 * small)) == small


def test_keys_are_distinct_within_a_symbol_and_differ_between_symbols() -> None:
    times = np.arange(100_000, dtype=np.int64) * 3_600 * 10**9 - 10**18  # from 1938 on
    one, other = row_keys("EURUSD", times), row_keys("GBPUSD", times)
    assert len(np.unique(np.concatenate([one, other]))) == 200_000
    np.testing.assert_array_equal(row_keys("EURUSD", times[::-1]), one[::-1])


def test_the_sample_is_uniform() -> None:
    # 40 stretches of 5,000 rows each: chi-squared of 39 degrees of freedom is below 83.4 in all
    # but 5 of 100,000 draws, and a sample without replacement has less.
    sample = RowSample.of(row_keys("X", np.arange(200_000)), np.arange(200_000))
    assert len(sample) == SIZE == 20_000
    counts = np.bincount(sample.numbers // 5_000, minlength=40)
    assert ((counts - 500.0) ** 2 / 500.0).sum() < 83.4
    assert len(np.unique(sample.numbers)) == SIZE
