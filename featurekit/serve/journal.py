"""Journal: what was taken in, on disk before it is acknowledged, and snapshots to begin from.

A state directory holds `snapshot-N` and `journal-N`: all that came after it. A record is its length
and the checksums of that and of its bytes, then the bytes. Each is on disk before the next one is
written, so that a crash leaves at most the last one torn: it was never acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from typing import TYPE_CHECKING

import xxhash

from featurekit.dataset.staging import sync
from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEAD = struct.Struct("<QQQ")  # bytes, checksum of that number, checksum of the bytes
_NAME = re.compile(r"(snapshot|journal)-(\d{6})")


class Journal:
    """The state directory of one server.

    Args:
        folder: Made where it is missing; nobody else may use it meanwhile.

    Raises:
        ConfigError: when another server uses it, or it holds other files.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> journal = Journal(folder)
        >>> journal.rotate(b"nothing yet")
        >>> journal.append(b"one"), journal.append(b"two"), journal.close()
        (None, None, None)
        >>> again = Journal(folder)
        >>> again.snapshot(), list(again.records())
        (b'nothing yet', [b'one', b'two'])
        >>> again.close()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._hold()
        except ConfigError:
            os.close(self._lock)
            raise
        found = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
        self._number = max((int(m[2]) for m in found if m and m[1] == "snapshot"), default=-1)
        self._file = -1
        self.size = 0

    def snapshot(self) -> bytes | None:
        """The newest snapshot, or None at the first start.

        Raises:
            DatasetError: when it is damaged.
        """
        if self._number < 0:
            return None
        path = self._path("snapshot")
        data = path.read_bytes()
        kept, end = _record(data, 0, path)
        if kept is None or end != len(data):
            raise _damaged(path, 0)
        return kept

    def records(self) -> Iterator[bytes]:
        """What came after it, in order; a last one that is torn is cut off.

        Raises:
            DatasetError: when one is damaged.
        """
        if self._number < 0:
            return
        path = self._path("journal")
        if not path.exists():  # it is there before its snapshot is
            raise _damaged(path, 0)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND)
        data = path.read_bytes()
        at = 0
        while at < len(data):
            kept, end = _record(data, at, path)
            if kept is None:
                os.ftruncate(self._file, at)
                os.fsync(self._file)
                break
            yield kept
            at = end
        self.size = at

    def append(self, data: bytes) -> None:
        """Writes a record, and returns when it is on disk.

        Raises:
            OSError: when it cannot be.
        """
        _write(self._file, _framed(data))
        os.fdatasync(self._file)
        self.size += _HEAD.size + len(data)

    def rotate(self, snapshot: bytes) -> None:
        """Begins anew from a snapshot; what led to it is removed when that is on disk.

        Raises:
            OSError: when it cannot be written.
        """
        before = self._number
        self._number += 1
        path = self._path("snapshot")
        journal = os.open(
            self._path("journal"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600
        )
        if self._file >= 0:
            os.close(self._file)
        self._file = journal
        temporary = path.with_name(f".{path.name}")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(file, _framed(snapshot))
            os.fsync(file)
        finally:
            os.close(file)
        sync(self.folder)
        temporary.rename(path)
        sync(self.folder)
        self.size = 0
        for old in self.folder.iterdir():
            match = _NAME.fullmatch(old.name)
            if match and int(match[2]) <= before:
                old.unlink()

    def close(self) -> None:
        """Lets others use the directory."""
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self._number:06d}"

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                Problem(
                    "another server uses this state directory",
                    where=str(self.folder),
                    expected="one server at a time",
                    got=f"{self.folder / '.lock'} is locked",
                    fix="stop it, or --state ANOTHER_DIRECTORY",
                )
            ) from error
        others = sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name != ".lock" and not _NAME.fullmatch(path.name.removeprefix("."))
        )
        if others:
            raise ConfigError(
                Problem(
                    "this is no state directory",
                    where=str(self.folder),
                    expected="a new directory, or one that a server has made",
                    got=f"it holds {others[0]!r}",
                    fix="--state ANOTHER_DIRECTORY",
                )
            )


def _framed(data: bytes) -> bytes:
    length = len(data).to_bytes(8, "little")
    own = xxhash.xxh3_64_intdigest(length)
    return _HEAD.pack(len(data), own, xxhash.xxh3_64_intdigest(data)) + data


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _record(data: bytes, at: int, path: Path) -> tuple[bytes | None, int]:
    """The record at a place and where the next one begins; None if it is the last, and torn.

    Pages of a file may reach the disk in any order. What was appended after it had been on disk.

    Raises:
        DatasetError: when it is damaged: it is none, and another one follows.
    """
    begin = at + _HEAD.size
    if begin <= len(data):
        length, own, checksum = _HEAD.unpack_from(data, at)
        if own == xxhash.xxh3_64_intdigest(length.to_bytes(8, "little")):
            end = begin + length
            kept = data[begin:end]
            if len(kept) == length and xxhash.xxh3_64_intdigest(kept) == checksum:
                return kept, end
    if any(_is_head(data, place) for place in range(at + 1, len(data) - _HEAD.size + 1)):
        raise _damaged(path, at)
    return None, at


def _is_head(data: bytes, at: int) -> bool:
    length, own, _ = _HEAD.unpack_from(data, at)
    return bool(own == xxhash.xxh3_64_intdigest(length.to_bytes(8, "little")))


def _damaged(path: Path, at: int) -> DatasetError:
    return DatasetError(
        Problem(
            "the state of the server is damaged",
            where=f"{path}, byte {at:,}",
            expected="what the server wrote",
            got="other bytes",
            fix="restore the directory, or begin from the dataset: --state ANOTHER_DIRECTORY",
        )
    )
