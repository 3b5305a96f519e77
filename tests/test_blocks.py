"""The 129 columns against TA-Lib itself, independent numpy, and rows worked by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from featurekit.blocks import indicator, market, position
from featurekit.clock import CLOCK_COLUMNS, Clock
from featurekit.pipeline import Pipeline
from featurekit.samples import sample
from featurekit.sources import read_bars
from featurekit.testing import check_block
from tests.golden.indicators import FIRST, talib_columns
from tests.golden.markets import market_columns
from tests.golden.positions import NAMES, position_columns
from tests.golden.series import random_bars

if TYPE_CHECKING:
    from featurekit.block import Block

F8 = NDArray[np.float64]
HOUR = 3_600_000_000_000
ALL = Pipeline(
    name="all",
    bars={"path": "-", "bar": "1h"},
    blocks=["market", "position", "indicator"],
    account={"cash": 1000, "multiplier": 10, "leverage": 20},
)


def frame_of(bars: dict[str, F8]) -> pl.DataFrame:
    stamps = (np.arange(len(bars["close"])) + 420_007) * HOUR
    return pl.DataFrame(bars).with_columns(
        symbol=pl.lit("X"), time=pl.Series(stamps).cast(pl.Datetime("ns", "UTC"))
    )


def columns(block: str, bars: dict[str, F8], fills: pl.DataFrame | None = None) -> dict[str, F8]:
    table = ALL.transform(frame_of(bars), fills, dtype="float64")
    prefix = f"{block}."
    names = [name for name in ALL.columns if name.startswith(prefix)]
    return {name.removeprefix(prefix): table[name].to_numpy() for name in names}


def bundled() -> dict[str, dict[str, F8]]:
    found = {}
    for name in ("eurusd_h1", "us_stocks_d1"):
        known = sample(name)
        options = {
            k: v for k, v in known.items() if k in ("symbol", "columns", "timezone", "time_format")
        }
        for frame in read_bars(known["path"], **options).partition_by("symbol"):
            names = ("open", "high", "low", "close", "volume")
            found[frame["symbol"][0]] = {n: frame[n].to_numpy() for n in names}
    return found


BUNDLED = bundled()


def assert_close(got: F8, expected: F8, tolerance: float, name: str) -> None:
    """Equal where undefined, else to a tolerance of the value or of the column's rms."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=name)
    known = ~np.isnan(expected)
    size = np.maximum(
        np.abs(expected[known]), np.sqrt(np.mean(expected[known] ** 2)) if known.any() else 1
    )
    off = np.abs(got[known] - expected[known])
    assert (off <= tolerance * size + 1e-300).all(), (name, float((off / size).max()))


def assert_talib(bars: dict[str, F8]) -> None:
    got, expected = columns("indicator", bars), talib_columns(bars)
    assert list(got) == list(expected) == list(FIRST)
    for name, values in expected.items():
        if len(values) > FIRST[name]:
            assert np.flatnonzero(~np.isnan(values))[0] == FIRST[name], name
        # Near a zero of the column TA-Lib's running sums have only rounding left to agree with.
        assert_close(got[name], values, 1e-8, name)


@pytest.mark.parametrize("symbol", BUNDLED)
def test_indicators_are_talibs_on_the_bundled_series(symbol: str) -> None:
    assert_talib(BUNDLED[symbol])


@pytest.mark.parametrize("seed", range(200))
def test_indicators_are_talibs_on_random_series(seed: int) -> None:
    assert_talib(random_bars(seed))


def test_flat_prices_have_their_named_values() -> None:
    bars = random_bars(0)
    flat = {name: np.concatenate([x[:200], np.full(80, x[199])]) for name, x in bars.items()}
    for name in ("open", "high", "low"):
        flat[name][200:] = flat["close"][199]
    got = columns("indicator", flat)
    last = {name: values[-1] for name, values in got.items()}
    for name in (
        "stoch_k",
        "stoch_d",
        "stochrsi_k",
        "stochrsi_d",
        "willr_14",
        "cci_14",
        "cci_20",
        "mfi_14",
        "ultosc",
    ):
        assert last[name] == 0.0, name
    assert (last["aroon_up_14"], last["aroon_down_14"], last["aroonosc_14"]) == (100.0, 100.0, 0.0)
    for name in ("rsi_14", "cmo_14", "plus_di_14", "minus_di_14", "adx_14"):
        assert last[name] == pytest.approx(got[name][201], rel=0.9)
        assert last[name] != 0.0, name
    still = {name: np.full(150, 2.0) for name in bars}
    start = columns("indicator", still)
    for name in ("rsi_14", "cmo_14", "plus_di_14", "minus_di_14", "correl_20", "keltner_20"):
        assert start[name][-1] == 0.0, name
    assert start["bb_percent_20"][-1] == 0.5


@pytest.mark.parametrize("seed", range(40))
def test_market_columns_are_plain_numpys(seed: int) -> None:
    bars = random_bars(seed)
    closes = (np.arange(len(bars["close"])) + 420_008) * HOUR
    day, week = Clock(CLOCK_COLUMNS, "UTC").columns(closes).values()
    expected = market_columns(bars | {"day_fraction": day, "weekday": week})
    got = columns("market", bars)
    assert list(got) == list(expected)
    for name, values in expected.items():
        # Logarithms of the price are subtracted here, of the ratio there: 1e-16 of the logarithm.
        assert_close(got[name], values, 1e-9, name)


