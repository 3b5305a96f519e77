"""The last window of each symbol, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from featurekit.dataset.options import Dtype, check_options
from featurekit.dataset.rows import Rows, batch_of
from featurekit.dataset.treatment import DTYPES, Treatment
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from featurekit.dataset.batch import Batch
    from featurekit.dataset.reader import Dataset


def latest(
    dataset: Dataset,
    window: int,
    *,
    scaled: bool = False,
    dtype: Dtype = "float32",
    device: str | torch.device = "cpu",
) -> Batch:
    """One batch with the last window of each symbol; symbols whose last segment is shorter lack.

    Raises:
        ConfigError: when the window is longer than `windows.max`, or the device does not exist.
        DatasetError: when no symbol has so many rows after its last gap.
    """
    check_options(dataset, window, device, scaled, dtype)
    last = dataset.manifest.last_segments
    starts = [s.start + s.rows - window for s in last.values() if s.rows >= window]
    if not starts:
        longest = max(segment.rows for segment in last.values())
        raise DatasetError(
            Problem(
                f"no symbol has {window} rows after its last gap",
                where=str(dataset.path),
                expected=f"a window of at most {longest} rows",
                got=str(window),
                fix=f"window={longest}",
            )
        )
    treatment = Treatment(dataset.names, dataset.scaling if scaled else None, DTYPES[dtype])
    x_BTF = torch.empty((len(starts), window, len(dataset.names)), dtype=treatment.dtype)
    pieces = [(slice(None), Rows.mapped(dataset, treatment), np.array(starts))]
    every = np.ones(len(starts), np.bool_)
    return batch_of(dataset, pieces, every, x_BTF, targets=False).to(device)
