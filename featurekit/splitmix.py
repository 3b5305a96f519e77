"""splitmix64: a bijection of 64 bits whose values look random; orders and samples are made of it.

It is written out here because numpy's and torch's generators may change between versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """One step of splitmix64 on one number.

    Example:
        >>> hex(mix(0))
        '0xe220a8397b1dcdaf'
    """
    return int(mix_all(np.array([(value + STEP) & MASK], np.uint64))[0])


def mix_all(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 on each key."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys
