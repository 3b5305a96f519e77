"""A batch of windows as torch tensors.

Axes: B windows of a batch, T rows of a window, F features, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TENSORS = ("features", "targets", "weight", "symbol", "time")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows, what they are to predict, and where they come from; every tensor is a copy.

    `features` `[B, T, F]` and `targets` `[B, K]` are float32, `weight` `[B]` is 1 for each window,
    `symbol` `[B]` counts in `symbols`, `time` `[B]` is the UTC ns of the window's last row, whose
    targets these are. `names` are the features'. Not asked for, targets are `[B, 0]`.
    """

    features: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    symbol: torch.Tensor
    time: torch.Tensor
    names: tuple[str, ...]
    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on a device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking) for name in TENSORS
        }
        return replace(self, **moved)
