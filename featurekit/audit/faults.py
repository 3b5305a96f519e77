"""The faults that the audit is tested with: what each does to clean rows, and who may tell it.

Each is planted a little beyond its limit, so that the limit cannot be loosened unnoticed. All rows
are simulated, from fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurekit.scaling import ScalingSpec

Rows: TypeAlias = NDArray[np.float64]
Plant: TypeAlias = Callable[[Rows], None]

ROWS = 6_000
WIDTH = 8  # features of each of three blocks
BLOCKS = ("market", "position", "indicator")
NAMES = [f"{block}.f{k}" for block in BLOCKS for k in range(WIDTH)]
HALVES = {"night": '"market.f0" > 0', "day": '"market.f0" <= 0'}
RARE = {"rare": '"market.f0" > 2.2'}  # 1.4% of the rows
AS_IT_IS = ScalingSpec(kind="none", squash="none")


def draw(seed: int = 7, rows: int = ROWS, rho: float = 0.0) -> Rows:
    """Normal rows [n, 24] of one scale, each column autoregressive with `rho`."""
    found = np.random.default_rng(seed).normal(size=(rows, len(NAMES)))
    for k in range(1, rows if rho else 0):
        found[k] = rho * found[k - 1] + np.sqrt(1.0 - rho**2) * found[k]
    return found


def _students() -> Rows:
    """1,000 rows of Student's t with 12 degrees of freedom."""
    rows = draw(5, 1_000)
    return rows / np.sqrt(np.random.default_rng(5).chisquare(12, rows.shape) / 12.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: what it does to clean rows, and the metrics that may speak of it.

    `metric` has to, with `severity`; `also` are others that see the same. `feature` is the one it
    is planted in, "" if it is in a block or in all. A fault of the model's view has a `scaling`,
    and `norm` if it takes layer_norm to see it. Where there is no severity, the rows are harmless,
    in the way that `told` tells, and `metric` has to be silent.
    """

    metric: str
    severity: Literal["warn", "fail", ""]
    plant: Plant
    feature: str = ""
    also: tuple[str, ...] = ()
    scaling: ScalingSpec | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    norm: bool = False
    rows: Callable[[], Rows] = draw
    against: Callable[[], Rows] | None = None
    told: str = ""


def _put(column: int | slice, value: float, rows: slice = slice(None)) -> Plant:
    def plant(table: Rows) -> None:
        table[rows, column] = value

    return plant


def _most(column: int, value: float, share: float) -> Plant:
    return _put(column, value, slice(0, int(share * ROWS)))


def _times(columns: slice | int, factor: float, rows: slice = slice(None)) -> Plant:
    def plant(table: Rows) -> None:
        table[rows, columns] *= factor

    return plant


def _of(column: int, change: Callable[[Rows], Rows]) -> Plant:
    """Puts what `change` makes of a column in its place, with the deviation that it had."""

    def plant(table: Rows) -> None:
        changed = change(table[:, column])
        table[:, column] = (changed - changed.mean()) / changed.std()

    return plant


def _heavy(h: float, column: int = 5) -> Plant:
    """Tukey's h distribution, whose tail index is 1/h."""
    return _of(column, lambda x: x * np.exp(h / 2.0 * x**2))


def _peaked(power: float) -> Plant:
    return _of(5, lambda x: np.sign(x) * np.abs(x) ** power)


def _uneven(decades: float, factor: float = 1.0) -> Plant:
    """Each block with scales of so many decades to both sides, and one other feature."""

    def plant(table: Rows) -> None:
        table *= np.tile(np.logspace(-decades, decades, WIDTH), len(BLOCKS))
        table[:, 17] *= factor

    return plant


def _shift(by: float) -> Plant:
    def plant(table: Rows) -> None:
        table += np.tile([by, -by], len(NAMES) // 2)

    return plant


def _add(column: int, value: float, factor: float = 1.0) -> Plant:
    def plant(table: Rows) -> None:
        table[:, column] = factor * table[:, column] + value

    return plant


def _clipped(column: int, high: float) -> Plant:
    def plant(table: Rows) -> None:
        np.minimum(table[:, column], high, out=table[:, column])

    return plant


def _nothing(table: Rows) -> None:
    """The fault is in the other table, or there is none."""


def _rare_night(table: Rows) -> None:
    """800 rows by night, all others by day."""
    table[:, 0] -= np.sort(table[:, 0])[-801] + 1e-6


def _dead_where(above: float) -> Plant:
    def plant(table: Rows) -> None:
        table[table[:, 0] > above, 20] = 0.7

    return plant


def _slice_scaled(log2: float) -> Plant:
    def plant(table: Rows) -> None:
        table[table[:, 0] > 0.0, 4] *= 2.0**log2
        table[:, 4] /= table[:, 4].std()

    return plant


def _drifting(table: Rows) -> None:
    table[:, 4] *= np.linspace(0.35, 1.5, len(table))


def _one_direction(table: Rows) -> None:
    table[:, 3:] = table[:, :1] + 0.18 * table[:, 3:]


def _restless(table: Rows) -> None:
    """Nine stretches are a slice; of all, half are calm, but of these nine only one, by chance."""
    stretch = np.arange(ROWS) // 64
    inside = stretch % 10 == 4
    x = table[:, 0]
    table[:, 0] = np.where(inside, 2.0 + np.abs(x), np.minimum(x, 1.9))
    calm = np.where(inside, stretch == 4, stretch % 2 == 0)
    table[:, 4] *= np.where(calm, 0.25, 1.75)


def _all_within(table: Rows) -> None:
    """In one feature each, what is still allowed."""
    for plant in (
        _heavy(0.1, 1), _most(2, 0.0, 0.45), _most(4, 1.5, 0.3), _times(5, 2.0), _clipped(6, 1.8),
        _times(17, 0.15),
    ):  # fmt: skip
        plant(table)


# What one large feature brings with it, what a few do, rare large values, another scale.
_LARGE = ("norm share", "centred share", "row share", "dominance")
_FEW = (
    "effective features", "norm lift", "scale outlier", "block share", "weakest block",
    "entropy rank",
)  # fmt: skip
_TAILS = ("tail weight", "tail index", "max-to-sum", "spread ratio")
_SHAPES = ("scale change", "shape drift", "shape distance")
_BLOCK = ("block share", "weakest block", "scale outlier", "conditioning", "starved features")
F5, F17, F20 = "market.f5", "indicator.f1", "indicator.f4"
FIRST = slice(0, 1)
POSITION = slice(8, 16)

FAULTS = (
    Fault("non-finite", "fail", _put(3, np.nan, FIRST), "market.f3"),
    Fault("overflow", "fail", _put(3, 4e38, FIRST), "market.f3"),
    Fault("dead", "fail", _put(9, 0.5), "position.f1"),
    Fault("dead block", "warn", _put(POSITION, 0.0)),
    Fault("dead in slice", "warn", _dead_where(2.2), F20, ("unrepresentative",), slices=RARE),
    Fault("near-constant", "warn", _most(20, 1.5, 0.96), F20, _TAILS),
    Fault("zeros", "warn", _most(20, 0.0, 0.6), F20),
    Fault("zeros", "fail", _most(20, 0.0, 0.96), F20, ("near-constant", *_TAILS)),
    Fault("resolution", "warn", _add(5, 1.5e6, 0.75), F5, scaling=ScalingSpec()),
    Fault("resolution", "fail", _add(5, 6e6, 0.7), F5, scaling=ScalingSpec()),
    Fault("norm share", "fail", _times(5, 3.2), F5, _LARGE),
    Fault("norm lift", "warn", _times(5, 4.5), F5, ("effective features", *_LARGE)),
    Fault("centred share", "fail", _times(5, 3.2), F5, _LARGE),
    Fault("row share", "fail", _times(5, 3.6), F5, _LARGE),
    Fault("effective features", "warn", _times(slice(0, 4), 8.0), "", _FEW),
    Fault("effective features", "fail", _times(slice(0, 2), 30.0), "", (*_LARGE, *_FEW)),
    Fault("scale outlier", "warn", _uneven(0.25, 10.0**-1.05), F17),
    Fault("scale outlier", "fail", _times(17, 10.0**-2.3), F17, ("conditioning",)),
    Fault("block share", "warn", _times(POSITION, 0.42)),
    Fault("block share", "fail", _times(POSITION, 0.24), "", ("weakest block",)),
    Fault("block scale", "warn", _times(POSITION, 0.13), "", _BLOCK),
    Fault("block scale", "fail", _times(POSITION, 0.02), "", _BLOCK),
    Fault("tail weight", "warn", _heavy(0.25), F5, _TAILS),
    Fault("tail weight", "fail", _heavy(0.5), F5, _TAILS),
    Fault("tail index", "warn", _heavy(0.35), F5, _TAILS),
    Fault("tail index", "fail", _heavy(0.6), F5, _TAILS),
    Fault("max-to-sum", "warn", _put(5, 10.2, FIRST), F5),
    Fault("max-to-sum", "fail", _put(5, 32.0, FIRST), F5),
    Fault("spread ratio", "warn", _heavy(0.35), F5, _TAILS),
    Fault("spread ratio", "fail", _heavy(0.55), F5, _TAILS),
    Fault("quantile skew", "warn", _of(5, lambda x: np.where(x > 0.0, 4.0 * x, x)), F5, _TAILS),
    Fault("pile-up", "warn", _clipped(5, 1.5), F5),
    Fault("conditional scale", "warn", _slice_scaled(1.3), "market.f4", _TAILS, slices=HALVES),
    Fault("conditional scale", "fail", _slice_scaled(3.5), "market.f4", _TAILS, slices=HALVES),
    Fault("scale drift", "warn", _drifting, "market.f4", ("tail weight",)),
    Fault("conditioning", "fail", _times(17, 0.0085), "", ("scale outlier",)),
    Fault("weakest block", "fail", _times(POSITION, 0.27), "", ("block share",), AS_IT_IS),
    Fault("dominance", "fail", _times(5, 3.8), F5, _LARGE, AS_IT_IS),
    Fault("starved features", "fail", _times(slice(0, 2), 0.08), "", ("scale outlier",), AS_IT_IS),
    Fault("offset", "fail", _shift(1.3), "", ("dead at initialisation",), AS_IT_IS),
    Fault("entropy rank", "warn", _one_direction, "", (), AS_IT_IS),
    Fault("dead at initialisation", "warn", _shift(1.85), "", ("offset",), AS_IT_IS),
    Fault("layer_norm squash", "warn", _times(slice(0, 4), 14.0), "", _FEW, AS_IT_IS, norm=True),
    Fault("unrepresentative", "warn", _rare_night, "", ("conditional scale",), slices=HALVES),
    Fault("scale change", "warn", _times(5, 2.0**0.65), F5, _SHAPES),
    Fault("scale change", "fail", _times(5, 2.0**1.3), F5, _SHAPES),
    Fault("median shift", "warn", _add(5, 0.33), F5, _SHAPES),
    Fault("median shift", "fail", _add(5, 0.66), F5, _SHAPES),
    Fault("shape drift", "warn", _peaked(0.7), F5, _SHAPES),
    Fault("shape drift", "fail", _peaked(0.57), F5, _SHAPES),
    Fault("shape distance", "warn", _times(5, 1.17), F5, _SHAPES),
    Fault("shape distance", "fail", _times(5, 1.4), F5, _SHAPES),
    Fault("mismatch", "fail", _times(5, 1.0 + 1.5e-5, FIRST), F5),
    Fault("unit change", "fail", _times(5, 1.015), F5, ("mismatch",)),
    Fault("unmatched rows", "warn", _nothing),
    Fault("missing column", "fail", _nothing),
    Fault("new column", "warn", _nothing),
)

HARMLESS = (
    Fault("near-constant", "", _nothing, slices=HALVES, told="clean rows"),
    Fault("dominance", "", _nothing, scaling=ScalingSpec(), slices=HALVES, told="scaled"),
    Fault("tail weight", "", _all_within, told="a little within limits"),
    Fault("tail index", "", _nothing, rows=_students, told="1,000 rows of noise"),
    Fault(
        "dead in slice", "", _dead_where(2.45), F20, ("unrepresentative",),
        slices={"rarer": '"market.f0" > 2.45'}, told="dead in 0.7% of the rows",
    ),
    Fault(
        "conditional scale", "", _restless, "market.f4", ("unrepresentative", *_TAILS),
        slices={"some": '"market.f0" >= 2'}, told="chance in a small slice",
    ),
    Fault(
        "scale outlier", "", _uneven(1.2), "",
        ("conditioning", "starved features", *_LARGE, *_FEW), told="scales of all sizes",
    ),
    Fault("starved features", "", _times(0, 0.08), "", ("scale outlier",), told="one of 24 small"),
    Fault("shape drift", "", _nothing, against=draw, told="against themselves"),
    Fault("shape drift", "", _nothing, against=lambda: draw(8), told="against their like"),
    Fault(
        "shape drift", "", _nothing, "", ("unrepresentative",), rows=lambda: draw(9, 150),
        against=lambda: draw(10, 150),
        told="150 rows against 150",
    ),
    Fault(
        "shape drift", "", _nothing, rows=lambda: draw(11, 2_000, 0.95),
        against=lambda: draw(12, 2_000, 0.95), told="autocorrelated, rho .95",
    ),
    Fault("unit change", "", _times(5, 1.005), F5, ("mismatch",), told="values 0.5% larger"),
    Fault("mismatch", "", _times(5, 1.0 + 1e-6), told="rows differ by 1e-6"),
)  # fmt: skip
