"""The market block: returns, shapes of bars, volatility, volume, distance from the mean, clock."""

from __future__ import annotations

import math

from featurekit.block import block
from featurekit.column import Col, where

LOG_RETURN = (-0.1, 0.1)
UNIT = (0.0, 1.0)
Z = (-4.0, 4.0)


@block(unit="ratio", scale=(-1, 1))
def market(
    open: Col, high: Col, low: Col, close: Col, volume: Col, day_fraction: Col, weekday: Col
) -> dict[str, Col]:
    """Price and volume of the bar and of the bars before it, in natural units."""
    return {
        **_returns(open, close),
        **_shape(open, high, low, close),
        "gap": (open.log() - close.log().lag(1)).named(
            unit="log return", scale=LOG_RETURN, doc="ln(O/C[-1]), the jump between two bars."
        ),
        **_volatility(open, high, low, close),
        **_volume(high, low, close, volume),
        **_place(high, low, close),
        **_clock(day_fraction, weekday),
    }


def _returns(open: Col, close: Col) -> dict[str, Col]:
    log_close = close.log()
    r = log_close.diff()
    columns = {
        f"ret_{k}": log_close.diff(k).named(doc=f"Log return over {k} bars.")
        for k in (1, 2, 3, 5, 10, 20, 50, 100)
    } | {
        f"ret_1_lag_{k}": r.lag(k).named(doc=f"Log return of the bar {k} bars back.")
        for k in range(1, 6)
    }
    return {name: c.named(unit="log return", scale=LOG_RETURN) for name, c in columns.items()}


def _shape(open: Col, high: Col, low: Col, close: Col) -> dict[str, Col]:
    height = high - low
    top, bottom = open.maximum(close), open.minimum(close)
    flat = "; 0 on a flat bar."
    return {
        "body": (close - open).over(height, 0.0).named(doc="(C-O)/(H-L)" + flat),
        "upper_wick": (high - top)
        .over(height, 0.0)
        .named(scale=UNIT, doc="(H-max(O,C))/(H-L)" + flat),
        "lower_wick": (bottom - low)
        .over(height, 0.0)
        .named(scale=UNIT, doc="(min(O,C)-L)/(H-L)" + flat),
        "close_location": (close - low)
        .over(height, 0.5)
        .named(scale=UNIT, doc="(C-L)/(H-L); 0.5 on a flat bar."),
        "range": (height / close).named(scale=(0, 0.1), doc="(H-L)/C."),
    }


def _volatility(open: Col, high: Col, low: Col, close: Col) -> dict[str, Col]:
    o, h, l, c = open.log(), high.log(), low.log(), close.log()  # noqa: E741  # as in the papers
    r = c.diff()
    rs = (h - c) * (h - o) + (l - c) * (l - o)
    gk = 0.5 * _square(h - l) - (2 * math.log(2) - 1) * _square(c - o)
    k = 0.34 / (1.34 + 21 / 19)
    yz = (o - c.lag(1)).var(20) + k * (c - o).var(20) + (1 - k) * rs.mean(20)
    estimators = {
        **{
            f"volatility_{n}": r.std(n).named(doc=f"Standard deviation of r, {n} bars.")
            for n in (10, 20, 50, 100)
        },
        "parkinson_20": (_square(h - l).mean(20) / (4 * math.log(2)))
        .sqrt()
        .named(doc="Parkinson (1980) range volatility, 20 bars."),
        "garman_klass_20": gk.mean(20)
        .maximum(0.0)
        .sqrt()
        .named(doc="Garman-Klass (1980) volatility, 20 bars."),
        "rogers_satchell_20": rs.mean(20)
        .maximum(0.0)
        .sqrt()
        .named(doc="Rogers-Satchell (1991) volatility, 20 bars."),
        "yang_zhang_20": yz.maximum(0.0).sqrt().named(doc="Yang-Zhang (2000) volatility, 20 bars."),
    }
    flat = r.constant(50)
    losses = _square(r.minimum(0.0)).sum(50)
    return {
        **{name: e.named(unit="log return", scale=(0, 0.05)) for name, e in estimators.items()},
        "skew_50": where(flat, 0.0, r.skew(50)).named(
            unit="-", scale=(-3, 3), doc="Population skewness of r, 50 bars; constant: 0."
        ),
        "kurtosis_50": where(flat, 0.0, r.kurt(50)).named(
            unit="-", scale=(-2, 20), doc="Excess kurtosis of r, 50 bars; constant: 0."
        ),
        "volatility_ratio_10_100": where(r.constant(100), 1.0, r.std(10) / r.std(100)).named(
            scale=(0, 3), doc="volatility_10/volatility_100; constant: 1."
        ),
        "downside_share_50": losses.over(_square(r).sum(50), 0.5).named(
            scale=UNIT, doc="Share of squared returns that were losses, 50 bars; 0/0 = 0.5."
        ),
    }


