"""Pipeline: what a YAML file says, its columns in order, and the table they make of bars."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import xxhash

from featurekit.block import find_block, use_module
from featurekit.conditions import DEFAULT_SLICES
from featurekit.document import Source, parse, read_yaml, to_yaml, without_defaults
from featurekit.engine import Program, Reach
from featurekit.errors import ConfigError, Problem
from featurekit.feature import Feature
from featurekit.inputs import InputTable, columns_of_bars, pieces, symbol_spans
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay
from featurekit.sections import Document, check_references, check_values, with_sample
from featurekit.timeframe import aggregate_problems, of_higher_bars, timeframe_problem
from featurekit.timeline import closes, duration, segment_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.column import Col
    from featurekit.dataset import Dataset

# Moves when the same pipeline file would give other numbers.
FORMULAS = 1
CHUNK = 16_384  # rows computed at a time


class Pipeline:
    """Blocks in order, and everything a build needs to know; the keys of the YAML file.

    Raises:
        ConfigError: when a key is unknown or wrong, a block is not found or returns what it must
            not, two columns have one name, or the width is not the one that was declared.

    Example:
        >>> pipeline = Pipeline(name="two", blocks=[{"market": {}}, {"indicator": {}}])
        >>> len(pipeline.columns), pipeline.columns[0]
        (102, 'market.ret_1')
        >>> Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
        True
    """

    def __init__(self, **document: Any) -> None:  # noqa: ANN401  # the keys of the YAML file
        self._load(document, Source("Pipeline(...)"))

    @staticmethod
    def from_yaml(path_or_text: str | Path) -> Pipeline:
        """Reads a pipeline file, or the text of one.

        Raises:
            ConfigError: when the file is missing or not what a pipeline has to be.
        """
        if not isinstance(path_or_text, str | Path):
            raise ConfigError(
                Problem(
                    "a pipeline is read from a file or from text",
                    expected="a path, or YAML of more than one line",
                    got=type(path_or_text).__name__,
                    fix='Pipeline.from_yaml("pipelines/eurusd_demo.yaml")',
                )
            )
        text, name = str(path_or_text), "pipeline"
        if isinstance(path_or_text, Path) or "\n" not in text:
            path, name = Path(path_or_text), str(path_or_text)
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:  # no file, no UTF-8, or no name of a file
                names = [] if "\0" in name else map(str, path.parent.glob("*.y*ml"))
                near = difflib.get_close_matches(name, [n for n in names if n != name], 1)
                raise ConfigError(
                    Problem(
                        "cannot read the pipeline file",
                        where=name,
                        expected="YAML in UTF-8",
                        got=getattr(error, "strerror", None) or str(error),
                        fix=near[0] if near else "pipelines/eurusd_demo.yaml",
                    )
                ) from error
        document, source = read_yaml(text, name)
        pipeline = Pipeline.__new__(Pipeline)
        pipeline._load(document, source)
        return pipeline

    def _load(self, document: Mapping[str, Any], source: Source) -> None:
        parsed = parse(Document, document, source)
        source.check()
        assert parsed is not None  # noqa: S101  # check() raised otherwise
        self._document = parsed
        self.source = source.name
        self.name = parsed.name
        self.bars = with_sample(parsed.bars, source.where(("bars", "sample")))
        self.fills = with_sample(parsed.fills, source.where(("fills", "sample")))
        self.account, self.targets = parsed.account, dict(parsed.targets)
        self.segments, self.windows, self.splits = parsed.segments, parsed.windows, parsed.splits
        self.audit, self.warmup = parsed.audit, parsed.warmup
        check_values(parsed, self.bars, source)
        self.scaling = parsed.scaling
        for at, module in enumerate(parsed.use):
            use_module(module, source.where(("use", at)))
        self._cols: dict[str, Col] = {}
        self._blocks: dict[str, str] = {}
        self._inputs: dict[str, None] = {}
        if not parsed.blocks:
            source.add("a pipeline needs a block", ("blocks",), fix="blocks: [market: {}]")
        for at, entry in enumerate(parsed.blocks):
            self._add_block(entry, source, ("blocks", at))
        source.check()
        check_references(parsed, self.columns, columns_of_bars(self._inputs), source)
        width = parsed.width
        if width is not None and width != len(self._cols):
            counts = ", ".join(
                f"{title} {sum(block == title for block in self._blocks.values())}"
                for title in dict.fromkeys(self._blocks.values())
            )
            source.add(
                "the blocks do not make the declared width",
                ("width",),
                expected=f"{width} columns",
                got=f"{len(self._cols)}: {counts}",
                fix=f"width: {len(self._cols)}",
            )
        source.check()

    def _add_block(self, entry: object, source: Source, path: tuple[str | int, ...]) -> None:
        entry = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or len(entry) != 1:
            source.add(
                "a block is one name with its options",
                path,
                expected="- name: {option: value}",
                got=repr(entry)[:80],
                fix="- market: {}",
            )
            return
        ((name, given),) = entry.items()
        given = {} if given is None else given
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            source.add(
                "the options of a block are values by name",
                path,
                expected=f"- {name}: {{option: value}}",
                got=repr(given)[:80],
                fix=f"- {name}: {{}}",
            )
            return
        options = dict(given)
        timeframe, aggregate = options.pop("timeframe", None), options.pop("aggregate", None)
        own = f"{name}_{timeframe}" if timeframe else name
        title = str(options.pop("as", own))
        if not title.isidentifier():
            source.add(
                "a block's name is letters, digits and _",
                path,
                expected="such as market_2",
                got=repr(title),
                fix=f"- {name}: {{as: mine}}",
            )
            return
        if title in self._blocks.values():
            source.add(
                f"two blocks are named {title!r}",
                path,
                expected="distinct names",
                got=f"{title}.{next(iter(self._cols)).split('.')[1]} and all its columns twice",
                fix=f"- {name}: {{as: {title}_2}}",
            )
            return
        block = find_block(str(name), source.where((*path, str(name))))
        self._inputs |= dict.fromkeys(block.inputs)
        columns = block.columns(options, ACCOUNT_COLUMNS)
        if timeframe is None and aggregate is not None:
            source.add(
                "an aggregate without a timeframe",
                (*path, str(name)),
                expected="a timeframe whose bars it makes",
                got=f"aggregate: {aggregate!r}"[:80],
                fix=f"- {name}: {{timeframe: 4h, aggregate: ...}}",
            )
            return
        if timeframe is not None:
            bar = self.bars.bar if self.bars is not None else None
            problem = timeframe_problem(timeframe, bar)
            problems = aggregate_problems(block.inputs, aggregate) + ([problem] if problem else [])
            if problems or bar is None:
                where = source.where((*path, str(name)))
                source.problems += [replace(one, where=where) for one in problems]
                return
            columns = of_higher_bars(columns, timeframe, bar, aggregate or {}, ACCOUNT_COLUMNS)
        for column, col in columns.items():
            self._cols[f"{title}.{column}"] = col
            self._blocks[f"{title}.{column}"] = title

    @property
    def columns(self) -> list[str]:
        """Names of the columns in order, each `block.column`."""
        return list(self._cols)

    @property
    def definitions(self) -> Mapping[str, Col]:
        """Each column as the operations that make it, by name and in order."""
        return MappingProxyType(self._cols)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """What is known of each column before data is seen: unit, scale, lookback, memory.

        Raises:
            ConfigError: when a column remembers its whole past and declares no memory.
        """
        reach, features, problems = Reach(), [], []
        for name, col in self._cols.items():
            memory = reach.memory(col)
            if memory == float("inf"):
                problems.append(
                    Problem(
                        f"{name} remembers its whole past",
                        where=self.source,
                        expected="a window, a reset, or a declared memory in rows",
                        fix=".named(memory=500)",
                    )
                )
                memory = 0
            features.append(
                Feature(
                    name=name,
                    block=self._blocks[name],
                    unit=col.label.unit or "",
                    scale=col.label.scale,
                    doc=col.label.doc or "",
                    lookback=reach.lookback(col),
                    memory=int(memory),
                )
            )
        if problems:
            raise ConfigError(*problems)
        return tuple(features)

    @property
    def memory(self) -> int:
        """Rows after which the start of the history matters to no column."""
        return max(feature.memory for feature in self.features)

    @property
    def slices(self) -> dict[str, str]:
        """Conditions in SQL that the audit judges apart; by default in and out of a position."""
        if self._document.slices is None:
            return dict(DEFAULT_SLICES) if "position.side" in self._cols else {}
        return dict(self._document.slices)

    @cached_property
    def program(self) -> Program:
        """The columns, compiled."""
        return Program.compile(list(self._cols.values()))

    def document(self) -> dict[str, Any]:
        """The pipeline as plain data, defaults left out."""
        return without_defaults(self._document)

    def to_yaml(self) -> str:
        """The pipeline as the text of its YAML file; `from_yaml` gives an equal one back."""
        return to_yaml(self.document())

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers; the file's layout and `audit:` do not."""
        deciding = {key: value for key, value in self.document().items() if key != "audit"}
        text = json.dumps([FORMULAS, deciding], sort_keys=True)
        return xxhash.xxh3_128_hexdigest(text.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.document() == other.document()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self._cols)} columns)"

    def transform(
        self,
        bars: pl.DataFrame,
        fills: pl.DataFrame | None = None,
        *,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> pl.DataFrame:
        """The table of symbol, time and all columns in natural units; NaN before a lookback.

        Bars and fills are canonical frames, bars sorted by symbol and time. A NaN or null in the
        bars is a hole: it is NaN for as long as a window holds it and is then forgotten.

        Raises:
            DataError: when a column is missing, is no number, or times do not increase.
        """
        if dtype not in ("float32", "float64"):
            raise ConfigError(
                Problem(
                    "there is no such dtype of a table",
                    expected="float32 | float64",
                    got=repr(dtype)[:80],
                    fix='dtype="float32"',
                )
            )
        spans = symbol_spans(bars)
        values = np.empty((self.program.width, bars.height), dtype)
        for symbol, first, rows in spans:
            table = self.inputs(bars, (symbol, first, rows), fills)
            state = self.program.new_state()
            for start, stop, fresh in pieces(rows, CHUNK, self.restarts(table.closes)):
                state = self.program.new_state() if fresh else state
                self.program.run(state, table.read(start, stop), values, at=first + start)
        named = {name: values[k] for k, name in enumerate(self._cols)}
        return bars.select("symbol", "time").with_columns(
            pl.Series(name, column) for name, column in named.items()
        )

    def inputs(
        self, bars: pl.DataFrame, span: tuple[str, int, int], fills: pl.DataFrame | None
    ) -> InputTable:
        """The rows that the program reads for one symbol: its bars, the clock and the account."""
        symbol, first, rows = span
        account = self.account
        others = None
        if account.scope == "portfolio" and fills is not None:
            others = {
                other: (self.closes(part), part["close"].cast(pl.Float64).to_numpy())
                for other, at, n in symbol_spans(bars)
                if other != symbol
                for part in [bars.slice(at, n)]
            }
        replay = AccountReplay(
            fills,
            symbol,
            cash=account.cash,
            multiplier=account.multiplier,
            leverage=account.leverage,
            scope=account.scope,
            fill_at_close=account.fill_at_close,
            other_closes=others,
        )
        mine = bars.slice(first, rows)
        zone = self.bars.exchange_timezone if self.bars else "UTC"
        return InputTable(self.program.inputs, mine, self.closes(mine), zone, replay)

    @property
    def bar(self) -> int:
        """The length of a bar in ns; 0 if the pipeline does not say."""
        return duration(self.bars.bar) if self.bars is not None and self.bars.bar else 0

    def closes(self, bars: pl.DataFrame) -> NDArray[np.int64]:
        """UTC ns at which each bar closed; without `bars:` in the pipeline, the stamp itself."""
        return self.closes_of(bars["time"].dt.epoch("ns").to_numpy())

    def closes_of(self, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same of stamps, UTC ns."""
        return closes(stamps, self.bars.stamp, self.bar) if self.bars is not None else stamps

    def restarts(self, closed: NDArray[np.int64]) -> list[int]:
        """Rows at which features start afresh: none, unless `segments: {reset: true}`."""
        if not self.segments.reset:
            return []
        starts = segment_starts(closed, duration(self.segments.max_gap))
        return [int(start) for start in starts]

    def build(self, out: str | Path | None = None, *, executor: str = "local") -> Dataset:
        """Builds the dataset on disk: `featurekit build`, from Python."""
        from featurekit.build import build  # a method for convenience: build is a layer above

        return build(self, out=out, executor=executor).dataset
