"""Speed of `Pipeline.transform` over 1,000,000 rows, as ratios to its peers in one run.

    python tests/bench/transform.py [ROWS]

All peers run on one thread. TA-Lib's C functions make the 54 indicator columns alone; polars and
pandas make a systematic sample of 40 columns of bars, checked to be the same numbers (their
exponential averages start at the first row instead of a mean, which costs them less). The bars
are simulated.
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
DAY = 86_400_000_000_000
SLOPE_14 = (np.arange(14) - 6.5) / ((np.arange(14) - 6.5) ** 2).sum()
ALL, TALIB = "featurekit, all 129 columns", "TA-Lib's C functions, 54 indicator columns"
SOME, POLARS = "featurekit, 40 columns", "polars, the same 40 columns"
PANDAS, UNROLLED = "pandas, the same 40 columns", "pandas, its three rolling.apply unrolled"


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
    # Where a running sum of squares has drifted below 0 is not asked.
    made += [np.sqrt(np.abs(t.SMA(fall * fall, 14)))]
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


def polars_40(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """The columns of FORTY as polars expressions, those used twice computed once by its planner."""
    o, h, l, c, v = (pl.col(n) for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
    r = (c / c.shift(1)).log()
    typical = (h + l + c) / 3
    change = c.diff()
    true_range = pl.max_horizontal(h - l, (h - c.shift(1)).abs(), (l - c.shift(1)).abs())
    up, down = h.diff(), -l.diff()

    def ema(x: pl.Expr, n: int) -> pl.Expr:
        return x.ewm_mean(span=n, adjust=False)

    def wilder(x: pl.Expr, n: int) -> pl.Expr:
        return x.ewm_mean(alpha=1 / n, adjust=False)

    def stochastic(x: pl.Expr, high: pl.Expr, low: pl.Expr, n: int) -> pl.Expr:
        bottom = low.rolling_min(n)
        return (100 * (x - bottom) / (high.rolling_max(n) - bottom)).rolling_mean(3)

    def rsi(n: int) -> pl.Expr:
        gain = wilder(change.clip(lower_bound=0), n)
        return 100 * gain / (gain + wilder((-change).clip(lower_bound=0), n))

    def zscore(x: pl.Expr, n: int) -> pl.Expr:
        return (x - x.rolling_mean(n)) / x.rolling_std(n)

    rs = (h / c).log() * (h / o).log() + (l / c).log() * (l / o).log()
    flow, moved = typical * v, typical.diff().sign()
    inflow = (flow * moved.clip(lower_bound=0)).rolling_sum(14)
    outflow = (flow * (-moved).clip(lower_bound=0)).rolling_sum(14)
    plus = wilder(pl.when((up > 0) & (up > down)).then(up).otherwise(0.0), 14)
    minus = wilder(pl.when((down > 0) & (down > up)).then(down).otherwise(0.0), 14)
    line = (((c - l) - (h - c)) / (h - l) * v).cum_sum()
    mean, lowest = typical.rolling_mean(14), l.rolling_min(15)
    newest_low = pl.min_horizontal(pl.when(l.shift(k) == lowest).then(float(k)) for k in range(15))
    columns = {
        **{f"ret_{n}": (c / c.shift(n)).log() for n in (1, 3, 20, 100)},
        **{f"ret_1_lag_{n}": r.shift(n) for n in (3, 5)},
        "lower_wick": (pl.min_horizontal(o, c) - l) / (h - l),
        "range": (h - l) / c,
        **{f"volatility_{n}": r.rolling_std(n) for n in (20, 100)},
        "rogers_satchell_20": rs.rolling_mean(20).sqrt(),
        "kurtosis_50": r.rolling_kurtosis(50),
        "downside_share_50": r.clip(upper_bound=0).pow(2).rolling_sum(50)
        / r.pow(2).rolling_sum(50),
        "volume_zscore_100": zscore(v, 100),
        "signed_volume_20": (change.sign() * v).rolling_sum(20) / v.rolling_sum(20),
        "vwap_distance_100": (c / (flow.rolling_sum(100) / v.rolling_sum(100))).log(),
        "price_zscore_100": zscore(c, 100),
        "drawdown_100": c / c.rolling_max(100) - 1,
        "hour_cos": (2 * np.pi * ((pl.col("time").dt.epoch("ns") - 1) % DAY + 1) / DAY).cos(),
        "rsi_7": rsi(7),
        "stoch_k": stochastic(c, h, l, 5),
        "stochrsi_k": 100
        * (rsi(14) - rsi(14).rolling_min(5))
        / (rsi(14).rolling_max(5) - rsi(14).rolling_min(5)),
        "cci_14": (typical - mean)
        / (0.015 * pl.sum_horizontal((typical.shift(k) - mean).abs() for k in range(14)) / 14),
        "mfi_14": 100 * inflow / (inflow + outflow),
        **{f"roc_{n}": 100 * (c / c.shift(n) - 1) for n in (5, 20)},
        "ppo": 100 * (ema(c, 12) - ema(c, 26)) / ema(c, 26),
        "macd": ema(c, 12) - ema(c, 26),
        "adx_14": wilder((100 * (plus - minus).abs() / (plus + minus)).fill_nan(None), 14),
        "minus_di_14": 100 * minus / wilder(true_range, 14),
        "aroon_down_14": 100 / 14 * (14 - newest_low),
        "atr_14": wilder(true_range, 14),
        "trange": true_range,
        "keltner_20": (c - ema(c, 20)) / (2 * wilder(true_range, 10)),
        "ema_distance_21": c - ema(c, 21),
        **{f"sma_distance_{n}": c - c.rolling_mean(n) for n in (20, 200)},
        "linreg_slope_14": c.rolling_sum(14, weights=SLOPE_14.tolist()),
        "stddev_20": c.rolling_std(20, ddof=0),
        "adosc": ema(line, 3) - ema(line, 10),
    }
    made = frame.lazy().select(x.alias(name) for name, x in columns.items()).collect()
    return {name: made[name].to_numpy() for name in made.columns}


def pandas_40(frame: pd.DataFrame, *, unrolled: bool) -> dict[str, np.ndarray]:
    """The columns of FORTY with pandas, those used twice computed once.

    Three have no function of pandas: `rolling.apply` makes them, or, `unrolled`, shifted columns.
    """
    o, h, l, c, v = (frame[n] for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
    r = np.log(c / c.shift(1))
    typical = (h + l + c) / 3
    change, previous = c.diff(), c.shift(1)
    true_range = np.maximum(np.maximum(h - l, (h - previous).abs()), (l - previous).abs())
    up, down = h.diff(), -l.diff()

    def ema(x: pd.Series, n: int) -> pd.Series:
        return x.ewm(span=n, adjust=False).mean()

    def wilder(x: pd.Series, n: int) -> pd.Series:
        return x.ewm(alpha=1 / n, adjust=False).mean()

    def stochastic(x: pd.Series, high: pd.Series, low: pd.Series, n: int) -> pd.Series:
        bottom = low.rolling(n).min()
        return 100 * (x - bottom) / (high.rolling(n).max() - bottom)

    def rsi(n: int) -> pd.Series:
        gain = wilder(change.clip(lower=0), n)
        return 100 * gain / (gain + wilder((-change).clip(lower=0), n))

    def zscore(x: pd.Series, n: int) -> pd.Series:
        window = x.rolling(n)
        return (x - window.mean()) / window.std()

    rs = np.log(h / c) * np.log(h / o) + np.log(l / c) * np.log(l / o)
    flow, moved = typical * v, np.sign(typical.diff())
    inflow = (flow * moved.clip(lower=0)).rolling(14).sum()
    outflow = (flow * (-moved).clip(lower=0)).rolling(14).sum()
    plus = wilder(up.where((up > 0) & (up > down), 0.0), 14)
    minus = wilder(down.where((down > 0) & (down > up), 0.0), 14)
    line = (((c - l) - (h - c)) / (h - l) * v).cumsum()
    fast, slow, rsi_14, range_14 = ema(c, 12), ema(c, 26), rsi(14), wilder(true_range, 14)
    # pandas' kurtosis is corrected for small samples, featurekit's is not.
    kurtosis = (r.rolling(50).kurt() * 48 * 47 / 49 - 6) / 51
    mean, lowest = typical.rolling(14).mean(), l.rolling(15).min()
    if unrolled:
        deviation = sum((typical.shift(k) - mean).abs() for k in range(14)) / 14
        slope = sum(c.shift(13 - k) * weight for k, weight in enumerate(SLOPE_14))
        newest_low = pd.Series(np.nan, frame.index)
        for k in reversed(range(15)):
            newest_low = newest_low.mask(l.shift(k) == lowest, float(k))
    else:
        deviation = typical.rolling(14).apply(lambda w: np.abs(w - w.mean()).mean(), raw=True)
        slope = c.rolling(14).apply(lambda w: w @ SLOPE_14, raw=True)
        newest_low = l.rolling(15).apply(lambda w: np.argmin(w[::-1]), raw=True)
    columns = {
        **{f"ret_{n}": np.log(c / c.shift(n)) for n in (1, 3, 20, 100)},
        **{f"ret_1_lag_{n}": r.shift(n) for n in (3, 5)},
        "lower_wick": (np.minimum(o, c) - l) / (h - l),
        "range": (h - l) / c,
        **{f"volatility_{n}": r.rolling(n).std() for n in (20, 100)},
        "rogers_satchell_20": np.sqrt(rs.rolling(20).mean()),
        "kurtosis_50": kurtosis,
        "downside_share_50": (r.clip(upper=0) ** 2).rolling(50).sum() / (r**2).rolling(50).sum(),
        "volume_zscore_100": zscore(v, 100),
        "signed_volume_20": (np.sign(change) * v).rolling(20).sum() / v.rolling(20).sum(),
        "vwap_distance_100": np.log(c / (flow.rolling(100).sum() / v.rolling(100).sum())),
        "price_zscore_100": zscore(c, 100),
        "drawdown_100": c / c.rolling(100).max() - 1,
        "hour_cos": np.cos(2 * np.pi * ((frame["time"] - 1) % DAY + 1) / DAY),
        "rsi_7": rsi(7),
        "stoch_k": stochastic(c, h, l, 5).rolling(3).mean(),
        "stochrsi_k": stochastic(rsi_14, rsi_14, rsi_14, 5),
        "cci_14": (typical - mean) / (0.015 * deviation),
        "mfi_14": 100 * inflow / (inflow + outflow),
        **{f"roc_{n}": 100 * (c / c.shift(n) - 1) for n in (5, 20)},
        "ppo": 100 * (fast - slow) / slow,
        "macd": fast - slow,
        "adx_14": wilder(100 * (plus - minus).abs() / (plus + minus), 14),
        "minus_di_14": 100 * minus / range_14,
        "aroon_down_14": 100 / 14 * (14 - newest_low),
        "atr_14": range_14,
        "trange": true_range,
        "keltner_20": (c - ema(c, 20)) / (2 * wilder(true_range, 10)),
        "ema_distance_21": c - ema(c, 21),
        **{f"sma_distance_{n}": c - c.rolling(n).mean() for n in (20, 200)},
        "linreg_slope_14": slope,
        "stddev_20": c.rolling(20).std(ddof=0),
        "adosc": ema(line, 3) - ema(line, 10),
    }
    return {name: np.asarray(x) for name, x in columns.items()}


# Every 2.55th of the 102 columns of bars: the systematic sample of 40.
MADE = market.columns({}) | indicator.columns({})
FORTY = [list(MADE)[k * len(MADE) // 40] for k in range(40)]


@block(unit="mixed")
def forty(close: fk.Col) -> dict[str, fk.Col]:
    """The 40 columns that polars and pandas make too."""
    del close
    return {name: MADE[name] for name in FORTY}


def seconds(run: Callable[[], object]) -> float:
    """Of the second of two runs: the first brings the memory that the second reuses."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def check_equal(frame: pl.DataFrame, table: pd.DataFrame) -> None:
    """All make the same columns, from where the averages' different starts are forgotten."""
    mine = fk.Pipeline(name="some", blocks=["forty"]).transform(frame, dtype="float64")
    made = (polars_40(frame), pandas_40(table, unrolled=True), pandas_40(table, unrolled=False))
    for peer in made:
        assert list(peer) == FORTY
        for name, column in peer.items():
            expected, got = mine[f"forty.{name}"].to_numpy()[1000:], column[1000:]
            assert np.allclose(got, expected, rtol=1e-6, atol=1e-6 * expected.std()), name


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    frame = bars(rows)
    numbers = ("open", "high", "low", "close", "volume")
    table = pd.DataFrame({name: frame[name].to_numpy() for name in numbers})
    table["time"] = frame["time"].dt.epoch("ns").to_numpy()
    check_equal(frame.head(5000), table.head(5000))
    every = fk.Pipeline(name="all", blocks=["market", "position", "indicator"])
    some = fk.Pipeline(name="some", blocks=["forty"])
    runs: dict[str, Callable[[], object]] = {
        ALL: lambda: every.transform(frame),
        TALIB: lambda: talib_54(frame),
        SOME: lambda: some.transform(frame),
        POLARS: lambda: polars_40(frame),
        PANDAS: lambda: pandas_40(table, unrolled=False),
        UNROLLED: lambda: pandas_40(table, unrolled=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # in turn, so that a slow spell of the machine meets all
        for name, run in runs.items():
            taken[name].append(seconds(run))
    best = {name: min(each) for name, each in taken.items()}
    print(f"{rows:,} rows of one symbol, one thread, seconds, best of {ROUNDS}")
    for name, each in best.items():
        print(f"  {name:44} {each:7.3f}")
    for mine, peer, bar in ((ALL, TALIB, 2.0), (SOME, POLARS, 0.4), (SOME, PANDAS, 0.1)):
        print(f"{mine} / {peer}: {best[mine] / best[peer]:.2f} (at most {bar:g})")
    print(f"{SOME} / {UNROLLED}: {best[SOME] / best[UNROLLED]:.2f}")


if __name__ == "__main__":
    main()
