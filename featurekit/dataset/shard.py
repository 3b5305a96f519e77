"""One shard: where its tensors lie, writing rows to their place, and mapping it into memory.

A shard is a safetensors file. Its header is padded with spaces, which the format allows, so that
the rows of features start on a page; between the tensors there is no hole, which it demands.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featurekit.dataset.arena import Arena
from featurekit.dataset.digests import BLOCK, BlockDigest
from featurekit.dataset.manifest import Manifest, Shard, canonical_json
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.dataset.extents import Extents

_HEADER = 65_536  # bytes before the first tensor, or a multiple: whole pages


class Tensor(NamedTuple):
    """Type and shape of a tensor, and the byte of the data section at which it starts."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    at: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


@dataclass(frozen=True)
class ShardLayout:
    """The bytes of a shard: a padded header, then features, targets and time.

    The header says which build wrote it and its name: no other shard passes for it.

    Example:
        >>> layout = ShardLayout(1000, ("market.ret_1", "market.ret_5"), ("ret_next_5",))
        >>> len(layout.header), layout.tensors["targets"].at, layout.bytes
        (65536, 8000, 85536)
    """

    rows: int
    features: tuple[str, ...]
    targets: tuple[str, ...]
    build: str = ""
    file: str = ""

    @staticmethod
    def of(shard: Shard, manifest: Manifest) -> ShardLayout:
        """The layout of a shard that a manifest describes."""
        targets = tuple(target.name for target in manifest.targets)
        return ShardLayout(shard.rows, manifest.names, targets, shard.build, shard.file)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors in the order of the file, each right behind the one before."""
        tensors: dict[str, Tensor] = {}
        at = 0
        for name, dtype, shape in (
            ("features", "<f4", (self.rows, len(self.features))),
            ("targets", "<f4", (self.rows, len(self.targets))),
            ("time", "<i8", (self.rows,)),
        ):
            tensors[name] = Tensor(np.dtype(dtype), shape, at)
            at += self.rows * tensors[name].row_bytes
        return tensors

    @cached_property
    def header(self) -> bytes:
        """The safetensors header, padded with spaces to a multiple of 64 KB."""
        names = {"features": self.features, "targets": self.targets}
        described: dict[str, Any] = {
            "__metadata__": {
                "build": self.build,
                "file": self.file,
                **{key: canonical_json(value) for key, value in names.items()},
            }
        }
        for name, (dtype, shape, at) in self.tensors.items():
            stop = at + self.rows * self.tensors[name].row_bytes
            kind = {"f": "F32", "i": "I64"}[dtype.kind]
            described[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, stop]}
        text = json.dumps(described, separators=(",", ":")).encode()
        size = math.ceil((len(text) + 8) / _HEADER) * _HEADER - 8
        return size.to_bytes(8, "little") + text.ljust(size)

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + self.rows * sum(t.row_bytes for t in self.tensors.values())

    def arrays(self, file: NDArray[np.uint8], *, writable: bool = False) -> dict[str, Any]:
        """The tensors in the bytes of the file, without a copy; read-only unless `writable`."""
        found = {}
        for name, tensor in self.tensors.items():
            at = len(self.header) + tensor.at
            found[name] = np.ndarray(tensor.shape, tensor.dtype, file, at)
            found[name].flags.writeable = writable
        return found


class ShardFile:
    """A shard that is being written: rows go to any place of it, in any order.

    What comes in the order of the file is hashed on its way; the rest is read again at the end.
    """

    def __init__(self, path: Path, layout: ShardLayout) -> None:
        self.path, self.layout = path, layout
        self.hashed = BlockDigest()
        self._missing = layout.rows
        self._file: FileIO | None = None

    @property
    def finished(self) -> bool:
        """Whether every row was written, synced and hashed."""
        return not self._missing

    def write(self, row: int, rows: dict[str, NDArray[Any]]) -> None:
        """Writes rows of every tensor from a row on; after the last missing one, syncs the file.

        Raises:
            OSError: when the disk is full.
        """
        if self._file is None:
            self._file = FileIO(self.path, "xb+")
            self._file.truncate(self.layout.bytes)
            self._write_at(0, memoryview(self.layout.header))
        for name, tensor in self.layout.tensors.items():
            at = len(self.layout.header) + tensor.at + row * tensor.row_bytes
            self._write_at(at, rows[name].data.cast("B") if rows[name].size else b"")
        self._missing -= len(rows["time"])
        if not self._missing:
            self._file.seek(self.hashed.bytes)
            while chunk := self._file.read(BLOCK):
                self.hashed.update(chunk)
            os.fsync(self._file.fileno())
            self._file.close()

    def take_over(self, whole: str, blocks: Sequence[str]) -> bool:
        """Whether the file is there already, finished and with these hashes."""
        found = BlockDigest()
        with suppress(OSError), self.path.open("rb") as file:
            while chunk := file.read(BLOCK):
                found.update(chunk)
        same = found.whole == whole and found.blocks == tuple(blocks)
        if same and found.bytes == self.layout.bytes:
            self.hashed, self._missing = found, 0
        return self.finished

    def features(self) -> NDArray[np.float32]:
        """The features `[n, F]` of the finished file, mapped into memory."""
        tensor = self.layout.tensors["features"]
        at = len(self.layout.header) + tensor.at
        return np.memmap(self.path, tensor.dtype, "r", at, tensor.shape)

    def _write_at(self, at: int, content: bytes | memoryview) -> None:
        assert self._file is not None  # noqa: S101  # write() opened it
        if at == self.hashed.bytes:
            self.hashed.update(content)
        left = memoryview(content)
        while left:  # one call may write less than it was given
            done = os.pwrite(self._file.fileno(), left, at)
            left, at = left[done:], at + done

    def close(self) -> None:
        """Closes the file, finished or not."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True, eq=False)
