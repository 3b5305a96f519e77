"""The faults that the audit is tested with: what each does to clean rows, and who may tell it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurekit.scaling import ScalingSpec

Rows: TypeAlias = NDArray[np.float64]

ROWS = 6_000
WIDTH = 8  # features of each of three blocks
BLOCKS = ("market", "position", "indicator")
NAMES = [f"{block}.f{k}" for block in BLOCKS for k in range(WIDTH)]
SLICES = {"night": '"market.f0" > 0', "day": '"market.f0" <= 0'}
AS_IT_IS = ScalingSpec(kind="none", squash="none")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: what it does to clean rows, and the metrics that may speak of it.

    The first metric has to; `also` are others that see the same. `feature` is the one it is
    planted in, "" if it is in a block or in all. A fault of the model's view has a `scaling`, and
    `norm` if it takes layer_norm to see it.
    """

    metric: str
    plant: Callable[[Rows], None]
    feature: str = ""
    also: tuple[str, ...] = ()
    scaling: ScalingSpec | None = None
    slices: bool = False
    norm: bool = False


def clean() -> Rows:
    """Normal rows [n, 24] of one scale, from a fixed seed (simulated)."""
    return np.random.default_rng(7).normal(size=(ROWS, len(NAMES)))


def _put(column: int | slice, value: float, rows: slice = slice(None)) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        table[rows, column] = value

    return plant


def _times(columns: slice | int, factor: float) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        table[:, columns] *= factor

    return plant


def _of(column: int, change: Callable[[Rows], Rows]) -> Callable[[Rows], None]:
    """Puts what `change` makes of a column in its place, with the deviation that it had."""

    def plant(table: Rows) -> None:
        changed = change(table[:, column])
        table[:, column] = (changed - changed.mean()) / changed.std()

    return plant


