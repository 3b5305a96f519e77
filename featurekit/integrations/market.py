"""The bars beside a dataset's rows, and its columns of the account, computed one bar at a time.

Axes: F features, A the columns of F that read the account, I inputs of their program.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.build import source_digest
from featurekit.engine import Program
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.ingest import ingest
from featurekit.inputs import pieces, symbol_spans
from featurekit.ledger import ACCOUNT_COLUMNS, Ledger, LiveAccount
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.column import Col
    from featurekit.dataset import Dataset

STEP = 1_024  # rows between two kept states: what a reset runs over at most


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """The bars of one symbol: `prices` `[n, 4]`, open to close, and when each closed in UTC ns.

    `inputs` `[n, I]` are those of the account's columns, for an account that never trades; `states`
    are the engine's before each bar of `starts`. The dataset's row `first + k` is bar
    `bar_of_row[k]`.
    """

    symbol: str
    prices: NDArray[np.float64]
    closes: NDArray[np.int64]
    inputs: NDArray[np.float64]
    starts: list[int]
    states: list[NDArray[np.float64]]
    bar_of_row: NDArray[np.int64]
    first: int


class Market:
    """A dataset's bars, read again, and the program of its columns of the account.

    Every environment of a process can share one; nothing in it changes.

    Args:
        dataset: Built by a pipeline with the position block, or another that reads the account.

    Raises:
        ConfigError: when no column of the dataset reads the account.
        DataError: when the bars or fills that the pipeline names are no longer those of the build.

    Example:
        >>> import tempfile
        >>> pipeline = Pipeline(name="own", bars={"sample": "eurusd_h1"}, blocks=["position"])
        >>> market = Market(pipeline.build(tempfile.mkdtemp()))
        >>> len(market.live), market.live[0], market.tapes["EURUSD"].prices.shape
        (27, 'position.side', (6225, 4))
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.pipeline = pipeline = _pipeline(dataset)
        live = {
            name: col for name, col in pipeline.definitions.items() if _reads_account(col, set())
        }
        if not live:
            raise ConfigError(
                Problem(
                    "no column of the dataset reads the account: an agent would not see its own",
                    where=str(dataset.path),
                    expected="the position block",
                    got=", ".join(dict.fromkeys(f.block for f in dataset.features)),
                    fix="blocks: [market: {}, position: {}, indicator: {}]",
                )
            )
        self.live = tuple(live)
        self.program = Program.compile(list(live.values()))
        places = [pipeline.columns.index(name) for name in live]
        contiguous = places == list(range(places[0], places[0] + len(places)))
        self.places = slice(places[0], places[-1] + 1) if contiguous else np.array(places)
        names = self.program.inputs
        self.account_places = np.array([k for k, n in enumerate(names) if n in ACCOUNT_COLUMNS])
        self.account_rows = [ACCOUNT_COLUMNS.index(names[k]) for k in self.account_places]
        self.tapes = self._read()

    def new_account(self, symbol: str) -> LiveAccount:
        """An account that never traded, as the pipeline's `account:` has it."""
        account = self.pipeline.account
        ledger = Ledger(account.cash, account.multiplier, account.leverage, account.scope)
        return LiveAccount(ledger, symbol)

    def untouched(
        self, tape: Tape, first: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Columns `[stop - first, A]` at bars of an account that never traded; the state after."""
        at = bisect_right(tape.starts, first) - 1
        start, state = tape.starts[at], tape.states[at].copy()
        rows = np.empty((stop - start, len(self.live)), np.float32)
        self.program.run_rows(state, np.ascontiguousarray(tape.inputs[start:stop].T), rows)
        return rows[first - start :], state

    def _read(self) -> dict[str, Tape]:
        manifest = self.dataset.manifest
        with tempfile.TemporaryDirectory(prefix="featurekit-") as scratch:
            data = ingest(
                self.pipeline,
                Path(scratch),
                on_bad="quarantine",
                tell=lambda what, done, rows: None,
            )
            found = source_digest(self.pipeline, data)
            if found != manifest.fingerprints.get("data"):
                raise DataError(
                    Problem(
                        "the bars or fills are no longer those that the dataset was built from",
                        where=f"{self.dataset.path}, of {self.pipeline.source}",
                        expected=f"values with the hash {manifest.fingerprints.get('data')}",
                        got=found,
                        fix=f"featurekit build PIPELINE --out {self.dataset.path}",
                    )
                )
            spans = {symbol: (at, n) for symbol, at, n in symbol_spans(data.bars)}
            return {
                symbol: self._tape(data.bars, (symbol, *spans[symbol]), first, stop)
                for symbol, first, stop in zip(
                    manifest.symbols,
                    manifest.symbol_starts[:-1].tolist(),
                    manifest.symbol_starts[1:].tolist(),
                    strict=True,
                )
            }

    def _tape(self, bars: pl.DataFrame, span: tuple[str, int, int], first: int, stop: int) -> Tape:
        symbol, at, n = span
        mine = bars.slice(at, n)
        table = self.pipeline.inputs(bars, span, None)
        wanted = [self.pipeline.program.inputs.index(name) for name in self.program.inputs]
        state = self.program.new_state()
        inputs = np.empty((n, len(wanted)))
        starts, states = [], []
        for start, end, fresh in pieces(n, STEP, self.pipeline.restarts(table.closes)):
            state = self.program.new_state() if fresh else state
            starts.append(start)
            states.append(state.copy())
            piece = table.read(start, end)[wanted]
            inputs[start:end] = piece.T
            self.program.run(state, piece)
        prices = mine.select(pl.col("open", "high", "low", "close").cast(pl.Float64)).to_numpy()
        stamps = mine["time"].dt.epoch("ns").to_numpy()
        return Tape(
            symbol=symbol,
            prices=np.ascontiguousarray(prices),
            closes=table.closes,
            inputs=inputs,
            starts=starts,
            states=states,
            bar_of_row=np.searchsorted(stamps, self.dataset.read(first, stop).time),
            first=first,
        )


def _pipeline(dataset: Dataset) -> Pipeline:
    if not dataset.manifest.pipeline:
        raise ConfigError(
            Problem(
                "the dataset does not say which pipeline made it",
                where=str(dataset.path),
                fix=f"featurekit build PIPELINE --out {dataset.path}",
            )
        )
    pipeline = Pipeline.from_yaml(dataset.manifest.pipeline)
    if tuple(pipeline.columns) != dataset.names:
        raise ConfigError(
            Problem(
                "the pipeline now makes other columns than the dataset has",
                where=str(dataset.path),
                expected=f"{len(dataset.names)} columns, as built",
                got=f"{len(pipeline.columns)} columns",
                fix=f"featurekit build PIPELINE --out {dataset.path}",
            )
        )
    return pipeline


def _reads_account(col: Col, known: set[int]) -> bool:
    """Whether a column depends on the account; columns that do not are noted in `known`."""
    if col.op == "input":
        return col.name in ACCOUNT_COLUMNS
    if id(col) in known:
        return False
    if any(_reads_account(arg, known) for arg in col.args):
        return True
    known.add(id(col))
    return False
