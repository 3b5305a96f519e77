"""Arrow IPC (Feather v2): an uncompressed file a block, to be mapped; read back by polars."""

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
    """Writes each block to `PART/000000.arrow` and on; `tell` hears how many samples it had."""
    oldest = pl.CompatLevel.oldest()  # any Arrow reads large strings, not all read string views
    for part in parts:
        (directory / part.name).mkdir()
        for block, name in zip(part.blocks(), names(part, "arrow"), strict=True):
            frame(part, block).rechunk().write_ipc(directory / name, compat_level=oldest)
            tell(len(block.time))


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks of a part as polars reads them."""
    return frames(part, directory, "arrow", pl.read_ipc)