def test_volatility_estimators_by_hand() -> None:
    """Twenty bars of one shape: O = 100, H = 100 e^0.02, L = 100 e^-0.01, C = 100 e^0.01.

    ln(H/L) = 0.03 and ln(C/O) = 0.01, so Garman-Klass is
        0.5 x 0.0009 - (2 ln 2 - 1) x 0.0001 = 0.00045 - 0.0000386294 = 0.0004113706.
    ln(H/C) ln(H/O) + ln(L/C) ln(L/O) = 0.01 x 0.02 + (-0.02)(-0.01) = 0.0004 is Rogers-Satchell.
    Each bar opens at 100 and the one before closed at 100 e^0.01, so ln(O/C[-1]) is -0.01 always,
    and its variance and that of ln(C/O) are 0: Yang-Zhang is (1 - k) x 0.0004 with
        k = 0.34/(1.34 + 21/19) = 0.34/2.4452631579 = 0.1390443393.
    Parkinson is 0.0009/(4 ln 2) = 0.0003246064.
    """
    bars = {
        "open": np.full(21, 100.0),
        "high": np.full(21, 100 * math.exp(0.02)),
        "low": np.full(21, 100 * math.exp(-0.01)),
        "close": np.full(21, 100 * math.exp(0.01)),
        "volume": np.ones(21),
    }
    last = {name: values[-1] ** 2 for name, values in columns("market", bars).items()}
    assert last["garman_klass_20"] == pytest.approx(0.0004113706, rel=1e-6)
    assert last["rogers_satchell_20"] == pytest.approx(0.0004, rel=1e-9)
    assert last["yang_zhang_20"] == pytest.approx((1 - 0.1390443393) * 0.0004, rel=1e-8)
    assert last["parkinson_20"] == pytest.approx(0.0003246064, rel=1e-6)


def test_yang_zhang_by_hand_with_moving_opens() -> None:
    """Bars that alternate: even ones open 2% above the last close, odd ones 2% below it.

    All then close 1% up with no wicks (H = C, L = O): ln(H/C) = 0 and ln(L/O) = 0, so the
    Rogers-Satchell term is 0. ln(O/C[-1]) alternates +0.02, -0.02: over 20 bars its mean is 0 and
    its variance 20 x 0.0004/19 = 0.00042105263. ln(C/O) is always 0.01: variance 0. Yang-Zhang is
    the square root of 0.00042105263 = 0.020519567.
    """
    n = 41
    step = np.where(np.arange(n) % 2 == 0, 0.02, -0.02)
    open_log = np.cumsum(step + 0.01) - 0.01
    open_, close = 50 * np.exp(open_log), 50 * np.exp(open_log + 0.01)
    bars = {"open": open_, "high": close, "low": open_, "close": close, "volume": np.ones(n)}
    got = columns("market", bars)
    assert got["yang_zhang_20"][-1] == pytest.approx(0.020519567, rel=1e-7)
    assert got["rogers_satchell_20"][-1] == pytest.approx(0.0, abs=1e-9)


def random_fills(seed: int, closes: NDArray[np.int64], close: F8) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 120))
    at = np.sort(rng.integers(0, len(closes), n))
    side = rng.choice(["buy", "sell", "buy", "sell", "deposit", "withdraw"], n)
    money = np.isin(side, ["deposit", "withdraw"])
    quantity = np.where(money, rng.uniform(1, 50, n), rng.choice([0.0, 0.5, 1.0, 1.5, 3.0], n))
    level = close[at]
    return pl.DataFrame(
        {
            "time": pl.Series(closes[at] - rng.integers(0, HOUR, n)).cast(pl.Datetime("ns", "UTC")),
            "symbol": ["X"] * n,
            "side": side,
            "quantity": quantity,
            "price": level * rng.uniform(0.99, 1.01, n),
            "fee": np.where(money, 0.0, rng.uniform(0, 0.2, n)),
            "stop": [
                None if rng.random() < 0.5 else x for x in level * rng.choice([0.0, 0.97, 1.03], n)
            ],
            "target": [
                None if rng.random() < 0.5 else x for x in level * rng.choice([0.0, 0.95, 1.05], n)
            ],
        },
        schema_overrides={"stop": pl.Float64, "target": pl.Float64},
    ).sort("time", maintain_order=True)


@pytest.mark.parametrize("seed", range(40))
def test_position_columns_are_those_of_a_simulation(seed: int) -> None:
    bars = random_bars(8 * seed)
    scale = 1.0 / bars["close"][0]  # prices around 1, so that 1,000 of cash means something
    bars = {name: x if name == "volume" else x * scale for name, x in bars.items()}
    closes = (np.arange(len(bars["close"])) + 420_008) * HOUR
    fills = random_fills(seed, closes, bars["close"])
    listed = fills.with_columns(pl.col("time").dt.epoch("ns")).to_dicts()
    expected = position_columns(closes, bars, listed, cash=1000, m=10, leverage=20)
    got = columns("position", bars, fills)
    assert list(got) == NAMES
    for name, values in expected.items():
        assert_close(got[name], values, 1e-9, name)


