"""How far back a column reaches: what it was before the first row, its lookback, its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from featurekit.operation import OPERATIONS

if TYPE_CHECKING:
    from featurekit.column import Col

T = TypeVar("T", int, float)

# The start of the history is forgotten when it matters less than this share of the feature's
# standard deviation; a recursion is taken to start up to START standard deviations off.
TOLERANCE = 1e-6
START = 3.0

# Operations whose state can last for ever: bounded only when what resets them is known exactly.
_LASTING = {"hold": 1, "running_max": 1, "cumsum": 0}


@dataclass(frozen=True, slots=True)
class _Memory:
    """Rows that count in full, and after them the poles of the recursions they pass through."""

    rows: float = 0.0
    poles: tuple[float, ...] = ()

    def total(self) -> float:
        if not self.poles or math.isinf(self.rows):
            return self.rows
        pole, order = max(self.poles), len(self.poles)
        n, weight = 0, START * (1.0 - pole) ** (order - 1)
        # The response of `order` equal poles in a row; the slowest stands for all of them.
        while weight * math.comb(n + order - 1, order - 1) * pole**n >= TOLERANCE:
            n += 1
        return self.rows + n


class Reach:
    """One walk over a graph of columns that remembers what it found.

    Example:
        >>> from featurekit.column import Col
        >>> close = Col.input("close")
        >>> Reach().lookback(close.mean(20) - close.lag(5))
        19
        >>> Reach().memory(close.ema(20))
        169.0
    """

    def __init__(self) -> None:
        self._columns: list[Col] = []  # keeps ids alive
        self._prehistory: dict[int, float] = {}
        self._lookback: dict[int, int] = {}
        self._memory: dict[int, _Memory] = {}
        self._exact: dict[int, bool] = {}

    def prehistory(self, col: Col) -> float:
        """The one value a column has on every row before the first; NaN if undefined."""
        key = id(col)
        if key not in self._prehistory:
            self._columns.append(col)
            self._prehistory[key] = self._find_prehistory(col)
        return self._prehistory[key]

    def lookback(self, col: Col) -> int:
        """Rows before the first defined value, if inputs are defined from the first row."""
        key = id(col)
        if key not in self._lookback:
            self._columns.append(col)
            self._lookback[key] = self._find_lookback(col)
        return self._lookback[key]

    def memory(self, col: Col) -> float:
        """Rows after which the start of the history no longer matters; inf if it always does."""
        return max(float(np.ceil(self._remember(col).total())), self.lookback(col))

    def exact(self, col: Col) -> bool:
        """Whether the column is made only of inputs known from their very start."""
        key = id(col)
        if key not in self._exact:
            self._columns.append(col)
            self._exact[key] = (
                bool(col.params[0])
                if col.op == "input"
                else all(self.exact(arg) for arg in col.args)
            )
        return self._exact[key]

    def _find_prehistory(self, col: Col) -> float:
        if col.op in ("const", "before"):
            return col.params[0]
        if col.op == "lag":
            return self.prehistory(col.args[0])
        plain = OPERATIONS[col.op].plain if col.op != "input" else None
        if plain is None:
            return math.nan
        with np.errstate(all="ignore"):
            return float(plain(*(self.prehistory(arg) for arg in col.args)))

    def _find_lookback(self, col: Col) -> int:
        if col.op in ("input", "const", "defined"):
            return 0
        if col.op == "fill":
            return self.lookback(col.args[1])
        if col.op == "before":
            return self.lookback(col.args[0])
        if col.op == "lag":
            x = col.args[0]
            known = not math.isnan(self.prehistory(x))
            return self.lookback(x) + (0 if known else int(col.params[0]))
        if col.op == "held":
            return _rows_of(col, self.lookback(col.args[0]))
        first, *others = (self.lookback(arg) for arg in col.args)
        return max(first + _window(col), *others, 0) + _rows(col)

    def _remember(self, col: Col) -> _Memory:
        key = id(col)
        if key not in self._memory:
            self._columns.append(col)
            self._memory[key] = self._find_memory(col)
        return self._memory[key]

    def _find_memory(self, col: Col) -> _Memory:
        if col.label.memory is not None:
            return _Memory(col.label.memory)
        if col.op in ("input", "const"):
            return _Memory()
        if col.op == "held":
            return _Memory(_rows_of(col, self._remember(col.args[0]).total()))
        first, *others = (self._remember(arg) for arg in col.args)
        worst = max((_Memory(first.rows + _window(col), first.poles), *others), key=_Memory.total)
        if col.op == "lag":
            return _Memory(worst.rows + col.params[0], worst.poles)
        if col.op == "since":
            bounded = self.exact(col.args[0])
            return _Memory(worst.rows + (0 if bounded else col.params[0]), worst.poles)
        if col.op in _LASTING and not self.exact(col.args[_LASTING[col.op]]):
            return _Memory(math.inf)
        if col.op in ("before", "after"):
            return worst
        pole = OPERATIONS[col.op].pole
        if pole is None:
            return _Memory(worst.rows + _rows(col), worst.poles)
        # Whatever the seed, its error is counted as that of a mean over n rows.
        seed = max(_rows(col), int(col.params[0]) - 1)
        return _Memory(worst.rows + seed, (*worst.poles, pole(*col.params)))


def _rows_of(held: Col, bars: T) -> T:
    """Rows that this many higher bars take, the one that the history begins in and the last."""
    return (bars + 2) * int(held.params[0]) - 1


def _window(col: Col) -> int:
    operation = OPERATIONS.get(col.op)
    return int(col.params[0]) - 1 if operation is not None and operation.window else 0


def _rows(col: Col) -> int:
    return OPERATIONS[col.op].rows(*(int(p) for p in col.params)) if col.params else 0
