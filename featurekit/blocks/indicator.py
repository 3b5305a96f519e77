"""The indicator block: TA-Lib's definitions and seeds, in natural units.

Where the input has no hole every value equals TA-Lib's from its own first row on. A NaN inside
the input is where they differ on purpose: TA-Lib's RSI and CMO are then 0 for ever, its ADX
freezes and its EMAs stay NaN; here a window is NaN while the hole is inside and a recursion skips
it. Another difference is rounding: TA-Lib keeps running sums, which drift.
"""

from __future__ import annotations

from featurekit.block import block
from featurekit.column import Col, sar, where

PERCENT = (0.0, 100.0)
SIGNED_PERCENT = (-100.0, 100.0)
ROUNDING = 1e-14  # of two numbers' size, below which their difference is no movement


@block(unit="price", scale=(-1e3, 1e3))
def indicator(high: Col, low: Col, close: Col, volume: Col) -> dict[str, Col]:
    """Technical indicators with TA-Lib's definitions and seeds, in natural units."""
    return {
        **_oscillators(high, low, close, volume),
        **_momentum(close),
        **_direction(high, low, close),
        **_range(high, low, close),
        **_distances(high, low, close),
        **_fits(close, volume),
        **_money_flow(high, low, close, volume),
        "ichimoku_spread": (_midpoint(high, low, 9) - _midpoint(high, low, 26)).named(
            doc="Conversion less base line: midpoints of 9 and of 26 bars."
        ),
    }


def true_range(high: Col, low: Col, close: Col) -> Col:
    """Range of the bar and of the jump to it, in price (TRANGE)."""
    previous = close.lag(1)
    return (high - low).maximum((previous - high).abs()).maximum((previous - low).abs())


def average_true_range(high: Col, low: Col, close: Col, n: int) -> Col:
    """Wilder's mean of the true range, in price (ATR); first value at row n."""
    return true_range(high, low, close).wilder(n)


def _oscillators(high: Col, low: Col, close: Col, volume: Col) -> dict[str, Col]:
    change = close.diff()
    rise, fall = change.maximum(0.0), (-change).maximum(0.0)

    def rsi(n: int) -> Col:
        gain, loss = rise.wilder(n), fall.wilder(n)
        return 100.0 * gain.over(gain + loss, 0.0)

    def fast_k(x: Col, top: Col, bottom: Col, n: int, noise: float = 0.0) -> Col:
        least = bottom.min(n)
        return 100.0 * (x - least).over(_less(top.max(n), least, noise), 0.0)

    typical = (high + low + close) / 3.0

    def cci(n: int) -> Col:
        return _less(typical, typical.mean(n), ROUNDING).over(0.015 * typical.meandev(n), 0.0)

    slow_k = fast_k(close, high, low, 5).mean(3)
    rsi_14 = rsi(14)
    # On a flat price RSI stays where it is, but for the rounding of two decaying sums.
    rsi_k = fast_k(rsi_14, rsi_14, rsi_14, 5, noise=1e-12)
    highest = high.max(14)
    gain, loss = rise.wilder(14), fall.wilder(14)
    # TA-Lib writes K only from D's first row on.
    columns = {
        "rsi_7": rsi(7).named(doc="RSI over 7 bars."),
        "rsi_14": rsi_14.named(doc="RSI over 14 bars."),
        "rsi_21": rsi(21).named(doc="RSI over 21 bars."),
        "stoch_k": slow_k.after(2).named(doc="STOCH 5, 3, 3: slow K."),
        "stoch_d": slow_k.mean(3).named(doc="STOCH 5, 3, 3: slow D."),
        "stochrsi_k": rsi_k.after(2).named(doc="STOCHF 5, 3 of RSI 14: K."),
        "stochrsi_d": rsi_k.mean(3).named(doc="STOCHF 5, 3 of RSI 14: D."),
        "willr_14": (-100.0 * (highest - close).over(highest - low.min(14), 0.0)).named(
            scale=(-100, 0), doc="WILLR over 14 bars."
        ),
        "cci_14": cci(14).named(unit="-", scale=(-300, 300), doc="CCI over 14 bars."),
        "cci_20": cci(20).named(unit="-", scale=(-300, 300), doc="CCI over 20 bars."),
        "mfi_14": _money_flow_index(typical, volume, 14).named(doc="MFI over 14 bars."),
        "ultosc": _ultimate(high, low, close).named(doc="ULTOSC 7, 14, 28."),
        "cmo_14": (100.0 * (gain - loss).over(gain + loss, 0.0)).named(
            scale=SIGNED_PERCENT, doc="CMO over 14 bars, Wilder-smoothed as TA-Lib does."
        ),
    }
    return {
        name: x.named(unit=x.label.unit or "percent", scale=x.label.scale or PERCENT)
        for name, x in columns.items()
    }


