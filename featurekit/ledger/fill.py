"""One row of the fills, checked: what makes no sense never reaches the ledger."""

from __future__ import annotations

import operator
from datetime import datetime, timedelta, timezone
from math import isfinite, nan
from typing import NamedTuple

from featurekit.errors import DataError, Problem

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST_TIME = 2**63 - 1


class Fill(NamedTuple):
    """A fill, an order update (quantity 0) or a deposit; `time` is in ns since 1970 UTC."""

    time: int
    symbol: str
    side: str
    quantity: float
    price: float
    fee: float
    stop: float | None
    target: float | None
    realized_pnl: float | None

    @property
    def trades(self) -> bool:
        """Whether it is about a position: a fill or an order update."""
        return self.side in ("buy", "sell")


def checked_fill(
    time: datetime | int,
    symbol: str | None,
    side: str,
    quantity: float,
    price: float | None,
    fee: float,
    stop: float | None,
    target: float | None,
    realized_pnl: float | None,
    *,
    needs_symbol: bool,
) -> Fill:
    """The row in plain numbers; an order update and a deposit have price 0.

    Raises:
        DataError: The row makes no sense; every reason at once.
    """
    moment, size, cost = _nanoseconds(time), number(quantity), number(fee)
    trades = side in ("buy", "sell")
    paid = number(price) if trades and size else 0.0
    optional = {"stop": stop, "target": target, "realized_pnl": realized_pnl}
    wrong: list[tuple[str, str, object, str]] = []
    if moment is None:
        expected = "a datetime with a time zone, or ns since 1970 UTC"
        fix = "time=datetime(2024, 1, 2, 10, 0, tzinfo=timezone.utc)"
        wrong.append(("no usable time", expected, time, fix))
    if not trades and side not in ("deposit", "withdraw"):
        wrong.append(("an unknown side", "buy, sell, deposit or withdraw", side, 'side="buy"'))
    if not isinstance(symbol, str | None) or (not symbol and (trades or needs_symbol)):
        wrong.append(("no symbol", "the name of a symbol", symbol, 'symbol="EURUSD"'))
    if not isfinite(size):
        wrong.append(("no usable quantity", "a finite number", quantity, "quantity=1.0"))
    elif size < 0:
        fix = f'side="{"buy" if side == "sell" else "sell"}", quantity={-size}'
        wrong.append(("a negative quantity", "the direction in its side", quantity, fix))
    if not isfinite(paid):
        wrong.append(("no usable price", "a finite number", price, "price=1.25"))
    if not isfinite(cost):
        wrong.append(("no usable fee", "a finite number, positive is a cost", fee, "fee=0.0"))
    for name, value in optional.items():
        if value is not None and not isfinite(number(value)):
            expected = "a finite number, or None where the source has none"
            wrong.append((f"no usable {name}", expected, value, f"{name}=None"))
    if wrong or moment is None:
        where = f"{symbol or 'account'}, {time if moment is None else timestamp(moment)}"
        raise DataError(
            *(
                Problem(f"a fill has {what}", where, expected, repr(got), fix)
                for what, expected, got, fix in wrong
            )
        )
    levels = (None if value is None else float(value) for value in optional.values())
    return Fill(moment, symbol or "", side, size, paid, cost, *levels)


def timestamp(moment: int) -> str:
    """Nanoseconds since 1970 UTC as people write them."""
    return (_EPOCH + timedelta(microseconds=moment // 1000)).isoformat(sep=" ")


def _nanoseconds(time: datetime | int) -> int | None:
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            return None
        since = time - _EPOCH
        return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    try:
        moment = operator.index(time)
    except TypeError:
        return None
    return moment if abs(moment) <= _LAST_TIME else None


def number(value: float | None) -> float:
    """The value in float64; NaN where it is not a number."""
    try:
        return float(value)  # type: ignore[arg-type]  # None is caught like any other non-number
    except (TypeError, ValueError):
        return nan
