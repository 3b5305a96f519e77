"""Which windows a split has, and their order: against definitions, row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurekit.dataset.windows import SPLITS, Runs, batch_part, epoch_order, split_rows

MAX_GAP = 2
steps = st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 9]), min_size=1, max_size=40)


def split_of(time: int, cuts: tuple[int, int]) -> int:
    return sum(time >= cut for cut in cuts)


def defined_windows(
    times: list[np.ndarray],
    cuts: tuple[int, int],
    split: int,
    window: int,
    embargo: int,
    horizon: int,
) -> list[int]:
    """First rows of the windows that the rules allow, from the rules and nothing else."""
    found, before = [], 0
    for time in times:
        splits = [split_of(t, cuts) for t in time]
        embargoed = set() if split == 0 else {splits.index(k) for k in splits if k >= split}
        embargoed = {at + k for at in embargoed if splits[at] == split for k in range(embargo)}
        for first in range(len(time) - window + 1):
            rows = range(first, first + window)
            ahead = rows[-1] + horizon
            if (
                all(splits[row] == split and row not in embargoed for row in rows)
                and all(time[row] - time[row - 1] <= MAX_GAP for row in rows[1:])
                and splits[min(ahead, len(time) - 1)] == split
            ):
                found.append(before + first)
        before += len(time)
    return found


def runs_of(
    times: list[np.ndarray], cuts: tuple[int, int], split: int, embargo: int, horizon: int
) -> Runs:
    segments, bounds, before = [], [], 0
    for code, time in enumerate(times):
        edges = [0, *(np.flatnonzero(np.diff(time) > MAX_GAP) + 1), len(time)]
        segments += [(code, before + a, before + b) for a, b in itertools.pairwise(edges)]
        bounds.append([before + row for row in split_rows(time, cuts)])
        before += len(time)
    table = np.array(segments, np.int64)
    return Runs.of(*table.T, np.array(bounds), split, embargo=embargo, horizon=horizon)


@given(
    symbols=st.lists(steps, min_size=1, max_size=4),
    cuts=st.tuples(st.integers(0, 70), st.integers(0, 30)),
    split=st.sampled_from(range(3)),
    window=st.integers(1, 9),
    embargo=st.integers(0, 6),
    horizon=st.integers(0, 6),
)
def test_windows_are_those_that_the_rules_allow(
    symbols: list[list[int]],
    cuts: tuple[int, int],
    split: int,
    window: int,
    embargo: int,
    horizon: int,
) -> None:
    cuts = (cuts[0], sum(cuts))
    times = [np.cumsum(step) for step in symbols]
    runs = runs_of(times, cuts, split, embargo, horizon)
    expected = defined_windows(times, cuts, split, window, embargo, horizon)
    assert runs.starts(window, 1).tolist() == expected
    longest = int(runs.longest(len(symbols)).max())
    assert len(runs.starts(longest, 1)) > 0 or longest == 0
    assert len(runs.starts(longest + 1, 1)) == 0


def defined_part(
    windows: int, batch_size: int, step: int, world_size: int, *, pad: bool
) -> list[list[tuple[int, bool]]]:
    """Place and mask of each rank's windows of a batch, from the batch of all."""
    batch = [(place, True) for place in range(windows)][step * batch_size : (step + 1) * batch_size]
    if pad:
        filled = itertools.cycle(batch)
        batch += [
            (next(filled)[0], False) if k >= len(batch) else next(filled) for k in range(batch_size)
        ][len(batch) :]
    cuts = [len(batch) * rank // world_size for rank in range(world_size + 1)]
    return [batch[a:b] for a, b in itertools.pairwise(cuts)]


@given(
    windows=st.integers(1, 60),
    batch_size=st.integers(1, 25),
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    pad=st.booleans(),
    data=st.data(),
)
def test_a_rank_has_its_contiguous_part_of_the_batch_of_all(
    windows: int, batch_size: int, world_size: int, pad: bool, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, (windows - 1) // batch_size))
    expected = defined_part(windows, batch_size, step, world_size, pad=pad)
    for rank, part in enumerate(expected):
        places, mask = batch_part(windows, batch_size, step, rank, world_size, pad=pad)
        assert list(zip(places.tolist(), mask.tolist(), strict=True)) == part


def test_the_last_rows_before_a_cut_are_purged_and_the_first_after_it_embargoed() -> None:
    times = [np.arange(100)]
    first_and_last = {
        split: runs_of(times, (50, 80), code, embargo=4, horizon=3).starts(10, 1)[[0, -1]].tolist()
        for code, split in enumerate(SPLITS)
    }
    # Train ends at 49: the target of row 46 is known at row 49. History ends at 99: nothing is cut.
    assert first_and_last == {"train": [0, 37], "validation": [54, 67], "test": [84, 90]}


@pytest.mark.parametrize("stride", [1, 2, 7, 100])
def test_a_stride_counts_from_the_start_of_each_run(stride: int) -> None:
    runs = Runs(np.array([0, 1]), np.array([0, 50]), np.array([20, 75]))
    expected = [*range(0, 20 - 4 + 1, stride), *range(50, 75 - 4 + 1, stride)]
    assert runs.starts(4, stride).tolist() == expected


def test_an_order_is_a_permutation_that_data_seed_and_epoch_decide() -> None:
    starts = np.arange(5, 3000)
    digest = "0123456789abcdef0123456789abcdef"
    orders = [
        epoch_order(starts, digest, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    orders.append(epoch_order(starts, digest.replace("a", "b"), 0, 0).tolist())
    orders.append(epoch_order(starts, "f" + digest[1:], 0, 0).tolist())
    assert len({tuple(order) for order in orders}) == len(orders)
    assert all(sorted(order) == starts.tolist() for order in orders)
    assert epoch_order(starts, digest, 0, 0).tolist() == orders[0]


def test_an_order_does_not_move_between_versions() -> None:
    order = epoch_order(np.arange(8), "0123456789abcdef0123456789abcdef", seed=7, epoch=3)
    assert order.tolist() == [5, 6, 2, 3, 1, 0, 7, 4]


def test_an_order_mixes_near_and_far() -> None:
    order = epoch_order(np.arange(100_000), "00ff", seed=0, epoch=0)
    place = np.argsort(order)
    assert abs(np.corrcoef(place[:-1], place[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < 0.02


def test_fewer_windows_keep_their_order() -> None:
    every, odd = np.arange(500), np.arange(1, 500, 2)
    order = epoch_order(every, "00ff", seed=0, epoch=0)
    assert order[order % 2 == 1].tolist() == epoch_order(odd, "00ff", seed=0, epoch=0).tolist()
