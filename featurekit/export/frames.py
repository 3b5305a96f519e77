"""Blocks as polars frames, a file each: what Parquet and Arrow have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.dataset.tables import TIME, frame_of
from featurekit.export.parts import Block, common

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.export.parts import Part


def names(part: Part, suffix: str) -> Iterator[str]:
    """Names of the files of a part, in order: numbers, as a symbol is no path."""
    return (f"{part.name}/{k:06d}.{suffix}" for k, _ in enumerate(part.spans()))


def frame(part: Part, block: Block) -> pl.DataFrame:
    """Symbol, time, the features and the targets of a block."""
    symbol = pl.repeat(block.symbol, len(block.time), dtype=pl.String, eager=True).alias("symbol")
    columns = [*part.dataset.names, *part.targets]
    return frame_of(columns, symbol, block.features, block.targets, block.time)


def frames(
    part: Part, directory: Path, suffix: str, read: Callable[[Path], pl.DataFrame]
) -> Iterator[Block]:
    """The blocks of a part, from frames that are read from its files."""
    schema = {"symbol": pl.String, "time": TIME}
    schema |= dict.fromkeys([*part.dataset.names, *part.targets], pl.Float32)
    for name in names(part, suffix):
        found = read(directory / name)
        if found.schema != schema:
            yield Block(f"columns {found.schema}", *_NOTHING)
            continue
        yield Block(
            common(found["symbol"].unique(maintain_order=True).to_list()),
            _array(found, part.dataset.names),
            _array(found, part.targets),
            found["time"].to_physical().to_numpy(),
        )


def _array(frame: pl.DataFrame, columns: Sequence[str]) -> NDArray[np.float32]:
    """Columns of a frame as `[n, columns]`; of no column too."""
    if not columns:
        return np.empty((len(frame), 0), np.float32)
    return frame.select(columns).to_numpy()


_NOTHING = (np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty(0, np.int64))
