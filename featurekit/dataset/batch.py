"""Windows as torch tensors: a batch, and one sample of it.

Axes: B windows of a batch, T rows of a window, F features, K targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from featurekit.errors import ConfigError, Problem

TENSORS = ("features", "targets", "weight", "mask", "symbol", "time")


class Sample(NamedTuple):
    """One window: the tensors of a `Batch` without their first axis."""

    features: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    mask: torch.Tensor
    symbol: torch.Tensor
    time: torch.Tensor
    names: tuple[str, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows, what they are to predict, and where they come from; its memory is the caller's.

    Args:
        features: `[B, T, F]`, in natural units or scaled, of the loader's dtype.
        targets: `[B, K]` float32; `[B, 0]` where they were not asked for.
        weight: `[B]` float32, 1 for a window, 0 for one that only fills the batch up.
        mask: `[B]` bool, whether a window is one, and does not only fill the batch up.
        symbol: `[B]` int64, counts in `symbols`.
        time: `[B]` int64, UTC ns of the window's last row, whose targets these are.
        names: The features'.
        symbols: All of the dataset's.
    """

    features: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    mask: torch.Tensor
    symbol: torch.Tensor
    time: torch.Tensor
    names: tuple[str, ...]
    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Sample:
        one: dict[str, Any] = {name: getattr(self, name)[index] for name in TENSORS}
        return Sample(**one, names=self.names, symbols=self.symbols)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU do not block.

        Raises:
            ConfigError: when there is no accelerator.
        """
        if not torch.accelerator.is_available():
            raise ConfigError(
                Problem(
                    "memory is pinned for copies to an accelerator, and there is none",
                    where="Batch.pin_memory",
                    fix="leave pin_memory out",
                )
            )
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in TENSORS}
        return replace(self, **changed)


def collate(
    samples: Batch | Sequence[Sample],
    *,
    collate_fn_map: object = None,  # torch's default_collate hands it over
) -> Batch:
    """The batch of samples; samples that were copied together are one already."""
    if isinstance(samples, Batch):
        return samples
    stacked: dict[str, Any] = {
        name: torch.stack([getattr(each, name) for each in samples]) for name in TENSORS
    }
    return Batch(**stacked, names=samples[0].names, symbols=samples[0].symbols)


default_collate_fn_map[Sample] = collate  # a DataLoader of samples needs no collate_fn of its own
