"""Subject: the pipeline and the part of the data that the proofs run on.

Axes: n rows of all symbols, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import polars as pl

from featurekit.build.parts import warmup_of
from featurekit.checks.result import Finding
from featurekit.errors import DataError, Problem
from featurekit.inputs import columns_of_bars, missing_columns, symbol_spans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from featurekit.pipeline import Pipeline

Prepare: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]
"""Adds the columns of its own that a pipeline reads to bars: from bars to bars of the same rows."""
Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""
How = Literal["cut off", "noise", "returns turned round", "NaN"]

PRICES = ("open", "high", "low", "close")
BARS = (*PRICES, "volume")
RANGE = {"high": 1.0, "low": -1.0}
SYMBOLS = 3
FEW = 200  # rows after the warm-up, of which a dataset has three splits
ROWS = 2_000  # after the longest memory
TOLERANCE = 1e-6  # of a column's standard deviation, as `memory` is computed for


@dataclass(frozen=True)
class Subject:
    """A pipeline and bars of some symbols, sorted by symbol and time, and their fills.

    With `prepare`, the bars are those before it. `given` are all bars as they came.
    """

    pipeline: Pipeline
    bars: pl.DataFrame
    fills: pl.DataFrame | None
    prepare: Prepare | None = None
    given: pl.DataFrame | None = None

    @cached_property
    def names(self) -> list[str]:
        """Of the features."""
        return self.pipeline.columns

    @cached_property
    def blocks(self) -> dict[str, str]:
        """The block of each feature."""
        return {feature.name: feature.block for feature in self.pipeline.features}

    @cached_property
    def inputs(self) -> list[str]:
        """Columns of the bars that the pipeline reads."""
        return columns_of_bars(self.pipeline.program.inputs)

    @cached_property
    def own(self) -> list[str]:
        """Those of them that no market brings: the user computed them."""
        return [name for name in self.inputs if name not in BARS]

    @cached_property
    def closes(self) -> NDArray[np.int64]:
        """UTC ns `[n]` at which each bar closes."""
        return self.pipeline.closes(self.bars)

    @cached_property
    def spans(self) -> list[tuple[str, int, int]]:
        """Symbol, first row and rows of each."""
        return symbol_spans(self.bars)

    @cached_property
    def prepared(self) -> pl.DataFrame:
        """The bars with the columns of `prepare`."""
        return self.with_own(self.bars)

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """The features `[n, F]` as the pipeline gives them."""
        return self.table(self.prepared, self.fills)

    @property
    def builds(self) -> bool:
        """Whether datasets can be built of these bars, and of a part of them."""
        enough = max(count for _, _, count in self.spans) > warmup_of(self.pipeline) + FEW
        return self.pipeline.bars is not None and enough

    @cached_property
    def of_account(self) -> NDArray[np.bool_]:
        """Which columns `[F]` depend on the fills."""
        if self.fills is None:
            return np.zeros(len(self.names), bool)
        found: NDArray[np.bool_] = np.any(apart(self.rows, self.table(self.prepared, None)), axis=0)
        return found

    @cached_property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation `[F]` of what is finite; 0 of a constant."""
        rows = np.where(np.isfinite(self.rows), self.rows, np.nan).astype(np.float64)
        known = np.isfinite(rows).any(0)
        found = np.zeros(rows.shape[1])
        found[known] = np.nanstd(rows[:, known], axis=0)
        return found

    def with_own(self, bars: pl.DataFrame) -> pl.DataFrame:
        """What `prepare` makes of bars.

        Raises:
            DataError: when it raises, or gives other rows back.
        """
        if self.prepare is None:
            return bars
        try:
            made = self.prepare(bars)
            keys = ["symbol", "time"]
            same = isinstance(made, pl.DataFrame) and made.select(keys).equals(bars.select(keys))
            got = f"{made.height} rows" if isinstance(made, pl.DataFrame) else type(made).__name__
        except (Exception, SystemExit) as error:  # whatever a user's function raises is told
            same, got = False, f"{type(error).__name__}: {error}"[:200]
        if not same:
            raise DataError(
                Problem(
                    "prepare must give the same bars with columns more",
                    where=getattr(self.prepare, "__name__", repr(self.prepare)),
                    expected=f"{bars.height} rows of the same symbols and times",
                    got=got,
                    fix="return bars.with_columns(...)",
                )
            )
        return made

    def table(
        self,
        bars: pl.DataFrame,
        fills: pl.DataFrame | None,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> NDArray[Any]:
        """The features `[n, F]` of prepared bars."""
        return self.pipeline.transform(bars, fills, dtype=dtype).drop("symbol", "time").to_numpy()

    def one(self, symbol: str) -> Subject:
        """The same with the bars and fills of one symbol."""
        mine = pl.col("symbol") == symbol
        fills = None if self.fills is None else self.fills.filter(mine)
        return replace(self, bars=self.bars.filter(mine), fills=fills)

    def other_future(
        self, cut: int, how: How, seed: int = 0
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Bars and fills of which those after the close `cut` are others."""
        later = pl.Series(self.closes > cut)
        fills = self._other_fills(cut, how)
        if how == "cut off":
            return self.bars.filter(~later), fills
        numbers = [name for name, kind in self.bars.schema.items() if kind.is_numeric()]
        changed: dict[str, NDArray[Any]] = {}
        at = later.to_numpy()
        values = {name: self.bars[name].cast(pl.Float64).to_numpy().copy() for name in numbers}
        if how == "NaN":
            for name in numbers:
                values[name][at] = np.nan
        elif how == "noise":
            rng = np.random.default_rng(seed)
            level = np.exp(rng.normal(0.0, 0.02, at.sum()).cumsum() + rng.normal(0.0, 0.05))
            wider = np.abs(rng.normal(0.0, 0.01, at.sum()))
            for name in numbers:
                old = values[name][at]
                if name in PRICES:  # another range too: a flag of it would be the same else
                    values[name][at] = old * level * np.exp(RANGE.get(name, 0.0) * wider)
                elif name == "volume":
                    values[name][at] = old * rng.lognormal(0.0, 0.5, len(old)) + 1.0
                else:
                    values[name][at] = old + rng.normal(0.0, np.nanstd(old) or 1.0, len(old))
        else:
            self._turn(values, at)
        changed = {name: column for name, column in values.items() if at.any()}
        return self.bars.with_columns(pl.Series(n, c) for n, c in changed.items()), fills

    def _turn(self, values: Mapping[str, NDArray[Any]], at: NDArray[np.bool_]) -> None:
        """Mirrors prices after the cut at the last close before it: each return turns its sign."""
        for _, first, count in self.spans:
            part = slice(first, first + count)
            known = count - int(at[part].sum())
            if 0 < known < count and all(name in values for name in PRICES):
                pivot = values["close"][first + known - 1]
                after = slice(first + known, first + count)
                for name in PRICES:
                    values[name][after] = pivot * pivot / values[name][after]
                high, low = values["low"][after].copy(), values["high"][after].copy()
                values["high"][after], values["low"][after] = high, low

    def _other_fills(self, cut: int, how: How) -> pl.DataFrame | None:
        """Fills of which those that no bar may show by `cut` are left out, or turned round."""
        if self.fills is None:
            return None
        time = pl.col("time").dt.epoch("ns")
        later = time >= cut if self.pipeline.account.fill_at_close == "next" else time > cut
        if how in ("cut off", "NaN"):
            return self.fills.filter(~later)
        side = pl.when(pl.col("side") == "buy").then(pl.lit("sell")).otherwise(pl.lit("buy"))
        kind = self.fills.schema["side"]
        return self.fills.with_columns(
            pl.when(later).then(side.cast(kind)).otherwise("side").alias("side"),
            pl.when(later).then(pl.col("quantity") * 2).otherwise("quantity").alias("quantity"),
        )

    def finding(
        self,
        proof: str,
        column: str,
        row: int | None,
        what: str,
        **more: Any,  # noqa: ANN401
    ) -> Finding:
        """A finding about a column at a row."""
        symbol, time = "", ""
        if row is not None:
            symbol = str(self.bars["symbol"][row])
            time = f"{self.bars['time'][row]:%Y-%m-%dT%H:%M:%SZ}"
        told = {"severity": "fail", "expected": "", "got": "", "fix": "", **more}
        block = self.blocks.get(column, "")
        return Finding(
            proof, column=column, block=block, symbol=symbol, time=time, what=what, **told
        )


def subject_of(
    pipeline: Pipeline,
    bars: pl.DataFrame,
    fills: pl.DataFrame | None,
    prepare: Prepare | None,
    thorough: bool,
) -> Subject:
    """All of the data, or a part of it that is quick to prove things on: the first rows.

    An account is known from its start: it cannot be proved on later rows alone.

    Raises:
        DataError: when the bars cannot be used, or none is left.
    """
    bars = given = bars.with_columns(pl.col("symbol").cast(pl.String))
    if fills is not None:
        fills = fills.with_columns(pl.col("symbol").cast(pl.String))
    spans = symbol_spans(bars)
    if not spans:
        raise DataError(Problem("there are no bars to prove anything on", expected="bars"))
    if not thorough:
        longest = sorted(spans, key=lambda span: -span[2])
        places = np.linspace(0, len(longest) - 1, min(SYMBOLS, len(longest))).astype(int)
        chosen = sorted(longest[at] for at in places)
        most = pipeline.memory + ROWS
        bars = pl.concat(bars.slice(first, min(n, most)) for _, first, n in chosen)
        if fills is not None:
            fills = _up_to(fills, bars, pipeline)
    if prepare is not None:
        bars, given = _before(prepare, bars, pipeline, given)
    subject = Subject(pipeline, bars, fills, prepare, given)
    if problems := missing_columns(pipeline.program.inputs, subject.prepared):
        raise DataError(*problems)
    if prepare is not None:
        _check_same_again(subject)
    return subject


def _before(
    prepare: Prepare, bars: pl.DataFrame, pipeline: Pipeline, given: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars without what `prepare` makes: that is made again, of the bars before it.

    It may read columns that a file has besides: as few are taken for its own as it can do with.
    """
    extra = [name for name in bars.columns if name not in ("symbol", "time", *BARS)]
    read = [name for name in extra if name in columns_of_bars(pipeline.program.inputs)]
    for without in (extra, read):
        try:
            made = Subject(pipeline, bars.drop(without), None, prepare).prepared.columns
        except DataError:
            continue
        gone = [name for name in without if name in made]
        return bars.drop(gone), given.drop(gone)
    return bars, given


def _check_same_again(subject: Subject) -> None:
    """Refuses what is another each time: no change of it would prove anything.

    Raises:
        DataError: naming the first such column.
    """
    again = subject.with_own(subject.bars)
    for name in subject.prepared.columns:
        if not subject.prepared[name].equals(again[name], null_equal=True):
            raise DataError(
                Problem(
                    f"prepare gives other values of {name} each time",
                    where=getattr(subject.prepare, "__name__", repr(subject.prepare)),
                    expected="the same columns of the same bars",
                    got="others when it was called again",
                    fix="rng = np.random.default_rng(0)   # within the function",
                )
            )


def _up_to(fills: pl.DataFrame, bars: pl.DataFrame, pipeline: Pipeline) -> pl.DataFrame:
    """Fills of the symbols of bars, up to the last close of each."""
    ends = (
        bars.select("symbol", pl.Series("end", pipeline.closes(bars)))
        .group_by("symbol")
        .agg(pl.col("end").max())
    )
    time = pl.col("time").dt.epoch("ns")
    return (
        fills.join(ends, on="symbol", how="inner", maintain_order="left")
        .filter(time <= pl.col("end"))
        .drop("end")
    )


def apart(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays are not the same values; NaN is NaN."""
    differ: NDArray[np.bool_] = ~((a == b) | ((a != a) & (b != b)))
    return differ
