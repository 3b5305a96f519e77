"""Recent: the last rows of each symbol, to answer a bar again and to fill the encoder's window.

Axes: S symbols, W rows kept, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Kept(NamedTuple):
    """A row that was made: its bar's stamp, close and digest, and the row.

    `ready` says that it is past the warm-up, `joined` that no gap lies before it.
    """

    stamp: int
    close: int
    digest: int
    ready: bool
    joined: bool
    row: NDArray[np.float32]


class Recent:
    """Rings of rows: `W` of each symbol.

    Example:
        >>> recent = Recent(symbols=1, kept=4, width=2)
        >>> for k in range(3):
        ...     recent.put(0, Kept(k, k + 1, 7, True, k > 0, np.full(2, k, np.float32)))
        >>> recent.find(0, close=2).stamp, recent.find(0, close=9)
        (1, None)
        >>> recent.window(0, close=3, rows=2)[:, 0].tolist(), recent.window(0, close=3, rows=4)
        ([1.0, 2.0], None)
    """

    def __init__(self, symbols: int, kept: int, width: int) -> None:
        self.counts = np.zeros(symbols, np.int64)
        self.rows = np.full((symbols, kept, width), np.nan, np.float32)
        self.stamps = np.zeros((symbols, kept), np.int64)
        self.closes = np.full((symbols, kept), -1, np.int64)
        self.digests = np.zeros((symbols, kept), np.uint64)
        self.ready = np.zeros((symbols, kept), np.uint8)
        self.joined = np.zeros((symbols, kept), np.uint8)

    def put(self, at: int, kept: Kept) -> None:
        """Adds a row."""
        slot = self.counts[at] % self.rows.shape[1]
        self.rows[at, slot], self.stamps[at, slot] = kept.row, kept.stamp
        self.closes[at, slot], self.digests[at, slot] = kept.close, kept.digest
        self.ready[at, slot], self.joined[at, slot] = kept.ready, kept.joined
        self.counts[at] += 1

    def find(self, at: int, close: int) -> Kept | None:
        """The row of the bar that closed then, if it is still here."""
        found = np.flatnonzero(self.closes[at] == close)
        return self._at(at, int(found[0])) if found.size else None

    def last_close(self, at: int) -> int | None:
        """When its newest bar closed, UTC ns; None before its first."""
        count = int(self.counts[at])
        return int(self.closes[at, (count - 1) % self.rows.shape[1]]) if count else None

    def last(self, at: int) -> Kept | None:
        """The newest row of a symbol, or None before its first."""
        count = int(self.counts[at])
        return self._at(at, (count - 1) % self.rows.shape[1]) if count else None

    def window(self, at: int, close: int, rows: int) -> NDArray[np.float32] | None:
        """The rows [rows, F] up to the bar that closed then, if they are here, ready and joined."""
        kept, count = self.rows.shape[1], int(self.counts[at])
        found = np.flatnonzero(self.closes[at] == close)
        if not found.size or min(count, kept) < rows:
            return None
        newest = count - 1 - (count - 1 - int(found[0])) % kept  # its number among all rows
        numbers = np.arange(newest - rows + 1, newest + 1)
        if numbers[0] < max(count - kept, 0):
            return None
        slots = numbers % kept
        if not self.ready[at, slots].all() or not self.joined[at, slots[1:]].all():
            return None
        window: NDArray[np.float32] = self.rows[at, slots]
        return window

    def tables(self) -> dict[str, NDArray[Any]]:
        """All of it by name, as it is saved."""
        return dict(vars(self))

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Takes over what was saved; of more rows than there is room for, the newest."""
        there, room = tables["rows"].shape[1], self.rows.shape[1]
        self.counts[:] = tables["counts"]
        for at, count in enumerate(self.counts.tolist()):
            numbers = np.arange(max(count - min(there, room), 0), count)
            for name, mine in self.tables().items():
                if name != "counts":
                    mine[at, numbers % room] = tables[name][at, numbers % there]

    def _at(self, at: int, slot: int) -> Kept:
        return Kept(
            int(self.stamps[at, slot]),
            int(self.closes[at, slot]),
            int(self.digests[at, slot]),
            bool(self.ready[at, slot]),
            bool(self.joined[at, slot]),
            self.rows[at, slot].copy(),
        )
