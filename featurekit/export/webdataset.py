"""WebDataset: tar files a split, in which a sample is three members of one key.

`KEY.features.npy`, `KEY.targets.npy` and `KEY.json` with symbol and time: what the library decodes
by their endings, and nothing that is a pickle.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.export.extras import missing
from featurekit.export.parts import Sample, gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.export.parts import Block, Part

LIBRARY = "webdataset"
SHARD_BYTES = 256 * 2**20  # of samples in a tar file


def library() -> Any:  # noqa: ANN401  # a module without types
    """The library.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise missing("webdataset", LIBRARY, error) from error
    return webdataset


def write(parts: Sequence[Part], directory: Path, tell: Callable[[int], None]) -> None:
    """Writes `SPLIT-000000.tar` and on; `tell` hears how many samples a block had."""
    for part in parts:
        tars = _Tars(directory, part.name)
        with tars.opened:
            for block in part.blocks():
                for features, targets, time in zip(*block[1:], strict=True):
                    described = {"symbol": block.symbol, "time": int(time)}
                    tars.write(
                        {
                            "features.npy": _npy(features),
                            "targets.npy": _npy(targets),
                            "json": json.dumps(described).encode(),
                        }
                    )
                tell(len(block.time))


class _Tars:
    """The tar files of a split, a new one where the last is full."""

    def __init__(self, directory: Path, split: str) -> None:
        self.directory, self.split = directory, split
        self.opened = ExitStack()
        self._files = self._samples = self._left = 0
        self._tar: Any = None

    def write(self, sample: dict[str, bytes]) -> None:
        """Writes a sample with the next key."""
        if self._left <= 0:
            self.opened.close()
            path = self.directory / f"{self.split}-{self._files:06d}.tar"
            file = self.opened.enter_context(path.open("xb"))
            tar = library().TarWriter(file, encoder=False, mtime=0)  # the time would be the clock's
            self._tar = self.opened.enter_context(tar)
            self._files, self._left = self._files + 1, SHARD_BYTES
        key = f"{self.split}-{self._samples:09d}"
        self._left -= self._tar.write({"__key__": key, **sample})
        self._samples += 1


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks of a part as the library decodes them."""
    return gathered(_samples(part, directory), part)


def _samples(part: Part, directory: Path) -> Iterator[Sample]:
    webdataset = library()
    decode = webdataset.decode()
    for path in sorted(directory.glob(f"{part.name}-*.tar")):
        with path.open("rb") as file:  # by a URL, the library would leave it open
            members = webdataset.tariterators.tar_file_expander(
                [{"url": str(path), "stream": file}]
            )
            for found in decode(webdataset.tariterators.group_by_keys(members)):
                features, targets = found["features.npy"], found["targets.npy"]
                yield Sample(found["json"]["symbol"], features, targets, found["json"]["time"])


def _npy(array: NDArray[np.float32]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return stream.getvalue()
