"""The 48 market columns in plain numpy, written from their definitions, window by window."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tests.golden.indicators import same, windows

F8 = NDArray[np.float64]


def market_columns(bars: dict[str, F8]) -> dict[str, F8]:
    """All 48 by name, in order, of bars with `day_fraction` and `weekday`."""
    o, h, l, c, v = (bars[n] for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
    with np.errstate(all="ignore"):
        previous = back(c, 1)
        r = np.log(c / previous)
        height = h - l
        flat_bar = height == 0
        safe = np.where(flat_bar, 1.0, height)
        found = {f"ret_{k}": np.log(c / back(c, k)) for k in (1, 2, 3, 5, 10, 20, 50, 100)}
        found |= {f"ret_1_lag_{k}": back(r, k) for k in range(1, 6)}
        found["body"] = np.where(flat_bar, 0.0, (c - o) / safe)
        found["upper_wick"] = np.where(flat_bar, 0.0, (h - np.maximum(o, c)) / safe)
        found["lower_wick"] = np.where(flat_bar, 0.0, (np.minimum(o, c) - l) / safe)
        found["close_location"] = np.where(flat_bar, 0.5, (c - l) / safe)
        found["range"] = height / c
        found["gap"] = np.log(o / previous)
        for n in (10, 20, 50, 100):
            found[f"volatility_{n}"] = windows(r, n).std(axis=1, ddof=1)
        hl, co = np.log(h / l), np.log(c / o)
        rs = np.log(h / c) * np.log(h / o) + np.log(l / c) * np.log(l / o)
        found["parkinson_20"] = np.sqrt(windows(hl**2, 20).mean(axis=1) / (4 * math.log(2)))
        gk = 0.5 * hl**2 - (2 * math.log(2) - 1) * co**2
        found["garman_klass_20"] = root(windows(gk, 20).mean(axis=1))
        found["rogers_satchell_20"] = root(windows(rs, 20).mean(axis=1))
        k = 0.34 / (1.34 + 21 / 19)
        found["yang_zhang_20"] = root(
            windows(found["gap"], 20).var(axis=1, ddof=1)
            + k * windows(co, 20).var(axis=1, ddof=1)
            + (1 - k) * windows(rs, 20).mean(axis=1)
        )
        around = windows(r, 50) - windows(r, 50).mean(axis=1, keepdims=True)
        second = (around**2).mean(axis=1)
        still = same(r, 50)
        found["skew_50"] = np.where(still, 0.0, (around**3).mean(axis=1) / second**1.5)
        found["kurtosis_50"] = np.where(still, 0.0, (around**4).mean(axis=1) / second**2 - 3)
        ratio = found["volatility_10"] / found["volatility_100"]
        found["volatility_ratio_10_100"] = np.where(same(r, 100), 1.0, ratio)
        square, loss = windows(r**2, 50).sum(axis=1), windows(np.minimum(r, 0) ** 2, 50).sum(axis=1)
        found["downside_share_50"] = np.where(square == 0, 0.5, loss / square)
        found["volume_change"] = np.log((v + 1) / (back(v, 1) + 1))
        for n in (20, 100):
            found[f"volume_zscore_{n}"] = zscore(v, n)
        mean = windows(v, 20).mean(axis=1)
        found["relative_volume_20"] = np.where(mean == 0, 1.0, v / mean)
        total = windows(v, 20).sum(axis=1)
        signed = windows(np.sign(r) * v, 20).sum(axis=1)
        found["signed_volume_20"] = np.where(
            total == 0, np.where(np.isnan(signed), signed, 0.0), signed / total
        )
        found["amihud_20"] = amihud(r, c, v)
        typical = (h + l + c) / 3
        for n in (20, 100):
            traded = windows(v, n).sum(axis=1)
            vwap = windows(typical * v, n).sum(axis=1) / traded
            found[f"vwap_distance_{n}"] = np.log(
                c / np.where(traded == 0, windows(typical, n).mean(axis=1), vwap)
            )
        for n in (50, 100):
            found[f"price_zscore_{n}"] = zscore(c, n)
        for n in (20, 100):
            top, bottom = windows(h, n).max(axis=1), windows(l, n).min(axis=1)
            found[f"channel_{n}"] = np.where(top == bottom, 0.5, (c - bottom) / (top - bottom))
        found["drawdown_100"] = c / windows(c, 100).max(axis=1) - 1
        found["hour_sin"] = np.sin(2 * np.pi * bars["day_fraction"])
        found["hour_cos"] = np.cos(2 * np.pi * bars["day_fraction"])
        found["weekday_sin"] = np.sin(2 * np.pi * bars["weekday"] / 7)
        found["weekday_cos"] = np.cos(2 * np.pi * bars["weekday"] / 7)
    return found


def back(x: F8, k: int) -> F8:
    """The value k rows back."""
    return np.concatenate([np.full(k, np.nan), x[:-k]])


def root(x: F8) -> F8:
    """Square root, negative counted as 0."""
    out: F8 = np.sqrt(np.where(x < 0, 0.0, x))
    return out


def zscore(x: F8, n: int) -> F8:
    """(x - mean)/std over n rows, ddof 1; 0 on a constant window."""
    view = windows(x, n)
    z = (x - view.mean(axis=1)) / view.std(axis=1, ddof=1)
    return np.where(same(x, n), 0.0, z)


def amihud(r: F8, c: F8, v: F8) -> F8:
    """Mean of |r|/(C V) over the bars of 20 that traded; none: 0."""
    out = np.full(len(r), np.nan)
    for t in range(20, len(r)):
        part = [abs(r[i]) / (c[i] * v[i]) for i in range(t - 19, t + 1) if v[i] > 0]
        out[t] = sum(part) / len(part) if part else 0.0
    return out
