"""The table of operations: everything that the engine can compute, and nothing that looks ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: how many columns it takes, and how far back it looks.

    `plain` defines, on single values, an operation that looks at one row only; it also says what
    such a column was before its first row. `rows` counts the further rows that one of the others
    needs before its first value, and `pole` is how much of its past a recursion keeps each row.
    A `window` reads n rows of its first column, n being its first parameter.
    """

    arity: int
    plain: Callable[..., Any] | None = None
    rows: Callable[..., int] = lambda *_: 0
    pole: Callable[..., float] | None = None
    window: bool = False


def _compare(test: Callable[[float, float], bool]) -> Callable[[float, float], float]:
    return lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else float(test(a, b))


def _choose(condition: float, a: float, b: float) -> float:
    return math.nan if math.isnan(condition) else (a if condition != 0 else b)


def _over(a: float, b: float, default: float) -> float:
    return default if b == 0 and not math.isnan(a) else float(np.divide(a, b))


def _merge(sa: float, ta: float, ca: float, sb: float, tb: float, cb: float) -> float:
    return sa + ta + ca + sb + tb + cb  # before the first row only "defined or not" matters


OPERATIONS: dict[str, Operation] = {
    # rows that stand alone
    "add": Operation(2, np.add),
    "sub": Operation(2, np.subtract),
    "mul": Operation(2, np.multiply),
    "div": Operation(2, np.divide),
    "over": Operation(3, _over),
    "minimum": Operation(2, np.minimum),
    "maximum": Operation(2, np.maximum),
    "lt": Operation(2, _compare(lambda a, b: a < b)),
    "le": Operation(2, _compare(lambda a, b: a <= b)),
    "eq": Operation(2, _compare(lambda a, b: a == b)),
    "neg": Operation(1, np.negative),
    "abs": Operation(1, np.abs),
    "sign": Operation(1, np.sign),
    "log": Operation(1, np.log),
    "log1p": Operation(1, np.log1p),
    "exp": Operation(1, np.exp),
    "sqrt": Operation(1, np.sqrt),
    "tanh": Operation(1, np.tanh),
    "asinh": Operation(1, np.arcsinh),
    "sin": Operation(1, np.sin),
    "cos": Operation(1, np.cos),
    "defined": Operation(1, lambda a: float(not math.isnan(a))),
    "where": Operation(3, _choose),
    "fill": Operation(2, lambda a, b: b if math.isnan(a) else a),
    # windows; `lag`, sums, minima, maxima and variances are trees of lags and need no more
    "comoment": Operation(6, _merge),
    "deviation": Operation(2, window=True),
    "slope": Operation(1, window=True),
    "rank": Operation(1, window=True),
    "quantile": Operation(1, window=True),
    # recursions, each with a state of its own
    "ema": Operation(
        1,
        None,
        lambda n, seed, skip: skip + (n - 1 if seed == 0 else 0),
        lambda n, *_: (n - 1) / (n + 1),
    ),
    "wilder": Operation(2, None, lambda n, *_: n - 1, lambda n, *_: (n - 1) / n),
    "smooth": Operation(3),
    "sar": Operation(2, None, lambda *_: 1),
    "hold": Operation(2),
    "since": Operation(1),
    "running_max": Operation(3),
    "cumsum": Operation(2),
    "after": Operation(1, None, lambda n: n),
    # to the clock of higher bars, and back
    "sample": Operation(2),
    "held": Operation(2),
}
