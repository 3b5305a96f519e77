"""Pipeline: what a YAML file says, its columns in order, and the table they make of bars."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import polars as pl
import xxhash

from featurekit.block import find_block, use_modules
from featurekit.document import Source, parse, read_yaml, to_yaml
from featurekit.engine import Program, Reach
from featurekit.errors import ConfigError, Problem
from featurekit.feature import Feature
from featurekit.inputs import InputTable, pieces, symbol_spans
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay
from featurekit.scaling import ScalingSpec
from featurekit.sources import sample
from featurekit.timeline import closes, duration, instant, segment_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.column import Col
    from featurekit.dataset import Dataset

# Moves when the same pipeline file would give other numbers.
FORMULAS = 1
CHUNK = 16_384  # rows computed at a time


@dataclass(frozen=True, slots=True)
class Bars:
    """Where bars come from, and how their times are to be read."""

    path: str | None = None
    sample: str | None = None
    schema: str | None = None
    symbol: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    stamp: Literal["open", "close"] = "open"
    bar: str | None = None
    timezone: str | None = None
    time_format: str | None = None
    exchange_timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Fills:
    """Where fills come from; without them the position block is 0."""

    path: str | None = None
    sample: str | None = None
    schema: str | None = None
    symbol: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "canonical"
    timezone: str | None = None
    time_format: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the fills move: cash in its currency, units per contract, leverage."""

    cash: float = 10_000.0
    multiplier: float | Mapping[str, float] = 1.0
    leverage: float = 1.0
    fill_at_close: Literal["next", "this"] = "next"
    scope: Literal["symbol", "portfolio"] = "symbol"


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be predicted: the log return of the next bars, or whether it is above 0."""

    forward_return: int | None = None
    forward_sign: int | None = None

    @property
    def kind(self) -> str:
        """`forward_return` or `forward_sign`."""
        return "forward_sign" if self.forward_return is None else "forward_return"

    @property
    def horizon(self) -> int:
        """Bars ahead."""
        return (self.forward_sign if self.forward_return is None else self.forward_return) or 0


@dataclass(frozen=True, slots=True)
class Segments:
    """Where windows are cut: at gaps longer than this; `reset` restarts the features there."""

    max_gap: str = "4d"
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Windows:
    """The longest window that a batch may ask for, in rows."""

    max: int = 512


@dataclass(frozen=True, slots=True)
class Splits:
    """Shares of the unique times, or the dates at which validation and test start."""

    train: float | None = None
    validation: float | str = 0.15
    test: float | str = 0.15
    embargo: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """The gate of `featurekit build`."""

    fail_on: Literal["warn", "fail", "never"] = "fail"


@dataclass(frozen=True, slots=True)
class _Document:
    name: str
    bars: Bars | None = None
    fills: Fills | None = None
    account: Account = Account()
    use: tuple[str, ...] = ()
    blocks: tuple[Any, ...] = ()
    width: int | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    segments: Segments = Segments()
    windows: Windows = Windows()
    splits: Splits = Splits()
    slices: Mapping[str, str] | None = None
    scaling: ScalingSpec = field(default_factory=ScalingSpec)
    audit: Audit = Audit()
    warmup: Literal["memory", "lookback"] = "memory"


_Place = TypeVar("_Place", Bars | None, Fills | None)


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
        text, name = str(path_or_text), "pipeline"
        if isinstance(path_or_text, Path) or "\n" not in text:
            path, name = Path(path_or_text), str(path_or_text)
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                near = difflib.get_close_matches(name, map(str, path.parent.glob("*.y*ml")), 1)
                raise ConfigError(
                    Problem(
                        "cannot read the pipeline file",
                        where=name,
                        got=getattr(error, "strerror", None) or str(error),
                        fix=near[0] if near else "",
                    )
                ) from error
        document, source = read_yaml(text, name)
        pipeline = Pipeline.__new__(Pipeline)
        pipeline._load(document, source)
        return pipeline

    def _load(self, document: Mapping[str, Any], source: Source) -> None:
        parsed = parse(_Document, document, source)
        source.check()
        assert parsed is not None  # noqa: S101  # check() raised otherwise
        self._document = parsed
        self.source = source.name
        self.name = parsed.name
        self.bars, self.fills = _with_sample(parsed.bars), _with_sample(parsed.fills)
        self.account, self.targets = parsed.account, dict(parsed.targets)
        self.segments, self.windows, self.splits = parsed.segments, parsed.windows, parsed.splits
        self.audit, self.warmup = parsed.audit, parsed.warmup
        self._check_values(source)
        self.scaling = parsed.scaling
        use_modules(parsed.use)
        self._cols: dict[str, Col] = {}
        self._blocks: dict[str, str] = {}
        if not parsed.blocks:
            source.add("a pipeline needs a block", ("blocks",), fix="blocks: [market: {}]")
        for at, entry in enumerate(parsed.blocks):
            self._add_block(entry, source, ("blocks", at))
        source.check()
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

    def _check_values(self, source: Source) -> None:
        for what in ("bars", "fills"):
            given = getattr(self._document, what)
            if given is not None and (given.path is None) == (given.sample is None):
                source.add(
                    f"{what} come from one place", (what,), expected="path: ... or sample: ..."
                )
        if self.bars is not None and self.bars.path is not None and self.bars.bar is None:
            source.add("the length of a bar is not declared", ("bars",), fix="bar: 1h")
        for name, target in self.targets.items():
            kinds = [k for k in (target.forward_return, target.forward_sign) if k is not None]
            if len(kinds) != 1 or kinds[0] < 1:
                source.add(
                    f"the target {name!r} looks ahead by a number of bars",
                    ("targets", name),
                    expected="forward_return or forward_sign, of 1 bar or more",
                    fix=f"{name}: {{forward_return: 5}}",
                )
        for what, value, path in (
            ("segments", self.segments.max_gap, ("segments", "max_gap")),
            ("bar", self.bars.bar if self.bars else None, ("bars", "bar")),
        ):
            if value is not None:
                self._try(lambda value=value: duration(value), what, path, source)
        for what in ("validation", "test"):
            value = getattr(self.splits, what)
            if isinstance(value, str):
                self._try(lambda value=value: instant(value), what, ("splits", what), source)
        numbers: list[tuple[tuple[str, str], float, bool, str]] = [
            (("account", "cash"), self.account.cash, self.account.cash > 0, "above 0"),
            (("account", "leverage"), self.account.leverage, self.account.leverage > 0, "above 0"),
            (("windows", "max"), self.windows.max, self.windows.max >= 1, "1 or more"),
            (("splits", "embargo"), self.splits.embargo, self.splits.embargo >= 0, "0 or more"),
        ]
        for path, number, good, expected in numbers:
            if not good:
                source.add("a number is out of range", path, expected=expected, got=str(number))
        shares = [
            s
            for s in (self.splits.train, self.splits.validation, self.splits.test)
            if isinstance(s, float)
        ]
        if (
            any(not 0 <= s <= 1 for s in shares)
            or sum(shares) > 1 + 1e-9
            or (len(shares) == 3 and abs(sum(shares) - 1) > 1e-9)
        ):
            source.add(
                "shares of the splits add up to 1",
                ("splits",),
                got=" + ".join(map(str, shares)),
                fix="splits: {train: 0.7, validation: 0.15, test: 0.15, embargo: 20}",
            )
        if isinstance(self.splits.validation, str) != isinstance(self.splits.test, str):
            source.add("validation and test are both shares or both dates", ("splits",))
        source.check()

    @staticmethod
    def _try(call: Any, what: str, path: tuple[str, ...], source: Source) -> None:  # noqa: ANN401  # a thunk
        try:
            call()
        except ConfigError as error:
            problem = error.problems[0]
            source.add(f"{what}: {problem.what}", path, expected=problem.expected, got=problem.got)

    def _add_block(self, entry: object, source: Source, path: tuple[str | int, ...]) -> None:
        entry = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or len(entry) != 1:
            source.add(
                "a block is one name with its options", path, got=repr(entry), fix="- market: {}"
            )
            return
        ((name, given),) = entry.items()
        options = dict(given or {})
        title = str(options.pop("as", name))
        if not title.isidentifier():
            source.add("a block's name is letters, digits and _", path, got=repr(title))
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
        where = source.where((*path, str(name)))
        for column, col in find_block(str(name), where).columns(options, ACCOUNT_COLUMNS).items():
            self._cols[f"{title}.{column}"] = col
            self._blocks[f"{title}.{column}"] = title

    @property
    def columns(self) -> list[str]:
        """Names of the columns in order, each `block.column`."""
        return list(self._cols)

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
        """Conditions on columns, in SQL, that the audit judges apart; by default `active`."""
        if self._document.slices is None:
            side = "position.side"
            return {"active": f'"{side}" != 0'} if side in self._cols else {}
        return dict(self._document.slices)

    @cached_property
    def program(self) -> Program:
        """The columns, compiled."""
        return Program.compile(list(self._cols.values()))

    def document(self) -> dict[str, Any]:
        """The pipeline as plain data, defaults left out."""
        return _without_defaults(self._document)

    def to_yaml(self) -> str:
        """The pipeline as the text of its YAML file; `from_yaml` gives an equal one back."""
        return to_yaml(self.document())

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers; the file's name and layout do not."""
        text = json.dumps([FORMULAS, self.document()], sort_keys=True)
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
            raise ConfigError(Problem("dtype", expected="float32 | float64", got=repr(dtype)))
        values = np.empty((self.program.width, bars.height), dtype)
        for symbol, first, rows in symbol_spans(bars):
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

    def closes(self, bars: pl.DataFrame) -> NDArray[np.int64]:
        """UTC ns at which each bar closed; without `bars:` in the pipeline, the stamp itself."""
        stamps = bars["time"].dt.epoch("ns").to_numpy()
        if self.bars is None or self.bars.bar is None:
            return stamps
        return closes(stamps, self.bars.stamp, duration(self.bars.bar))

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


def _with_sample(section: _Place) -> _Place:
    """The section with what is known of the bundled sample that it names."""
    if section is None or section.sample is None or section.path is not None:
        return section
    known = sample(section.sample)
    held = {each.name for each in fields(section)}
    unset = {k: v for k, v in known.items() if k in held and not getattr(section, k)}
    return replace(section, **unset)


def _without_defaults(section: Any) -> dict[str, Any]:  # noqa: ANN401  # any section
    document = {}
    for key in fields(section):
        value = getattr(section, key.name)
        default = key.default_factory() if callable(key.default_factory) else key.default
        if value != default:
            document[key.name] = _plain(value)
    return document


def _plain(value: Any) -> Any:  # noqa: ANN401  # any value
    if is_dataclass(value):
        return _without_defaults(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
