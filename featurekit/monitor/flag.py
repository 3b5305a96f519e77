"""Flag: one thing that a monitor noticed, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["not finite", "out of range", "unit change", "dead", "drift", "stale", "clock skew"]
KINDS: tuple[Kind, ...] = (
    "not finite",
    "out of range",
    "unit change",
    "dead",
    "drift",
    "stale",
    "clock skew",
)


@dataclass(frozen=True, slots=True)
class Flag:
    """What is unlike the rows trained on, at the bar of a symbol that closed at `time`, UTC ns.

    `feature` is empty where it is about a bar, or about more features than are worth a line each;
    `symbol` where it is about the rows of all. `row` is how many rows were watched before.
    """

    kind: Kind
    severity: Literal["warn", "fail"]
    symbol: str
    feature: str
    time: int
    value: float
    expected: str
    row: int

    def to_dict(self) -> dict[str, Any]:
        """The flag as plain data for a line of JSON: ISO time, and null for what is not finite."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "symbol": self.symbol,
            "feature": self.feature,
            "time": time_text(self.time),
            "value": self.value if math.isfinite(self.value) else None,
            "expected": self.expected,
            "row": self.row,
        }


def time_text(time: int) -> str:
    """ISO 8601 in UTC, to the second.

    Example:
        >>> time_text(3_600_000_000_000)
        '1970-01-01T01:00:00Z'
    """
    return f"{np.datetime64(time, 'ns').astype('M8[s]')}Z"
