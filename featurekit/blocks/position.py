"""The position block: the account at the bar's close, from what the ledger says of it."""

from __future__ import annotations

from featurekit.block import block
from featurekit.blocks.indicator import average_true_range
from featurekit.column import Col, where

RATIO = (-1.0, 1.0)
CURRENCY = (-1e4, 1e4)
PRICE = (-1e3, 1e3)
ALWAYS = 10**9  # bars; more than any history


@block(unit="currency", scale=CURRENCY)
def position(
    high: Col,
    low: Col,
    close: Col,
    quantity: Col,
    average_price: Col,
    multiplier: Col,
    leverage: Col,
    starting_cash: Col,
    balance: Col,
    deposit: Col,
    other_unrealized: Col,
    other_notional: Col,
    opened: Col,
    exited: Col,
    kept: Col,
    fills_held: Col,
    fees_held: Col,
    stop: Col,
    target: Col,
    realized: Col,
    trades_closed: Col,
    last_trade_return: Col,
    win_rate_20: Col,
    mean_trade_return_20: Col,
    profit_factor_20: Col,
) -> dict[str, Col]:
    """State of the position and of its account at the bar's close, 0 while flat."""
    side = quantity.sign()
    held = side.abs()
    notional = quantity * close * multiplier
    unrealized = quantity * (close - average_price) * multiplier
    equity = balance + unrealized + other_unrealized
    # Ratios of equity stay finite when the account is wiped out.
    equity_floored = equity.maximum(0.01 * starting_cash)

    atr = average_true_range(high, low, close, 14)
    usable_atr = where(atr <= 1e-9 * close, 0.0, atr).fill(0.0).hold(opened).fill(0.0)
    favorable = unrealized.running_max(opened, kept)
    adverse = -(-unrealized).running_max(opened, kept)
    stop_distance = where(stop == 0.0, 0.0, side * (close - stop))
    target_distance = where(target == 0.0, 0.0, side * (target - close))
    both_ordered = (stop_distance > 0.0) & (target_distance > 0.0)
    risk_reward = where(both_ordered, target_distance.over(stop_distance, 0.0).minimum(10.0), 0.0)

    # Deposits are chained out: growth is measured over them, as in a time-weighted return.
    wealth = (equity / starting_cash).maximum(0.01)
    before_flow = (wealth - deposit / starting_cash).maximum(0.01)
    log_wealth = wealth.log()
    growth = (log_wealth + (before_flow.log() - log_wealth).cumsum()).before(0.0)

    def while_held(x: Col) -> Col:
        return where(held, x, 0.0)

    return {
        "side": side.named(unit="-1, 0, 1", scale=RATIO, doc="Long 1, short -1, flat 0."),
        "quantity": quantity.named(unit="units", doc="Signed quantity."),
        "notional": notional.named(scale=(-1e6, 1e6), doc="Quantity x close x multiplier."),
        "exposure": (notional / equity_floored).named(
            unit="ratio", scale=(-30, 30), doc="Notional over equity."
        ),
        "entry_distance": (side * (close / where(held, average_price, close)).log()).named(
            unit="log return", scale=(-0.1, 0.1), doc="side ln(close/average entry price)."
        ),
        "unrealized_pnl": unrealized.named(
            doc="Quantity x (close - average entry price) x multiplier."
        ),
        "unrealized_return": unrealized.over(
            quantity.abs() * average_price * multiplier, 0.0
        ).named(unit="ratio", scale=(-0.1, 0.1), doc="Unrealized pnl over the entry notional."),
        "pnl_in_atr": while_held((side * (close - average_price)).over(usable_atr, 0.0)).named(
            unit="ATR multiple",
            scale=(-10, 10),
            doc="side (close - entry) over ATR14 of the opening bar.",
        ),
        "bars_held": while_held(opened.since(ALWAYS) + 1.0).named(
            unit="bars", scale=(0, 500), doc="Bars in the position, the opening bar 1."
        ),
        "bars_flat": where(held, 0.0, exited.since(499) + 1.0).named(
            unit="bars", scale=(0, 500), doc="Bars since the last exit, at most 500; held 0."
        ),
        "fills_held": fills_held.named(
            unit="count", scale=(0, 20), doc="Fills since the position opened."
        ),
        "max_favorable_excursion": while_held(favorable).named(
            scale=(0, 1e4), doc="Best unrealized pnl at a close since opening."
        ),
        "max_adverse_excursion": while_held(adverse).named(
            scale=(-1e4, 0), doc="Worst unrealized pnl at a close since opening."
        ),
        "giveback": while_held(favorable - unrealized).named(
            scale=(0, 1e4), doc="Best unrealized pnl less the present one."
        ),
        "stop_distance": while_held(stop_distance).named(
            unit="price", scale=PRICE, doc="side (close - stop); no order 0."
        ),
        "target_distance": while_held(target_distance).named(
            unit="price", scale=PRICE, doc="side (target - close); no order 0."
        ),
        "risk_reward": while_held(risk_reward).named(
            unit="ratio", scale=(0, 10), doc="Target over stop distance, at most 10."
        ),
        "fees_held": fees_held.named(scale=(0, 1e3), doc="Fees since the position opened."),
        "realized_pnl_100": realized.before(0.0)
        .sum(100)
        .named(doc="Realized pnl of 100 bars, net of fees."),
        "last_trade_return": last_trade_return.named(
            unit="ratio", scale=(-0.1, 0.1), doc="Return of the last closed trade; none 0."
        ),
        "win_rate_20": win_rate_20.named(
            unit="ratio", scale=(0, 1), doc="Share of winners of the last 20 closed trades."
        ),
        "mean_trade_return_20": mean_trade_return_20.named(
            unit="ratio", scale=(-0.1, 0.1), doc="Mean return of the last 20 closed trades."
        ),
        "profit_factor_20": profit_factor_20.named(
            unit="ratio", scale=(0, 10), doc="Gross win over gross loss of the last 20 trades."
        ),
        "trades_100": trades_closed.before(0.0)
        .sum(100)
        .named(unit="count", scale=(0, 50), doc="Trades closed in the last 100 bars."),
        "equity_return_100": (growth - growth.lag(100)).named(
            unit="log return",
            scale=(-0.5, 0.5),
            doc="Log growth of equity over 100 bars, deposits removed.",
            memory=100,
        ),
        "equity_drawdown": ((growth - growth.max(500)).exp() - 1.0).named(
            unit="ratio",
            scale=(-0.5, 0),
            doc="Equity over its peak of 500 bars, less 1, deposits removed.",
            memory=499,
        ),
        "cash_ratio": (
            (equity_floored - (notional.abs() + other_notional) / leverage) / equity_floored
        ).named(unit="ratio", scale=(-1, 1), doc="Share of equity not bound as margin; flat 1."),
    }
