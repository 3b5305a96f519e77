"""The ledger: fills at average cost, and the only place that knows what a trade is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import copysign, inf
from typing import TYPE_CHECKING, Any, Literal

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.ledger.books import Books, Holding
from featurekit.ledger.fill import Fill, checked_fill, number, timestamp
from featurekit.ledger.values import Account, Disagreement, Effect, Position

if TYPE_CHECKING:
    from datetime import datetime

Scope = Literal["symbol", "portfolio"]

_DUST = 1e-9  # of the largest quantity since opening: what decimal lots leave behind in binary
_AGREEMENT = 1e-6  # of starting cash or closed notional: sources round to the cent


class Ledger:
    """Accounts in account currency, kept fill by fill at average cost.

    A trade runs from flat to flat, or to a flip, which opens the next one at the fill's price and
    splits its fee by quantity. No fill is refused for what it does to the account.

    Args:
        cash: Starting cash of the account (of every symbol's, with `scope="symbol"`).
        multiplier: Account currency per unit of quantity and price, one for all or one per symbol.
        leverage: Notional per unit of margin.
        scope: One account per `symbol`, or one `portfolio`.

    Raises:
        ConfigError: An argument is none of these.

    Example:
        >>> from datetime import datetime, timezone
        >>> ledger = Ledger(cash=10_000, multiplier=100)
        >>> day = datetime(2024, 1, 2, tzinfo=timezone.utc)
        >>> _ = ledger.apply(time=day, symbol="GOLD", side="buy", quantity=2, price=2000.0, fee=4)
        >>> _ = ledger.apply(time=day, symbol="GOLD", side="sell", quantity=3, price=2010.0, fee=6)
        >>> position = ledger.position("GOLD")
        >>> position.quantity, position.average_price, position.realized_pnl, position.fees_held
        (-1.0, 2010.0, 2000.0, 2.0)
        >>> ledger.account("GOLD").balance
        11990.0
    """

    def __init__(
        self,
        cash: float = 10_000.0,
        multiplier: float | Mapping[str, float] = 1.0,
        leverage: float = 1.0,
        scope: Scope = "symbol",
    ) -> None:
        per_symbol = multiplier if isinstance(multiplier, Mapping) else {"": multiplier}
        numbers = {"cash": cash, "leverage": leverage}
        numbers |= {f"multiplier {symbol}".strip(): m for symbol, m in per_symbol.items()}
        problems = [
            Problem(
                f"the account's {name} is not a positive number",
                expected="a finite number above 0",
                got=repr(value),
                fix="account: {cash: 10000, multiplier: 1, leverage: 1}",
            )
            for name, value in numbers.items()
            if not 0 < number(value) < inf
        ]
        if scope not in ("symbol", "portfolio"):
            problems.append(
                Problem(
                    "the account's scope is unknown",
                    expected="symbol or portfolio",
                    got=repr(scope),
                    fix="account: {scope: symbol}",
                )
            )
        if problems:
            raise ConfigError(*problems)
        self.cash = float(cash)
        self.leverage = float(leverage)
        self.scope: Scope = scope
        self.disagreements = 0
        self.largest_disagreement: Disagreement | None = None
        self._multipliers = {symbol: float(m) for symbol, m in per_symbol.items()}
        self._holdings: dict[str, Holding] = {}
        self._books: dict[str, Books] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols with a fill or an order update so far, sorted."""
        return tuple(sorted(self._holdings))

    def multiplier(self, symbol: str) -> float:
        """Account currency per unit of a symbol's quantity and price.

        Raises:
            ConfigError: The ledger was given a multiplier per symbol, and none for this one.
        """
        one_for_all = self._multipliers.get("")
        multiplier = self._multipliers.get(symbol, one_for_all)
        if multiplier is None:
            raise ConfigError(
                Problem(
                    f"the account has no multiplier for {symbol}",
                    expected="one multiplier for all symbols, or one for each",
                    got=f"multipliers for {', '.join(self._multipliers) or 'none'}",
                    fix=f"account: {{multiplier: {{{symbol}: 1}}}}",
                )
            )
        return multiplier

    def position(self, symbol: str) -> Position:
        """A symbol's position after the last fill, in units and account currency."""
        return (self._holdings.get(symbol) or Holding()).position()

    def account(self, symbol: str | None = None) -> Account:
        """A symbol's account after the last fill, or the portfolio's, in account currency.

        Raises:
            ConfigError: Every symbol has its own account, and none was named.
        """
        if symbol is None and self.scope == "symbol":
            raise ConfigError(
                Problem(
                    "every symbol has its own account",
                    expected="the name of a symbol",
                    got="None",
                    fix='ledger.account("EURUSD")',
                )
            )
        books = self._books.get(self._account_name(symbol or "")) or Books()
        return books.account(self.cash)

    def apply(
        self,
        *,
        time: datetime | int,
        symbol: str | None = None,
        side: str,
        quantity: float,
        price: float | None = None,
        fee: float = 0.0,
        stop: float | None = None,
        target: float | None = None,
        realized_pnl: float | None = None,
    ) -> Effect:
        """Applies one fill, order update or deposit, and says what it did.

        Args:
            time: With a time zone, or in ns since 1970 UTC; never before the account's last.
            symbol: May be missing from a deposit or withdrawal with `scope="portfolio"`.
            side: `buy`, `sell`, `deposit` or `withdraw`.
            quantity: Units, or the amount deposited; 0 on buy and sell is an order update.
            price: What a unit was traded at.
            fee: Commission and swap in account currency; positive is a cost.
            stop: The position's stop; None keeps it, 0 cancels it.
            target: The position's target, likewise.
            realized_pnl: By the source, gross of fees; it is used, and compared with average cost.

        Raises:
            DataError: The row makes no sense or goes back in time; it has changed nothing.
            ConfigError: The symbol has no multiplier.
        """
        return self.apply_fill(
            checked_fill(
                time,
                symbol,
                side,
                quantity,
                price,
                fee,
                stop,
                target,
                realized_pnl,
                needs_symbol=self.scope == "symbol",
            )
        )

    def apply_fill(self, fill: Fill) -> Effect:
        """Applies a row that is already checked; see `apply`."""
        name = self._account_name(fill.symbol)
        books = self._books.get(name) or Books()
        if books.time is not None and fill.time < books.time:
            raise DataError(
                Problem(
                    "a fill goes back in time",
                    where=f"{fill.symbol or 'account'}, {timestamp(fill.time)}",
                    expected=f"{timestamp(books.time)} or later, as the account's last fill",
                    got=timestamp(fill.time),
                    fix='fills = fills.sort("time", maintain_order=True)',
                )
            )
        multiplier = self.multiplier(fill.symbol) if fill.trades else 1.0
        self._books[name] = books
        books.time = fill.time
        books.fees += fill.fee
        if fill.trades:
            return self._trade(fill, books, multiplier)
        amount = fill.quantity if fill.side == "deposit" else -fill.quantity
        books.deposits += amount
        return Effect(realized=-fill.fee, deposit=amount)

    def _trade(self, fill: Fill, books: Books, multiplier: float) -> Effect:
        held = self._holdings.setdefault(fill.symbol, Holding())
        before = held.quantity
        traded = fill.quantity if fill.side == "buy" else -fill.quantity
        after = before + traded
        if abs(after) < _DUST * held.largest:
            after = 0.0
        closes = before * traded < 0
        exits = closes and before * after <= 0
        closed = (abs(before) if exits else fill.quantity) if closes else 0.0
        flips = exits and after != 0
        fee = fill.fee * (closed / fill.quantity) if flips else fill.fee

        realized = copysign(closed, before) * (fill.price - held.average_price) * multiplier
        if fill.realized_pnl is not None:
            self._compare(fill, realized, abs(closed * fill.price * multiplier))
            realized = fill.realized_pnl
        held.all_realized += realized
        held.all_fees += fill.fee
        books.realized += realized
        if before or traded:
            held.realized += realized
            held.fees += fee
            held.fills += traded != 0
        if exits:
            books.close_trade(held)
            held = Holding(all_realized=held.all_realized, all_fees=held.all_fees)
            self._holdings[fill.symbol] = held
        elif closes:
            held.quantity = after
        if flips:
            held.open(after, fill.price, multiplier)
            held.fees = fill.fee - fee
            held.fills = 1
        elif traded and not closes:
            held.open(traded, fill.price, multiplier)
        if held.quantity:
            held.stop = held.stop if fill.stop is None else fill.stop
            held.target = held.target if fill.target is None else fill.target
        return Effect(
            opened=flips or (not before and traded != 0),
            exited=exits,
            kept=after / before if closes and not exits else 1.0,
            realized=realized - fill.fee,
        )

    def _compare(self, fill: Fill, computed: float, notional: float) -> None:
        """Counts a realized pnl of the source that average cost does not give."""
        source = fill.realized_pnl or 0.0
        difference = abs(source - computed)
        if difference <= _AGREEMENT * max(self.cash, notional):
            return
        self.disagreements += 1
        largest = self.largest_disagreement
        if largest is None or difference > abs(largest.source - largest.computed):
            self.largest_disagreement = Disagreement(fill.time, fill.symbol, source, computed)

    def _account_name(self, symbol: str) -> str:
        return symbol if self.scope == "symbol" else ""

    def state(self) -> dict[str, Any]:
        """All the ledger knows, as plain values; JSON keeps every bit of them."""
        largest = self.largest_disagreement
        return {
            "cash": self.cash,
            "multipliers": dict(self._multipliers),
            "leverage": self.leverage,
            "scope": self.scope,
            "disagreements": self.disagreements,
            "largest_disagreement": None if largest is None else asdict(largest),
            "holdings": {symbol: asdict(held) for symbol, held in self._holdings.items()},
            "books": {name: asdict(books) for name, books in self._books.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Ledger:
        """The ledger whose `state()` this was, to the last bit."""
        ledger = cls(state["cash"], state["multipliers"], state["leverage"], state["scope"])
        largest = state["largest_disagreement"]
        ledger.disagreements = state["disagreements"]
        ledger.largest_disagreement = None if largest is None else Disagreement(**largest)
        ledger._holdings = {s: Holding(**held) for s, held in state["holdings"].items()}
        ledger._books = {
            name: Books(**{**books, "recent": [list(trade) for trade in books["recent"]]})
            for name, books in state["books"].items()
        }
        return ledger
