"""All rows of a dataset as one table of torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from featurekit.dataset.tables import Rows


class Tensors(NamedTuple):
    """Features `[n, F]`, targets `[n, K]`, UTC ns `[n]` and codes of the symbols `[n]` of rows."""

    features: torch.Tensor
    targets: torch.Tensor
    time: torch.Tensor
    symbol: torch.Tensor


def tensors_of(rows: Rows) -> Tensors:
    """The same memory as tensors."""
    return Tensors(*map(torch.from_numpy, rows))
