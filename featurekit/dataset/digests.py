"""Hashes that are taken on the way: of a file by blocks, and of rows by pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

BLOCK = 8 * 2**20  # bytes of a file whose hash is kept, so that damage is found to be in them
PIECE = 4_096  # rows of a symbol whose hash is kept, so that more of them can be added


class BlockDigest:
    """The xxh3_128 of bytes in their order, and of each `BLOCK` of them.

    Example:
        >>> digest = BlockDigest()
        >>> digest.update(bytes(BLOCK + 1))
        >>> digest.bytes - BLOCK, len(digest.blocks), digest.whole[:8]
        (1, 2, 'd9e6dfb3')
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._whole, self._block = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._blocks: list[str] = []

    def update(self, content: bytes | memoryview) -> None:
        """Takes the bytes that follow."""
        left = memoryview(content)
        self._whole.update(left)
        while left:
            room = BLOCK - self.bytes % BLOCK
            self._block.update(left[:room])
            self.bytes += len(left[:room])
            left = left[room:]
            if self.bytes % BLOCK == 0:
                self._blocks.append(self._block.hexdigest())
                self._block = xxhash.xxh3_128()

    @property
    def whole(self) -> str:
        """Of all bytes so far."""
        return self._whole.hexdigest()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of each block so far; the last one may be shorter."""
        last = [self._block.hexdigest()] if self.bytes % BLOCK else []
        return (*self._blocks, *last)


class RowDigest:
    """The xxh3_128 of each `PIECE` of a symbol's rows, however they are cut into updates.

    `pieces` are those of rows before, all of them whole.

    Example:
        >>> rows = {name: np.zeros(PIECE + 1, "f4") for name in ("features", "targets", "time")}
        >>> digest = RowDigest()
        >>> digest.update(rows)
        >>> digest.rows - PIECE, len(digest.pieces)
        (1, 2)
    """

    def __init__(self, pieces: Sequence[str] = ()) -> None:
        self.rows = len(pieces) * PIECE
        self._pieces = list(pieces)
        self._open = [xxhash.xxh3_128() for _ in range(3)]
        self._ended: tuple[str, ...] = ()

    @staticmethod
    def of(pieces: Sequence[str], rows: int) -> RowDigest:
        """What was taken of so many rows, the last piece among them; it takes no more."""
        digest = RowDigest()
        digest.rows, digest._ended = rows, tuple(pieces)
        return digest

    def update(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Takes the rows that follow: features, targets and time."""
        at, count = 0, len(rows["time"])
        while at < count:
            stop = min(at + PIECE - self.rows % PIECE, count)
            for digest, name in zip(self._open, ("features", "targets", "time"), strict=True):
                digest.update(np.ascontiguousarray(rows[name][at:stop]).data)
            self.rows += stop - at
            at = stop
            if self.rows % PIECE == 0:
                self._pieces.append(self._last())
                self._open = [xxhash.xxh3_128() for _ in range(3)]

    @property
    def pieces(self) -> tuple[str, ...]:
        """Of each piece so far; the last one may be shorter."""
        if self._ended:
            return self._ended
        return (*self._pieces, *([self._last()] if self.rows % PIECE else []))

    def _last(self) -> str:
        return xxhash.xxh3_128_hexdigest(b"".join(digest.digest() for digest in self._open))
