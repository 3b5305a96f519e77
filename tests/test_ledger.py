"""The rules of the ledger, worked by hand, and a broker's own books."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurekit.errors import ConfigError, DataError
from featurekit.ledger import Account, Effect, Ledger, Position

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 1, 2, tzinfo=timezone.utc)


def filled(*rows: tuple[Any, ...], multiplier: float = 1.0) -> Ledger:
    """A ledger after rows of (side, quantity, price, fee, options), a minute apart."""
    ledger = Ledger(multiplier=multiplier)
    for minute, row in enumerate(rows):
        fill(ledger, minute, *row)
    return ledger


def fill(
    ledger: Ledger,
    minute: int,
    side: str,
    quantity: float,
    price: float | None,
    fee: float = 0.0,
    options: dict[str, float] | None = None,
) -> Effect:
    row = {"symbol": "A", "side": side, "quantity": quantity, "price": price, "fee": fee}
    return ledger.apply(time=START + timedelta(minutes=minute), **row, **(options or {}))


# rows -> quantity, average price, fills held, fees held, realized, fees
POSITIONS = {
    "opened long": ([("buy", 2, 100.0, 4)], (2, 100, 1, 4, 0, 4)),
    "opened short": ([("sell", 2, 100.0, 4)], (-2, 100, 1, 4, 0, 4)),
    "added at average cost": ([("buy", 1, 100.0, 1), ("buy", 3, 120.0, 2)], (4, 115, 2, 3, 0, 3)),
    "partly closed, at the same cost": (
        [("buy", 4, 100.0, 1), ("sell", 1, 120.0, 2)],
        (3, 100, 2, 3, 200, 3),
    ),
    "partly closed, then added": (
        [("buy", 4, 100.0), ("sell", 2, 90.0), ("buy", 2, 110.0)],
        (4, 105, 3, 0, -200, 0),
    ),
    "short partly closed": ([("sell", 4, 50.0), ("buy", 1, 40.0)], (-3, 50, 2, 0, 100, 0)),
    "closed": ([("buy", 2, 100.0, 4), ("sell", 2, 110.0, 6)], (0, 0, 0, 0, 200, 10)),
    "flipped to short: the fee of 10 is split 4 to 6": (
        [("buy", 2, 100.0, 4), ("sell", 5, 110.0, 10)],
        (-3, 110, 1, 6, 200, 14),
    ),
    "flipped to long": ([("sell", 1, 100.0), ("buy", 4, 90.0, 8)], (3, 90, 1, 6, 100, 8)),
    "closed at a negative price": (
        [("buy", 1, 10.0), ("sell", 1, -37.63)],
        (0, 0, 0, 0, -476.3, 0),
    ),
    "lots that do not add up in binary": (
        [("buy", 0.1, 100.0), ("buy", 0.2, 100.0), ("sell", 0.3, 100.0)],
        (0, 0, 0, 0, 0, 0),
    ),
    "less than 1e-9 too much sold is no flip": (
        [("buy", 1, 100.0), ("sell", 1 + 5e-10, 100.0)],
        (0, 0, 0, 0, 0, 0),
    ),
    "1e-8 too much sold is one": (
        [("buy", 1, 100.0), ("sell", 1 + 1e-8, 100.0)],
        (-1e-8, 100, 1, 0, 0, 0),
    ),
    "a swap is charged to the position": (
        [("buy", 1, 100.0, 1), ("sell", 0, None, 0.5)],
        (1, 100, 1, 1.5, 0, 1.5),
    ),
    "a fee while flat": ([("buy", 0, None, 0.5)], (0, 0, 0, 0, 0, 0.5)),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_position(case: str) -> None:
    rows, (quantity, average_price, fills_held, fees_held, realized, fees) = POSITIONS[case]
    expected = Position(
        quantity=quantity,
        average_price=average_price,
        fills_held=fills_held,
        fees_held=fees_held,
        realized_pnl=realized,
        fees=fees,
    )
    ledger = filled(*rows, multiplier=10)
    assert dataclasses.astuple(ledger.position("A")) == pytest.approx(dataclasses.astuple(expected))
    assert ledger.account("A").balance == pytest.approx(10_000 + realized - fees)


# rows -> closed trades, last return, win rate, mean return, profit factor
TRADES = {
    "none yet": ([("buy", 1, 100.0)], (0, 0, 0, 0, 0)),
    "a partial close ends no trade": ([("buy", 2, 100.0), ("sell", 1, 120.0)], (0, 0, 0, 0, 0)),
    "one trade from flat to flat": (
        [("buy", 4, 100.0), ("sell", 1, 120.0), ("sell", 3, 80.0)],
        (1, -0.1, 0, -0.1, 0),
    ),
    "return on all fills that opened or added": (
        [("buy", 1, 100.0), ("sell", 0.5, 100.0), ("buy", 2.5, 120.0), ("sell", 3, 150.0)],
        (1, 100 / 400, 1, 100 / 400, 10),
    ),
    "a flip ends a trade, net of its share of the fee": (
        [("buy", 2, 100.0, 4), ("sell", 5, 110.0, 10)],
        (1, 12 / 200, 1, 12 / 200, 10),
    ),
    "what fees eat is no win": (
        [("buy", 1, 100.0, 1), ("sell", 1, 101.0, 1)],
        (1, -0.01, 0, -0.01, 0),
    ),
    "nor is nothing": ([("buy", 1, 100.0), ("sell", 1, 100.0)], (1, 0, 0, 0, 0)),
    "wins of 30 against a loss of 10": (
        [("buy", 1, 100.0), ("sell", 2, 130.0), ("buy", 1, 140.0)],
        (2, -10 / 130, 0.5, (0.3 - 10 / 130) / 2, 3),
    ),
    "a factor of 20 is capped": (
        [("buy", 1, 100.0), ("sell", 2, 120.0), ("buy", 1, 121.0)],
        (2, -1 / 120, 0.5, (0.2 - 1 / 120) / 2, 10),
    ),
    "only the last 20 count": (
        [("buy", 1, 100.0), ("sell", 1, 50.0)] * 3 + [("sell", 1, 100.0), ("buy", 1, 90.0)] * 20,
        (23, 0.1, 1, 0.1, 10),
    ),
}


@pytest.mark.parametrize("case", TRADES)
def test_trades(case: str) -> None:
    rows, expected = TRADES[case]
    account = filled(*rows).account("A")
    assert dataclasses.astuple(account)[4:] == pytest.approx(expected)


LEVELS = {"stop": 95.0, "target": 120.0}


@pytest.mark.parametrize(
    ("row", "stop", "target"),
    [
        (("buy", 1, 101.0), 95, 120),
        (("buy", 1, 101.0, 0, {"stop": 99.0}), 99, 120),
        (("sell", 1, 101.0, 0, {"target": 0.0}), 95, 0),
        (("sell", 0, None, 0, {"stop": 98.0, "target": 0}), 98, 0),
        (("sell", 2, 101.0, 0, {"stop": 98.0}), 0, 0),
        (("sell", 3, 101.0), 0, 0),
        (("sell", 3, 101.0, 0, {"stop": 107.0}), 107, 0),
    ],
    ids=["kept", "moved", "cancelled", "order update", "exit", "flip", "flip with its own"],
)
def test_stop_and_target(row: tuple[Any, ...], stop: float, target: float) -> None:
    position = filled(("buy", 2, 100.0, 0, LEVELS), row).position("A")
    assert (position.stop, position.target) == (stop, target)


def test_an_order_update_while_flat_protects_nothing() -> None:
    ledger = filled(("buy", 0, None, 0, LEVELS), ("buy", 1, 100.0))
    assert ledger.position("A") == Position(quantity=1, average_price=100, fills_held=1)


@pytest.mark.parametrize(
    ("row", "effect"),
    [
        (("buy", 2, 100.0, 1), Effect(realized=-1)),
        (("sell", 1, 110.0, 1), Effect(kept=0.75, realized=9)),
        (("sell", 4, 110.0, 1), Effect(exited=True, realized=39)),
        (("sell", 5, 110.0, 1), Effect(opened=True, exited=True, realized=39)),
        (("buy", 0, None, 1), Effect(realized=-1)),
        (("withdraw", 5, None, 1), Effect(realized=-1, deposit=-5)),
    ],
    ids=["added", "partial close", "exit", "flip", "order update", "withdrawal"],
)
def test_effect(row: tuple[Any, ...], effect: Effect) -> None:
    ledger = filled(("buy", 4, 100.0))
    assert fill(ledger, 1, *row) == effect


def test_deposits_move_the_balance_and_no_pnl() -> None:
    account = filled(("deposit", 500, None), ("withdraw", 200, None, 3)).account("A")
    assert account == Account(10_297, 300, 0, 3, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("scope", "balance"), [("symbol", (10_020, 9_900)), ("portfolio", (9_920,) * 2)]
)
def test_several_symbols(scope: str, balance: tuple[float, float]) -> None:
    ledger = Ledger(multiplier={"A": 2, "B": 100}, scope=scope)
    for minute, (symbol, side, price) in enumerate(
        [("A", "buy", 10), ("B", "buy", 5), ("A", "sell", 20), ("B", "sell", 4)]
    ):
        ledger.apply(time=minute, symbol=symbol, side=side, quantity=1, price=price)
    assert (ledger.account("A").balance, ledger.account("B").balance) == balance
    assert ledger.account("A").trades == (2 if scope == "portfolio" else 1)
    assert ledger.position("C") == Position()


def test_the_source_s_realized_pnl_is_used_and_compared() -> None:
    opened = ("buy", 1, 100.0, 0, {"realized_pnl": 0.0})
    rounded = filled(opened, ("sell", 1, 110.0, 0, {"realized_pnl": 10.004}))
    assert rounded.account("A").balance == 10_010.004
    assert rounded.disagreements == 0
    wrong = filled(opened, ("sell", 1, 110.0, 0, {"realized_pnl": 12.0}), opened)
    assert wrong.account("A").last_trade_return == 0.12
    assert wrong.disagreements == 1
    largest = wrong.largest_disagreement
    assert largest is not None
    assert (largest.symbol, largest.source, largest.computed) == ("A", 12.0, 10.0)


FILL: dict[str, Any] = {"time": START, "symbol": "A", "side": "buy", "quantity": 1.0, "price": 1.0}
NAN = float("nan")


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        ({"time": datetime(2024, 1, 2)}, "no usable time"),
        ({"time": "2024-01-02"}, "no usable time"),
        ({"time": START - timedelta(minutes=1)}, "goes back in time"),
        ({"symbol": None}, "no symbol"),
        ({"symbol": None, "side": "deposit"}, "no symbol"),
        ({"side": "long"}, "an unknown side"),
        ({"quantity": -5}, 'Fix: side="sell", quantity=5'),
        ({"quantity": None}, "no usable quantity"),
        ({"price": NAN}, "no usable price"),
        ({"price": None}, "no usable price"),
        ({"fee": float("inf")}, "no usable fee"),
        ({"stop": NAN}, "no usable stop"),
        ({"target": NAN}, "no usable target"),
        ({"realized_pnl": NAN}, "no usable realized_pnl"),
    ],
)
def test_a_row_without_sense_is_refused_and_changes_nothing(
    mistake: dict[str, Any], what: str
) -> None:
    ledger = filled(("buy", 1, 100.0))
    before = ledger.state()
    with pytest.raises(DataError) as refused:
        ledger.apply(**(FILL | mistake))
    assert what in str(refused.value)
    assert "Fix: " in str(refused.value)
    assert ledger.state() == before


def test_all_that_is_wrong_with_a_row_is_said_at_once() -> None:
    with pytest.raises(DataError) as refused:
        Ledger().apply(**(FILL | {"side": "long", "quantity": NAN, "stop": NAN}))
    assert len(refused.value.problems) == 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"cash": 0}, "cash is not a positive number"),
        ({"leverage": NAN}, "leverage is not a positive number"),
        ({"multiplier": "many"}, "multiplier is not a positive number"),
        ({"multiplier": {"A": -1}}, "multiplier A is not a positive number"),
        ({"scope": "desk"}, "scope is unknown"),
    ],
)
def test_an_account_without_sense_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Ledger(**options)


def test_a_symbol_without_multiplier_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Fix: account: {multiplier: {A: 1}}"):
        Ledger(multiplier={"B": 1}).apply(**FILL)


def test_the_account_of_no_symbol_is_refused() -> None:
    with pytest.raises(ConfigError, match="every symbol has its own account"):
        Ledger().account()


FILLS = st.lists(
    st.fixed_dictionaries(
        {
            "symbol": st.sampled_from("AB"),
            "side": st.sampled_from(["buy", "sell", "buy", "sell", "deposit"]),
            "quantity": st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]),
            "price": st.floats(50, 150),
            "fee": st.floats(-1, 1),
            "stop": st.none() | st.floats(0, 100),
            "realized_pnl": st.none() | st.floats(-10, 10),
        }
    ),
    max_size=60,
)


@given(fills=FILLS, cut=st.integers(0, 60), scope=st.sampled_from(["symbol", "portfolio"]))
def test_the_state_survives_json_to_the_last_bit(
    fills: list[dict[str, Any]], cut: int, scope: str
) -> None:
    whole = Ledger(scope=scope)
    resumed = Ledger(scope=scope)
    for minute, fill in enumerate(fills):
        if minute == cut:
            resumed = Ledger.from_state(json.loads(json.dumps(resumed.state())))
        assert whole.apply(time=minute, **fill) == resumed.apply(time=minute, **fill)
    assert json.dumps(whole.state()) == json.dumps(resumed.state())


def test_mt5_s_balance_after_every_deal(shared_data: Path) -> None:
    deals = pl.read_parquet(shared_data / "trades" / "mt5" / "deals.parquet")
    deals = deals.with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    worst = 0.0
    for _, report in deals.group_by("report", maintain_order=True):
        ledger = Ledger(cash=1.0, multiplier=100_000, scope="portfolio")
        for deal in report.iter_rows(named=True):
            paid = {"quantity": deal["volume"], "realized_pnl": deal["profit"]}
            row = {"time": deal["time"], "symbol": deal["symbol"], "side": deal["type"], **paid}
            if deal["type"] == "balance":
                row |= {"side": "deposit", "quantity": deal["profit"]}
            fee = -(deal["commission"] + deal["swap"])
            ledger.apply(**row, price=deal["price"], fee=fee)
            worst = max(worst, abs(ledger.account().balance - 1.0 - deal["balance"]))
        assert ledger.disagreements > 0  # several legs, each with its own cost
    assert deals.height == 4_865
    assert worst < 1e-9
