"""RowSample: some rows of a table, the same ones however the table is dealt out.

A row's key is a hash of its symbol and time, and the sample is the rows of the smallest keys: it
depends on neither the order of the rows nor the pieces they came in, and samples add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from featurekit.splitmix import MASK, STEP, mix_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 20_000


def row_keys(symbol: str, time: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The key of each row of a symbol at UTC ns `[n]`: distinct for distinct times.

    Example:
        >>> row_keys("EURUSD", np.array([0, 1])).tolist()
        [11057687983670350257, 16982931374225244168]
    """
    start = xxhash.xxh3_64_intdigest(symbol.encode()) & MASK
    return mix_all(time.astype(np.uint64) * np.uint64(STEP) + np.uint64(start))


@dataclass(frozen=True, slots=True)
class RowSample:
    """The rows of the smallest keys among `seen`: their keys, ascending, and their numbers."""

    keys: NDArray[np.uint64]
    numbers: NDArray[np.int64]
    seen: int

    @staticmethod
    def of(
        keys: NDArray[np.uint64], numbers: NDArray[np.int64], *, seen: int | None = None
    ) -> RowSample:
        """The sample of rows with these keys; `seen` if there were more than these."""
        seen = len(keys) if seen is None else seen
        if len(keys) > SIZE:
            least = np.argpartition(keys, SIZE)[:SIZE]
            keys, numbers = keys[least], numbers[least]
        order = np.argsort(keys, kind="stable")
        return RowSample(keys[order], numbers[order], seen)

    @staticmethod
    def empty() -> RowSample:
        """The sample of no rows."""
        return RowSample(np.empty(0, np.uint64), np.empty(0, np.int64), 0)

    @property
    def whole(self) -> bool:
        """Whether it is every row there was."""
        return self.seen == len(self.keys)

    def first(self, size: int) -> RowSample:
        """The sample of at most `size` rows, that of the smallest keys again."""
        return RowSample(self.keys[:size], self.numbers[:size], self.seen)

    def __len__(self) -> int:
        return len(self.keys)

    def __add__(self, other: RowSample) -> RowSample:
        return RowSample.of(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.numbers, other.numbers]),
            seen=self.seen + other.seen,
        )


class Sampler:
    """Draws a RowSample from rows that come in pieces, after those of a sample."""

    def __init__(self, before: RowSample | None = None) -> None:
        self._sample = RowSample.empty() if before is None else before
        self._keys: list[NDArray[np.uint64]] = []
        self._numbers: list[NDArray[np.int64]] = []
        self._waiting, self._seen = 0, self._sample.seen
        full = len(self._sample) == SIZE
        self._largest = self._sample.keys[-1] if full else np.uint64(MASK)

    def add(self, keys: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        """Looks at more rows."""
        self._seen += len(keys)
        small = keys <= self._largest
        self._keys.append(keys[small])
        self._numbers.append(numbers[small])
        self._waiting += int(small.sum())
        if self._waiting > SIZE:
            self.sample()

    def sample(self) -> RowSample:
        """The sample of all rows so far."""
        keys = np.concatenate([self._sample.keys, *self._keys])
        numbers = np.concatenate([self._sample.numbers, *self._numbers])
        self._sample = RowSample.of(keys, numbers, seen=self._seen)
        self._keys, self._numbers, self._waiting = [], [], 0
        if len(self._sample) == SIZE:
            self._largest = self._sample.keys[-1]
        return self._sample
