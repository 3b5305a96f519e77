"""How much memory this machine, or the container around this process, has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes of memory: a fact of the machine, the same at every call, not what is free now."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # another system
        memory = 8 << 30
    return int(min(memory, *map(_limit, _LIMITS)))


def _limit(path: str) -> float:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
