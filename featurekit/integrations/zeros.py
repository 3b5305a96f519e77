"""The share of exact zeros in the projection's gradient, read at each backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from featurekit.nn.encoder import TemporalEncoder


class GradientZeros:
    """Counts exact zeros of `temporal_projection.weight.grad`, before anything clips it.

    A share alone does not say that an encoder lives: it is 0 in blind ones too.

    Example:
        >>> import torch
        >>> from featurekit.nn import TemporalEncoder
        >>> encoder = TemporalEncoder(5, 16, prelude="running")
        >>> zeros = GradientZeros(encoder)
        >>> encoder(torch.randn(3, 20, 5)).sum().backward()
        >>> 0 <= zeros.take() < 1, zeros.take()
        (True, nan)
    """

    def __init__(self, encoder: TemporalEncoder) -> None:
        self._sum: Tensor | None = None
        self._passes = 0
        weight = encoder.temporal_projection.weight
        self._handle = weight.register_post_accumulate_grad_hook(self._count)  # type: ignore[no-untyped-call]  # torch has no type for it

    def take(self) -> float:
        """The mean share since the last call; NaN if there was no backward pass."""
        if self._sum is None:
            return float("nan")
        share = float(self._sum) / self._passes
        self._sum, self._passes = None, 0
        return share

    def remove(self) -> None:
        """Counts no longer."""
        self._handle.remove()

    def _count(self, weight: Tensor) -> None:
        assert weight.grad is not None  # noqa: S101  # it has just been accumulated
        # Summed where it is, and read when asked for: reading it would wait for the GPU.
        share = (weight.grad == 0).float().mean()
        self._sum = share if self._sum is None else self._sum + share
        self._passes += 1
