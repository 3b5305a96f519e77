"""The rows of one pool, read from the files into memory that the next pool uses again.

Axes: F features, K targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featurekit.dataset.rows import Piece, Rows, halves
from featurekit.dataset.shard import ShardLayout, damaged
from featurekit.dataset.strip import Strip
from featurekit.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from featurekit.dataset.extents import Span
    from featurekit.dataset.pools import Pools
    from featurekit.dataset.reader import Dataset
    from featurekit.dataset.treatment import Treatment


class PoolReader:
    """Reads blocks of rows from the files, one behind another, and treats each row once.

    Memory-mapped files would be read a page at a time, wherever a window happens to lie.
    """

    def __init__(self, dataset: Dataset, treatment: Treatment, window: int) -> None:
        self.dataset, self.treatment, self.window = dataset, treatment, window
        self._layouts = [ShardLayout.of(s, dataset.manifest) for s in dataset.manifest.shards]
        self._memory: dict[str, NDArray[np.uint8]] = {}
        self._held: tuple[Pools, int] | None = None  # the pool in memory, and of which epoch

    def pieces(self, pools: Pools, places: NDArray[np.int64]) -> Iterator[Piece]:
        """The windows at places of the epoch, pool by pool; each piece is to be copied at once."""
        for at, pool, starts in pools.pieces(places):
            if self._held != (pools, pool):
                self._held = None  # if it cannot be read, it is not there
                self._rows = self._read(pools.spans(pool, self.window))
                self._held = pools, pool
            yield at, self._rows, starts

    def _read(self, spans: NDArray[np.int64]) -> Rows:
        """The rows of blocks, from the first to before the last of each."""
        first, counts = spans[:, 0], spans[:, 1] - spans[:, 0]
        before = np.cumsum(counts) - counts
        rows, width, targets = int(counts.sum()), len(self.dataset.names), len(self.dataset.targets)
        x = self._array("features", (rows, width), np.float32)
        y = self._array("targets", (rows, targets), np.float32)
        time = self._array("time", (rows,), np.int64)
        into = {"features": x, "targets": y, "time": time}
        at = 0
        pieces: dict[int, list[tuple[int, Span]]] = {}  # of each shard: places in memory, rows
        for begin, stop in spans.tolist():
            if self.dataset.blocks is not None:
                self.dataset.blocks.rows(begin, stop)
            for span in self.dataset.manifest.extents.spans(begin, stop):
                pieces.setdefault(span.shard, []).append((at, span))
                at += span.rows
        for code, found in pieces.items():
            self._read_shard(code, found, into)
        return Rows(
            self.dataset,
            self._strip(self._treated(x), first, before),
            self._strip(torch.from_numpy(y), first, before),
            self._strip(torch.from_numpy(halves(time)), first, before),
            None,
        )

    def _read_shard(
        self, code: int, pieces: Sequence[tuple[int, Span]], into: dict[str, NDArray[Any]]
    ) -> None:
        shard, layout = self.dataset.manifest.shards[code], self._layouts[code]
        path = self.dataset.path / "shards" / shard.file
        with path.open("rb", buffering=0) as file:
            for name, tensor in layout.tensors.items():
                for at, span in pieces if tensor.row_bytes else ():
                    file.seek(len(layout.header) + tensor.at + span.start * tensor.row_bytes)
                    left = into[name][at : at + span.rows].reshape(-1).view(np.uint8).data
                    while left:
                        done = file.readinto(left)
                        if not done:
                            raise DatasetError(
                                damaged(path, shard, f"{shard.bytes} bytes", "a shorter file")
                            )
                        left = left[done:]

    def _treated(self, x: NDArray[np.float32]) -> torch.Tensor:
        natural = torch.from_numpy(x)
        if not self.treatment.changes:
            return natural
        size = self.treatment.dtype.itemsize
        memory = torch.from_numpy(self._array("treated", (x.size * size,), np.uint8))
        return self.treatment.apply(natural, memory.view(self.treatment.dtype).view(x.shape))

    def _strip(
        self, table: torch.Tensor, first: NDArray[np.int64], before: NDArray[np.int64]
    ) -> Strip:
        columns, ahead = table.shape[1], self.window - 1  # a window belongs to where it ends
        return Strip([table.reshape(-1)], (before + ahead) * columns, first + ahead, columns)

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:  # noqa: ANN401  # numpy's types of types
        """Memory for a tensor: that of the pool before, if it is enough."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = np.empty(size, np.uint8)
        array: NDArray[Any] = self._memory[name][:size].view(dtype).reshape(shape)
        return array