def _volume(high: Col, low: Col, close: Col, volume: Col) -> dict[str, Col]:
    r = close.log().diff()
    total = volume.sum(20)
    bars = (volume > 0.0).sum(20)
    illiquidity = r.abs().over(close * volume, 0.0)
    typical = (high + low + close) / 3.0

    def zscore(n: int) -> Col:
        z = (volume - volume.mean(n)) / volume.std(n)
        return where(volume.constant(n), 0.0, z).named(
            unit="z", scale=Z, doc=f"(V-mean)/std over {n} bars; constant: 0."
        )

    def vwap_distance(n: int) -> Col:
        vwap = (typical * volume).sum(n).over(volume.sum(n), typical.mean(n))
        return (close.log() - vwap.log()).named(
            unit="log return",
            scale=LOG_RETURN,
            doc=f"ln(C/VWAP), {n} bars; without volume the plain mean of (H+L+C)/3.",
        )

    return {
        "volume_change": (volume + 1.0)
        .log()
        .diff()
        .named(unit="log ratio", scale=(-3, 3), doc="ln((V+1)/(V[-1]+1))."),
        "volume_zscore_20": zscore(20),
        "volume_zscore_100": zscore(100),
        "relative_volume_20": volume.over(volume.mean(20), 1.0).named(
            scale=(0, 5), doc="V over its mean of 20 bars; 0/0 = 1."
        ),
        "signed_volume_20": (r.sign() * volume)
        .sum(20)
        .over(total, 0.0)
        .named(doc="Volume of rising less falling bars over all, 20 bars; 0/0 = 0."),
        "amihud_20": illiquidity.sum(20)
        .over(bars, 0.0)
        .named(
            unit="1/currency",
            scale=(0, 1e-6),
            doc="Amihud (2002): mean of |r|/(C V) over the bars with volume, of 20; none: 0.",
        ),
        "vwap_distance_20": vwap_distance(20),
        "vwap_distance_100": vwap_distance(100),
    }


def _place(high: Col, low: Col, close: Col) -> dict[str, Col]:
    def zscore(n: int) -> Col:
        z = (close - close.mean(n)) / close.std(n)
        return where(close.constant(n), 0.0, z).named(
            unit="z", scale=Z, doc=f"(C-mean)/std over {n} bars; constant: 0."
        )

    def channel(n: int) -> Col:
        bottom = low.min(n)
        return (
            (close - bottom)
            .over(high.max(n) - bottom, 0.5)
            .named(scale=UNIT, doc=f"Place of C between the extremes of {n} bars; 0/0 = 0.5.")
        )

    return {
        "price_zscore_50": zscore(50),
        "price_zscore_100": zscore(100),
        "channel_20": channel(20),
        "channel_100": channel(100),
        "drawdown_100": (close / close.max(100) - 1.0).named(
            scale=(-0.5, 0), doc="C over its highest of 100 bars, less 1."
        ),
    }


def _clock(day_fraction: Col, weekday: Col) -> dict[str, Col]:
    day, week = 2 * math.pi * day_fraction, 2 * math.pi / 7 * weekday
    columns = {
        "hour_sin": day.sin().named(doc="Sine of the close's time of day, exchange clock."),
        "hour_cos": day.cos().named(doc="Cosine of the close's time of day, exchange clock."),
        "weekday_sin": week.sin().named(doc="Sine of the close's weekday, Monday 0."),
        "weekday_cos": week.cos().named(doc="Cosine of the close's weekday, Monday 0."),
    }
    return {name: c.named(unit="-") for name, c in columns.items()}


def _square(x: Col) -> Col:
    return x * x
