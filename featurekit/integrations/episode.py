"""One episode: an account that trades along a dataset's rows, bar by bar.

Everything that changes from bar to bar is of this object: a new episode is a new one.

Axes: T rows of a window, F features, A the columns of F that read the account.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.integrations.broker import Broker, Terms
from featurekit.ledger import ACCOUNT_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.integrations.market import Market
    from featurekit.ledger import Fill

RUIN = 0.01  # of starting cash: below it the features' equity is floored, and an episode ends
QUANTITY, AVERAGE_PRICE, BALANCE, STOP, TARGET = (
    ACCOUNT_COLUMNS.index(name)
    for name in ("quantity", "average_price", "balance", "stop", "target")
)
FILL_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "time": pl.Int64,
    "symbol": pl.String,
    "side": pl.String,
    "quantity": pl.Float64,
    "price": pl.Float64,
    "fee": pl.Float64,
    "stop": pl.Float64,
    "target": pl.Float64,
}


class Episode:
    """A new account, from the close of a dataset's row on.

    Args:
        market: The dataset's bars.
        symbol: The row's.
        row: Of the dataset, the last of the first window.
        steps: Rows that follow it, without a gap.
        window: T.
        terms: Of trading.

    Example:
        >>> import tempfile, featurekit as fk
        >>> from featurekit.integrations.market import Market
        >>> pipeline = fk.Pipeline(name="own", bars={"sample": "eurusd_h1"}, blocks=["position"])
        >>> market = Market(pipeline.build(tempfile.mkdtemp()))
        >>> episode = Episode(market, "EURUSD", row=100, steps=50, window=5, terms=Terms())
        >>> growth = episode.step(1.0)
        >>> episode.observation().shape, episode.quantity > 0, episode.fills().height
        ((5, 27), True, 1)
    """

    def __init__(
        self, market: Market, symbol: str, row: int, steps: int, window: int, terms: Terms
    ) -> None:
        self._market, self._tape = market, market.tapes[symbol]
        self.row, self.window, self.left = row, window, steps
        self._bar = bar = int(self._tape.bar_of_row[row - self._tape.first])
        self._rows = market.dataset.take(np.arange(row + 1 - window, row + 1 + steps))
        untouched, self._state = market.untouched(self._tape, bar + 1 - window, bar + 1)
        self._rows[:window, market.places] = untouched
        self._read = 0  # row of `_rows` at which the window starts
        self._inputs = np.empty((len(market.program.inputs), 1))
        self._live = np.empty((1, len(market.live)), np.float32)
        self._account = market.new_account(symbol)
        ledger = self._account.ledger
        self._multiplier = ledger.multiplier(symbol)
        delay = 0 if market.pipeline.account.fill_at_close == "next" else 1
        self._broker = Broker(symbol, self._multiplier, terms, delay)
        self._fills: list[Fill] = []
        self._column = self._account.close_bar()
        self._values = self._account_values(self._column)
        self.level, self.equity, self._floor = 0.0, ledger.cash, RUIN * ledger.cash

    @property
    def quantity(self) -> float:
        """The position, in signed units."""
        return self._column[QUANTITY]

    @property
    def time(self) -> int:
        """UTC ns of the last row's close."""
        return int(self._tape.closes[self._bar])

    @property
    def ruined(self) -> bool:
        """Whether equity has fallen to 1% of the starting cash."""
        return self.equity <= self._floor

    def step(self, level: float) -> float:
        """One bar on, with the position at a multiple of equity from its open; growth in percent.

        A level that is held already gives no order: the quantity is that of the bar it was taken.
        """
        tape, column = self._tape, self._column
        held = wanted = column[QUANTITY]
        if level != self.level:
            wanted = self._broker.units(level * self.equity, tape.prices.item(self._bar, 3))
        self._bar, self._read, self.row, self.left = (
            self._bar + 1,
            self._read + 1,
            self.row + 1,
            self.left - 1,
        )
        bar = tape.prices[self._bar].tolist()
        if held or wanted:
            between = tape.closes.item(self._bar - 1), tape.closes.item(self._bar)
            fills = self._broker.trade(bar, between, held, wanted, column[STOP], column[TARGET])
            for fill in fills:
                self._account.fill(fill)
            self._fills += fills
        column = self._account.close_bar()
        if column is not self._column:
            self._column, self._values = column, self._account_values(column)
        self._compute()
        before, quantity = self.equity, column[QUANTITY]
        unrealized = quantity * (bar[3] - column[AVERAGE_PRICE]) * self._multiplier
        self.level = level if quantity else 0.0
        self.equity = max(column[BALANCE] + unrealized, self._floor)
        return 100.0 * log(self.equity / before)

    def observation(self) -> NDArray[np.float32]:
        """A copy of the last T rows `[T, F]`."""
        last: NDArray[np.float32] = self._rows[self._read : self._read + self.window].copy()
        return last

    def fills(self) -> pl.DataFrame:
        """What was traded so far, as a canonical frame of fills."""
        rows = [[getattr(fill, name) for name in FILL_COLUMNS] for fill in self._fills]
        frame = pl.DataFrame(rows, schema=FILL_COLUMNS, orient="row")
        return frame.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))

    def _account_values(self, column: list[float]) -> NDArray[np.float64]:
        return np.array([column[row] for row in self._market.account_rows])

    def _compute(self) -> None:
        """The columns of the account at this bar's close, in place of the dataset's."""
        market, inputs = self._market, self._inputs
        inputs[:, 0] = self._tape.inputs[self._bar]
        inputs[market.account_places, 0] = self._values
        market.program.run_rows(self._state, inputs, self._live)
        self._rows[self._read + self.window - 1, market.places] = self._live[0]
