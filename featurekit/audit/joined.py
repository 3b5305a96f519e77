"""Rows of the same symbol and time in two tables: what training and serving make of one bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.audit.metric import Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurekit.audit.views import F8

SAME = 1e-5  # relative difference up to which two values are one, written by different programs
UNIT = 0.01  # share by which a ratio differs from 1, beyond which the unit is another one
KEYS = ("symbol", "time")


def joined_rows(
    now: pl.DataFrame, then: pl.DataFrame, names: Sequence[str], shared: Sequence[str]
) -> list[Measure] | str:
    """Measures of rows that both have, or a note that says why there are none.

    Args:
        now: What is audited.
        then: What it is compared with.
        names: The features of the first.
        shared: Those of them that the other one has.
    """
    keys = [key for key in KEYS if key in now.columns and key in then.columns]
    if "time" not in keys:
        return "one of the tables has no column time: rows were not compared one by one"
    sides = [
        frame.select(
            *(_key(frame, key) for key in keys),
            *(pl.col(name).cast(pl.Float64, strict=False).alias(name) for name in shared),
        )
        for frame in (now, then)
    ]
    for side in sides:
        if side.select(pl.struct(keys).is_duplicated().any()).item():
            told = " and ".join(keys)
            return f"some rows have the same {told}: rows were not compared one by one"
    pairs = sides[0].join(sides[1], on=keys, how="inner", suffix="__then")
    if pairs.is_empty():
        return "no row has the symbol and time of one of the other table"
    mismatch, ratio = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for k, name in enumerate(names):
        if name in shared:
            a, b = (pairs[n].fill_null(np.nan).to_numpy() for n in (f"{name}__then", name))
            mismatch[k], ratio[k] = _differences(a, b)
    unmatched = 1.0 - pairs.height / max(side.height for side in sides)
    return [
        Measure("mismatch", "feature", mismatch),
        Measure("unit change", "feature", ratio),
        Measure("unmatched rows", "all", np.array([unmatched])),
    ]


def _key(frame: pl.DataFrame, key: str) -> pl.Expr:
    if key == "symbol":
        return pl.col(key).cast(pl.String)
    if frame.schema[key] == pl.Date:
        return pl.col(key).cast(pl.Datetime("ns")).dt.epoch("ns")
    if frame.schema[key] == pl.Datetime:
        return pl.col(key).dt.epoch("ns")
    return pl.col(key).cast(pl.Int64, strict=False)


def _differences(a: F8, b: F8) -> tuple[float, float]:
    """Share of pairs that are not the same, and by what factor b is a, if it is by one."""
    with np.errstate(invalid="ignore", over="ignore"):
        same = np.abs(a - b) <= SAME * np.maximum(np.abs(a), np.abs(b))
    same = np.where(np.isfinite(a) & np.isfinite(b), same, (a == b) | (np.isnan(a) & np.isnan(b)))
    share = float((~same).mean())
    live = (np.abs(a) > 0.0) & (np.abs(b) > 0.0) & np.isfinite(a) & np.isfinite(b)
    if live.sum() < 10:
        return share, float("nan")
    with np.errstate(invalid="ignore", over="ignore"):
        low, middle, high = np.quantile(b[live] / a[live], [0.25, 0.5, 0.75])
        steady = (high - low) <= UNIT * abs(middle) and abs(middle - 1.0) > UNIT
    return share, abs(math.log2(abs(middle))) + (middle < 0.0) if steady else 0.0
