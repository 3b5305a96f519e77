"""Random bars of every temper: prices from 1e-6 to 1e5, ticks, flat stretches, silent volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]


def random_bars(seed: int) -> dict[str, F8]:
    """Simulated open, high, low, close and volume of 300 to 900 bars."""
    rng = np.random.default_rng(1000 + seed)
    n = int(rng.integers(300, 900))
    level, spread = 10.0 ** rng.uniform(-6, 5), 10.0 ** rng.uniform(-4.5, -1.3)
    step = rng.normal(0, spread, n)
    kind = seed % 8
    if kind == 1:  # trading halts
        for at in rng.integers(0, n - 40, 3):
            step[at : at + int(rng.integers(5, 40))] = 0.0
    elif kind == 2:  # a monotone stretch
        step[n // 3 : n // 2] = np.abs(step[n // 3 : n // 2])
    elif kind == 3:  # jumps
        step[rng.integers(0, n, 4)] += rng.normal(0, 0.2, 4)
    close = level * np.exp(step.cumsum())
    open_ = np.concatenate([close[:1], close[:-1]])
    if kind == 4:
        open_ = open_ * np.exp(rng.normal(0, spread, n))  # gaps
    wick = np.abs(rng.normal(0, spread, (2, n))) * (step != 0)
    high = np.maximum(open_, close) * np.exp(wick[0])
    low = np.minimum(open_, close) * np.exp(-wick[1])
    if kind == 5:  # quoted in ticks
        tick = level * spread
        open_, close = (np.round(x / tick) * tick for x in (open_, close))
        high, low = np.ceil(high / tick) * tick, np.floor(low / tick) * tick
        low = np.maximum(low, tick)
        open_, close = np.maximum(open_, low), np.maximum(close, low)
        high = np.maximum.reduce([high, open_, close])
    volume = np.round(rng.lognormal(rng.uniform(1, 15), 1, n))
    if kind == 6:  # nobody trades
        volume[rng.random(n) < 0.3] = 0.0
    return {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