def test_position_columns_by_hand() -> None:
    """Cash 1,000, multiplier 10, leverage 20; bars close at 10, 11, 12, 11, 9, 9 on the hour.

    Before bar 1 buy 2 at 10 (fee 1, stop 8, target 13); before bar 3 sell 1 at 12 (fee 0.5, a
    partial close: pnl (12 - 10) x 1 x 10 = 20); before bar 4 sell 3 at 10 (fee 1.5), which closes
    the last 1 with pnl 0 and fee 0.5 and opens -2 at 10 with fee 1: a flip.

    Bar 1: q 2, unrealized 2 x 1 x 10 = 20, equity 1000 - 1 + 20 = 1019, notional 220.
    Bar 2: unrealized 40, the best so far.
    Bar 3: q 1, unrealized 1 x 1 x 10 = 10; the best, 40, halves to 20; giveback 20 - 10 = 10.
           equity 1000 + 20 - 1.5 + 10 = 1028.5.
    Bar 4: the trade made 20 - 1 - 0.5 - 0.5 = 18 on 2 x 10 x 10 = 200: return 0.09. Short 2 at 10,
           close 9: unrealized -2 x -1 x 10 = 20; equity 1000 + 20 - 3 + 20 = 1037.
    """
    close = np.array([10.0, 11, 12, 11, 9, 9])
    bars = {"open": close, "high": close, "low": close, "close": close, "volume": np.ones(6)}
    stamps = (np.arange(6) + 420_007) * HOUR
    fills = pl.DataFrame(
        {
            "time": pl.Series(stamps[[1, 3, 4]] + 60).cast(pl.Datetime("ns", "UTC")),
            "symbol": ["X"] * 3,
            "side": ["buy", "sell", "sell"],
            "quantity": [2.0, 1.0, 3.0],
            "price": [10.0, 12.0, 10.0],
            "fee": [1.0, 0.5, 1.5],
            "stop": [8.0, None, None],
            "target": [13.0, None, None],
        }
    )
    got = columns("position", bars, fills)

    def row(bar: int) -> dict[str, float]:
        return {name: float(values[bar]) for name, values in got.items()}

    flat = row(0)
    assert flat["bars_flat"] == 500
    assert flat["cash_ratio"] == 1
    assert {n: v for n, v in flat.items() if v} == {"bars_flat": 500, "cash_ratio": 1}
    expected = {
        1: {"side": 1, "quantity": 2, "notional": 220, "exposure": 220 / 1019, "bars_held": 1,
            "bars_flat": 0, "unrealized_pnl": 20, "unrealized_return": 0.1, "fills_held": 1,
            "entry_distance": math.log(1.1), "stop_distance": 3, "target_distance": 2,
            "risk_reward": 2 / 3, "fees_held": 1, "realized_pnl_100": -1, "pnl_in_atr": 0,
            "cash_ratio": (1019 - 11) / 1019, "equity_return_100": math.log(1.019)},
        2: {"unrealized_pnl": 40, "max_favorable_excursion": 40, "giveback": 0, "bars_held": 2},
        3: {"quantity": 1, "unrealized_pnl": 10, "max_favorable_excursion": 20, "giveback": 10,
            "fills_held": 2, "fees_held": 1.5, "realized_pnl_100": 18.5, "trades_100": 0,
            "equity_drawdown": 1028.5 / 1039 - 1},
        4: {"side": -1, "quantity": -2, "unrealized_pnl": 20, "bars_held": 1, "fills_held": 1,
            "fees_held": 1, "last_trade_return": 0.09, "win_rate_20": 1, "trades_100": 1,
            "profit_factor_20": 10, "mean_trade_return_20": 0.09, "realized_pnl_100": 17,
            "stop_distance": 0, "target_distance": 0, "max_favorable_excursion": 20,
            "equity_return_100": math.log(1.037), "equity_drawdown": 1037 / 1039 - 1},
    }  # fmt: skip
    for bar, values in expected.items():
        for name, value in values.items():
            assert row(bar)[name] == pytest.approx(value, rel=1e-12), (bar, name)


def test_a_fill_changes_nothing_before_its_bar() -> None:
    bars = random_bars(0)
    closes = (np.arange(len(bars["close"])) + 420_008) * HOUR
    fills = random_fills(1, closes, bars["close"])
    late = fills.filter(
        pl.col("time") >= pl.Series([closes[200]]).cast(pl.Datetime("ns", "UTC"))[0]
    )
    early = fills.join(late, on="time", how="anti")
    before, after = columns("position", bars, early), columns("position", bars, fills)
    for name, values in before.items():
        np.testing.assert_array_equal(values[:201], after[name][:201], err_msg=name)


@pytest.mark.parametrize("block", [market, position, indicator], ids=lambda block: block.name)
def test_built_in_blocks_hold_what_every_block_has_to(block: Block) -> None:
    check_block(block)
