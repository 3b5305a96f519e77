"""Rows: each symbol computed a piece at a time, profiled and written while that is in cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.dataset.digests import PIECE
from featurekit.inputs import InputTable, pieces
from featurekit.ledger import AccountReplay
from featurekit.sample import row_keys
from featurekit.timeline import duration, forward, segment_starts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.build.changes import Changes, Step
    from featurekit.build.fills import Fills
    from featurekit.build.saved import Saved
    from featurekit.cells import ProfileGrid
    from featurekit.conditions import Conditions
    from featurekit.dataset import Dataset, DatasetWriter
    from featurekit.pipeline import Pipeline


class RowMaker:
    """Makes the rows of symbols one after another, and what is saved of each.

    Pieces lie on one grid whatever is there already, so that everything summed up by piece is
    summed up as if every row had been computed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        bars: pl.DataFrame,
        fills: Fills,
        changes: Changes,
        base: Dataset | None,
        *,
        warmup: int,
        cuts: tuple[int, int],
        slices: Conditions,
    ) -> None:
        self._pipeline, self._bars, self._fills = pipeline, bars, fills
        self._changes, self._base = changes, base
        self._warmup, self._cuts, self._slices = warmup, np.array(cuts), slices
        self._block = np.empty((PIECE, len(pipeline.columns)), np.float32)

    def run(
        self, step: Step, writer: DatasetWriter, grid: ProfileGrid, tell: Callable[[int], None]
    ) -> Saved:
        """Profiles every row of a symbol, and writes those that are not kept; tells bars done."""
        part, planned, known = step.part, step.planned, step.known
        bars = self._bars.slice(part.first, part.bars)
        stamps = bars["time"].dt.epoch("ns").to_numpy()
        table = self._inputs(step) if step.computed else None
        targets = self._targets(bars, stamps) if planned.kept < planned.rows else None
        number, row = writer.first_number(part.symbol), 0
        state = (
            self._pipeline.program.new_state() if step.saved is None else step.saved.engine.copy()
        )
        for start, stop, fresh in pieces(part.bars, PIECE, part.restarts):
            if fresh:
                since = start
                if start >= known:
                    state = self._pipeline.program.new_state()
            block = self._block[: stop - start]
            computed = min(max(known - start, 0), len(block))  # before, rows are there already
            if table is not None and computed < len(block):
                at = start + computed - known
                inputs = table.read(at, stop - known)
                self._pipeline.program.run_rows(state, inputs, block[computed:])
            skip = min(max(since + self._warmup - start, 0), len(block))
            kept, when = block[skip:], stamps[start + skip : stop]
            if not len(kept):
                continue
            if there := max(computed - skip, 0):
                kept[:there] = self._known_rows(part.symbol, row, row + there)
            split = np.searchsorted(self._cuts, when, side="right")
            numbers = np.arange(number + row, number + row + len(kept))
            keys = row_keys(part.symbol, when)
            grid.update(kept, split, self._slices.of(kept), when, keys, numbers)
            first = max(planned.first - row, 0)
            if targets is not None and first < len(kept):
                ahead = targets[start + skip + first : stop]
                writer.write(part.symbol, when[first:], kept[first:], ahead)
            row += len(kept)
            tell(stop)
        if step.saved is not None and table is None:
            return step.saved
        assert table is not None  # noqa: S101  # bars were computed, or known from before
        account = table.replay.state()
        account["queue"]["fills"] = []  # they are in the file, where they may still be changed
        return self._changes.saved(step, account, state)

    def _known_rows(self, symbol: str, first: int, stop: int) -> NDArray[np.float32]:
        """Rows of a symbol that the generation before has."""
        assert self._base is not None  # noqa: S101  # or nothing would be known
        begin = int(self._base.manifest.symbol_starts[self._base.symbols.index(symbol)])
        return self._base.read(begin + first, begin + stop).features

    def _inputs(self, step: Step) -> InputTable:
        part, pipeline = step.part, self._pipeline
        fills = self._fills.of(part.symbol)
        if step.saved is None:
            return pipeline.inputs(self._bars, (part.symbol, part.first, part.bars), fills)
        replay = AccountReplay.from_state(step.saved.account)
        later = None if fills is None else fills.slice(step.saved.fills)
        replay.add(later, self._changes.later_closes(part.symbol))
        mine = self._bars.slice(part.first + step.known, step.computed)
        zone = pipeline.bars.exchange_timezone if pipeline.bars else "UTC"
        names = pipeline.program.inputs
        return InputTable(names, mine, pipeline.closes(mine), zone, replay)

    def _targets(self, bars: pl.DataFrame, stamps: NDArray[np.int64]) -> NDArray[np.float32]:
        """Targets [bars, K]; they never reach across a segment."""
        targets = self._pipeline.targets.values()
        starts = segment_starts(stamps, duration(self._pipeline.segments.max_gap))
        close = bars["close"].cast(pl.Float64).to_numpy() if targets else np.empty(0)
        columns = [forward(close, starts, t.kind, t.horizon) for t in targets]
        return np.column_stack(columns) if columns else np.empty((bars.height, 0), np.float32)
