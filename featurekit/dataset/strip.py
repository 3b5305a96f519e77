"""One tensor of all shards, and the one copy that makes windows of it.

Axes: B windows of a batch, T rows of a window, C columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featurekit.dataset.arena import Arena
    from featurekit.dataset.extents import Extents


class Strip:
    """Rows that lie one behind another within each part: extents of shards, or blocks of a pool.

    Part k gives the windows whose last row is `first[k]` or one after it, up to `first[k + 1]`. Row
    `first[k]` lies at the element `at[k]` of the flat tensor `flat[k]`, by default of the only one.

    Example:
        >>> strip = Strip([torch.arange(12)], at=np.array([0]), first=np.array([0]), columns=2)
        >>> strip.windows(np.array([3, 0]), torch.empty(2, 2, 2, dtype=torch.int64)).tolist()
        [[[6, 7], [8, 9]], [[0, 1], [2, 3]]]
    """

    def __init__(
        self,
        flats: Sequence[torch.Tensor],
        at: NDArray[np.int64],
        first: NDArray[np.int64],
        columns: int,
        flat: NDArray[np.int64] | None = None,
    ) -> None:
        self.flats, self.at, self.first, self.columns = tuple(flats), at, first, columns
        self.flat = np.zeros(len(first), np.int64) if flat is None else flat
        self._origin = at - first * columns  # where row 0 would lie

    @staticmethod
    def of(arrays: Sequence[NDArray[Any]], extents: Extents, arena: Arena | None) -> Strip:
        """Over one array `[n]` or `[n, C]` of 4-byte numbers of each shard, without a copy.

        With an arena that is one range, the arrays lie in it and are one flat tensor.
        """
        dtype, columns = arrays[0].dtype, arrays[0][:1].size
        first, within = extents.first[:-1], extents.start * columns
        if arena is None or arena.whole is None:
            flats = [_tensor(array.reshape(-1)) for array in arrays]
            return Strip(flats, within, first, columns, extents.shard)
        whole = arena.whole.view(dtype)
        origin = [(array.ctypes.data - whole.ctypes.data) // dtype.itemsize for array in arrays]
        at = np.array(origin, np.int64)[extents.shard] + within
        return Strip([torch.from_numpy(whole)], at, first, columns)

    def windows(self, rows: NDArray[np.int64], out: torch.Tensor) -> torch.Tensor:
        """Fills `out` `[B, T, C]` with the T rows from each of `[B]` rows on, and returns it.

        A window is one contiguous slice, so all windows of a flat tensor are the rows of one view
        whose rows overlap: element e starts row e.
        """
        if not out.numel():
            return out
        size = out.shape[1:].numel()
        part = np.searchsorted(self.first, rows + (out.shape[1] - 1), side="right") - 1
        elements = torch.from_numpy(self._origin[part] + rows * self.columns)
        if len(self.flats) == 1:
            _select(self.flats[0], elements, out.view(len(out), size))
            return out
        flat = self.flat[part]
        for k in np.unique(flat):
            here = torch.from_numpy(np.flatnonzero(flat == k))
            some = out.new_empty(len(here), size)
            _select(self.flats[k], elements[here], some)
            out.view(len(out), size)[here] = some
        return out


def _select(flat: torch.Tensor, elements: torch.Tensor, out: torch.Tensor) -> None:
    size = out.shape[1]
    view = flat.as_strided((max(len(flat) - size + 1, 0), size), (1, 1))
    torch.index_select(view, 0, elements.to(flat.device), out=out)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """The same memory; torch has no tensors that are read-only, and this one is only read."""
    same = array.view()
    same.flags.writeable = True
    return torch.from_numpy(same)