class MappedShard:
    """A shard's tensors, zero-copy: `[n, F]`, `[n, K]` and `[n]`, in their arena."""

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    time: NDArray[np.int64]
    arena: Arena


def take_rows(
    shards: Sequence[NDArray[np.float32]], extents: Extents, numbers: NDArray[np.int64]
) -> NDArray[np.float32]:
    """A copy of rows `[n, F]`, by their numbers in the dataset.

    Example:
        >>> from featurekit.dataset.extents import Extents
        >>> shards = [np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)]
        >>> take_rows(shards, Extents([(0, 0, 2), (1, 0, 2)]), np.array([3, 0]))
        array([[1.],
               [0.]], dtype=float32)
    """
    shard, row = extents.locate(numbers)
    rows = np.empty((len(numbers), shards[0].shape[1]), np.float32)
    for code in np.unique(shard):
        at = np.flatnonzero(shard == code)
        rows[at] = shards[code][row[at]]
    return rows


def shard_paths(root: Path, manifest: Manifest) -> list[Path]:
    """The files of a manifest's shards in the dataset at `root`."""
    return [root / "shards" / shard.file for shard in manifest.shards]


def map_shards(
    paths: Sequence[Path], manifest: Manifest, *, writable: bool = False
) -> tuple[MappedShard, ...]:
    """The shards of a manifest, after their sizes and headers were compared with it.

    They are read-only, or `writable`: what is written stays in memory, and never reaches the files.

    Raises:
        DatasetError: when a shard is missing, has another size or another header; all of them at
            once.
    """
    if problems := damaged_shards(paths, manifest):
        raise DatasetError(*(problem for _, problem in problems))
    layouts = [ShardLayout.of(shard, manifest) for shard in manifest.shards]
    arena = Arena(paths)
    return tuple(
        MappedShard(**layout.arrays(file, writable=writable), arena=arena)
        for layout, file in zip(layouts, arena.files, strict=True)
    )


def damaged_shards(paths: Sequence[Path], manifest: Manifest) -> list[tuple[Shard, Problem]]:
    """Shards whose size or header is not as their manifest says, and what is wrong with each."""
    layouts = [ShardLayout.of(shard, manifest) for shard in manifest.shards]
    found = map(_damage, paths, manifest.shards, layouts)
    return [(s, problem) for s, problem in zip(manifest.shards, found, strict=True) if problem]


def _damage(path: Path, shard: Shard, layout: ShardLayout) -> Problem | None:
    """What of a shard's size and header is not as the manifest says."""
    try:
        with path.open("rb") as file:
            header, size = file.read(len(layout.header)), os.fstat(file.fileno()).st_size
    except OSError as error:
        return damaged(path, shard, "a readable file", error.strerror or str(error))
    if not size == shard.bytes == layout.bytes:
        return damaged(path, shard, f"{shard.bytes} bytes", f"{size} bytes")
    if header != layout.header:
        return damaged(path, shard, "the header that was written", _whose(header))
    return None


def _whose(header: bytes) -> str:
    """Whose header this is, as far as it can be told."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        of = json.loads(header[8:])["__metadata__"]
        return f"that of {str(of['file'])[:80]} of the build {str(of['build'])[:40]}"
    return "another header"


def damaged(path: Path, shard: Shard, expected: str, got: str) -> Problem:
    """What is wrong with a shard, the symbols and times it holds, and what mends it."""
    return Problem(
        f"the shard {shard.file} is damaged",
        where=f"{path}: {stretch(shard, 0, shard.rows)}",
        expected=expected,
        got=got,
        fix="featurekit build PIPELINE   # builds again what is damaged",
    )


def stretch(shard: Shard, first: int, stop: int, time: NDArray[np.int64] | None = None) -> str:
    """Symbols and times of the rows of a shard from one to before another.

    Without `time`, that of the shard's rows, times are of whole symbols.
    """
    parts = [p for p in shard.symbols if p.start < stop and p.start + p.rows > first]
    if not parts:
        return "rows that nobody reads"
    names = ", ".join(part.symbol for part in parts[:5])
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    begin, end = min(p.first_time for p in parts), max(p.last_time for p in parts)
    if time is not None and len(parts) == 1:
        part = parts[0]
        rows = max(first, part.start), min(stop, part.start + part.rows) - 1
        begin, end = (min(max(int(time[row]), begin), end) for row in rows)
    since, until = (np.datetime64(each, "ns").astype("M8[s]") for each in (begin, end))
    return f"{names}{more}, {since} to {until} UTC"
