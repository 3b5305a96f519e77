"""An order for data larger than memory: an epoch in pools, each of which fits."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

POOL_BLOCKS = 64  # blocks of a pool: from so many places of the data its windows are mixed


class Pools:
    """Blocks of neighbouring windows in random order, and windows in random order in each pool.

    A pool is the windows of the next `POOL_BLOCKS` blocks, and no row of another is needed for
    them. All of it follows from the windows, the size of a block, and `order`, which shuffles an
    array by its values or leaves it as it is.

    Args:
        starts: First rows of all windows, ascending.
        block_rows: Rows in which the windows of a block start.
        order: Of an epoch.

    Example:
        >>> pools = Pools(np.arange(10), 4, order=lambda values: values)
        >>> pools.spans(0, window=3).tolist()
        [[0, 6], [4, 10], [8, 12]]
        >>> pools.take(0, np.array([2, 3]))
        array([2, 3])
    """

    def __init__(
        self,
        starts: NDArray[np.int64],
        block_rows: int,
        order: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> None:
        self._starts, self._order = starts, order
        change = np.flatnonzero(np.diff(starts // block_rows)) + 1
        self._bounds = np.array([0, *change, len(starts)], np.int64)
        self._blocks = order(np.arange(len(self._bounds) - 1))
        sizes = np.diff(self._bounds)[self._blocks]
        self._ends = np.cumsum(np.add.reduceat(sizes, range(0, len(sizes), POOL_BLOCKS)))
        self._latest: tuple[int, NDArray[np.int64]] = (-1, starts[:0])

    @cached_property
    def share(self) -> float:
        """Of all windows, how many those of one pool are: 1 is a shuffle of all."""
        return min(1.0, POOL_BLOCKS / len(self._blocks))

    def pieces(self, places: NDArray[np.int64]) -> Iterator[tuple[slice, int, NDArray[np.int64]]]:
        """Cuts places of the epoch where the pool changes: which of them, pool, first rows."""
        pool = np.searchsorted(self._ends, places, side="right")
        edges = [0, *(np.flatnonzero(np.diff(pool)) + 1).tolist(), len(places)]
        for begin, end in pairwise(edges):
            if begin < end:
                number = int(pool[begin])
                yield slice(begin, end), number, self.take(number, places[begin:end])

    def take(self, pool: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """First rows of the windows at places of the epoch that lie in a pool."""
        if self._latest[0] != pool:
            lows, highs = self._bounds[:-1], self._bounds[1:]
            found = [self._starts[lows[k] : highs[k]] for k in self._members(pool)]
            self._latest = pool, self._order(np.concatenate(found))
        before = self._ends[pool - 1] if pool else 0
        return self._latest[1][places - before]

    def spans(self, pool: int, window: int) -> NDArray[np.int64]:
        """Rows of each block of a pool, ascending `[n, 2]`: the first, and that after the last."""
        first = self._starts[self._bounds[:-1]]
        last = self._starts[self._bounds[1:] - 1]
        members = self._members(pool)
        return np.stack([first[members], last[members] + window], axis=1)

    def _members(self, pool: int) -> NDArray[np.int64]:
        return np.sort(self._blocks[pool * POOL_BLOCKS : (pool + 1) * POOL_BLOCKS])
