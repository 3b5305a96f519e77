"""Replay: rows as a stream gave them, against the same rows computed again in one go."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from featurekit.errors import DataError, Problem
from featurekit.ingest import ingest
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.dataset import Dataset
    from featurekit.sections import Bars, Fills

KEYS = ["symbol", "time"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same; `ulps` counts the float32 from one to the other."""

    symbol: str
    time: str
    feature: str
    block: str
    live: float | None
    batch: float | None
    ulps: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a feed has in common with the rows of its bars; `same` if there is nothing else.

    `unknown` are rows of the feed that have no bar, `missing` bars between the first and the last
    row of a symbol that the feed lacks. `differing` counts values by feature.
    """

    rows: int
    symbols: int
    of_symbols: int
    features: int
    differing: dict[str, int]
    differing_rows: int
    first: Difference | None
    unknown: int
    first_unknown: str
    missing: int
    first_missing: str
    why: str

    @property
    def same(self) -> bool:
        """Whether every row of the feed is the one of its bar, bit for bit, and none is missing."""
        return not (self.first or self.unknown or self.missing)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"same": self.same, **asdict(self)}


def replay(
    dataset: Dataset,
    feed: pl.DataFrame,
    *,
    bars: str | Path | None = None,
    fills: str | Path | None = None,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Replay:
    """Computes the rows of a feed again with the dataset's pipeline, and compares them bit by bit.

    A feed has the columns symbol, time (the stamp of the bar), and the features as float32. It is
    what a stream gave, row by row:

    ```python
    row = stream.update(bar)
    feed.append(bar.select("symbol", "time").with_columns(
        pl.Series(name, row[:, k]) for k, name in enumerate(pipeline.columns)))
    ```

    Args:
        dataset: Whose pipeline, bars and fills these are.
        feed: Rows as a stream gave them.
        bars: A file in place of the pipeline's bars, read in the same way.
        fills: A file in place of the pipeline's fills.
        tell: Told of what is done: what, how much of it, of how much.

    Raises:
        DataError: when the feed is none of this dataset, or bars or fills cannot be used.
    """
    pipeline = _of(dataset, bars, fills)
    live = _checked(feed, pipeline)
    with tempfile.TemporaryDirectory(prefix="featurekit-") as scratch:
        aside = any((dataset.generation / "quarantine").glob("*.parquet"))
        on_bad: Literal["fail", "quarantine"] = "quarantine" if aside else "fail"  # as it was built
        data = ingest(pipeline, Path(scratch), on_bad=on_bad, tell=tell)
        wanted = live["symbol"].unique().to_list()
        mine = data.bars.filter(pl.col("symbol").cast(pl.String).is_in(wanted))
        if pipeline.account.scope == "portfolio":
            mine = data.bars  # an account of them all
        tell("computing again", 0, 1)
        batch = pipeline.transform(mine, data.fills)
        tell("computing again", 1, 1)
    return _compared(live, batch, pipeline, len(dataset.symbols))


def _of(dataset: Dataset, bars: str | Path | None, fills: str | Path | None) -> Pipeline:
    pipeline = Pipeline.from_yaml(dataset.manifest.pipeline)
    document = pipeline.document()
    if bars is not None and pipeline.bars is not None:
        document["bars"] = {**_section(pipeline.bars), "path": str(bars)}
    if fills is not None:
        known = {} if pipeline.fills is None else _section(pipeline.fills)
        document["fills"] = {**known, "path": str(fills)}
    return Pipeline(**document)


def _section(section: Bars | Fills) -> dict[str, Any]:
    """How a file is to be read, as the pipeline says, or its sample."""
    return {name: value for name, value in asdict(section).items() if name != "sample" and value}


def _checked(feed: pl.DataFrame, pipeline: Pipeline) -> pl.DataFrame:
    """The feed, if it can be compared: keys that are unique, and every feature as float32."""
    kinds = feed.schema
    lacking = [name for name in [*KEYS, *pipeline.columns] if name not in kinds]
    wrong = [
        f"{name} {kinds[name]}"
        for name in pipeline.columns
        if name in kinds and kinds[name] != pl.Float32
    ]
    problems = []
    if lacking:
        problems.append(
            Problem(
                f"the feed lacks {len(lacking)} columns",
                expected="symbol, time and every feature of the dataset",
                got="no " + ", ".join(lacking[:5]),
                fix="write all of stream.update(bars), named by pipeline.columns",
            )
        )
    if wrong:
        problems.append(
            Problem(
                "the features of a feed are float32, as a stream gives them",
                expected="Float32",
                got=", ".join(wrong[:5]),
                fix="pl.Series(name, rows[:, k])   # without a cast",
            )
        )
    if not lacking and not isinstance(kinds["time"], pl.Datetime):
        problems.append(
            Problem(
                "the times of the feed are no times",
                where="column time",
                expected='Datetime("ns", "UTC"), the stamps of the bars',
                got=str(kinds["time"]),
                fix='bar.select("symbol", "time")',
            )
        )
    if not lacking and feed.is_empty():
        problems.append(Problem("the feed has no rows", expected="one row or more", got="none"))
    if problems:
        raise DataError(*problems)
    zone = getattr(kinds["time"], "time_zone", None)
    time = pl.col("time") if zone else pl.col("time").dt.replace_time_zone("UTC")
    live = feed.select(
        pl.col("symbol").cast(pl.String),
        time.dt.convert_time_zone("UTC").cast(pl.Datetime("ns", "UTC"), strict=False),
        *pipeline.columns,
    )
    none = live.filter(pl.any_horizontal(pl.col(KEYS).is_null()))
    if none.height:
        raise DataError(
            Problem(
                "rows of the feed have no symbol, or no time that ns can count",
                expected="the symbol and the stamp of a bar in every row",
                got=f"{none.height} rows without",
                fix='feed.drop_nulls(["symbol", "time"])   # or find out what they were',
            )
        )
    twice = live.filter(pl.struct(KEYS).is_duplicated())
    if twice.height:
        raise DataError(
            Problem(
                "the feed has two rows of one bar",
                where=_bar(twice.row(0, named=True)),
                expected="one row a bar",
                got=f"{twice.height} rows that share their bar with another",
                fix='feed.unique(["symbol", "time"], keep="any")   # or find out which was used',
            )
        )
    return live


def _compared(
    live: pl.DataFrame, batch: pl.DataFrame, pipeline: Pipeline, of_symbols: int
) -> Replay:
    names = pipeline.columns
    keys = live.select(KEYS)
    symbol, row = pl.col("symbol").cast(pl.String), pl.int_range(pl.len()).alias("row")
    known = batch.select(symbol, "time", row)
    joined = keys.join(known, on=KEYS, how="left", maintain_order="left")
    there = joined["row"].is_not_null()
    unknown = keys.filter(~there).sort("time", "symbol")
    span = keys.group_by("symbol").agg(
        pl.col("time").min().alias("from"), pl.col("time").max().alias("to")
    )
    between = (
        known.join(span, on="symbol")
        .filter(pl.col("time").is_between("from", "to"))
        .join(keys, on=KEYS, how="anti")
        .sort("time", "symbol")
    )
    a = live.filter(there).select(names).to_numpy()
    b = batch[joined["row"].drop_nulls()].select(names).to_numpy()
    differ = (_bits(a) != _bits(b)) & ~(np.isnan(a) & np.isnan(b))
    count = differ.sum(0)
    differing = {name: int(n) for name, n in zip(names, count, strict=True) if n}
    rows = keys.filter(there)
    first, why = None, ""
    if differing:
        order = rows.with_columns(differ=pl.Series(differ.any(1)), at=pl.int_range(pl.len()))
        at = int(order.filter("differ").sort("time", "symbol")["at"][0])
        j = int(np.flatnonzero(differ[at])[0])
        blocks = {feature.name: feature.block for feature in pipeline.features}
        first = _difference(
            rows.row(at, named=True), names[j], blocks[names[j]], a[at, j], b[at, j]
        )
        earliest = order.sort("time", "symbol")["at"][0] == at
        why = _why({blocks[name] for name in differing}, set(blocks.values()), first, earliest)
    return Replay(
        rows=len(a),
        symbols=live["symbol"].n_unique(),
        of_symbols=of_symbols,
        features=len(names),
        differing=differing,
        differing_rows=int(differ.any(1).sum()),
        first=first,
        unknown=unknown.height,
        first_unknown=_bar(unknown.row(0, named=True)) if unknown.height else "",
        missing=between.height,
        first_missing=_bar(between.row(0, named=True)) if between.height else "",
        why=why,
    )


def _bits(values: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.ascontiguousarray(values).view(np.int32)


def _difference(
    row: dict[str, Any], feature: str, block: str, live: np.float32, batch: np.float32
) -> Difference:
    """The difference of two values; float32 in order are integers in order, sign by sign."""
    finite = bool(np.isfinite(live) and np.isfinite(batch))
    ulps = None
    if finite:
        a, b = (int(_bits(np.array([value]))[0]) for value in (live, batch))
        a, b = (bits if bits >= 0 else -(bits & 0x7FFFFFFF) for bits in (a, b))
        ulps = abs(a - b)
    return Difference(
        symbol=row["symbol"],
        time=_time(row["time"]),
        feature=feature,
        block=block,
        live=float(live) if np.isfinite(live) else None,
        batch=float(batch) if np.isfinite(batch) else None,
        ulps=ulps,
    )


def _why(blocks: set[str], of: set[str], first: Difference, earliest: bool) -> str:
    """What such a difference mostly comes from."""
    if blocks == {"position"} and of != blocks:
        return "only the position block differs: the stream had not seen the same fills by then"
    if earliest:
        return (
            "the first row of the feed differs already: the stream did not know the bars before it"
            " (Stream.from_dataset, or stream.warm(bars))"
        )
    if first.ulps is not None and first.ulps <= 4:
        return "the last bits differ: another version of numba, numpy or the processor"
    return "from this bar on the stream had seen other bars or fills than these"


def _time(time: Any) -> str:  # noqa: ANN401  # a datetime of polars
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _bar(row: dict[str, Any]) -> str:
    return f"symbol {row['symbol']}, bar {_time(row['time'])}"
