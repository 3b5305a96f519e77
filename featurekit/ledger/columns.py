"""The account at a bar's close as one column: what holds, and what happened in the bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurekit.ledger.ledger import Ledger
    from featurekit.ledger.values import Effect

ACCOUNT_COLUMNS = (
    "quantity",
    "average_price",
    "multiplier",
    "leverage",
    "starting_cash",
    "balance",
    "deposit",
    "other_unrealized",
    "other_notional",
    "opened",
    "exited",
    "kept",
    "fills_held",
    "fees_held",
    "stop",
    "target",
    "realized",
    "trades_closed",
    "last_trade_return",
    "win_rate_20",
    "mean_trade_return_20",
    "profit_factor_20",
)
# What happened at a bar, with its value where nothing did; every other column holds until changed.
FLOWS = {
    "deposit": 0.0,
    "opened": 0.0,
    "exited": 0.0,
    "kept": 1.0,
    "realized": 0.0,
    "trades_closed": 0.0,
}
FLOW_ROWS = [ACCOUNT_COLUMNS.index(name) for name in FLOWS]


def count(flows: dict[str, float], effect: Effect, *, own: bool) -> None:
    """Adds what a fill did to the flows of its bar; `own` is of the symbol whose bars these are."""
    flows["deposit"] += effect.deposit
    flows["realized"] += effect.realized
    flows["trades_closed"] += effect.exited
    if own:
        flows["opened"] = max(flows["opened"], effect.opened)
        flows["exited"] = max(flows["exited"], effect.exited)
        flows["kept"] = 1.0 if effect.opened else flows["kept"] * effect.kept


def snapshot(ledger: Ledger, symbol: str, flows: Mapping[str, float]) -> list[float]:
    """The account columns of a symbol after the last fill, without other positions."""
    position = ledger.position(symbol)
    account = ledger.account(symbol)
    held = position.quantity != 0
    values = {
        "quantity": position.quantity,
        "average_price": position.average_price,
        "multiplier": ledger.multiplier(symbol),
        "leverage": ledger.leverage,
        "starting_cash": ledger.cash,
        "balance": account.balance,
        "other_unrealized": 0.0,
        "other_notional": 0.0,
        "fills_held": position.fills_held,
        "fees_held": position.fees_held,
        "stop": position.stop,
        "target": position.target,
        "last_trade_return": account.last_trade_return,
        "win_rate_20": account.win_rate_20,
        "mean_trade_return_20": account.mean_trade_return_20,
        "profit_factor_20": account.profit_factor_20,
        **flows,
        "opened": flows["opened"] if held else 0.0,
        "exited": 0.0 if held else flows["exited"],
        "kept": flows["kept"] if held else 1.0,
    }
    return [values[name] for name in ACCOUNT_COLUMNS]
