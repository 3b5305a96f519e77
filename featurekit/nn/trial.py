"""Trial: a small encoder and head under one input treatment, trained and recorded step by step.

Axes: B windows, T rows of a window, F features, K outputs of the head.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from featurekit.nn.encoder import TemporalEncoder

LEARNING_RATE, CLIP = 1e-3, 0.5


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: as fast at this size, and the same bits on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of each update, lists of one number a step.

    `zeros` is the share of `temporal_projection.weight.grad` that is exactly 0, before clipping;
    `pooling` the norm of the learnable pooling's gradient after it, as the optimizer gets it;
    `activity` the share of windows that end in a position.
    """

    loss: list[float] = field(default_factory=list)
    zeros: list[float] = field(default_factory=list)
    pooling: list[float] = field(default_factory=list)
    activity: list[float] = field(default_factory=list)


class Trial:
    """An encoder, an MLP head and Adam, with gradients clipped at 0.5.

    Args:
        encoder: The treatment is its own.
        outputs: K.
    """

    def __init__(self, encoder: TemporalEncoder, outputs: int) -> None:
        self.encoder = encoder
        width = encoder.temporal_projection.out_features
        self.head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, outputs))
        self.parameters = [*encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, LEARNING_RATE)
        self.record = Record()

    def step(self, x_BTF: Tensor, loss_of: Callable[[Tensor], Tensor], activity: float) -> None:
        """One update on a batch; `loss_of` is the loss of the head's output [B, K]."""
        loss = loss_of(self.head(self.encoder(x_BTF)))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        gradient = self.encoder.temporal_projection.weight.grad
        pooling = [p.grad for p in self.encoder.pooling.parameters() if p.grad is not None]
        assert gradient is not None  # noqa: S101  # backward() has just run
        self.record.loss.append(loss.item())
        self.record.zeros.append(1.0 - float(gradient.count_nonzero()) / gradient.numel())
        self.record.activity.append(activity)
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.record.pooling.append(float(nn.utils.get_total_norm(pooling)))
        self.optimizer.step()

    def predict(self, x_nTF: Tensor, batch: int = 256) -> NDArray[np.float32]:
        """The head's outputs [n, K] in eval."""
        self.encoder.eval()
        parts = [x_nTF[start : start + batch] for start in range(0, len(x_nTF), batch)]
        with torch.no_grad():
            parts = [self.head(self.encoder(part)) for part in parts]
        self.encoder.train()
        made: NDArray[np.float32] = torch.cat(parts).numpy()
        return made
