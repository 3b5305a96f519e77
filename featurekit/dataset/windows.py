"""Which windows a split has, and in which order an epoch visits them.

A window is `window` consecutive rows of one symbol, named by its first row in the whole dataset.
Windows and order are not stored: they follow from the segments, the cuts and a seed.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurekit.splitmix import MASK, STEP, mix, mix_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
DEFAULT_WINDOW = 20
ORDER_VERSION = 1  # moves when the same seed and epoch would give another order


def split_rows(time: NDArray[np.int64], cuts: Sequence[int]) -> tuple[int, ...]:
    """The rows of one symbol at which train, validation and test start, and the row after test.

    Example:
        >>> split_rows(np.array([10, 20, 30, 40]), (20, 40))
        (0, 1, 3, 4)
    """
    return (0, *(bisect_left(time, cut) for cut in cuts), len(time))


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Stretches of rows, `first` to `stop`, in which every window belongs to the split.

    `symbol` is the code of each stretch's symbol.
    """

    symbol: NDArray[np.int64]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]

    @staticmethod
    def of(
        symbol: NDArray[np.int64],
        first: NDArray[np.int64],
        stop: NDArray[np.int64],
        bounds: NDArray[np.int64],
        split: int,
        *,
        embargo: int,
        horizon: int,
    ) -> Runs:
        """Cuts segments to a split.

        A segment is `symbol`, `first`, `stop`; `bounds` `[symbols, 4]` are the rows at which the
        splits of each symbol start, and the row after its last. The `embargo` bars of a symbol
        that follow a cut belong to no window. Rows whose target, `horizon` bars later, lies in
        the next split are purged; where the history itself ends there is no next split.

        Example:
            >>> runs = Runs.of(
            ...     np.array([0, 0]), np.array([0, 60]), np.array([60, 100]),
            ...     np.array([[0, 70, 90, 100]]), 0, embargo=5, horizon=3,
            ... )
            >>> runs.first, runs.stop
            (array([ 0, 60]), array([60, 67]))
        """
        begin, end, last = bounds[:, split], bounds[:, split + 1], bounds[:, -1]
        begin = begin + (embargo if split else 0)
        end = np.where(end < last, end - horizon, end)
        first, stop = np.maximum(first, begin[symbol]), np.minimum(stop, end[symbol])
        kept = first < stop
        return Runs(symbol[kept], first[kept], stop[kept])

    def starts(self, window: int, stride: int) -> NDArray[np.int64]:
        """First rows of all windows, ascending; `stride` counts from the start of each run.

        Example:
            >>> Runs(np.array([0]), np.array([100]), np.array([110])).starts(window=4, stride=3)
            array([100, 103, 106])
        """
        count = np.maximum((self.stop - self.first - window) // stride + 1, 0)
        before = np.cumsum(count) - count
        step = np.arange(count.sum(), dtype=np.int64) - np.repeat(before, count)
        starts: NDArray[np.int64] = np.repeat(self.first, count) + stride * step
        return starts

    def longest(self, symbols: int) -> NDArray[np.int64]:
        """Rows of the longest run of each symbol: the longest window that it can give."""
        longest = np.zeros(symbols, np.int64)
        np.maximum.at(longest, self.symbol, self.stop - self.first)
        return longest


def epoch_order(starts: NDArray[np.int64], digest: str, seed: int, epoch: int) -> NDArray[np.int64]:
    """The windows in the order of an epoch.

    A pure function of the data's digest, the seed and the epoch. A window's key depends on its
    first row only, so that fewer windows keep their order among each other.

    Example:
        >>> epoch_order(np.arange(6), "00ff", seed=0, epoch=0)
        array([4, 1, 5, 2, 0, 3])
    """
    key = int(digest, 16)
    state = mix(mix(mix(key >> 64 & MASK) ^ (key & MASK)) ^ (seed & MASK))
    state = mix(state ^ (epoch & MASK))
    keys = starts.astype(np.uint64) * np.uint64(STEP) + np.uint64(state)
    return starts[np.argsort(mix_all(keys))]


def batch_part(
    windows: int, batch_size: int, step: int, rank: int, world_size: int, *, pad: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places in an epoch's order that a rank has of a batch, and which of them are windows.

    Each rank takes its contiguous part of the batch of all, so the number of ranks moves no window
    to another batch. The last batch is shorter, or with `pad` repeats its windows, which are then
    marked as none.

    Example:
        >>> batch_part(10, 4, step=1, rank=1, world_size=2, pad=False)
        (array([6, 7]), array([ True,  True]))
        >>> batch_part(10, 4, step=2, rank=1, world_size=2, pad=True)
        (array([8, 9]), array([False, False]))
    """
    first = step * batch_size
    real = min(batch_size, windows - first)
    size = batch_size if pad else real
    place = np.arange(size * rank // world_size, size * (rank + 1) // world_size, dtype=np.int64)
    return first + place % real, place < real
