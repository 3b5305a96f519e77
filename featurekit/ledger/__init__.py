"""Fills into the state of an account: one fill at a time, and beside the bars of a symbol."""

from __future__ import annotations

from featurekit.ledger.columns import ACCOUNT_COLUMNS
from featurekit.ledger.fill import Fill
from featurekit.ledger.frames import fills_outside
from featurekit.ledger.ledger import Ledger
from featurekit.ledger.live import LiveAccount
from featurekit.ledger.replay import AccountReplay
from featurekit.ledger.values import Account, Disagreement, Effect, Position

__all__ = [
    "ACCOUNT_COLUMNS",
    "Account",
    "AccountReplay",
    "Disagreement",
    "Effect",
    "Fill",
    "Ledger",
    "LiveAccount",
    "Position",
    "fills_outside",
]
