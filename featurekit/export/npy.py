"""Plain numpy files of all rows: features, targets, time and codes of symbols."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from featurekit.export.parts import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from featurekit.export.parts import Part

LIBRARY = "numpy"


def write(parts: Sequence[Part], directory: Path, tell: Callable[[int], None]) -> None:
    """Writes `features.npy` `[n, F]`, `targets.npy` `[n, K]`, `time.npy` and `symbol.npy` `[n]`.

    `symbol` counts in the `symbols` of manifest.json; `tell` hears how many samples a block had.
    """
    (part,) = parts
    n = part.samples
    codes = {symbol: code for code, symbol in enumerate(part.dataset.symbols)}
    with ExitStack() as opened:
        files = {}
        for name, kind, shape in (
            ("features", "<f4", (n, *part.shape)),
            ("targets", "<f4", (n, len(part.targets))),
            ("time", "<i8", (n,)),
            ("symbol", "<i8", (n,)),
        ):
            files[name] = opened.enter_context((directory / f"{name}.npy").open("xb"))
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in part.blocks():
            files["features"].write(block.features.tobytes())
            files["targets"].write(block.targets.tobytes())
            files["time"].write(block.time.tobytes())
            code = np.full(len(block.time), codes[block.symbol], np.int64)
            files["symbol"].write(code.tobytes())
            tell(len(block.time))


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks as numpy maps them; it unpickles nothing."""
    features, targets, time, symbol = (
        np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("features", "targets", "time", "symbol")
    )
    for span in part.spans():
        codes = np.unique(symbol[span])
        name = part.dataset.symbols[codes[0]] if len(codes) == 1 else f"codes {codes}"
        yield Block(name, *(np.asarray(each[span]) for each in (features, targets, time)))
