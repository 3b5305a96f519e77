"""All rows of a dataset as one table: numpy arrays, or a polars frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featurekit.dataset.manifest import Manifest
    from featurekit.dataset.shard import MappedShard

TIME = pl.Datetime("ns", "UTC")


class Rows(NamedTuple):
    """Features `[n, F]`, targets `[n, K]`, UTC ns `[n]` and codes of the symbols `[n]` of rows."""

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    time: NDArray[np.int64]
    symbol: NDArray[np.int64]


def rows_of(
    manifest: Manifest, shards: Sequence[MappedShard], first: int = 0, stop: int | None = None
) -> Rows:
    """The rows from one to before another: views where they lie in one shard, else copies."""
    stop = manifest.rows if stop is None else stop
    columns = []
    for code, start, rows in manifest.extents.spans(first, stop):
        shard, cut = shards[code], slice(start, start + rows)
        columns.append((shard.features[cut], shard.targets[cut], shard.time[cut]))
    if not columns:
        columns = [(shards[0].features[:0], shards[0].targets[:0], shards[0].time[:0])]
    features, targets, time = (
        columns[0] if len(columns) == 1 else map(np.concatenate, zip(*columns, strict=True))
    )
    edges: NDArray[np.int64] = np.clip(manifest.symbol_starts, first, stop)
    counts = edges[1:] - edges[:-1]
    return Rows(features, targets, time, np.repeat(np.arange(len(counts)), counts))


def frame_of(
    names: Sequence[str],
    symbol: pl.Series,
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    time: NDArray[np.int64],
) -> pl.DataFrame:
    """A frame of rows: symbol, time, and the `names` of features and targets; a copy.

    Example:
        >>> x = np.ones((2, 1), np.float32)
        >>> frame_of(["a.x", "y"], pl.Series("symbol", ["A", "A"]), x, x, np.arange(2)).columns
        ['symbol', 'time', 'a.x', 'y']
    """
    columns = np.empty((len(names), len(time)), np.float32)
    width = features.shape[1]
    for at in range(0, len(time), 512):  # turned in pieces that fit the cache
        cut = slice(at, at + 512)
        columns[:width, cut] = features[cut].T
        columns[width:, cut] = targets[cut].T
    return pl.DataFrame(dict(zip(names, columns, strict=True))).select(
        symbol, pl.Series("time", time.copy()).cast(TIME), pl.all()
    )