def _money_flow_index(typical: Col, volume: Col, n: int) -> Col:
    direction = _less(typical, typical.lag(1), ROUNDING).sign()
    flow = typical * volume
    up = (flow * direction.maximum(0.0)).sum(n)
    down = (flow * (-direction).maximum(0.0)).sum(n)
    return 100.0 * up.over(up + down, 0.0)


def _less(a: Col, b: Col, noise: float) -> Col:
    """A - b, or 0 where they differ by rounding only: by `noise` of their size (as TA-Lib does)."""
    difference = a - b
    if not noise:
        return difference
    return where(difference.abs() <= noise * (a.abs() + b.abs()), 0.0, difference)


def _ultimate(high: Col, low: Col, close: Col) -> Col:
    pressure = close - low.minimum(close.lag(1))
    span = true_range(high, low, close)

    def share(n: int) -> Col:
        return pressure.sum(n).over(span.sum(n), 0.0)

    return 100.0 / 7.0 * (4.0 * share(7) + 2.0 * share(14) + share(28))


def _momentum(close: Col) -> dict[str, Col]:
    slow = close.ema(26)
    triple = close.ema(15).ema(15).ema(15)
    # MACD starts its fast average where the slow one starts; PPO does not.
    macd = close.ema(12, skip=14) - slow
    signal = macd.ema(9)
    percent = {
        f"roc_{n}": (100.0 * (close / close.lag(n) - 1.0)).named(doc=f"ROC over {n} bars.")
        for n in (5, 10, 20)
    }
    columns = {
        **percent,
        "mom_10": close.diff(10).named(doc="MOM over 10 bars."),
        "trix_15": (100.0 * (triple / triple.lag(1) - 1.0)).named(
            unit="percent", scale=(-1, 1), doc="TRIX over 15 bars."
        ),
        "ppo": (100.0 * (close.ema(12) - slow) / slow).named(
            unit="percent", scale=(-10, 10), doc="PPO 12, 26 of EMAs."
        ),
        "apo": (close.mean(12) - close.mean(26)).named(doc="APO 12, 26 of SMAs."),
        "macd": macd.after(8).named(doc="MACD 12, 26, 9."),
        "macd_signal": signal.named(doc="MACD 12, 26, 9: signal."),
        "macd_hist": (macd - signal).named(doc="MACD 12, 26, 9: histogram."),
    }
    return {
        name: x.named(unit="percent", scale=(-20, 20)) if name in percent else x
        for name, x in columns.items()
    }


def _direction(high: Col, low: Col, close: Col) -> dict[str, Col]:
    up, down = high.diff(), -low.diff()
    span = true_range(high, low, close).wilder(14, "sum")

    def indicator_of(move: Col, other: Col) -> Col:
        directed = where((move > 0.0) & (move > other), move, 0.0).wilder(14, "sum")
        return 100.0 * directed.over(span, 0.0)

    plus, minus = indicator_of(up, down), indicator_of(down, up)
    both = plus + minus
    adx = (100.0 * (plus - minus).abs().over(both, 0.0)).wilder(14, when=both > 0.0)
    newest_high, newest_low = high.argmax(15), low.argmin(15)
    columns = {
        "adx_14": adx.named(doc="ADX over 14 bars; an empty DM sum keeps it."),
        "plus_di_14": plus.named(doc="PLUS_DI over 14 bars."),
        "minus_di_14": minus.named(doc="MINUS_DI over 14 bars."),
        "adxr_14": ((adx + adx.lag(13)) / 2.0).named(doc="ADXR over 14 bars."),
        "aroon_up_14": (100.0 / 14.0 * (14.0 - newest_high)).named(doc="AROON up over 14 bars."),
        "aroon_down_14": (100.0 / 14.0 * (14.0 - newest_low)).named(doc="AROON down over 14 bars."),
    }
    return {
        **{name: x.named(unit="percent", scale=PERCENT) for name, x in columns.items()},
        "aroonosc_14": (100.0 / 14.0 * (newest_low - newest_high)).named(
            unit="percent", scale=SIGNED_PERCENT, doc="AROONOSC over 14 bars."
        ),
    }


