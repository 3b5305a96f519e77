"""The 54 indicators as TA-Lib computes them, and plain numpy for what it does not have."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

t = pytest.importorskip(
    "talib", minversion="0.8", reason="TA-Lib 0.8 publishes no wheel for Python 3.10"
)
F8 = NDArray[np.float64]

# First row of each, as published in TA-Lib's look-backs; tested against TA-Lib itself.
FIRST = {
    "rsi_7": 7, "rsi_14": 14, "rsi_21": 21, "stoch_k": 8, "stoch_d": 8, "stochrsi_k": 20,
    "stochrsi_d": 20, "willr_14": 13, "cci_14": 13, "cci_20": 19, "mfi_14": 14, "ultosc": 28,
    "cmo_14": 14, "roc_5": 5, "roc_10": 10, "roc_20": 20, "mom_10": 10, "trix_15": 43, "ppo": 25,
    "apo": 25, "macd": 33, "macd_signal": 33, "macd_hist": 33, "adx_14": 27, "plus_di_14": 14,
    "minus_di_14": 14, "adxr_14": 40, "aroon_up_14": 14, "aroon_down_14": 14, "aroonosc_14": 14,
    "ulcer_14": 26, "atr_14": 14, "natr_14": 14, "trange": 1, "bb_percent_20": 19,
    "bb_width_20": 19, "keltner_20": 19, "ema_distance_8": 7, "ema_distance_21": 20,
    "ema_distance_55": 54, "ema_distance_100": 99, "sma_distance_20": 19, "sma_distance_50": 49,
    "sma_distance_200": 199, "kama_distance_10": 10, "sar_distance": 1, "linreg_slope_14": 13,
    "linreg_slope_50": 49, "stddev_20": 19, "correl_20": 19, "obv_change_20": 20, "adosc": 9,
    "cmf_20": 19, "ichimoku_spread": 25,
}  # fmt: skip


def talib_columns(bars: dict[str, F8]) -> dict[str, F8]:
    """All 54 by name, in order."""
    h, l, c, v = (bars[name] for name in ("high", "low", "close", "volume"))  # noqa: E741
    stoch, stochrsi = t.STOCH(h, l, c, 5, 3, 0, 3, 0), t.STOCHRSI(c, 14, 5, 3, 0)
    macd, aroon = t.MACD(c, 12, 26, 9), t.AROON(h, l, 14)
    with np.errstate(all="ignore"):
        fall = 100 * (c / windows(c, 14).max(axis=1) - 1)
        upper, middle, lower = t.BBANDS(c, 20, 2, 2, 0)
        flat = same(c, 20)
        channel = t.ATR(h, l, c, 10)
        flow = np.where(h > l, ((c - l) - (h - c)) / np.where(h > l, h - l, 1), 0.0) * v
        traded = windows(v, 20).sum(axis=1)
        change = np.sign(np.diff(c, prepend=np.nan)) * v
        keltner = np.where(channel <= 1e-9 * c, 0.0, (c - t.EMA(c, 20)) / (2 * channel))
        found = {
            "rsi_7": t.RSI(c, 7),
            "rsi_14": t.RSI(c, 14),
            "rsi_21": t.RSI(c, 21),
            "stoch_k": stoch[0],
            "stoch_d": stoch[1],
            "stochrsi_k": stochrsi[0],
            "stochrsi_d": stochrsi[1],
            "willr_14": t.WILLR(h, l, c, 14),
            "cci_14": t.CCI(h, l, c, 14),
            "cci_20": t.CCI(h, l, c, 20),
            "mfi_14": t.MFI(h, l, c, v, 14),
            "ultosc": t.ULTOSC(h, l, c, 7, 14, 28),
            "cmo_14": t.CMO(c, 14),
            "roc_5": t.ROC(c, 5),
            "roc_10": t.ROC(c, 10),
            "roc_20": t.ROC(c, 20),
            "mom_10": t.MOM(c, 10),
            "trix_15": t.TRIX(c, 15),
            "ppo": t.PPO(c, 12, 26, 1),
            "apo": t.APO(c, 12, 26, 0),
            "macd": macd[0],
            "macd_signal": macd[1],
            "macd_hist": macd[2],
            "adx_14": t.ADX(h, l, c, 14),
            "plus_di_14": t.PLUS_DI(h, l, c, 14),
            "minus_di_14": t.MINUS_DI(h, l, c, 14),
            "adxr_14": t.ADXR(h, l, c, 14),
            "aroon_up_14": aroon[1],
            "aroon_down_14": aroon[0],
            "aroonosc_14": t.AROONOSC(h, l, 14),
            "ulcer_14": np.sqrt(windows(fall**2, 14).mean(axis=1)),
            "atr_14": t.ATR(h, l, c, 14),
            "natr_14": t.NATR(h, l, c, 14),
            "trange": t.TRANGE(h, l, c),
            "bb_percent_20": np.where(flat, 0.5, (c - lower) / (upper - lower)),
            "bb_width_20": (upper - lower) / middle,
            "keltner_20": np.where(np.isnan(channel), np.nan, keltner),
            **{f"ema_distance_{n}": c - t.EMA(c, n) for n in (8, 21, 55, 100)},
            **{f"sma_distance_{n}": c - t.SMA(c, n) for n in (20, 50, 200)},
            "kama_distance_10": c - t.KAMA(c, 10),
            "sar_distance": c - t.SAR(h, l, 0.02, 0.2),
            "linreg_slope_14": t.LINEARREG_SLOPE(c, 14),
            "linreg_slope_50": t.LINEARREG_SLOPE(c, 50),
            "stddev_20": t.STDDEV(c, 20, 1),
            "correl_20": np.where(flat | same(v, 20), 0.0, t.CORREL(c, v, 20)),
            "obv_change_20": windows(change, 20).sum(axis=1),
            "adosc": t.ADOSC(h, l, c, v, 3, 10),
            "cmf_20": np.where(traded == 0, 0.0, windows(flow, 20).sum(axis=1) / traded),
            "ichimoku_spread": midpoint(h, l, 9) - midpoint(h, l, 26),
        }
    for name in ("bb_percent_20", "correl_20", "cmf_20"):
        found[name][: FIRST[name]] = np.nan
    return found


def windows(x: F8, n: int) -> F8:
    """The last n rows of each row, [rows, n], NaN before the first full one."""
    return sliding_window_view(np.concatenate([np.full(n - 1, np.nan), x]), n)


def same(x: F8, n: int) -> NDArray[np.bool_]:
    """Whether the last n rows are all the same."""
    view = windows(x, n)
    equal: NDArray[np.bool_] = view.max(axis=1) == view.min(axis=1)
    return equal


def midpoint(high: F8, low: F8, n: int) -> F8:
    """Middle of the range of n bars."""
    middle: F8 = (windows(high, n).max(axis=1) + windows(low, n).min(axis=1)) / 2
    return middle
