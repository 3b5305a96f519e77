"""Feature: one column of a pipeline, and what is known of it before any data is seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """One column: `name` is `block.column`, `lookback` and `memory` count rows.

    `lookback` rows pass before the first defined value; after `memory` rows the start of the
    history matters less than 1e-6 of the feature's standard deviation. `scale` is the range that
    its author expects nearly all values in.
    """

    name: str
    block: str
    unit: str
    scale: tuple[float, float] | None
    doc: str
    lookback: int
    memory: int
