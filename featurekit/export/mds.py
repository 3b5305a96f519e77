"""MosaicML Streaming's MDS: a directory a split, which `StreamingDataset` opens.

Arrays are raw bytes of a type and shape that the index declares, never pickles.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.export.extras import missing
from featurekit.export.parts import Sample, gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from featurekit.export.parts import Block, Part

LIBRARY = "mosaicml-streaming"


def library() -> Any:  # noqa: ANN401  # a module without types
    """The library.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        from streaming.base import format as streaming_format
    except (ImportError, RuntimeError) as error:  # the second is torchvision's, of another torch
        raise missing("mds", LIBRARY, error) from error
    return streaming_format


def write(parts: Sequence[Part], directory: Path, tell: Callable[[int], None]) -> None:
    """Writes `SPLIT/index.json` and its shards; `tell` hears how many samples a block had."""
    writer_of = library().MDSWriter
    for part in parts:
        columns = {"features": _array(part.shape), "symbol": "str", "time": "int"}
        if part.targets:
            columns["targets"] = _array((len(part.targets),))
        with writer_of(out=str(directory / part.name), columns=columns, max_workers=1) as writer:
            for block in part.blocks():
                for features, targets, time in zip(*block[1:], strict=True):
                    sample = {"features": features, "symbol": block.symbol, "time": int(time)}
                    if part.targets:
                        sample["targets"] = targets
                    writer.write(sample)
                tell(len(block.time))


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks of a part as the library's reader decodes them."""
    return gathered(_samples(part, directory), part)


def _samples(part: Part, directory: Path) -> Iterator[Sample]:
    index = json.loads((directory / part.name / "index.json").read_text(encoding="utf-8"))
    none = np.empty(0, np.float32)
    for described in index["shards"]:
        reader = library().reader_from_json(str(directory), part.name, described)
        reader.validate(allow_unsafe_types=False)
        for k in range(len(reader)):
            found = reader[k]
            targets = found.get("targets", none)
            yield Sample(found["symbol"], found["features"], targets, int(found["time"]))


def _array(shape: tuple[int, ...]) -> str:
    return f"ndarray:float32:{','.join(map(str, shape))}"
