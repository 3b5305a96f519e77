"""A ledger beside the bars of one symbol: the account at every close, as columns."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featurekit.errors import DataError, Problem
from featurekit.ledger.columns import ACCOUNT_COLUMNS, FLOW_ROWS, FLOWS, count, snapshot
from featurekit.ledger.frames import Visibility, account_fills
from featurekit.ledger.ledger import Ledger, Scope
from featurekit.ledger.queue import FillQueue
from featurekit.ledger.values import Position

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Closes = tuple[NDArray[np.int64], NDArray[np.float64]]
    Steps = list[tuple[int, Position]]  # a position, and the bar from which on it is held

# A price before the first close, so that the count of closes seen is the place of the last one.
_NO_CLOSES = (np.empty(0, np.int64), np.array([np.nan]))


class AccountReplay:
    """Replays fills beside one symbol's bars: the account at every close, in natural units.

    However the bars are cut into calls of `columns`, the bits are the same.

    Args:
        fills: Canonical fills of all symbols, sorted by time; those of other symbols count with
            `scope="portfolio"` only. A deposit without a symbol belongs to the only symbol.
        symbol: Whose bars these are.
        cash: As in `Ledger`, like `multiplier`, `leverage` and `scope`.
        multiplier: As in `Ledger`.
        leverage: As in `Ledger`.
        scope: As in `Ledger`.
        fill_at_close: The bar that first sees a fill stamped with a bar's close: `this` or `next`.
        other_closes: With `scope="portfolio"`, times in ns and prices of the other symbols' closes.

    Raises:
        ConfigError: An option of the account is none of these.
        DataError: The fills are not canonical, or their symbols have no closes.

    Example:
        >>> from datetime import datetime
        >>> import polars as pl
        >>> noon = pl.Series([datetime(2024, 1, 2, 12)], dtype=pl.Datetime("ns", "UTC"))
        >>> fills = pl.DataFrame({"time": noon, "symbol": "EURUSD", "side": "buy"}).with_columns(
        ...     quantity=2.0, price=1.1, fee=0.5
        ... )
        >>> closes = noon.dt.epoch("ns").to_numpy() + np.arange(-1, 3) * 3_600_000_000_000
        >>> columns = AccountReplay(fills, "EURUSD").columns(closes)
        >>> dict(zip(ACCOUNT_COLUMNS, columns.tolist()))["quantity"]
        [0.0, 0.0, 2.0, 2.0]
    """

    def __init__(
        self,
        fills: pl.DataFrame | None,
        symbol: str,
        *,
        cash: float = 10_000.0,
        multiplier: float | Mapping[str, float] = 1.0,
        leverage: float = 1.0,
        scope: Scope = "symbol",
        fill_at_close: Visibility = "next",
        other_closes: Mapping[str, Closes] | None = None,
    ) -> None:
        self.ledger = Ledger(cash, multiplier, leverage, scope)
        self._symbol = symbol
        self.ledger.multiplier(symbol)  # raises where there is none
        self._queue = FillQueue(fill_at_close)
        self._other_closes: dict[str, Closes] = {}
        self.add(fills, other_closes)

    def add(
        self, fills: pl.DataFrame | None, other_closes: Mapping[str, Closes] | None = None
    ) -> None:
        """Takes in what came since: later fills, later closes of the other symbols.

        Raises:
            DataError: A fill makes no sense, goes back in time or comes after a bar that had to see
                it, or its symbol has no closes.
            ConfigError: Its symbol has no multiplier.
        """
        for other, (times, prices) in (other_closes or {}).items():
            kept_times, kept_prices = self._closes_still_needed(other)
            all_times = np.concatenate([kept_times, times])
            self._other_closes[other] = (all_times, np.concatenate([kept_prices, prices]))
        if fills is None or (isinstance(fills, pl.DataFrame) and fills.is_empty()):
            return
        queued = account_fills(fills, self._symbol if self.ledger.scope == "symbol" else None)
        self._check_bars({fill.symbol for fill in queued if fill.trades})
        self._queue.add(queued)

    def columns(self, close_time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """The account at the next closes of the symbol, `[len(ACCOUNT_COLUMNS), n]`.

        Args:
            close_time_ns: When the bars close, in ns since 1970 UTC, increasing over all calls.

        Raises:
            DataError: The bars go back in time.
        """
        closes = np.asarray(close_time_ns, dtype=np.int64)
        if not closes.size:
            return np.empty((len(ACCOUNT_COLUMNS), 0))
        others = self._other_positions()
        changed, table = self._replay(closes, others)
        happened = table[1:, FLOW_ROWS].T
        table[1:, FLOW_ROWS] = table[0, FLOW_ROWS]
        columns = np.repeat(table.T, np.diff([0, *changed, closes.size]), axis=1)
        columns[np.ix_(FLOW_ROWS, changed)] = happened
        self._add_others(columns, closes, others)
        return columns

    def passes(self, close_time_ns: int) -> bool:
        """Whether the next bar, closing then, sees nothing new; it has then passed, else not yet.

        The account of a portfolio moves with every close of another symbol.
        """
        return self.ledger.scope == "symbol" and self._queue.idle(close_time_ns)

    def held(self) -> NDArray[np.float64]:
        """The account at a bar in which nothing happens, `[len(ACCOUNT_COLUMNS)]`."""
        return np.array(snapshot(self.ledger, self._symbol, FLOWS))

    def _replay(
        self, closes: NDArray[np.int64], others: dict[str, Steps]
    ) -> tuple[list[int], NDArray[np.float64]]:
        """Applies the fills of these bars: the bars they change, and the account from each on."""
        changed: list[int] = []
        table = [snapshot(self.ledger, self._symbol, FLOWS)]
        for bar, fills in groupby(self._queue.take(closes), key=itemgetter(0)):
            flows = dict(FLOWS)
            for _, fill in fills:
                effect = self.ledger.apply_fill(fill)
                own = fill.symbol == self._symbol
                count(flows, effect, own=own)
                if fill.trades and not own:
                    steps = others.setdefault(fill.symbol, [(0, Position())])
                    steps.append((bar, self.ledger.position(fill.symbol)))
            changed.append(bar)
            table.append(snapshot(self.ledger, self._symbol, flows))
        return changed, np.array(table)

    def _other_positions(self) -> dict[str, Steps]:
        """The portfolio's other positions before the next bar."""
        others = {s: self.ledger.position(s) for s in self.ledger.symbols if s != self._symbol}
        return {other: [(0, held)] for other, held in others.items() if held.quantity}

    def _add_others(
        self,
        columns: NDArray[np.float64],
        closes: NDArray[np.int64],
        others: Mapping[str, Steps],
    ) -> None:
        unrealized = columns[ACCOUNT_COLUMNS.index("other_unrealized")]
        notional = columns[ACCOUNT_COLUMNS.index("other_notional")]
        for other, steps in sorted(others.items()):
            lengths = np.diff([*(bar for bar, _ in steps), closes.size])
            quantity = np.repeat([held.quantity for _, held in steps], lengths)
            average = np.repeat([held.average_price for _, held in steps], lengths)
            times, prices = self._other_closes[other]
            seen = np.searchsorted(times, closes, side="right")
            price = np.where(seen > 0, prices[seen], average)
            multiplier = self.ledger.multiplier(other)
            unrealized += quantity * (price - average) * multiplier
            notional += np.abs(quantity * price * multiplier)

    def _closes_still_needed(self, other: str) -> Closes:
        """From the last one that the bars have seen on."""
        times, prices = self._other_closes.get(other, _NO_CLOSES)
        if self._queue.last_close is None:
            return times, prices
        past = max(int(np.searchsorted(times, self._queue.last_close, side="right")) - 1, 0)
        return times[past:], prices[past:]

    def _check_bars(self, traded: set[str]) -> None:
        """Checks that what the portfolio trades has closes and a multiplier."""
        unknown = sorted(traded - {self._symbol, *self._other_closes})
        if unknown:
            raise DataError(
                Problem(
                    "the portfolio trades symbols without bars, so it has no equity",
                    where=", ".join(unknown[:5]),
                    expected="bars of every symbol that the fills name",
                    got=f"no bars of {len(unknown)} of {len(traded)} symbols",
                    fix="account: {scope: symbol}",
                )
            )
        for symbol in traded:
            self.ledger.multiplier(symbol)

    def state(self) -> dict[str, Any]:
        """All the replay knows, as plain values; JSON keeps every bit of them."""
        closes = {other: self._closes_still_needed(other) for other in self._other_closes}
        return {
            "symbol": self._symbol,
            "ledger": self.ledger.state(),
            "queue": self._queue.state(),
            "other_closes": {
                other: [times.tolist(), prices[1:].tolist()]
                for other, (times, prices) in closes.items()
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AccountReplay:
        """The replay whose `state()` this was; `add` gives it what came since."""
        closes = {
            other: (np.array(times, np.int64), np.array(prices, np.float64))
            for other, (times, prices) in state["other_closes"].items()
        }
        multiplier = state["ledger"]["multipliers"]
        replay = cls(None, state["symbol"], multiplier=multiplier, other_closes=closes)
        replay.ledger = Ledger.from_state(state["ledger"])
        replay._queue = FillQueue.from_state(state["queue"])
        return replay
