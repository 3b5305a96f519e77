"""The rows of a dataset, and batches of windows of them.

Axes: B windows of a batch, T rows of a window, F features, K targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from featurekit.dataset.batch import Batch
from featurekit.dataset.strip import Strip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.dataset.reader import Dataset


class Rows:
    """Where windows are copied from: the shards, mapped into memory."""

    def __init__(self, dataset: Dataset, *, scaled: bool) -> None:
        self.dataset = dataset
        self.scaling = dataset.scaling if scaled else None
        shards, first = dataset.shards, dataset.manifest.shard_starts[:-1]
        arena = shards[0].arena
        self._arena = arena
        self.features = Strip.of([shard.features for shard in shards], first, arena)
        self.targets = Strip.of([shard.targets for shard in shards], first, arena)
        halves = [shard.time.view(np.int32).reshape(-1, 2) for shard in shards]
        self.time = Strip.of(halves, first, arena)

    def populate(self) -> None:
        """Brings the rows into memory, before windows are copied from all over them."""
        self._arena.populate()

    def batch(self, starts: NDArray[np.int64], window: int, *, targets: bool) -> Batch:
        """The windows that start at rows, counted over all symbols."""
        count, dataset = len(starts), self.dataset
        x_BTF = torch.empty(count, window, len(dataset.names))
        y_BK = torch.empty(count, 1, len(dataset.targets) if targets else 0)
        time = torch.empty(count, 1, 2, dtype=torch.int32)
        last = starts + window - 1
        self.features.windows(starts, x_BTF)
        if self.scaling is not None:
            x_BTF = torch.from_numpy(self.scaling.apply(x_BTF.numpy()))
        return Batch(
            features=x_BTF,
            targets=self.targets.windows(last, y_BK)[:, 0],
            weight=torch.ones(count),
            symbol=torch.from_numpy(symbol_codes(dataset, starts)),
            time=self.time.windows(last, time).view(torch.int64)[:, 0, 0],
            names=dataset.names,
            symbols=dataset.symbols,
        )


def symbol_codes(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The symbol of each row, as its place in `symbols`."""
    return np.searchsorted(dataset.manifest.symbol_starts, rows, side="right") - 1
