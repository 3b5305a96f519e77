"""Extents: where the rows of a dataset lie in its shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


class Span(NamedTuple):
    """Rows of one shard, counted in it."""

    shard: int
    start: int
    rows: int


class Extents:
    """Rows that lie one behind another in a shard, as they do in the dataset.

    Extent k holds the rows of the dataset from `first[k]` to before `first[k + 1]`, at the rows of
    shard `shard[k]` from `start[k]` on. A window whose last row lies in an extent lies in its shard
    with all its rows: those before the extent are repeated there.

    Example:
        >>> extents = Extents([(0, 0, 100), (1, 20, 30)])
        >>> list(extents.spans(90, 110))
        [Span(shard=0, start=90, rows=10), Span(shard=1, start=20, rows=10)]
        >>> extents.locate(np.array([0, 100]))
        (array([0, 1]), array([ 0, 20]))
    """

    def __init__(self, spans: Iterable[tuple[int, int, int]]) -> None:
        joined: list[Span] = []
        for span in map(Span._make, spans):
            if span.rows <= 0:
                continue
            last = joined[-1] if joined else Span(-1, 0, 0)
            if (last.shard, last.start + last.rows) == (span.shard, span.start):
                joined[-1] = last._replace(rows=last.rows + span.rows)
            else:
                joined.append(span)
        table = np.array(joined, np.int64).reshape(-1, 3)
        self.shard, self.start = table[:, 0], table[:, 1]
        self.first = np.cumsum([0, *table[:, 2]], dtype=np.int64)

    def __iter__(self) -> Iterator[Span]:
        return self.spans(0, int(self.first[-1]))

    def spans(self, first: int, stop: int) -> Iterator[Span]:
        """Where the rows from one to before another lie, in their order."""
        at = int(np.searchsorted(self.first, first, side="right")) - 1
        while first < stop:
            end = min(stop, int(self.first[at + 1]))
            start = int(self.start[at]) + first - int(self.first[at])
            yield Span(int(self.shard[at]), start, end - first)
            first, at = end, at + 1

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard of each row, and the row's place in it."""
        at = np.searchsorted(self.first, rows, side="right") - 1
        return self.shard[at], self.start[at] + rows - self.first[at]
