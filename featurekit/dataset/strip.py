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


class Strip:
    """Rows that lie one behind another within each part: shards, or blocks of them.

    Part k holds the rows from `first[k]` on, at the elements from `at[k]` on of a flat tensor: of
    one for all parts, or of one for each.

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
    ) -> None:
        self.flats, self.at, self.first, self.columns = tuple(flats), at, first, columns

    @staticmethod
    def of(parts: Sequence[NDArray[Any]], first: NDArray[np.int64], arena: Arena | None) -> Strip:
        """Over arrays `[n]` or `[n, C]` of 4-byte numbers, without a copy.

        With an arena that is one range, the parts lie in it and their offsets count from its start.
        """
        dtype, columns = parts[0].dtype, parts[0][:1].size
        if arena is None or arena.whole is None:
            flats = [_tensor(part.reshape(-1)) for part in parts]
            return Strip(flats, np.zeros(len(parts), np.int64), first, columns)
        whole = arena.whole.view(dtype)
        at = [(part.ctypes.data - whole.ctypes.data) // dtype.itemsize for part in parts]
        return Strip([torch.from_numpy(whole)], np.array(at, np.int64), first, columns)

    def windows(self, rows: NDArray[np.int64], out: torch.Tensor) -> torch.Tensor:
        """Fills `out` `[B, T, C]` with the T rows from each of `[B]` rows on, and returns it.

        A window is one contiguous slice, so all windows of a flat tensor are the rows of one view
        whose rows overlap: element e starts row e.
        """
        size = out[0].numel() if len(out) else 0
        if not size:
            return out
        part = np.searchsorted(self.first, rows, side="right") - 1
        elements = torch.from_numpy(self.at[part] + (rows - self.first[part]) * self.columns)
        if len(self.flats) == 1:
            _select(self.flats[0], elements, out.view(len(out), size))
            return out
        for k in np.unique(part):
            here = torch.from_numpy(np.flatnonzero(part == k))
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
