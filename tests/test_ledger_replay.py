"""An account beside its bars: what a close sees of the fills, however the bars are cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurekit.errors import ConfigError, DataError
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay, Ledger, fills_outside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLOSES = np.arange(10, 90, 10, dtype=np.int64)  # eight bars, in ns
SCHEMA = {
    "time": pl.Datetime("ns", "UTC"),
    "symbol": pl.String,
    "side": pl.String,
    **dict.fromkeys(("quantity", "price", "fee", "stop", "target", "realized_pnl"), pl.Float64),
}


def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """Fills from (time in ns, symbol, side, quantity, price, fee, stop), shorter rows padded."""
    padding = (0.0, None, None, None)
    padded = [(*row, *padding[len(row) - 5 :]) for row in rows]
    return pl.DataFrame(padded, SCHEMA | {"time": pl.Int64}, orient="row").cast(SCHEMA)


def columns(replay: AccountReplay, closes: NDArray[np.int64] = CLOSES) -> dict[str, list[float]]:
    return dict(zip(ACCOUNT_COLUMNS, replay.columns(closes).tolist(), strict=True))


@pytest.mark.parametrize("fills", [None, frame()], ids=["none", "empty"])
def test_without_fills_the_account_is_flat(fills: pl.DataFrame | None) -> None:
    account = columns(AccountReplay(fills, "A", cash=500, multiplier=10, leverage=30))
    constant = {"multiplier": 10, "leverage": 30, "starting_cash": 500, "balance": 500, "kept": 1}
    assert account == {name: [constant.get(name, 0.0)] * 8 for name in ACCOUNT_COLUMNS}


@pytest.mark.parametrize(
    ("fill_at_close", "time", "first"),
    [("next", 29, 2), ("next", 30, 3), ("this", 30, 2), ("this", 31, 3), ("next", 80, 8)],
)
def test_the_first_bar_that_sees_a_fill(fill_at_close: str, time: int, first: int) -> None:
    replay = AccountReplay(frame((time, "A", "buy", 1, 5.0)), "A", fill_at_close=fill_at_close)
    assert columns(replay)["quantity"] == [0.0] * first + [1.0] * (8 - first)


def test_what_a_bar_says_of_the_fills_since_the_one_before() -> None:
    fills = frame(
        (11, "A", "buy", 4, 100.0, 1),  # bar 1 opens, and halves what it opened
        (12, "A", "sell", 2, 110.0, 1),
        (21, "A", "sell", 1, 110.0, 1),  # bar 2 closes a half of the rest, and adds
        (22, "A", "buy", 7, 110.0, 1),
        (31, "A", "sell", 4, 110.0, 1),  # bar 3 halves, flips, and keeps a quarter of the flipped
        (32, "A", "sell", 8, 110.0, 1),
        (33, "A", "buy", 3, 110.0, 1),
        (41, "A", "buy", 1, 110.0, 1),  # bar 4 exits, opens and exits
        (42, "A", "buy", 1, 110.0, 1),
        (43, "A", "sell", 1, 110.0, 1),
        (51, "A", "sell", 1, 110.0, 1),  # bar 5 opens and closes
        (52, "A", "buy", 1, 110.0, 1),
        (61, "A", "buy", 1, 110.0, 1),  # bar 6 closes and opens again
        (62, "A", "sell", 1, 110.0, 1),
        (63, "A", "buy", 2, 110.0, 1),
        (64, "A", "deposit", 50, None, 1),
    )
    account = columns(AccountReplay(fills, "A"))
    assert account["quantity"] == [0, 2, 8, -1, 0, 0, 2, 2]
    assert account["opened"] == [0, 1, 0, 1, 0, 0, 1, 0]
    assert account["exited"] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert account["kept"] == [1, 0.5, 0.5, 0.25, 1, 1, 1, 1]
    assert account["fills_held"] == [0, 2, 4, 2, 0, 0, 1, 1]
    assert account["trades_closed"] == [0, 0, 0, 1, 2, 1, 1, 0]
    assert account["deposit"] == [0, 0, 0, 0, 0, 0, 50, 0]
    assert account["realized"] == pytest.approx([0, 18, 8, 7, -3, -2, -4, 0])
    assert account["balance"][-1] == pytest.approx(10_000 + 24 + 50)


def naive(fills: pl.DataFrame, own: str, scope: str, strictly: bool) -> dict[str, list[float]]:
    """The account bar by bar, from the public answers of a ledger before and after each fill."""
    ledger = Ledger(scope=scope)
    named = None if scope == "portfolio" else own
    waiting = fills.filter((pl.col("symbol") == own) | (scope == "portfolio")).rows(named=True)
    result: dict[str, list[float]] = {name: [] for name in ACCOUNT_COLUMNS}
    for close in CLOSES.tolist():
        bar = {"opened": 0.0, "exited": 0.0, "kept": 1.0}
        start = ledger.account(named)
        while waiting and (waiting[0]["time"] < close + (not strictly)):
            row = waiting.pop(0)
            before = ledger.position(own).quantity
            ledger.apply(**row)
            after = ledger.position(own).quantity
            if before and before * after <= 0:
                bar |= {"exited": 1.0, "kept": 1.0}
            elif before and abs(after) < abs(before):
                bar["kept"] *= after / before
            if after and before * after <= 0:
                bar["opened"] = 1.0
        position, end = ledger.position(own), ledger.account(named)
        bar["opened"] *= position.quantity != 0
        bar["exited"] *= position.quantity == 0
        net = end.realized_pnl - end.fees - (start.realized_pnl - start.fees)
        flows = {"deposit": end.deposits - start.deposits, "realized": net}
        bar |= flows | {"trades_closed": end.trades - start.trades}
        others = {s: ledger.position(s) for s in ledger.symbols if s != own}
        price = {s: OTHERS[s][1][OTHERS[s][0] <= close][-1:] for s in others}
        last = {s: price[s][0] if price[s].size else p.average_price for s, p in others.items()}
        for s, p in others.items():
            gain = p.quantity * (last[s] - p.average_price)
            bar["other_unrealized"] = bar.get("other_unrealized", 0.0) + gain
            notional = abs(p.quantity * last[s])
            bar["other_notional"] = bar.get("other_notional", 0.0) + notional
        for name, values in result.items():
            constant = {"multiplier": 1.0, "leverage": 1.0, "starting_cash": 10_000.0}
            fixed = bar.get(name, constant.get(name, 0.0))
            values.append(getattr(position, name, getattr(end, name, fixed)))
    return result


OTHERS = {
    "B": (np.array([15, 35, 60]), np.array([90.0, 110.0, 95.0])),
    "C": (np.array([40, 50]), np.array([101.0, 99.0])),
}
FILLS = st.lists(
    st.tuples(
        st.integers(0, 85),
        st.sampled_from("AAABC"),
        st.sampled_from(["buy", "sell", "buy", "sell", "deposit", "withdraw"]),
        st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]),
        st.floats(50, 150),
        st.floats(-1, 1),
        st.none() | st.floats(0, 100),
    ),
    max_size=40,
).map(lambda rows: frame(*sorted(rows, key=lambda row: row[0])))
SCOPES = st.sampled_from(["symbol", "portfolio"])
VISIBILITY = st.sampled_from(["next", "this"])


@given(fills=FILLS, scope=SCOPES, visible=VISIBILITY)
def test_equal_to_a_ledger_asked_at_every_bar(
    fills: pl.DataFrame, scope: str, visible: str
) -> None:
    replay = AccountReplay(fills, "A", scope=scope, fill_at_close=visible, other_closes=OTHERS)
    account = columns(replay)
    plain = fills.with_columns(pl.col("time").dt.epoch("ns"))
    expected = naive(plain, "A", scope, strictly=visible == "next")
    summed = ("realized", "deposit", "other_unrealized", "other_notional", "kept")
    for name in ACCOUNT_COLUMNS:
        wanted = pytest.approx(expected[name], abs=1e-9) if name in summed else expected[name]
        assert account[name] == wanted, name


@given(fills=FILLS, scope=SCOPES, visible=VISIBILITY, cuts=st.lists(st.integers(0, 8), max_size=8))
def test_any_cut_of_the_bars_gives_the_same_bits(
    fills: pl.DataFrame, scope: str, visible: str, cuts: list[int]
) -> None:
    options = {"scope": scope, "fill_at_close": visible, "other_closes": OTHERS}
    whole = AccountReplay(fills, "A", **options).columns(CLOSES)
    replay = AccountReplay(fills, "A", **options)
    parts = [replay.columns(part) for part in np.split(CLOSES, sorted(cuts))]
    assert np.hstack(parts).tobytes() == whole.tobytes()


@given(fills=FILLS, scope=SCOPES, visible=VISIBILITY, cut=st.integers(1, 7))
def test_a_replay_saved_and_given_the_rest_later_gives_the_same_bits(
    fills: pl.DataFrame, scope: str, visible: str, cut: int
) -> None:
    options = {"scope": scope, "fill_at_close": visible}
    whole = AccountReplay(fills, "A", **options, other_closes=OTHERS).columns(CLOSES)
    last = int(CLOSES[cut - 1])
    seen = pl.col("time").dt.epoch("ns") <= last
    early = {s: (t[t <= last], p[t <= last]) for s, (t, p) in OTHERS.items()}
    late = {s: (t[t > last], p[t > last]) for s, (t, p) in OTHERS.items()}
    replay = AccountReplay(fills.filter(seen), "A", **options, other_closes=early)
    first = replay.columns(CLOSES[:cut])
    resumed = AccountReplay.from_state(json.loads(json.dumps(replay.state())))
    resumed.add(fills.filter(~seen), late)
    assert np.hstack([first, resumed.columns(CLOSES[cut:])]).tobytes() == whole.tobytes()


@given(fills=FILLS, scope=SCOPES, known=st.integers(0, 40))
def test_a_fill_changes_nothing_before_the_bar_that_sees_it(
    fills: pl.DataFrame, scope: str, known: int
) -> None:
    options = {"scope": scope, "other_closes": OTHERS}
    whole = AccountReplay(fills, "A", **options).columns(CLOSES)
    past = AccountReplay(fills.head(known), "A", **options).columns(CLOSES)
    unknown = fills["time"].dt.epoch("ns").to_numpy()[known:]
    before = (unknown[0] if unknown.size else CLOSES[-1]) >= CLOSES
    assert whole[:, before].tobytes() == past[:, before].tobytes()


def test_a_portfolio_s_others_at_their_last_close() -> None:
    fills = frame(
        (11, "B", "buy", 2, 100.0), (12, "C", "sell", 1, 100.0), (52, "B", "sell", 2, 99.0)
    )
    options = {"scope": "portfolio", "multiplier": {"A": 1, "B": 1, "C": 10}}
    account = columns(AccountReplay(fills, "A", **options, other_closes=OTHERS))
    # B closes at 90 (15), 110 (35) and is sold in bar 5; C has no close before 101 (40), then 99
    assert account["other_unrealized"] == [0, -20, -20, 20 - 10, 20 + 10, 10, 10, 10]
    assert account["other_notional"] == [0, 180 + 1000, 1180, 220 + 1010, 220 + 990, 990, 990, 990]
    assert account["quantity"] == [0.0] * 8
    assert account["trades_closed"] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert account["balance"] == [10_000] * 5 + [9_998] * 3


def test_a_deposit_without_symbol_belongs_to_the_only_one() -> None:
    deposit, fill = (5, None, "deposit", 500.0, None), (6, "A", "buy", 1, 5.0)
    assert columns(AccountReplay(frame(deposit, fill), "A"))["deposit"][0] == 500
    assert columns(AccountReplay(frame(deposit, fill), "B"))["deposit"][0] == 0
    assert columns(AccountReplay(frame(deposit), "B"))["deposit"][0] == 500
    with pytest.raises(DataError, match=r"Fix: account: {scope: portfolio}"):
        AccountReplay(frame(deposit, fill, (7, "B", "buy", 1, 5.0)), "A")


BUY = (50, "A", "buy", 1, 5.0)


@pytest.mark.parametrize(
    ("fills", "options", "error", "what"),
    [
        (frame(BUY).drop("price", "fee"), {}, DataError, "no column 'fee'"),
        (frame(BUY).cast({"time": pl.Datetime("ns")}), {}, DataError, "no time zone"),
        (frame(BUY, (50, "A", "long", 1, 5.0)), {}, DataError, "an unknown side"),
        (frame(*[(50, "A", "buy", -1, 5.0)] * 25), {}, DataError, "and 5 more"),
        (frame(BUY, (40, "A", "buy", 1, 5.0)), {}, DataError, "the fills go back in time"),
        (frame((50, "B", *BUY[2:])), {"scope": "portfolio"}, DataError, "symbols without bars"),
        (frame(BUY), {"fill_at_close": "last"}, ConfigError, "expected: next or this"),
        (frame(BUY), {"multiplier": {"B": 1}}, ConfigError, "no multiplier for A"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    fills: pl.DataFrame, options: dict[str, Any], error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        AccountReplay(fills, "A", **options)


def test_fills_and_bars_that_come_too_late_are_refused() -> None:
    replay = AccountReplay(frame(BUY), "A")
    replay.columns(CLOSES[:6])
    with pytest.raises(DataError, match="a fill came after the bar that had to show it"):
        replay.add(frame((59, *BUY[1:])))
    replay.add(frame((60, *BUY[1:])))
    with pytest.raises(DataError, match="the bars go back in time"):
        replay.columns(CLOSES[5:])
    assert columns(replay, CLOSES[6:])["quantity"] == [2.0, 2.0]


def test_fills_outside_the_bars_are_counted() -> None:
    times = [(time, "A", "buy", 1, 5.0) for time in (9, 10, 79, 80, 81)]
    fills = frame((1, None, "deposit", 1, None), *times, (50, "B", "sell", 1, 5.0))
    spans = pl.DataFrame({"symbol": ["A"], "first": [10], "last": [80]}).cast(
        {"first": SCHEMA["time"], "last": SCHEMA["time"]}
    )
    assert fills_outside(fills, spans).rows() == [("A", 5, 1, 2), ("B", 1, None, None)]
    assert fills_outside(fills, spans, "this").row(0) == ("A", 5, 1, 1)


def test_zipline_s_positions_and_portfolio(shared_data: Path) -> None:
    """All quantities are exact, average prices within 3e-16, the portfolio's value within 2e-15.

    Zipline divides the cost of a first fill by its quantity again; here a fill keeps its price.
    """
    folder = shared_data / "trades" / "zipline"
    amount = pl.col("amount")
    fills = pl.read_parquet(folder / "transactions.parquet").select(
        "symbol",
        "price",
        time="dt",
        side=pl.when(amount > 0).then(pl.lit("buy")).otherwise(pl.lit("sell")),
        quantity=amount.abs().cast(pl.Float64),
        fee=pl.lit(0.0),
    )
    positions = pl.read_parquet(folder / "positions.parquet")
    value = pl.read_parquet(folder / "portfolio.parquet").select("session", "portfolio_value")
    sessions = value["session"].dt.epoch("ns").to_numpy()
    held = {
        symbol: value.join(positions.filter(symbol=symbol), "session", how="left").fill_null(0)
        for symbol in positions["symbol"].unique()
    }
    closes = {s: (sessions, rows["last_sale_price"].to_numpy()) for s, rows in held.items()}
    options = {"cash": 1e7, "scope": "portfolio", "fill_at_close": "this", "other_closes": closes}
    for symbol, theirs in held.items():
        ours = AccountReplay(fills, symbol, **options).columns(sessions)
        quantity, average, balance, others = ours[
            [
                ACCOUNT_COLUMNS.index(n)
                for n in ("quantity", "average_price", "balance", "other_unrealized")
            ]
        ]
        np.testing.assert_array_equal(quantity, theirs["amount"])
        np.testing.assert_allclose(average, theirs["cost_basis"], rtol=3e-16, atol=0)
        equity = balance + quantity * (closes[symbol][1] - average) + others
        np.testing.assert_allclose(equity, value["portfolio_value"], rtol=2e-15, atol=0)
    assert sum(rows["amount"].ne(0).sum() for rows in held.values()) == positions.height == 7_497
