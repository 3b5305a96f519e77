"""Parts: the bars of each symbol, and which of their rows the dataset has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.inputs import missing_columns, symbol_spans
from featurekit.ledger import Ledger
from featurekit.timeline import instant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from featurekit.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Part:
    """The bars of one symbol: where they lie, where features start afresh, what is kept."""

    symbol: str
    first: int
    bars: int
    restarts: list[int]
    rows: int  # of the dataset: without those of the warm-up

    def since(self, warmup: int) -> int:
        """The number of its first bar that is a row of the dataset."""
        starts = self.restarts or [0]
        stops = [*starts[1:], self.bars]
        pairs = zip(starts, stops, strict=True)
        return next(start + warmup for start, stop in pairs if stop - start > warmup)


def parts_of(pipeline: Pipeline, bars: pl.DataFrame, warmup: int) -> tuple[list[Part], list[str]]:
    """The symbols that have rows after the warm-up, and a note on those that have none.

    Raises:
        DataError: when there is none, or an input of the columns is missing.
    """
    spans = symbol_spans(bars)
    _check_inputs(pipeline, bars, [symbol for symbol, _, _ in spans])
    parts, short = [], []
    for symbol, first, count in spans:
        restarts = pipeline.restarts(pipeline.closes(bars.slice(first, count)))
        stretches = np.diff([*(restarts or [0]), count])
        rows = int(np.maximum(stretches - warmup, 0).sum())
        if rows:
            parts.append(Part(symbol, first, count, restarts, rows))
        else:
            short.append(f"{symbol} ({stretches.max()})")
    if not parts:
        least = max(feature.lookback for feature in pipeline.features)
        raise DataError(
            Problem(
                "no symbol has more bars than the warm-up",
                where=pipeline.source,
                expected=f"more than {warmup} bars: from there on the start of the history no "
                "longer matters",
                got=", ".join(short[:10]),
                fix=f"bars of more than {warmup} rows"
                if pipeline.warmup == "lookback"
                else f"warmup: lookback   # {least} bars, the first value of every column",
            )
        )
    notes = []
    if short:
        notes.append(f"{len(short)} symbols are shorter than the warm-up: " + ", ".join(short[:10]))
    return parts, notes


def _check_inputs(pipeline: Pipeline, bars: pl.DataFrame, symbols: Sequence[str]) -> None:
    """Refuses before anything is written what the first row of a symbol would be refused for."""
    problems = missing_columns(pipeline.program.inputs, bars)
    account = pipeline.account
    ledger = Ledger(account.cash, account.multiplier, account.leverage, account.scope)
    for symbol in symbols:
        try:
            ledger.multiplier(symbol)
        except ConfigError as error:  # noqa: PERF203  # all symbols are named at once
            problems += [replace(it, where=pipeline.source) for it in error.problems]
    if problems:
        raise DataError(*problems)


def warmup_of(pipeline: Pipeline) -> int:
    """Bars at the start of a history that are no rows of the dataset."""
    if pipeline.warmup == "memory":
        return pipeline.memory
    return max(feature.lookback for feature in pipeline.features)


def cuts_of(pipeline: Pipeline, times: NDArray[np.int64]) -> tuple[int, int]:
    """UTC ns at which validation and test start: quantiles of the unique times, or dates."""
    splits = pipeline.splits
    if isinstance(splits.validation, str) and isinstance(splits.test, str):
        return instant(splits.validation), instant(splits.test)  # in this order, as was checked
    shares = (1.0 - float(splits.validation) - float(splits.test), 1.0 - float(splits.test))
    last = int(times[-1]) + 1
    first, second = (
        int(times[at]) if (at := round(share * len(times))) < len(times) else last
        for share in shares
    )
    return first, second
