"""The example strategy behind the demo's fills: an SMA crossover with ATR stops, simulated.

These are not real trades. They are what this script would have traded on the bundled hourly bars
of EURUSD, written down as fills so that the demo has an account to look at:

    python pipelines/sma_crossover.py        writes featurekit/samples/eurusd_h1_fills.csv

Rules. When the mean of 20 closes crosses that of 50, it buys or sells at the next bar's open, and
turns a position the other way in one fill. It risks 1% of 10,000 USD at a stop 3 ATR(14) away, in
lots of 100,000. At 2 ATR of profit it closes half and moves the stop to the entry; at 5 ATR it
closes the rest. Whether the stop or a profit came first within an hour cannot be known from hourly
bars: the stop is taken to be first, at the open where the bar opens beyond it, and everything
within a bar is stamped half past. A fill costs 3.50 USD a lot. Orders use closed bars only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from featurekit.samples import sample
from featurekit.sources import read_bars

FILLS = Path(__file__).parents[1] / "featurekit" / "samples" / "eurusd_h1_fills.csv"
RISK = 100.0  # USD lost at the stop: 1% of 10,000
LOT = 100_000
FEE = 3.5  # USD a lot and fill


class Position(NamedTuple):
    """What is held: signed lots, and the levels that were set when it was opened."""

    lots: float
    entry: float
    stop: float
    half: float | None  # where half is closed; None when that is done
    target: float


def simulate(bars: pl.DataFrame) -> pl.DataFrame:
    """The strategy's fills on the bars of one symbol, canonical."""
    open_, high, low, close = (bars[n].to_numpy() for n in ("open", "high", "low", "close"))
    previous = np.roll(close, 1)
    span = np.maximum(high, previous) - np.minimum(low, previous)
    fast, slow, atr = mean(close, 20), mean(close, 50), mean(span, 14)
    fills: list[dict[str, object]] = []
    held: Position | None = None

    def fill(bar: int, minutes: int, lots: float, price: float, stop: float, target: float) -> None:
        fills.append(
            {
                "time": bars["time"][bar].timestamp() + 60 * minutes,
                "symbol": bars["symbol"][bar],
                "side": "buy" if lots > 0 else "sell",
                "quantity": round(abs(lots), 2),
                "price": round(price, 5),
                "fee": round(FEE * abs(lots), 4),
                "stop": round(stop, 5),
                "target": round(target, 5),
                "trade_id": f"{len(fills) + 1:04d}",
            }
        )

    for bar in range(51, bars.height):
        # What the bar before decided at its close happens at this open.
        up = fast[bar - 1] > slow[bar - 1]
        if up != (fast[bar - 2] > slow[bar - 2]):
            side, unit = (1.0 if up else -1.0), float(atr[bar - 1])
            lots = side * max(round(RISK / (3 * unit * LOT), 2), 0.02)
            entry = float(open_[bar])
            stop, target = entry - side * 3 * unit, entry + side * 5 * unit
            fill(bar, 0, lots - (held.lots if held else 0.0), entry, stop, target)
            held = Position(lots, entry, stop, entry + side * 2 * unit, target)
        if held is None:
            continue
        side = 1.0 if held.lots > 0 else -1.0
        worst, best = (low[bar], high[bar]) if side > 0 else (high[bar], low[bar])
        if side * (worst - held.stop) <= 0:
            beyond = side * (open_[bar] - held.stop) < 0
            fill(bar, 30, -held.lots, open_[bar] if beyond else held.stop, 0.0, 0.0)
            held = None
            continue
        if held.half is not None and side * (best - held.half) >= 0:
            part = side * round(abs(held.lots) / 2, 2)
            price = open_[bar] if side * (open_[bar] - held.half) > 0 else held.half
            fill(bar, 30, -part, price, held.entry, held.target)
            held = held._replace(lots=round(held.lots - part, 2), stop=held.entry, half=None)
        elif side * (best - held.target) >= 0:
            price = open_[bar] if side * (open_[bar] - held.target) > 0 else held.target
            fill(bar, 30, -held.lots, price, 0.0, 0.0)
            held = None
    time = pl.from_epoch(pl.col("time").cast(pl.Int64), time_unit="s").dt.replace_time_zone("UTC")
    return pl.DataFrame(fills).with_columns(time)


def mean(x: np.ndarray, n: int) -> np.ndarray:
    """Mean of the last n values; of fewer at the start, where nothing is traded yet."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    at = np.arange(1, len(x) + 1)
    first = np.maximum(at - n, 0)
    return (total[at] - total[first]) / (at - first)


def demo_bars() -> pl.DataFrame:
    """The bundled bars that the fills are made on."""
    known = sample("eurusd_h1")
    return read_bars(
        known["path"],
        symbol=known["symbol"],
        timezone=known["timezone"],
        time_format=known["time_format"],
    )


def to_csv(fills: pl.DataFrame) -> str:
    """The fills as the text of the sample file."""
    return fills.write_csv(datetime_format="%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    made = simulate(demo_bars())
    FILLS.write_text(to_csv(made))
    print(f"{made.height} simulated fills in {FILLS}")  # noqa: T201  # a script says what it did
