"""Parquet: a file a block, so that no row group holds two symbols; read back by polars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from featurekit.export.frames import frame, frames, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from featurekit.export.parts import Block, Part

LIBRARY = "polars"


def write(parts: Sequence[Part], directory: Path, tell: Callable[[int], None]) -> None:
    """Writes each block to `PART/000000.parquet` and on; `tell` hears how many samples it had."""
    for part in parts:
        (directory / part.name).mkdir()
        for block, name in zip(part.blocks(), names(part, "parquet"), strict=True):
            frame(part, block).write_parquet(directory / name)
            tell(len(block.time))


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks of a part as polars reads them."""
    return frames(part, directory, "parquet", pl.read_parquet)
