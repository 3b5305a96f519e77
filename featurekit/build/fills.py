"""The fills of each symbol's account, and how many of them its bars have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from featurekit.pipeline import Pipeline


class Fills:
    """Fills in order of time, dealt out to the symbols whose account they move.

    A portfolio is one account: all of them move it, whatever symbol is looked at.
    """

    def __init__(self, pipeline: Pipeline, fills: pl.DataFrame | None) -> None:
        self._strictly = pipeline.account.fill_at_close == "next"
        self._all = fills
        self._of: dict[str, pl.DataFrame] | None = None
        if fills is None or pipeline.account.scope == "portfolio":
            return
        named = fills["symbol"].drop_nulls().unique().to_list()
        if fills["symbol"].null_count() and len(named) == 1:  # a deposit is the only symbol's
            fills = fills.with_columns(pl.col("symbol").fill_null(named[0]))
        if not fills["symbol"].null_count():
            parts = fills.partition_by("symbol", as_dict=True, maintain_order=True)
            self._of = {str(symbol): part for (symbol,), part in parts.items()}

    def of(self, symbol: str) -> pl.DataFrame | None:
        """Those that move the account of a symbol, or None."""
        return self._all if self._of is None else self._of.get(symbol)

    def seen(self, symbol: str, close: int) -> int:
        """How many of them a bar of the symbol that closes at UTC ns has seen."""
        fills = self.of(symbol)
        if fills is None:
            return 0
        times = fills["time"].dt.epoch("ns")
        return int(times.search_sorted(close, "left" if self._strictly else "right"))
