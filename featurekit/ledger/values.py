"""What a ledger answers with: a position, an account, the effect of a fill, a disagreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Position:
    """One symbol's position; prices as quoted, money in account currency.

    `realized_pnl` (gross of fees) and `fees` count since the ledger began. All else belongs to the
    position now held and is 0 when flat; `stop` and `target` are 0 without an order.
    """

    quantity: float = 0.0
    average_price: float = 0.0
    stop: float = 0.0
    target: float = 0.0
    fills_held: int = 0
    fees_held: float = 0.0
    realized_pnl: float = 0.0
    fees: float = 0.0


@dataclass(frozen=True, slots=True)
class Account:
    """One account, in account currency: of a symbol, or of the portfolio.

    `balance` is starting cash + `deposits` + `realized_pnl` (gross) - `fees`; `trades` counts all
    closed trades, the statistics are of the last 20 (fewer: of those, none: 0).
    """

    balance: float
    deposits: float
    realized_pnl: float
    fees: float
    trades: int
    last_trade_return: float
    win_rate_20: float
    mean_trade_return_20: float
    profit_factor_20: float


class Effect(NamedTuple):
    """What one row of the fills did to its position and its account.

    `opened` and `exited` are both true for a flip, `kept` is abs(quantity after) / abs(quantity
    before) of a partial close, else 1; `realized` is net of the row's fee.
    """

    opened: bool = False
    exited: bool = False
    kept: float = 1.0
    realized: float = 0.0
    deposit: float = 0.0


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A realized pnl of the source that average cost does not give, in account currency."""

    time: int
    symbol: str
    source: float
    computed: float
