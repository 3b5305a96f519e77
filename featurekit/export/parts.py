"""What an export holds: rows or windows of a dataset, in parts, each in blocks of one symbol."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

import numpy as np

from featurekit.dataset.windows import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from featurekit.dataset.reader import Dataset

BLOCK_BYTES = 64 * 2**20  # of features in memory at once

Numbers: TypeAlias = Union[range, "NDArray[np.int64]"]


class Block(NamedTuple):
    """Samples of one symbol, in order of time.

    `features` are rows `[n, F]` or windows `[n, N, F]`; `targets` `[n, K]` and the UTC ns `time`
    `[n]` are those of the row, or of the window's last row.
    """

    symbol: str
    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    time: NDArray[np.int64]


class Sample(NamedTuple):
    """One of a block's samples, as formats that store samples one by one give it back."""

    symbol: str
    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    time: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows, or with `window` windows named by their first rows, of each symbol in turn."""

    name: str
    dataset: Dataset
    numbers: Sequence[tuple[str, Numbers]]
    scaled: bool
    window: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of one sample: `[F]` or `[N, F]`."""
        width = len(self.dataset.names)
        return (width,) if self.window is None else (self.window, width)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(target.name for target in self.dataset.targets)

    @property
    def samples(self) -> int:
        """Number of samples of all symbols."""
        return sum(len(numbers) for _, numbers in self.numbers)

    def blocks(self) -> Iterator[Block]:
        """The samples, so many at once as fit in `BLOCK_BYTES`."""
        for symbol, numbers in self.numbers:
            for at in range(0, len(numbers), self._block):
                yield self._read(symbol, numbers[at : at + self._block])

    def spans(self) -> Iterator[slice]:
        """Which samples each block holds; the last is open, so that a reader gives what is left."""
        at, samples = 0, self.samples
        for _, numbers in self.numbers:
            for within in range(0, len(numbers), self._block):
                stop = at + min(self._block, len(numbers) - within)
                yield slice(at, None if stop == samples else stop)
                at = stop

    @property
    def _block(self) -> int:
        return max(1, BLOCK_BYTES // (4 * int(np.prod(self.shape))))

    def _read(self, symbol: str, numbers: Numbers) -> Block:
        start = int(numbers[0])
        rows = self.dataset.read(start, int(numbers[-1]) + (self.window or 1))
        features, targets, time = rows.features, rows.targets, rows.time
        if self.window is not None:
            first = np.asarray(numbers, np.int64) - start
            last = first + self.window - 1
            features = features[first[:, None] + np.arange(self.window)]
            targets, time = targets[last], time[last]
        if self.scaled and self.dataset.scaling is not None:  # an export refuses it without one
            features = self.dataset.scaling.apply(features)
        return Block(symbol, features, targets, time)


def parts_of(
    dataset: Dataset, *, by_split: bool, split: str | None, scaled: bool, window: int | None
) -> tuple[Part, ...]:
    """One part for all rows, named `rows`, or one a split; a split without samples has none."""
    if not by_split and split is None:
        found = [("rows", _ranges(pairwise(dataset.manifest.symbol_starts)))]
    else:
        asked = SPLITS if split is None else (split,)
        found = [(name, _numbers(dataset, name, window)) for name in asked]
    parts = [
        Part(
            name,
            dataset,
            [(s, each) for s, each in zip(dataset.symbols, numbers, strict=True) if len(each)],
            scaled,
            window,
        )
        for name, numbers in found
    ]
    return tuple(part for part in parts if part.samples)


def _numbers(dataset: Dataset, split: str, window: int | None) -> list[Numbers]:
    """Rows of a split, or first rows of its windows, of each symbol."""
    if window is None:
        code = SPLITS.index(split)
        return _ranges(dataset.bounds[:, code : code + 2])
    starts = dataset.starts(split, window)
    cuts = np.searchsorted(starts, dataset.manifest.symbol_starts)
    return [starts[first:stop] for first, stop in pairwise(cuts)]


def _ranges(bounds: Iterable[Iterable[np.int64]]) -> list[Numbers]:
    return [range(*map(int, each)) for each in bounds]


def gathered(samples: Iterator[Sample], part: Part) -> Iterator[Block]:
    """Samples that were read one by one, in the blocks of the part."""
    for span in part.spans():
        count = None if span.stop is None else span.stop - span.start
        found = list(islice(samples, count))
        if not found:  # the block is missing
            return
        symbols, features, targets, times = zip(*found, strict=True)
        time = np.array(times, np.int64)
        yield Block(common(symbols), np.stack(features), np.stack(targets), time)


def common(symbols: Sequence[str]) -> str:
    """The one symbol of a block that was read back.

    Example:
        >>> common(["EURUSD", "EURUSD"]), common(["EURUSD", "USDJPY"])
        ('EURUSD', 'EURUSD and 1 more')
    """
    first, *more = dict.fromkeys(symbols)
    return f"{first} and {len(more)} more" if more else first
