"""Speed of a stream: microseconds a bar, against recomputing the tail and TA-Lib's own stream.

    python tests/bench/stream.py

On one thread, by CPU time. Bars are simulated: a random walk. Tails are as long as the longest
window needs, and are recomputed for each bar, as is done where there is no state: thirty columns,
the same ones on both sides. TA-Lib's streaming handles are those of the 54 indicators.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"
# profile.py beside this file is not Python's, which others import.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import numpy as np
import polars as pl

import featurekit as fk
from featurekit.block import block

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3_600_000_000_000
TAIL = 200  # rows that the longest window of the 129 columns needs
PRICES = ("open", "high", "low", "close", "volume")


def bars(symbol: str, rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.exp(np.cumsum(rng.normal(0, 1e-3, rows)))
    start = np.concatenate([[1.0], close[:-1]])
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "time": pl.Series(np.arange(rows) * HOUR).cast(pl.Datetime("ns", "UTC")),
            "open": start,
            "high": np.maximum(start, close) * 1.0005,
            "low": np.minimum(start, close) * 0.9995,
            "close": close,
            "volume": rng.integers(1, 1000, rows).astype(float),
        }
    )


def each(call: Callable[[int], object], times: int) -> float:
    """CPU microseconds of a call, by the median of ten stretches."""
    call(0)
    found = []
    for stretch in range(10):
        begin = time.process_time()
        for k in range(times):
            call(1 + stretch * times + k)
        found.append((time.process_time() - begin) / times * 1e6)
    return float(np.median(found))


def pushing(pipeline: fk.Pipeline, table: pl.DataFrame) -> Callable[[int], object]:
    stream = fk.Stream(pipeline, ["X"])
    stream.warm(table.head(1_000))
    stamps = table["time"].dt.epoch("ns").to_list()
    rows = table.select(PRICES).to_dicts()
    return lambda k: stream.push("X", stamps[1_000 + k], **rows[1_000 + k])


def many(pipeline: fk.Pipeline, symbols: int, rows: int) -> Callable[[int], object]:
    names = [f"S{k:03d}" for k in range(symbols)]
    table = pl.concat([bars(name, rows, k) for k, name in enumerate(names)])
    hours = table.sort("time", "symbol").partition_by("time")
    stream = fk.Stream(pipeline, names)
    stream.warm(pl.concat(hours[:300]).sort("symbol", maintain_order=True))
    return lambda k: stream.update(hours[300 + k])


@block(unit="ratio")
def thirty(close: fk.Col) -> dict[str, fk.Col]:
    """Returns, means, deviations, extremes and averages over five windows."""
    columns = {}
    for n in (5, 10, 20, 50, 100):
        columns |= {
            f"ret_{n}": (close / close.lag(n)).log(),
            f"mean_{n}": close / close.mean(n),
            f"std_{n}": close.log().diff(1).std(n),
            f"max_{n}": close / close.max(n),
            f"min_{n}": close / close.min(n),
            f"ema_{n}": close.ema(n, seed="first"),
        }
    return columns


def polars_tail(table: pl.DataFrame) -> Callable[[int], object]:
    """Thirty of the columns, with polars expressions, from the last rows."""
    close = pl.col("close")
    columns: list[pl.Expr] = []
    for n in (5, 10, 20, 50, 100):
        columns += [
            (close / close.shift(n)).log().alias(f"ret_{n}"),
            (close / close.rolling_mean(n)).alias(f"mean_{n}"),
            close.log().diff().rolling_std(n).alias(f"std_{n}"),
            (close / close.rolling_max(n)).alias(f"max_{n}"),
            (close / close.rolling_min(n)).alias(f"min_{n}"),
            close.ewm_mean(span=n, adjust=False).alias(f"ema_{n}"),
        ]
    return lambda k: table.slice(1_000 + k - TAIL, TAIL).select(columns).tail(1)


def pandas_tail(table: pl.DataFrame) -> Callable[[int], object] | None:
    """The same thirty, with pandas."""
    try:
        import pandas as pd
    except ImportError:
        return None
    series = pd.Series(table["close"].to_numpy())

    def run(k: int) -> list[float]:
        close = series.iloc[1_000 + k - TAIL : 1_000 + k]
        steps = np.log(close).diff()
        found: list[float] = []
        for n in (5, 10, 20, 50, 100):
            rolling = close.rolling(n)
            found += [
                float(np.log(close.iloc[-1] / close.iloc[-1 - n])),
                float((close / rolling.mean()).iloc[-1]),
                float(steps.rolling(n).std().iloc[-1]),
                float((close / rolling.max()).iloc[-1]),
                float((close / rolling.min()).iloc[-1]),
                float(close.ewm(span=n, adjust=False).mean().iloc[-1]),
            ]
        return found

    return run


def talib_handles(table: pl.DataFrame) -> Callable[[int], object] | None:
    """TA-Lib's streaming handles of the functions behind the 54 indicators, which keep state.

    What is no function of TA-Lib (the ulcer index, money flow of Chaikin, distances and shares of
    bands) is left out of their time, and is in ours.
    """
    try:
        from talib import stream
    except ImportError:
        return None
    o, h, low, c, v = (np.ascontiguousarray(table[name].to_numpy()) for name in PRICES)
    b, d, e, f = (x[:1_000] for x in (h, low, c, v))
    of_close = [stream.RSI(e, n) for n in (7, 14, 21)]
    of_close += [stream.STOCHRSI(e, 14, 5, 3), stream.CMO(e, 14), stream.MOM(e, 10)]
    of_close += [stream.ROC(e, n) for n in (5, 10, 20)]
    of_close += [stream.TRIX(e, 15), stream.PPO(e, 12, 26, 1), stream.APO(e, 12, 26, 0)]
    of_close += [stream.MACD(e), stream.BBANDS(e, 20), stream.KAMA(e, 10), stream.STDDEV(e, 20)]
    of_close += [stream.EMA(e, n) for n in (8, 20, 21, 55, 100)]
    of_close += [stream.SMA(e, n) for n in (20, 50, 200)]
    of_close += [stream.LINEARREG_SLOPE(e, n) for n in (14, 50)]
    of_range = [stream.AROON(b, d), stream.AROONOSC(b, d), stream.SAR(b, d)]
    of_range += [stream.MIDPRICE(b, d, n) for n in (9, 26)]
    of_bar = [stream.STOCH(b, d, e, 5, 3, 0, 3, 0), stream.WILLR(b, d, e), stream.ULTOSC(b, d, e)]
    of_bar += [stream.CCI(b, d, e, n) for n in (14, 20)]
    of_bar += [stream.ADX(b, d, e), stream.PLUS_DI(b, d, e), stream.MINUS_DI(b, d, e)]
    of_bar += [stream.ADXR(b, d, e), stream.NATR(b, d, e), stream.TRANGE(b, d, e)]
    of_bar += [stream.ATR(b, d, e, n) for n in (10, 14)]
    of_all = [stream.MFI(b, d, e, f), stream.ADOSC(b, d, e, f)]
    of_flow = [stream.OBV(e, f), stream.CORREL(e, f, 20)]
    bars = list(zip(*(x[1_000:].tolist() for x in (o, h, low, c, v)), strict=True))

    def run(k: int) -> list[Any]:
        _, high, least, close, volume = bars[k]
        return [
            *[handle.update(close) for handle in of_close],
            *[handle.update(high, least) for handle in of_range],
            *[handle.update(high, least, close) for handle in of_bar],
            *[handle.update(high, least, close, volume) for handle in of_all],
            *[handle.update(close, volume) for handle in of_flow],
        ]

    return run


def main() -> None:
    table = bars("X", 12_100, 0)
    whole = fk.Pipeline(name="all", blocks=["market", "position", "indicator"])
    ours = each(pushing(whole, table), 500)
    print(f"129 columns of one symbol: {ours:.1f} us a bar (at most 50)")
    for symbols in (50, 500):
        bar = each(many(whole, symbols, 380), 7) / symbols
        print(f"129 columns of {symbols} symbols: {bar:.1f} us a symbol and bar (at most 20)")
    stream = fk.Stream(whole, [f"S{k}" for k in range(500)])
    begin = time.perf_counter()
    state = stream.state()
    middle = time.perf_counter()
    fk.Stream.resume(whole, state)
    taken = (time.perf_counter() - middle) * 1e3
    print(
        f"500 symbols: saved in {(middle - begin) * 1e3:.0f} ms, {len(state) / 1e6:.1f} MB; "
        f"resumed in {taken:.0f} ms"
    )
    one = fk.Stream(whole, ["X"]).state()
    begin = time.perf_counter()
    fk.Stream.resume(whole, one)
    print(f"one symbol: resumed in {(time.perf_counter() - begin) * 1e3:.1f} ms (at most 100)")
    few = each(pushing(fk.Pipeline(name="few", blocks=["thirty"]), table), 500)
    print(f"30 columns of one symbol: {few:.1f} us a bar")
    for name, other in (("polars", polars_tail(table)), ("pandas", pandas_tail(table))):
        if other is not None:
            times = each(other, 50) / few
            print(f"  from the last {TAIL} rows in {name}: {times:.0f} times (at least 50)")
    indicators = fk.Pipeline(name="indicators", blocks=["indicator"])
    alone = each(pushing(indicators, table), 500)
    theirs = talib_handles(table)
    if theirs is not None:
        times = each(theirs, 500) / alone
        print(f"54 indicators: {alone:.1f} us, by TA-Lib's handles {times:.2f} times (at least 1)")


if __name__ == "__main__":
    main()
