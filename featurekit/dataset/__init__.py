"""Rows on disk, and windows of them as batches.

Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from featurekit.feature import Feature
    >>> root = tempfile.mkdtemp()
    >>> hour = 3_600_000_000_000
    >>> feature = Feature("market.ret_1", "market", "ratio", None, "", lookback=1, memory=1)
    >>> plan = [("EURUSD", 9)]
    >>> with DatasetWriter(
    ...     root, fingerprint="0f", features=[feature], targets=[], plan=plan, max_gap=hour
    ... ) as writer:
    ...     time = np.arange(9) * hour
    ...     writer.write("EURUSD", time, np.zeros((9, 1), "f4"), np.zeros((9, 0), "f4"))
    ...     written = writer.commit(
    ...         name="demo", pipeline="name: demo", fingerprints={}, cuts=(6 * hour, 8 * hour),
    ...         embargo=0, window_max=4, scaling=None, versions={}, files={},
    ...     )
    >>> dataset = open_dataset(root)
    >>> dataset.windows("train", window=4)
    3
    >>> [tuple(batch.features.shape) for batch in dataset.loader(window=4, batch_size=2)]
    [(2, 4, 1), (1, 4, 1)]
"""

from featurekit.dataset.manifest import Manifest, Target
from featurekit.dataset.reader import Dataset, open_dataset
from featurekit.dataset.writer import DatasetWriter

__all__ = ["Dataset", "DatasetWriter", "Manifest", "Target", "open_dataset"]
