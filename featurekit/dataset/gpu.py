"""Batches on their way to a GPU, on a stream of their own, while it computes on another."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import torch

from featurekit.dataset.batch import TENSORS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from featurekit.dataset.batch import Batch


class Gpu:
    """A stream for batches, and page-locked buffers from which it copies.

    Everything that makes a batch runs within `making()`. A buffer is filled again only after the
    copy out of it has ended, and what the caller's stream does with a batch waits for the batch.
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self.count = count
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # it has no types
        self._copied: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()

    def making(self) -> AbstractContextManager[object]:
        """Work on the GPU goes to the stream of batches."""
        return torch.cuda.stream(self._stream)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A page-locked tensor whose values are whatever was there."""
        if len(self._copied) == self.count:
            memory, copied = self._copied.popleft()
            copied.synchronize()
            if memory.numel() >= math.prod(shape):
                return memory.view(-1)[: math.prod(shape)].view(shape)
        return pinned(shape, dtype)

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """The batch on the GPU, and the event after which all of it is there."""
        moved = batch.to(self._device, non_blocking=True)
        done = self._stream.record_event()
        if batch.features.device.type == "cpu":
            self._copied.append((batch.features, done))
        return moved, done

    def receive(self, batch: Batch, done: torch.cuda.Event) -> None:
        """The caller's stream waits for the batch, and its memory for the caller's stream."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(done)
        for name in TENSORS:
            getattr(batch, name).record_stream(stream)


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """New page-locked memory."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)
