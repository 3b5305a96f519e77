"""The rows of a dataset, and batches of windows of them.

Axes: B windows of a batch, T rows of a window, F features, K targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch

from featurekit.dataset.batch import Batch
from featurekit.dataset.strip import Strip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from featurekit.dataset.reader import Dataset
    from featurekit.dataset.treatment import Treatment
    from featurekit.dataset.verify import BlockCheck

_CHUNK = 8192  # rows that are treated at once

# Tables that some loader keeps in memory, so that those of train and validation share one.
_RESIDENT: WeakKeyDictionary[Dataset, WeakValueDictionary[tuple[object, ...], torch.Tensor]] = (
    WeakKeyDictionary()
)


class Rows:
    """Where windows are copied from, and what becomes of their features."""

    def __init__(
        self,
        dataset: Dataset,
        features: Strip,
        targets: Strip,
        time: Strip,
        treatment: Treatment | None,
        blocks: BlockCheck | None = None,
    ) -> None:
        self.dataset, self.blocks = dataset, blocks
        self.features, self.targets, self.time = features, targets, time
        self.treatment = treatment if treatment is not None and treatment.changes else None

    @staticmethod
    def mapped(dataset: Dataset, treatment: Treatment) -> Rows:
        """The shards as they are mapped into memory; a window is treated when it is copied."""
        shards, extents = dataset.shards, dataset.manifest.extents
        features, targets, time = (
            Strip.of(arrays, extents, shards[0].arena)
            for arrays in (
                [shard.features for shard in shards],
                [shard.targets for shard in shards],
                [halves(shard.time) for shard in shards],
            )
        )
        return Rows(dataset, features, targets, time, treatment, dataset.blocks)

    @staticmethod
    def resident(dataset: Dataset, treatment: Treatment, device: torch.device) -> Rows:
        """Every row, treated once and kept on a device, where windows are copied."""
        shared = _RESIDENT.setdefault(dataset, WeakValueDictionary())
        key = (treatment.dtype, treatment.scaling is not None, device)
        table = shared.get(key)
        if table is None:
            table = shared[key] = _table(dataset, treatment, device)
        zero = np.zeros(1, np.int64)
        features = Strip([table], zero, zero, len(dataset.names))
        mapped = Rows.mapped(dataset, treatment)
        return Rows(dataset, features, mapped.targets, mapped.time, None)

    @property
    def device(self) -> torch.device:
        """Where windows are copied, to features on the same device."""
        return self.features.flats[0].device

    def copy(
        self,
        starts: NDArray[np.int64],
        x_BTF: torch.Tensor,
        y_BK: torch.Tensor,
        time_B2: torch.Tensor,
    ) -> None:
        """Fills tensors from the windows that start at rows, counted over all symbols."""
        last = starts + x_BTF.shape[1] - 1
        if self.blocks is not None:
            self.blocks.windows(starts, x_BTF.shape[1])
        if self.treatment is None:
            self.features.windows(starts, x_BTF)
        else:
            natural = self.features.windows(starts, torch.empty(x_BTF.shape))
            self.treatment.apply(natural, x_BTF)
        self.targets.windows(last, y_BK[:, None])
        self.time.windows(last, time_B2[:, None])


Piece = tuple[slice, Rows, "NDArray[np.int64]"]  # places in the batch, and what they are copied of


def batch_of(
    dataset: Dataset,
    pieces: Iterable[Piece],
    mask: NDArray[np.bool_],
    x_BTF: torch.Tensor,
    *,
    targets: bool,
) -> Batch:
    """A batch of windows, copied piece by piece; `x_BTF` takes their features."""
    count = len(mask)
    y_BK = torch.empty(count, len(dataset.targets) if targets else 0)
    time_B2 = torch.empty(count, 2, dtype=torch.int32)
    starts = np.empty(count, np.int64)
    for at, rows, found in pieces:
        rows.copy(found, x_BTF[at], y_BK[at], time_B2[at])
        starts[at] = found
    return Batch(
        features=x_BTF,
        targets=y_BK,
        weight=torch.from_numpy(mask.astype(np.float32)),
        mask=torch.from_numpy(mask),
        symbol=torch.from_numpy(symbol_codes(dataset, starts)),
        time=time_B2.view(torch.int64)[:, 0],
        names=dataset.names,
        symbols=dataset.symbols,
    )


def _table(dataset: Dataset, treatment: Treatment, device: torch.device) -> torch.Tensor:
    """All rows, treated, as one flat tensor on the device."""
    if dataset.blocks is not None:
        dataset.blocks.all()
    width = len(dataset.names)
    table = torch.empty(dataset.rows * width, dtype=treatment.dtype, device=device)
    at = 0
    for code, start, rows in dataset.manifest.extents:
        features = dataset.shards[code].features[start : start + rows]
        for begin in range(0, rows, _CHUNK):
            natural = torch.from_numpy(features[begin : begin + _CHUNK].copy())
            treated = treatment.apply(natural, torch.empty(natural.shape, dtype=treatment.dtype))
            table[at : at + treated.numel()] = treated.view(-1)
            at += treated.numel()
    return table


def halves(time: NDArray[np.int64]) -> NDArray[Any]:
    """Times `[n]` as `[n, 2]` of four bytes: in a shard they need not lie at multiples of eight."""
    return time.view(np.int32).reshape(-1, 2)


def symbol_codes(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The symbol of each row, as its place in `symbols`."""
    return np.searchsorted(dataset.manifest.symbol_starts, rows, side="right") - 1
