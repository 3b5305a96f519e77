"""A ledger that trades as its bars come: the account at each close, for a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurekit.ledger.columns import FLOW_ROWS, FLOWS, count, snapshot

if TYPE_CHECKING:
    from featurekit.ledger.fill import Fill
    from featurekit.ledger.ledger import Ledger


class LiveAccount:
    """One symbol's account beside its bars, one bar at a time, in account currency.

    It gives the columns of an `AccountReplay` of the same fills, bit for bit; a bar without a fill
    costs nothing, as the account then holds.

    Args:
        ledger: A new one; it is this account's from now on.
        symbol: Whose bars these are; fills are of it, or deposits.

    Raises:
        ConfigError: The ledger has no multiplier for the symbol.

    Example:
        >>> from featurekit.ledger import ACCOUNT_COLUMNS, Fill, Ledger
        >>> account = LiveAccount(Ledger(cash=1000.0), "GOLD")
        >>> account.fill(Fill(0, "GOLD", "buy", 2.0, 100.0, 0.5, None, None, None))
        >>> column = dict(zip(ACCOUNT_COLUMNS, account.close_bar()))
        >>> column["quantity"], column["balance"], column["opened"] == 1
        (2.0, 999.5, True)
        >>> dict(zip(ACCOUNT_COLUMNS, account.close_bar()))["opened"]
        0.0
    """

    def __init__(self, ledger: Ledger, symbol: str) -> None:
        self.ledger, self.symbol = ledger, symbol
        self._flows: dict[str, float] | None = None
        self._held = snapshot(ledger, symbol, FLOWS)

    def fill(self, fill: Fill) -> None:
        """Applies a checked fill that the bar to be closed next is the first to see.

        Raises:
            DataError: It goes back in time.
        """
        effect = self.ledger.apply_fill(fill)
        if self._flows is None:
            self._flows = dict(FLOWS)
        count(self._flows, effect, own=fill.trades)

    def close_bar(self) -> list[float]:
        """The account at the close of the bar, `[len(ACCOUNT_COLUMNS)]`; the next bar begins."""
        if self._flows is None:
            return self._held
        column = snapshot(self.ledger, self.symbol, self._flows)
        self._held = column.copy()
        for row, value in zip(FLOW_ROWS, FLOWS.values(), strict=True):
            self._held[row] = value
        self._flows = None
        return column
