"""Speed of `Pipeline.transform` over 1,000,000 rows, as ratios to its peers in one run.

    python tests/bench/transform.py [ROWS]

All peers run on one thread. TA-Lib's C functions make the 54 indicator columns alone; polars and
pandas make 40 of the 129 columns, with the same windows (their exponential averages start at the
first row instead of a mean, which costs them less). The bars are simulated.
"""

from __future__ import annotations

import os
import sys
import time

for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars as pl
import talib

import featurekit as fk
from featurekit.block import block
from featurekit.blocks import indicator, market

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5


def bars(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    close = 1.1 * np.exp(rng.normal(0, 1e-4, rows).cumsum())
    open_ = np.roll(close, 1)
    open_[0] = close[0]
    spread = np.abs(rng.normal(0, 5e-5, (2, rows)))
    return pl.DataFrame(
        {
            "symbol": ["X"] * rows,
            "time": pl.Series(np.arange(rows) * 60_000_000_000).cast(pl.Datetime("ns", "UTC")),
            "open": open_,
            "high": np.maximum(open_, close) * (1 + spread[0]),
            "low": np.minimum(open_, close) * (1 - spread[1]),
            "close": close,
            "volume": rng.lognormal(8, 1, rows),
        }
    )


def talib_54(frame: pl.DataFrame) -> int:
    """Calls that make the 54 indicator columns, numpy for what TA-Lib does not have."""
    h, l, c, v = (frame[n].to_numpy() for n in ("high", "low", "close", "volume"))  # noqa: E741
    t = talib
    made: list[object] = [t.RSI(c, n) for n in (7, 14, 21)]
    made += [*t.STOCH(h, l, c, 5, 3, 0, 3, 0), *t.STOCHRSI(c, 14, 5, 3, 0), t.WILLR(h, l, c, 14)]
    made += [t.CCI(h, l, c, 14), t.CCI(h, l, c, 20), t.MFI(h, l, c, v, 14), t.ULTOSC(h, l, c)]
    made += [t.CMO(c, 14), t.ROC(c, 5), t.ROC(c, 10), t.ROC(c, 20), t.MOM(c, 10), t.TRIX(c, 15)]
    made += [t.PPO(c, 12, 26, 1), t.APO(c, 12, 26, 0), *t.MACD(c, 12, 26, 9)]
    made += [t.ADX(h, l, c, 14), t.PLUS_DI(h, l, c, 14), t.MINUS_DI(h, l, c, 14)]
    made += [t.ADXR(h, l, c, 14), *t.AROON(h, l, 14), t.AROONOSC(h, l, 14)]
    fall = 100 * (c / t.MAX(c, 14) - 1)
    made += [np.sqrt(t.SMA(fall * fall, 14))]
    made += [t.ATR(h, l, c, 14), t.NATR(h, l, c, 14), t.TRANGE(h, l, c)]
    upper, middle, lower = t.BBANDS(c, 20, 2, 2, 0)
    made += [(c - lower) / (upper - lower), (upper - lower) / middle]
    made += [(c - t.EMA(c, 20)) / (2 * t.ATR(h, l, c, 10))]
    made += [c - t.EMA(c, n) for n in (8, 21, 55, 100)] + [c - t.SMA(c, n) for n in (20, 50, 200)]
    made += [c - t.KAMA(c, 10), c - t.SAR(h, l, 0.02, 0.2)]
    made += [t.LINEARREG_SLOPE(c, 14), t.LINEARREG_SLOPE(c, 50), t.STDDEV(c, 20, 1)]
    made += [t.CORREL(c, v, 20), t.MOM(t.OBV(c, v), 20), t.ADOSC(h, l, c, v, 3, 10)]
    flow = np.where(h > l, ((c - l) - (h - c)) / (h - l), 0.0) * v
    made += [t.SUM(flow, 20) / t.SUM(v, 20)]
    made += [(t.MAX(h, 9) + t.MIN(l, 9)) / 2 - (t.MAX(h, 26) + t.MIN(l, 26)) / 2]
    return len(made)


def polars_40(frame: pl.DataFrame) -> int:
    o, h, l, c, v = (pl.col(n) for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
    r = (c / c.shift(1)).log()

    def ema(x: pl.Expr, n: int) -> pl.Expr:
        return x.ewm_mean(span=n, adjust=False)

    def wilder(x: pl.Expr, n: int) -> pl.Expr:
        return x.ewm_mean(alpha=1 / n, adjust=False)

    change = c.diff()
    up, down = change.clip(lower_bound=0), (-change).clip(lower_bound=0)
    true_range = pl.max_horizontal(h - l, (h - c.shift(1)).abs(), (l - c.shift(1)).abs())
    columns = [(c / c.shift(k)).log() for k in (1, 5, 20, 100)]
    columns += [r.shift(k) for k in (1, 5)]
    columns += [(c - o) / (h - l), (c - l) / (h - l), (o / c.shift(1)).log()]
    columns += [r.rolling_std(n) for n in (10, 20, 50, 100)]
    columns += [((h / l).log().pow(2).rolling_mean(20) / (4 * np.log(2))).sqrt()]
    columns += [r.rolling_skew(50), ((v + 1) / (v.shift(1) + 1)).log()]
    columns += [(v - v.rolling_mean(n)) / v.rolling_std(n) for n in (20, 100)]
    columns += [(c - c.rolling_mean(n)) / c.rolling_std(n) for n in (50, 100)]
    columns += [(c - l.rolling_min(n)) / (h.rolling_max(n) - l.rolling_min(n)) for n in (20, 100)]
    columns += [c / c.rolling_max(100) - 1]
    columns += [100 * wilder(up, n) / (wilder(up, n) + wilder(down, n)) for n in (7, 14, 21)]
    columns += [100 * (c / c.shift(10) - 1), ema(c, 12) - ema(c, 26)]
    columns += [c - ema(c, n) for n in (8, 21, 55, 100)]
    columns += [c - c.rolling_mean(n) for n in (20, 50, 200)]
    columns += [
        wilder(true_range, 14),
        c.rolling_std(20, ddof=0),
        (change.sign() * v).rolling_sum(20),
    ]
    columns += [pl.rolling_corr(c, v, window_size=20), 4 * c.rolling_std(20) / c.rolling_mean(20)]
    return frame.select(x.alias(str(k)) for k, x in enumerate(columns)).width


def pandas_40(frame: pd.DataFrame) -> int:
    o, h, l, c, v = (frame[n] for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
    r = np.log(c / c.shift(1))

    def ema(x: pd.Series, n: int) -> pd.Series:
        return x.ewm(span=n, adjust=False).mean()

    def wilder(x: pd.Series, n: int) -> pd.Series:
        return x.ewm(alpha=1 / n, adjust=False).mean()

    change = c.diff()
    up, down = change.clip(lower=0), (-change).clip(lower=0)
    previous = c.shift(1)
    true_range = np.maximum(np.maximum(h - l, (h - previous).abs()), (l - previous).abs())
    columns = [np.log(c / c.shift(k)) for k in (1, 5, 20, 100)]
    columns += [r.shift(k) for k in (1, 5)]
    columns += [(c - o) / (h - l), (c - l) / (h - l), np.log(o / previous)]
    columns += [r.rolling(n).std() for n in (10, 20, 50, 100)]
    columns += [np.sqrt((np.log(h / l) ** 2).rolling(20).mean() / (4 * np.log(2)))]
    columns += [r.rolling(50).skew(), np.log((v + 1) / (v.shift(1) + 1))]
    columns += [(v - v.rolling(n).mean()) / v.rolling(n).std() for n in (20, 100)]
    columns += [(c - c.rolling(n).mean()) / c.rolling(n).std() for n in (50, 100)]
    columns += [
        (c - l.rolling(n).min()) / (h.rolling(n).max() - l.rolling(n).min()) for n in (20, 100)
    ]
    columns += [c / c.rolling(100).max() - 1]
    columns += [100 * wilder(up, n) / (wilder(up, n) + wilder(down, n)) for n in (7, 14, 21)]
    columns += [100 * (c / c.shift(10) - 1), ema(c, 12) - ema(c, 26)]
    columns += [c - ema(c, n) for n in (8, 21, 55, 100)]
    columns += [c - c.rolling(n).mean() for n in (20, 50, 200)]
    columns += [
        wilder(true_range, 14),
        c.rolling(20).std(ddof=0),
        (np.sign(change) * v).rolling(20).sum(),
    ]
    columns += [c.rolling(20).corr(v), 4 * c.rolling(20).std() / c.rolling(20).mean()]
    return len(columns)


FORTY = [
    "ret_1",
    "ret_5",
    "ret_20",
    "ret_100",
    "ret_1_lag_1",
    "ret_1_lag_5",
    "body",
    "close_location",
    "gap",
    "volatility_10",
    "volatility_20",
    "volatility_50",
    "volatility_100",
    "parkinson_20",
    "skew_50",
    "volume_change",
    "volume_zscore_20",
    "volume_zscore_100",
    "price_zscore_50",
    "price_zscore_100",
    "channel_20",
    "channel_100",
    "drawdown_100",
    "rsi_7",
    "rsi_14",
    "rsi_21",
    "roc_10",
    "macd",
    "ema_distance_8",
    "ema_distance_21",
    "ema_distance_55",
    "ema_distance_100",
    "sma_distance_20",
    "sma_distance_50",
    "sma_distance_200",
    "atr_14",
    "stddev_20",
    "obv_change_20",
    "correl_20",
    "bb_width_20",
]


@block(unit="mixed")
def forty(close: fk.Col) -> dict[str, fk.Col]:
    """The 40 columns that polars and pandas make too."""
    del close
    made = market.columns({}) | indicator.columns({})
    return {name: made[name] for name in FORTY}


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    frame = bars(rows)
    table = pd.DataFrame(
        {name: frame[name].to_numpy() for name in ("open", "high", "low", "close", "volume")}
    )
    every = fk.Pipeline(name="all", blocks=["market", "position", "indicator"])
    some = fk.Pipeline(name="some", blocks=["forty"])
    runs: dict[str, Callable[[], object]] = {
        "featurekit, all 129 columns": lambda: every.transform(frame),
        "TA-Lib, 54 indicator columns": lambda: talib_54(frame),
        "featurekit, 40 columns": lambda: some.transform(frame),
        "polars, the same 40 columns": lambda: polars_40(frame),
        "pandas, the same 40 columns": lambda: pandas_40(table),
    }
    for run in runs.values():
        run()  # compiled and warm
    assert talib_54(frame.head(300)) == 54
    assert len(some.columns) == polars_40(frame.head(300)) == pandas_40(table.head(300)) == 40
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # in turn, so that a slow spell of the machine meets all
        for name, run in runs.items():
            seconds[name].append(cpu_seconds(run))
    best = {name: min(each) for name, each in seconds.items()}
    print(f"{rows:,} rows of one symbol, one thread, CPU seconds, best of {ROUNDS}")
    for name, each in best.items():
        print(f"  {name:30} {each:7.3f}")
    for mine, peer in (
        ("featurekit, all 129 columns", "TA-Lib, 54 indicator columns"),
        ("featurekit, 40 columns", "polars, the same 40 columns"),
        ("featurekit, 40 columns", "pandas, the same 40 columns"),
    ):
        print(f"{mine} / {peer}: {best[mine] / best[peer]:.2f}")


if __name__ == "__main__":
    main()
