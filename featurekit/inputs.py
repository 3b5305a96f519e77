"""InputTable: the rows that a program reads, bars, clock and account side by side."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.clock import Clock, is_clock
from featurekit.errors import DataError, Problem, no_frame
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


def symbol_spans(bars: pl.DataFrame) -> list[tuple[str, int, int]]:
    """Symbol, first row and number of rows of each run of one symbol, in order.

    Raises:
        DataError: when `symbol` or `time` is missing or null, or a symbol's bars lie apart.
    """
    if not isinstance(bars, pl.DataFrame):
        raise no_frame("bars", bars)
    missing = [name for name in ("symbol", "time") if name not in bars.columns]
    if missing:
        raise DataError(
            Problem(
                "bars have no column " + " and no column ".join(missing),
                expected="symbol, time, open, high, low, close, volume",
                got=", ".join(bars.columns),
                fix='bars = fk.sources.read_bars(path, timezone="UTC")',
            )
        )
    if not isinstance(bars.schema["time"], pl.Datetime) or bars.schema["time"].time_zone is None:
        raise DataError(
            Problem(
                "the times of the bars are not in UTC",
                where="column time",
                expected='Datetime("ns", "UTC")',
                got=str(bars.schema["time"]),
                fix='bars.with_columns(pl.col("time").dt.replace_time_zone("UTC"))',
            )
        )
    nulls = {name: bars[name].null_count() for name in ("symbol", "time")}
    if any(nulls.values()):
        raise DataError(
            *(
                Problem(
                    f"{count} bars have no {name}",
                    where=f"column {name}",
                    expected=f"a {name} in every row",
                    got=f"null in row {bars[name].is_null().arg_max()}, counted from 0",
                    fix=f'bars = bars.drop_nulls("{name}")',
                )
                for name, count in nulls.items()
                if count
            )
        )
    if bars.is_empty():
        return []
    runs = bars.select(pl.col("symbol").rle().alias("run")).unnest("run")
    names = runs["value"].cast(pl.String).to_list()
    rows = runs["len"].to_numpy().astype(np.int64)
    if len(set(names)) != len(names):
        raise DataError(
            Problem(
                "the bars of a symbol lie apart",
                expected="bars sorted by symbol, then by time",
                got=f"{next(n for n in names if names.count(n) > 1)} in more than one run",
                fix='bars = bars.sort("symbol", "time")',
            )
        )
    firsts = np.concatenate([[0], np.cumsum(rows)[:-1]])
    return [(n, int(at), int(k)) for n, at, k in zip(names, firsts, rows, strict=True)]


def columns_of_bars(names: Iterable[str]) -> list[str]:
    """Of the inputs of a program, those that are columns of the bars."""
    return [name for name in names if name not in ACCOUNT_COLUMNS and not is_clock(name)]


def missing_columns(names: Iterable[str], bars: pl.DataFrame) -> list[Problem]:
    """A problem for each input that the bars do not have, or not as numbers."""
    return [
        Problem(
            f"bars have no column {name!r} of numbers, which a block reads",
            where="bars",
            expected=", ".join(columns_of_bars(names)),
            got=", ".join(f"{c} {t}" for c, t in bars.schema.items()),
            fix=f"columns: {{{name}: its name in the file}}",
        )
        for name in columns_of_bars(names)
        if name not in bars.columns or not bars.schema[name].is_numeric()
    ]


class InputTable:
    """The inputs of one symbol's rows, read in order, a piece at a time.

    Args:
        names: The input columns wanted, in order.
        bars: Bars of one symbol.
        closes: UTC ns at which each bar closed.
        zone: The exchange's time zone, for the clock.
        replay: The account beside these bars.

    Raises:
        DataError: when a column is missing or is no number, or times do not increase.
    """

    def __init__(
        self,
        names: Sequence[str],
        bars: pl.DataFrame,
        closes: NDArray[np.int64],
        zone: str,
        replay: AccountReplay,
    ) -> None:
        self.closes, self.replay, self._clock = closes, replay, Clock(names, zone)
        self._places = {name: at for at, name in enumerate(names)}
        self._read = 0
        symbol = bars["symbol"][0] if bars.height else ""
        self._bars: dict[str, NDArray[np.float64]] = {}
        problems = missing_columns(names, bars)
        for name in [] if problems else columns_of_bars(names):
            values = bars[name].cast(pl.Float64).rechunk()
            self._bars[name] = (
                values if not values.null_count() else values.fill_null(np.nan)
            ).to_numpy()
        back = np.flatnonzero(np.diff(closes) <= 0)
        if back.size:
            at = int(back[0]) + 1
            problems.append(
                Problem(
                    "times do not increase",
                    where=f"symbol {symbol}, bar {at}, {bars['time'][at]}",
                    expected=f"after {bars['time'][at - 1]}",
                    got=f"{back.size} such bars",
                    fix='bars = bars.unique(["symbol", "time"]).sort("symbol", "time")',
                )
            )
        if problems:
            raise DataError(*problems)

    def __len__(self) -> int:
        return len(self.closes)

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Inputs [n_inputs, stop - start] of the next rows; the account must be read in order."""
        if start != self._read:
            raise ValueError(f"rows are read in order: {self._read} is next, not {start}")
        self._read = stop
        closes = self.closes[start:stop]
        inputs = np.empty((len(self._places), stop - start))
        for name, values in self._bars.items():
            inputs[self._places[name]] = values[start:stop]
        self._put(inputs, self._clock.columns(closes))
        if not self._places.keys().isdisjoint(ACCOUNT_COLUMNS):
            account = self.replay.columns(closes)
            self._put(inputs, dict(zip(ACCOUNT_COLUMNS, account, strict=True)))
        return inputs

    def _put(self, inputs: NDArray[np.float64], columns: Mapping[str, NDArray[np.float64]]) -> None:
        for name, values in columns.items():
            if name in self._places:
                inputs[self._places[name]] = values


def pieces(rows: int, size: int, restarts: Sequence[int] = ()) -> Iterator[tuple[int, int, bool]]:
    """Start and stop of each piece of at most `size` rows, and whether features start afresh.

    Pieces lie on a grid from row 0 on, so that everything summed up by piece is summed up the
    same however the rows are dealt out.

    Example:
        >>> list(pieces(5, 2, restarts=[3]))
        [(0, 2, True), (2, 3, False), (3, 4, True), (4, 5, False)]
    """
    cuts = sorted({*range(0, rows, size), *restarts, rows})
    fresh = {0, *restarts}
    for start, stop in itertools.pairwise(cuts):
        yield start, stop, start in fresh
