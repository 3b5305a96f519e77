"""Fills into the state of an account: one fill at a time, and beside the bars of a symbol."""

from __future__ import annotations

from featurekit.ledger.frames import fills_outside
from featurekit.ledger.ledger import Ledger
from featurekit.ledger.replay import ACCOUNT_COLUMNS, AccountReplay
from featurekit.ledger.values import Account, Disagreement, Effect, Position

__all__ = [
    "ACCOUNT_COLUMNS",
    "Account",
    "AccountReplay",
    "Disagreement",
    "Effect",
    "Ledger",
    "Position",
    "fills_outside",
]
