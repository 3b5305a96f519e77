"""The running sums behind a ledger: a symbol's position and trade, an account's last trades."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from featurekit.ledger.values import Account, Position

_RECENT = 20
_FACTOR_CAP = 10.0


@dataclass(slots=True)
class Holding:
    """A symbol's position with its running trade, and what the symbol realized and paid so far."""

    quantity: float = 0.0
    average_price: float = 0.0
    stop: float = 0.0
    target: float = 0.0
    fills: int = 0
    fees: float = 0.0
    realized: float = 0.0
    largest: float = 0.0
    opening_notional: float = 0.0
    all_realized: float = 0.0
    all_fees: float = 0.0

    def position(self) -> Position:
        """What is public of it."""
        return Position(
            self.quantity,
            self.average_price,
            self.stop,
            self.target,
            self.fills,
            self.fees,
            self.all_realized,
            self.all_fees,
        )

    def open(self, quantity: float, price: float, multiplier: float) -> None:
        """Opens a position, or adds to it, at average cost; `quantity` is signed."""
        held, new = abs(self.quantity), abs(quantity)
        cost = held * self.average_price + new * price
        self.average_price = cost / (held + new) if held else price
        self.quantity += quantity
        self.largest = max(self.largest, abs(self.quantity))
        self.opening_notional += abs(new * price * multiplier)


@dataclass(slots=True)
class Books:
    """An account's sums, and pnl and return of its last trades with their statistics."""

    time: int | None = None
    deposits: float = 0.0
    realized: float = 0.0
    fees: float = 0.0
    trades: int = 0
    recent: list[list[float]] = field(default_factory=list)
    win_rate: float = 0.0
    mean_return: float = 0.0
    profit_factor: float = 0.0

    def close_trade(self, trade: Holding) -> None:
        """Counts a trade that ended; its return is on the notional of the fills that opened it."""
        pnl = trade.realized - trade.fees
        notional = trade.opening_notional
        self.trades += 1
        self.recent = [*self.recent[1 - _RECENT :], [pnl, pnl / notional if notional else 0.0]]
        results = [result for result, _ in self.recent]
        won = sum(result for result in results if result > 0)
        lost = -sum(result for result in results if result < 0)
        factor = won / lost if lost else (inf if won else 0.0)
        self.profit_factor = min(factor, _FACTOR_CAP)
        self.win_rate = sum(result > 0 for result in results) / len(results)
        self.mean_return = sum(change for _, change in self.recent) / len(results)

    def account(self, cash: float) -> Account:
        """What is public of an account that started with `cash`."""
        return Account(
            balance=cash + self.deposits + self.realized - self.fees,
            deposits=self.deposits,
            realized_pnl=self.realized,
            fees=self.fees,
            trades=self.trades,
            last_trade_return=self.recent[-1][1] if self.recent else 0.0,
            win_rate_20=self.win_rate,
            mean_trade_return_20=self.mean_return,
            profit_factor_20=self.profit_factor,
        )