def _shift(by: float) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        table += np.tile([by, -by], len(NAMES) // 2)

    return plant


def _add(column: int, value: float) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        table[:, column] += value

    return plant


def _turned(column: int, rows: slice) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        table[rows, column] *= -1.0

    return plant


def _clipped(column: int, high: float) -> Callable[[Rows], None]:
    def plant(table: Rows) -> None:
        np.minimum(table[:, column], high, out=table[:, column])

    return plant


def _nothing(table: Rows) -> None:
    """The fault is in the other table."""


def _rare_night(table: Rows) -> None:
    """All but a few hundred rows by day."""
    day = table[: ROWS - 500, 0]
    day[:] = np.where(day > 0.0, 0.0, day)
    table[:, 0] -= 1e-3


def _slice_scaled(table: Rows) -> None:
    table[table[:, 0] > 0.0, 4] *= 5.0
    table[:, 4] /= 2.5


def _drifting(table: Rows) -> None:
    table[:, 4] *= np.linspace(0.2, 2.0, len(table))


def _spread_scales(table: Rows) -> None:
    table[:, :WIDTH] *= np.logspace(-3, 3, WIDTH)


def _one_direction(table: Rows) -> None:
    table[:, 3:] = table[:, :1] + 0.12 * table[:, 3:]


# What one feature of another size brings with it, and what rare large values do.
_SIZE = (
    "norm share", "norm lift", "centred share", "row share", "effective features", "scale outlier",
    "block share", "dominance", "weakest block", "starved features", "entropy rank",
)  # fmt: skip
_TAILS = ("tail weight", "tail index", "max-to-sum", "spread ratio")

FAULTS = (
    Fault("non-finite", _put(3, np.nan, slice(7, 8)), "market.f3"),
    Fault("overflow", _put(3, 1e300, slice(7, 8)), "market.f3"),
    Fault("dead", _put(9, 0.5), "position.f1"),
    Fault("dead block", _put(slice(8, 16), 0.0)),
    Fault(
        "dead in slice",
        lambda t: t.__setitem__((t[:, 0] > 0.0, 20), 0.7),
        "indicator.f4",
        ("tail weight",),
        slices=True,
    ),
    Fault(
        "near-constant", _put(20, 1.5, slice(0, int(0.97 * ROWS))), "indicator.f4", ("tail index",)
    ),
    Fault(
        "zeros",
        _put(20, 0.0, slice(0, int(0.97 * ROWS))),
        "indicator.f4",
        ("near-constant", *_TAILS),
    ),
    Fault("resolution", _add(5, 1e7), "market.f5", scaling=ScalingSpec()),
    Fault("norm share", _times(5, 100.0), "market.f5", _SIZE),
    Fault("norm lift", _times(5, 4.5), "market.f5", _SIZE),
    Fault("centred share", _times(5, 100.0), "market.f5", _SIZE),
    Fault("row share", _times(5, 100.0), "market.f5", _SIZE),
    Fault("effective features", _times(slice(0, 2), 100.0), "", _SIZE),
    Fault("scale outlier", _times(17, 1e-3), "indicator.f1", ("conditioning",)),
    Fault("block share", _times(slice(8, 16), 0.2), "", ("weakest block",)),
    Fault("block scale", _times(slice(8, 16), 0.1), "", ("block share", *_SIZE)),
    Fault("tail weight", _of(5, lambda x: np.sinh(1.4 * x)), "market.f5", _TAILS),
    Fault("tail index", _of(5, lambda x: np.sinh(1.6 * x)), "market.f5", _TAILS),
    Fault("max-to-sum", _put(5, 15.0, slice(70, 71)), "market.f5"),
    Fault("spread ratio", _of(5, lambda x: np.sinh(1.4 * x)), "market.f5", _TAILS),
    Fault("quantile skew", _of(5, lambda x: np.where(x > 0.0, 6.0 * x, x)), "market.f5", _TAILS),
    Fault("pile-up", _clipped(5, 1.0), "market.f5"),
    Fault("conditional scale", _slice_scaled, "market.f4", ("tail weight",), slices=True),
    Fault("scale drift", _drifting, "market.f4", ("tail weight",)),
    Fault("conditioning", _spread_scales, "", _SIZE),
    Fault(
        "weakest block", _times(slice(8, 16), 0.15), "", ("block scale", "block share"), AS_IT_IS
    ),
    Fault("dominance", _times(5, 100.0), "market.f5", _SIZE, AS_IT_IS),
    Fault(
        "starved features",
        _times(slice(0, 3), 1e-3),
        "",
        ("block scale", "conditioning", "scale outlier"),
        AS_IT_IS,
    ),
    Fault("offset", _shift(3.0), "", ("dead at initialisation",), AS_IT_IS),
    Fault("entropy rank", _one_direction, "", (), AS_IT_IS),
    Fault("dead at initialisation", _shift(9.0), "", ("offset", "entropy rank"), AS_IT_IS),
    Fault("layer_norm squash", _times(slice(0, 4), 12.0), "", _SIZE, AS_IT_IS, norm=True),
    Fault("unrepresentative", _rare_night, "", scaling=ScalingSpec(), slices=True),
    Fault("scale change", _times(5, 2.5), "market.f5", ("shape drift", "shape distance")),
    Fault("median shift", _add(5, 1.0), "market.f5", ("shape drift", "shape distance")),
    Fault(
        "shape drift",
        _of(5, lambda x: np.sign(x) * np.sqrt(np.abs(x))),
        "market.f5",
        ("shape distance", "scale change"),
    ),
    Fault("shape distance", _times(5, 2.5), "market.f5", ("shape drift", "scale change")),
    Fault("mismatch", _turned(5, slice(0, 600)), "market.f5"),
    Fault("unit change", _times(5, 1.1), "market.f5", ("mismatch",)),
    Fault("unmatched rows", _nothing),
    Fault("missing column", _nothing),
    Fault("new column", _nothing),
)