def _range(high: Col, low: Col, close: Col) -> dict[str, Col]:
    fall = 100.0 * (close / close.max(14) - 1.0)
    atr = average_true_range(high, low, close, 14)
    middle, deviation = close.mean(20), close.std(20, ddof=0)
    lower = middle - 2.0 * deviation
    channel = average_true_range(high, low, close, 10)
    return {
        "ulcer_14": (fall * fall)
        .mean(14)
        .sqrt()
        .named(
            unit="percent", scale=(0, 20), doc="Ulcer index: rms fall from the high of 14 bars."
        ),
        "atr_14": atr.named(scale=(0, 1e3), doc="ATR over 14 bars."),
        "natr_14": (100.0 * atr / close).named(
            unit="percent", scale=(0, 10), doc="NATR over 14 bars."
        ),
        "trange": true_range(high, low, close).named(scale=(0, 1e3), doc="TRANGE."),
        "bb_percent_20": where(close.constant(20), 0.5, (close - lower) / (4.0 * deviation)).named(
            unit="ratio", scale=(-0.5, 1.5), doc="Place in BBANDS 20, 2; constant: 0.5."
        ),
        "bb_width_20": (4.0 * deviation / middle).named(
            unit="ratio", scale=(0, 0.5), doc="Width of BBANDS 20, 2 over their middle."
        ),
        "keltner_20": where(
            channel <= 1e-9 * close, 0.0, (close - close.ema(20)) / (2.0 * channel)
        ).named(unit="ATR multiple", scale=(-5, 5), doc="(C-EMA20)/(2 ATR10)."),
    }


def _distances(high: Col, low: Col, close: Col) -> dict[str, Col]:
    return {
        **{
            f"ema_distance_{n}": (close - close.ema(n)).named(doc=f"C - EMA{n}.")
            for n in (8, 21, 55, 100)
        },
        **{
            f"sma_distance_{n}": (close - close.mean(n)).named(doc=f"C - SMA{n}.")
            for n in (20, 50, 200)
        },
        "kama_distance_10": (close - close.kama(10)).named(doc="C - KAMA10."),
        "sar_distance": (close - sar(high, low)).named(doc="C - SAR 0.02, 0.2."),
    }


def _fits(close: Col, volume: Col) -> dict[str, Col]:
    flat = close.constant(20) | volume.constant(20)
    return {
        "linreg_slope_14": close.slope(14).named(
            unit="price per bar", doc="LINEARREG_SLOPE over 14 bars."
        ),
        "linreg_slope_50": close.slope(50).named(
            unit="price per bar", doc="LINEARREG_SLOPE over 50 bars."
        ),
        "stddev_20": close.std(20, ddof=0).named(scale=(0, 1e3), doc="STDDEV over 20 bars."),
        "correl_20": where(flat, 0.0, close.corr(volume, 20)).named(
            unit="-", scale=(-1, 1), doc="CORREL of close and volume, 20 bars; constant: 0."
        ),
    }


def _money_flow(high: Col, low: Col, close: Col, volume: Col) -> dict[str, Col]:
    flow = volume * ((close - low) - (high - close)).over(high - low, 0.0)

    def lead(n: int) -> Col:
        """How far the running sum of `flow` is ahead of its own EMA.

        The sum itself grows for ever and would carry a spike along for ever; this does not.
        """
        return (flow * ((n - 1) / 2.0)).ema(n, "zero")

    return {
        "obv_change_20": (close.diff().sign() * volume)
        .sum(20)
        .named(unit="units", scale=(-1e9, 1e9), doc="Change of OBV over 20 bars."),
        "adosc": (lead(10) - lead(3))
        .after(9)
        .named(unit="units", scale=(-1e9, 1e9), doc="ADOSC 3, 10."),
        "cmf_20": flow.sum(20)
        .over(volume.sum(20), 0.0)
        .named(unit="ratio", scale=(-1, 1), doc="Chaikin money flow over 20 bars; no volume: 0."),
    }


def _midpoint(high: Col, low: Col, n: int) -> Col:
    return (high.max(n) + low.min(n)) / 2.0
