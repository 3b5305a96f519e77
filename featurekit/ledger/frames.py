"""Frames of fills: the checked fills of an account, and how many lie outside the bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl

from featurekit.errors import DataError, Problem, no_frame
from featurekit.ledger.fill import Fill, checked_fill

if TYPE_CHECKING:
    from featurekit.ledger.ledger import Scope

Visibility = Literal["next", "this"]

_REQUIRED = ("time", "symbol", "side", "quantity", "price", "fee")
_OPTIONAL = ("stop", "target", "realized_pnl")
_LISTED = 20
_TRADES = pl.col("side").is_in(["buy", "sell"])


def account_fills(frame: pl.DataFrame, symbol: str | None) -> list[Fill]:
    """The checked fills of one symbol's account, or with None of the portfolio.

    Raises:
        DataError: A column is missing, rows make no sense, or a deposit could be anyone's.
    """
    _check_columns(frame)
    rows = frame.select(
        pl.col("time").dt.epoch("ns"),
        *_REQUIRED[1:],
        *(
            name if name in frame.columns else pl.lit(None, pl.Float64).alias(name)
            for name in _OPTIONAL
        ),
    )
    if symbol is not None:
        rows = _rows_of(rows, symbol)
    fills: list[Fill] = []
    problems: list[Problem] = []
    for row in rows.rows():
        try:
            fills.append(checked_fill(*row, needs_symbol=symbol is not None))
        except DataError as error:  # noqa: PERF203 - all bad rows are named at once
            problems += error.problems
    if problems:
        hidden = len(problems) - _LISTED
        more = [Problem(f"and {hidden} more, listed by: featurekit.validate")] * (hidden > 0)
        raise DataError(*problems[:_LISTED], *more)
    return fills


def _check_columns(frame: pl.DataFrame) -> None:
    if not isinstance(frame, pl.DataFrame):
        raise no_frame("fills", frame)
    columns = ", ".join(frame.columns)
    problems = [
        Problem(
            f"the fills have no column {name!r}",
            expected=", ".join(_REQUIRED),
            got=columns,
            fix=f"fills = fills.with_columns({name}=...)",
        )
        for name in _REQUIRED
        if name not in frame.columns
    ]
    time = frame.schema.get("time", pl.Datetime("ns", "UTC"))
    if not isinstance(time, pl.Datetime) or not time.time_zone:
        problems.append(
            Problem(
                "the times of the fills have no time zone",
                expected="Datetime(time_unit='ns', time_zone='UTC')",
                got=str(time),
                fix='fills = fills.with_columns(pl.col("time").dt.replace_time_zone("UTC"))',
            )
        )
    if problems:
        raise DataError(*problems)


def _rows_of(rows: pl.DataFrame, symbol: str) -> pl.DataFrame:
    """The rows of one symbol; a deposit without a symbol belongs to the only one there is."""
    named = rows["symbol"].drop_nulls().unique().sort().to_list() or [symbol]
    nameless = pl.col("symbol").is_null() & ~_TRADES
    deposits = rows.filter(nameless).height
    if len(named) > 1 and deposits:
        raise DataError(
            Problem(
                "a deposit has no symbol, and every symbol has its own account",
                where=f"{deposits} of {rows.height} fills",
                expected="a symbol in every row, or one account for all",
                got=f"{len(named)} symbols: {', '.join(named[:5])}",
                fix="account: {scope: portfolio}",
            )
        )
    owner = pl.when(nameless).then(pl.lit(named[0])).otherwise("symbol").alias("symbol")
    return rows.with_columns(owner).filter(
        (pl.col("symbol") == symbol) | pl.col("symbol").is_null()
    )


def fills_outside(
    fills: pl.DataFrame,
    spans: pl.DataFrame,
    fill_at_close: Visibility = "next",
    *,
    scope: Scope = "symbol",
) -> pl.DataFrame:
    """Counts fills that lie outside the bars of their symbol.

    Deposits are of no bar: with `scope="symbol"` they need bars of their symbol all the same, whose
    account they move.

    Args:
        fills: Canonical fills.
        spans: `symbol`, `first` (when its first bar opens) and `last` (when its last bar closes).
        fill_at_close: As in `AccountReplay`.
        scope: As in `Ledger`.

    Returns:
        `symbol`, `fills`, `before` (stamped before the first bar) and `after` (which no bar sees),
        by symbol; `before` and `after` are null for a symbol without bars.

    Example:
        >>> from datetime import datetime, timezone
        >>> hours = [datetime(2024, 1, 2, hour, tzinfo=timezone.utc) for hour in (8, 12, 17)]
        >>> fills = pl.DataFrame({"time": hours, "symbol": "EURUSD", "side": "buy"})
        >>> spans = pl.DataFrame({"symbol": "EURUSD", "first": hours[1], "last": hours[2]})
        >>> fills_outside(fills, spans).row(0, named=True)
        {'symbol': 'EURUSD', 'fills': 3, 'before': 1, 'after': 1}
    """
    time, last = pl.col("time"), pl.col("last")
    unseen = time >= last if fill_at_close == "next" else time > last
    return (
        fills.filter(_TRADES | (pl.col("symbol").is_not_null() & (scope == "symbol")))
        .join(spans.with_columns(known=True), on="symbol", how="left")
        .group_by("symbol")
        .agg(
            pl.len().alias("fills"),
            (_TRADES & (time < pl.col("first"))).sum().alias("before"),
            (_TRADES & unseen).sum().alias("after"),
            pl.col("known").first(),
        )
        .select(
            "symbol",
            "fills",
            *(pl.when(pl.col("known")).then(name).alias(name) for name in ("before", "after")),
        )
        .sort("symbol")
    )
