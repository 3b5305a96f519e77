"""Memory for the features of batches: new memory costs more than the copy into it does.

A page of new memory is cleared and mapped when it is first written, so batches take memory that
batches before them had.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Buffers:
    """Memory of the host that is used again once no tensor of it is left.

    So a batch is the caller's for as long as the caller has it, as if it were a copy. With
    `copy=False` a fixed number of buffers is used in turn, whoever still has one.

    Example:
        >>> buffers = Buffers(count=2)
        >>> one, other = (buffers.take((4,), torch.float32) for _ in range(2))
        >>> place = one.data_ptr()
        >>> del one
        >>> buffers.take((4,), torch.float32).data_ptr() == place
        True
    """

    def __init__(self, count: int, *, copy: bool = True) -> None:
        self.count, self.copy = count, copy
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor whose values are whatever was there."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._next(size)
        lease = memory.view()  # torch keeps this view as long as a tensor of it lives
        if self.copy:
            weakref.finalize(lease, self._give_back, memory).atexit = False
        else:
            self._free.append(memory)
        return torch.from_numpy(lease)[:size].view(dtype).view(shape)

    def _next(self, size: int) -> NDArray[np.uint8]:
        try:
            memory = self._free.popleft() if self.copy or len(self._free) == self.count else None
        except IndexError:
            memory = None
        return np.empty(size, np.uint8) if memory is None or memory.size < size else memory

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        if len(self._free) < self.count:  # what a caller had kept for long is not kept on
            self._free.append(memory)
