"""Files mapped into memory one behind another, so that one offset finds any byte of all of them."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Of Linux, where Python's mmap does not name them:
_FIXED = 0x10  # MAP_FIXED: at this address, in place of what is mapped there
_NORESERVE = 0x4000  # MAP_NORESERVE: a page counts as used memory when it is written, and none is
_POPULATE_READ = 22  # MADV_POPULATE_READ, from Linux 5.14 on


class Arena:
    """The bytes of files, one array for each in `files`; none of them may be empty.

    `whole` spans them all where the system maps a file at an address that it is told (Linux); each
    file then starts on a page of it. Elsewhere it is None, and each file lies somewhere.
    Everything is copy-on-write: no file is ever written.

    Raises:
        OSError: when a file cannot be opened or mapped.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "two"
        >>> _ = file.write_bytes(b"ab")
        >>> [part.tobytes() for part in Arena([file, file]).files]
        [b'ab', b'ab']
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._populated = False
        self.whole: NDArray[np.uint8] | None = None
        together = _map_together(paths) if sys.platform == "linux" and paths else None
        if together is None:
            self._maps = [_map_one(path) for path in paths]
            self.files = [np.frombuffer(each, np.uint8) for each in self._maps]
        else:
            self._maps = [together]
            self.whole = whole = np.frombuffer(together, np.uint8)
            sizes = [path.stat().st_size for path in paths]
            self.files = [
                whole[at : at + size] for at, size in zip(_page_starts(sizes), sizes, strict=False)
            ]

    def populate(self) -> None:
        """Brings every page into memory, once; 50 ms a GB if the system holds the files already."""
        if self._populated:
            return
        self._populated = True
        try:
            for each in self._maps:
                each.madvise(_POPULATE_READ)
        except (OSError, AttributeError):  # another system, or an older one
            for each in self._maps:
                np.frombuffer(each, np.uint8)[:: mmap.PAGESIZE].max(initial=0)


def _map_one(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _map_together(paths: Sequence[Path]) -> mmap.mmap | None:
    """Reserves one range of addresses and maps each file to its place in it.

    The range belongs to Python's map, which gives back all of it when nothing refers to it.
    """
    sizes = [path.stat().st_size for path in paths]
    *starts, stop = _page_starts(sizes)
    flags, access = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    try:
        whole = mmap.mmap(-1, stop, flags=flags | mmap.MAP_ANONYMOUS, prot=access)
    except (OSError, OverflowError):
        return None
    first = np.frombuffer(whole, np.uint8).ctypes.data
    for path, start, size in zip(paths, starts, sizes, strict=True):
        with path.open("rb") as file:
            at = libc.mmap(first + start, size, access, flags | _FIXED, file.fileno(), 0)
        if at != first + start:
            return None
    return whole


def _page_starts(sizes: Sequence[int]) -> list[int]:
    """Where files start that each begin on a page, and where the last page ends."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE)
    return starts
