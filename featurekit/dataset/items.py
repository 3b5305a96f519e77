"""A split's windows one by one, as torch's map-style dataset."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset as MapDataset

from featurekit.dataset.batch import Batch, Sample
from featurekit.dataset.buffers import Buffers
from featurekit.dataset.options import MOST, Dtype, check_options, no_window
from featurekit.dataset.reader import open_dataset
from featurekit.dataset.rows import Rows, batch_of
from featurekit.dataset.treatment import DTYPES, Treatment
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from featurekit.dataset.reader import Dataset

_BUFFERS = 4


class Items(MapDataset[Sample]):
    """Windows by their number, in order of symbol and time.

    A `DataLoader` asks for a batch at once, which is then one copy, and gives a `Batch`. Another
    process opens the files again instead of being sent their rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        window: int,
        *,
        scaled: bool = False,
        dtype: Dtype = "float32",
        stride: int = 1,
        targets: bool = True,
    ) -> None:
        check_options(dataset, window, "cpu", scaled, dtype, [("stride", stride, 1, MOST)])
        self._options: dict[str, Any] = {
            "split": split, "window": window, "scaled": scaled, "dtype": dtype, "stride": stride,
            "targets": targets,
        }  # fmt: skip
        self.dataset, self.window, self.targets = dataset, int(window), targets
        self._starts = dataset.starts(split, self.window, stride=int(stride), targets=targets)
        if not len(self._starts):
            raise no_window(dataset, split, self.window, targets)
        scaling = dataset.scaling if scaled else None
        self._rows = Rows.mapped(dataset, Treatment(dataset.names, scaling, DTYPES[dtype]))
        self._dtype, self._buffers = DTYPES[dtype], Buffers(_BUFFERS)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        starts = self._starts[np.asarray(indices, np.int64)]
        shape = (len(starts), self.window, len(self.dataset.names))
        x_BTF = self._buffers.take(shape, self._dtype)
        mask = np.ones(len(starts), np.bool_)
        pieces = [(slice(None), self._rows, starts)]
        return batch_of(self.dataset, pieces, mask, x_BTF, targets=self.targets)

    def __reduce__(self) -> tuple[Callable[[], Items], tuple[()]]:
        digest = self.dataset.manifest.data_digest
        return partial(_reopen, self.dataset.path.absolute(), digest, self._options), ()


def _reopen(path: Path, digest: str, options: dict[str, Any]) -> Items:
    dataset = open_dataset(path)
    if dataset.manifest.data_digest != digest:
        raise DatasetError(
            Problem(
                "the dataset was built anew since these windows were chosen",
                where=str(path),
                expected=f"data_digest {digest}",
                got=dataset.manifest.data_digest,
                fix="open it again, and make the DataLoader of what it is now",
            )
        )
    return Items(dataset, **options)
