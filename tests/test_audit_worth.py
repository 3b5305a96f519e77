"""Proof of worth: the model view tells failing input treatments from learning ones, untrained.

The rows are simulated: the stream on which gradient death was measured. That raw input, layer_norm
alone, RobustScaler and a scaler fitted before positions opened leave much unlearned there (the
last with asinh the least), and that a representative z-score learns, was found by training; here
nothing is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

import featurekit as fk
from featurekit.nn.worlds import World, world
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport

    Rows = NDArray[np.float32]

WINDOWS = 90  # of 20 rows each, flat and active alike
SLICES = {"active": '"position.active_flag" = 1', "flat": '"position.active_flag" = 0'}


def rows_of(found: World, flat: int, active: int) -> Rows:
    """Rows of so many flat and active windows."""
    windows = np.concatenate([found.flat[:flat], found.active[:active]])
    return windows.reshape(-1, windows.shape[-1])


def scaling(found: World, center: Rows, scale: Rows, *, asinh: bool) -> Scaling:
    width = len(found.names)
    squash = np.full(width, asinh)
    return Scaling(found.names, center.astype(float), scale.astype(float), squash)


def z_score(found: World, rows: Rows, *, asinh: bool) -> Scaling:
    """As scikit-learn's StandardScaler: a deviation of 0 is a scale of 1."""
    deviation = rows.std(axis=0, dtype=np.float64)
    center = rows.mean(axis=0, dtype=np.float64)
    return scaling(found, center, np.where(deviation > 0, deviation, 1.0), asinh=asinh)


def robust(found: World, rows: Rows, *, asinh: bool) -> Scaling:
    """As scikit-learn's RobustScaler: a range of 0 is a scale of 1."""
    low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=0)
    return scaling(found, middle, np.where(high > low, high - low, 1.0), asinh=asinh)


def untouched(found: World, rows: Rows, *, asinh: bool) -> Scaling:
    del rows
    return scaling(found, np.zeros(len(found.names)), np.ones(len(found.names)), asinh=asinh)


BEFORE_POSITIONS, REPRESENTATIVE = (WINDOWS, 0), (54, 36)

# Name: how it is fitted, on which windows, whether asinh and layer_norm follow, whether it learns.
TREATMENTS: dict[str, tuple[Callable[..., Scaling], tuple[int, int], bool, bool, bool]] = {
    "raw": (untouched, REPRESENTATIVE, False, False, False),
    "layer_norm alone": (untouched, REPRESENTATIVE, False, True, False),
    "RobustScaler + layer_norm": (robust, REPRESENTATIVE, False, True, False),
    "z-score fitted before positions + layer_norm": (
        z_score, BEFORE_POSITIONS, False, True, False,
    ),
    "z-score fitted before positions + asinh + layer_norm": (
        z_score, BEFORE_POSITIONS, True, True, False,
    ),
    "z-score + asinh + layer_norm": (z_score, REPRESENTATIVE, True, True, True),
    "z-score + layer_norm": (z_score, REPRESENTATIVE, False, True, True),
    "z-score alone": (z_score, REPRESENTATIVE, False, False, True),
}  # fmt: skip


def judged(found: World, treatment: str, seed: int, kind: str) -> AuditReport:
    fit, (flat, active), asinh, norm, _ = TREATMENTS[treatment]
    fitted = fit(found, rows_of(found, flat, active), asinh=asinh)
    later = world(kind, windows=WINDOWS, seed=seed, split="test")  # type: ignore[arg-type]
    frame = pl.DataFrame(rows_of(later, WINDOWS, WINDOWS), schema=list(found.names))
    return fk.audit(frame, scaling=fitted, layer_norm=norm, slices=SLICES)


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("kind", ["main", "report"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_view_tells_what_learns(treatment: str, kind: str, seed: int) -> None:
    found = world(kind, windows=WINDOWS, seed=seed)  # type: ignore[arg-type]
    report = judged(found, treatment, seed, kind)
    failing = [
        (each.slice, statistic.metric, statistic.value)
        for each in report.model
        for statistic in each.statistics
        if statistic.severity == "fail"
    ]
    learns = TREATMENTS[treatment][-1]
    assert bool(failing) is not learns, failing
    assert {each.slice for each in report.model} == {"", "active", "flat"}
    # A slice of fewer than 1,000 rows would not have been a pass.
    assert all(rows >= 1_000 for rows in report.slices.values())


def test_a_scaler_fitted_before_positions_looks_clean_while_flat() -> None:
    """Why slices are judged apart: on flat rows the treatment that fails is spotless."""
    found = world("report", windows=WINDOWS, seed=0)
    name = "z-score fitted before positions + asinh + layer_norm"
    failing = {
        each.slice
        for each in judged(found, name, 0, "report").model
        for statistic in each.statistics
        if statistic.severity == "fail"
    }
    assert "active" in failing
    assert "flat" not in failing
