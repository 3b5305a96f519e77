"""Stream: the columns of a pipeline one bar at a time, the same bits as in one go.

Axes: S symbols, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from featurekit.build.base import rows_digest
from featurekit.build.fills import Fills
from featurekit.build.parts import warmup_of
from featurekit.build.saved import load
from featurekit.canonical import BARS
from featurekit.clock import Clock
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.ingest import BARS_SCHEMA
from featurekit.inputs import columns_of_bars, missing_columns, pieces
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay
from featurekit.pipeline import Pipeline
from featurekit.schema import load_schema, validate
from featurekit.stream.state import check_same, read_state, write_state
from featurekit.timeline import duration
from featurekit.violations import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from featurekit.build.saved import Saved
    from featurekit.dataset import Dataset
    from featurekit.scaling import Scaling

Late = Literal["error", "skip"]
_PRICES = ("open", "high", "low", "close")
_CHUNK = 4_096  # bars of a history at a time


class Stream:
    """The columns of symbols one bar at a time, in natural units, with fills in between.

    Bit for bit what `Pipeline.transform` gives for the same bars and fills, wherever the stream was
    saved and resumed. A symbol whose bar is missing stays as it is.

    Args:
        pipeline: Whose columns these are.
        symbols: In the order of the rows of `update`.
        scaling: For `scaled=True`.
        late: What becomes of a bar that is not after the last one of its symbol: `error` refuses
            the whole update, `skip` leaves it out and counts it in `skipped`.

    Raises:
        ConfigError: when there is no symbol, one comes twice or has no multiplier.

    Example:
        >>> pipeline = Pipeline(name="two", blocks=["market"])
        >>> stream = Stream(pipeline, symbols=["EURUSD"])
        >>> hour = 3_600_000_000_000
        >>> for k in range(3):
        ...     price = {"open": 1.0, "high": 1.2, "low": 0.9, "close": 1.0 + k / 10}
        ...     x = stream.push("EURUSD", k * hour, **price, volume=5.0)
        >>> x.shape, round(float(x[pipeline.columns.index("market.ret_1")]), 4)
        ((48,), 0.087)
    """

    def __init__(
        self,
        pipeline: Pipeline,
        symbols: Sequence[str],
        *,
        scaling: Scaling | None = None,
        late: Late = "error",
    ) -> None:
        _check_options(symbols, late)
        self.pipeline, self.symbols = pipeline, tuple(symbols)
        self.scaling, self.late = scaling, late
        self.skipped = dict.fromkeys(self.symbols, 0)
        self._places = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._program = program = pipeline.program
        self._states = np.tile(program.new_state(), (len(self.symbols), 1))
        self._closes: list[int | None] = [None] * len(self.symbols)
        self._ages = [0] * len(self.symbols)  # bars since its features started afresh
        self._warmup = warmup_of(pipeline)
        account = pipeline.account
        self._replays = [
            AccountReplay(
                None,
                symbol,
                cash=account.cash,
                multiplier=account.multiplier,
                leverage=account.leverage,
                scope=account.scope,
                fill_at_close=account.fill_at_close,
                other_closes={o: _NONE for o in self.symbols if o != symbol}
                if account.scope == "portfolio"
                else None,
            )
            for symbol in self.symbols
        ]
        names = program.inputs
        self.bar_columns = columns_of_bars(names)
        self._read = [names.index(name) for name in self.bar_columns]
        self._named = list(zip(self._read, self.bar_columns, strict=True))
        self.others = [name for name in self.bar_columns if name not in BARS]
        account_names = [name for name in names if name in ACCOUNT_COLUMNS]
        to = [names.index(name) for name in account_names]
        joined = to == list(range(to[0], to[0] + len(to))) if to else False
        self._account_to = slice(to[0], to[0] + len(to)) if joined else to
        self._account_from = [ACCOUNT_COLUMNS.index(name) for name in account_names]
        # The accounts at their last closes, and whether nothing happened there.
        self._accounts = np.empty((len(self.symbols), len(account_names)))
        self._resting = [False] * len(self.symbols)
        bars = pipeline.bars
        self._shift = 0
        if bars is not None and bars.bar is not None and bars.stamp == "open":
            self._shift = duration(bars.bar)
        self._clock = Clock(names, bars.exchange_timezone if bars is not None else "UTC")
        self._clock_to = [names.index(name) for name in self._clock.names]
        self._max_gap = duration(pipeline.segments.max_gap) if pipeline.segments.reset else None
        self._schema_name = (bars.schema if bars is not None else None) or BARS_SCHEMA
        self._schema = load_schema(self._schema_name)
        self._one_by_one = account.scope == "symbol" and self._schema_name == BARS_SCHEMA
        self._one = np.zeros(1, np.int64)

    # --- bars ----------------------------------------------------------------------------------

    def update(
        self, bars: pl.DataFrame, fills: pl.DataFrame | None = None, *, scaled: bool = False
    ) -> NDArray[np.float32]:
        """The columns at the next bar of each symbol, `[S, F]`; NaN where there is no bar.

        Bars are canonical, at most one a symbol, and are checked against the pipeline's schema;
        fills are those since the last update that these bars may see. If anything is refused,
        nothing has changed. Bars of a portfolio that close together come together: one that comes
        after others of its time is late.

        Raises:
            DataError: when a bar breaks the schema, is of another symbol or one of two, or is late;
                when a fill makes no sense or came after the bar that had to show it.
            ConfigError: when `scaled` is asked for without a scaling.
        """
        self._check_scaled(scaled)
        bars = self.check(bars)
        found = self._in_time(bars)
        self._take_fills(fills)
        rows = np.full((len(self.symbols), self._program.width), np.nan, np.float32)
        if not found:
            return rows
        which = np.array([at for at, _, _ in found], np.int64)
        values = np.empty((len(found), len(self._program.inputs)))
        table = bars.select(pl.col(self.bar_columns).cast(pl.Float64)).to_numpy()
        values[:, self._read] = table[[row for _, row, _ in found]]
        self._tell_closes(bars, found)
        for at, _, close in found:
            self._close(at, close)
        values[:, self._account_to] = self._accounts[which]
        if self._clock_to:
            values[:, self._clock_to] = [self._clock.row(close) for _, _, close in found]
        out = np.empty((len(found), self._program.width), np.float32)
        rows[which] = self._program.run_each(self._states, which, values, out)
        return self._scaled(rows) if scaled else rows

    def push(self, symbol: str, time: int, *, scaled: bool = False, **bar: float) -> Any:  # noqa: ANN401  # [F]
        """The columns at the next bar of one symbol, `[F]`, from numbers: the quickest way.

        `time` is the bar's stamp in UTC ns, as in the pipeline's bars; prices, volume and whatever
        else its blocks read are given by name. Fills come by `fill`.

        Raises:
            DataError: as `update`.
        """
        at = self._places.get(symbol)
        values = np.empty((1, len(self._program.inputs)))
        row = values[0]
        close = self.close_of(time)
        last = None if at is None else self._closes[at]
        if at is None or (last is not None and close <= last) or not self.is_plain(bar):
            return self.update(_frame(symbol, time, bar), scaled=scaled)[at or 0]
        self._check_scaled(scaled)
        for place, name in self._named:
            row[place] = bar[name]
        self._close(at, close)
        if self._account_from:
            row[self._account_to] = self._accounts[at]
        if self._clock_to:
            row[self._clock_to] = self._clock.row(close)
        self._one[0] = at
        out = np.empty((1, self._program.width), np.float32)
        self._program.run_each(self._states, self._one, values, out)
        return (self._scaled(out) if scaled else out)[0]

    def is_plain(self, bar: Mapping[str, Any]) -> bool:
        """Whether these numbers can be taken one bar after another, and keep the usual schema.

        If not, `update` takes them, or says what is wrong.
        """
        try:
            return (
                self._one_by_one
                and 0.0 < bar["low"] <= bar["open"] <= bar["high"] < np.inf
                and bar["low"] <= bar["close"] <= bar["high"]
                and 0.0 <= bar["volume"] < np.inf
                and all(abs(bar[name]) < np.inf for name in self.others)
            )
        except (KeyError, TypeError, ValueError):
            return False

    def close_of(self, stamp: int) -> int:
        """When a bar of this stamp closes; both in UTC ns."""
        return stamp + self._shift

    def lasts(self) -> Sequence[int | None]:
        """What the next bar of each symbol has to close after, UTC ns; None before any bar.

        Rows of a portfolio saw the closes of all its symbols: no bar may come before these.
        """
        if self.pipeline.account.scope == "symbol":
            return self._closes
        newest = max((close for close in self._closes if close is not None), default=None)
        return [newest] * len(self._closes)

    def check(self, bars: pl.DataFrame) -> pl.DataFrame:
        """The bars, if they keep the schema and are of these symbols; several of one may be there.

        Raises:
            DataError: when they do not, or are not.
        """
        if problems := missing_columns(self._program.inputs, bars):
            raise DataError(*problems)
        self._refuse_unknown(bars["symbol"].to_list() if "symbol" in bars.columns else [])
        if not self._is_sound(bars):
            ordered = bars.sort("symbol", "time", maintain_order=True)
            refuse(validate(ordered, self._schema), "the bars")
        return bars

    def fill(self, fills: pl.DataFrame) -> None:
        """Takes fills in that the next bars may see, before these come.

        Raises:
            DataError: when one makes no sense, or came after the bar that had to show it.
        """
        self._take_fills(fills)

    def warm(self, bars: pl.DataFrame, fills: pl.DataFrame | None = None) -> None:
        """Takes a history in at once: as if each of its bars had been given to `update`.

        Raises:
            DataError: when the history cannot be used, or the stream has begun.
        """
        if any(close is not None for close in self._closes):
            raise DataError(
                Problem(
                    "the stream has begun",
                    expected="a history before the first bar",
                    got="bars after others",
                    fix="stream = Stream(pipeline, symbols); stream.warm(bars, fills)",
                )
            )
        dealt = Fills(self.pipeline, fills)
        frames = bars.partition_by("symbol", as_dict=True, maintain_order=True)
        spans, first = {}, 0
        for (symbol,), frame in frames.items():
            spans[str(symbol)] = (first, frame.height)
            first += frame.height
        self._refuse_unknown(spans)
        grouped = pl.concat(frames.values())
        for symbol, (begin, count) in spans.items():
            at = self._places[symbol]
            span = (symbol, begin, count)
            table = self.pipeline.inputs(grouped, span, dealt.of(symbol))
            state, rows = self._states[at], np.empty((_CHUNK, self._program.width), np.float32)
            for start, stop, fresh in pieces(count, _CHUNK, self.pipeline.restarts(table.closes)):
                if fresh:
                    state[:] = self._program.new_state()
                self._program.run_rows(state, table.read(start, stop), rows[: stop - start])
                self._ages[at] = stop - start if fresh else self._ages[at] + stop - start
            self._replays[at], self._closes[at] = table.replay, int(table.closes[-1])

    @property
    def closes(self) -> NDArray[np.int64]:
        """UTC ns of the last close of each symbol `[S]`; -1 before its first."""
        return np.array([-1 if close is None else close for close in self._closes], np.int64)

    def is_ready(self, at: int) -> bool:
        """Whether the symbol in this place is past its warm-up, as the rows of a dataset are."""
        return self._ages[at] > self._warmup

    @property
    def ready(self) -> NDArray[np.bool_]:
        """The same of each symbol `[S]`."""
        return np.array(self._ages) > self._warmup

    # --- what it knows -------------------------------------------------------------------------

    def state(self) -> bytes:
        """All it knows, to `resume` from: safetensors, with the pipeline's fingerprint inside."""
        head = {
            "rows": self._digest(),
            "symbols": self.symbols,
            "closes": self._closes,
            "ages": self._ages,
            "accounts": [replay.state() for replay in self._replays],
            "skipped": self.skipped,
        }
        return write_state(head, self._states)

    @classmethod
    def resume(
        cls,
        pipeline: Pipeline,
        state: bytes,
        *,
        scaling: Scaling | None = None,
        late: Late = "error",
    ) -> Stream:
        """The stream whose `state()` this was, on this machine or another.

        Raises:
            ConfigError: when the state is none, or of another pipeline or version.
        """
        head, engine = read_state(state)
        stream = cls(pipeline, head["symbols"], scaling=scaling, late=late)
        check_same(head["rows"], stream._digest(), head["versions"])
        stream._states[:] = engine
        stream._closes, stream._ages = list(head["closes"]), list(head["ages"])
        stream._replays = [AccountReplay.from_state(one) for one in head["accounts"]]
        stream.skipped = dict(head["skipped"])
        return stream

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, symbols: Sequence[str] | None = None, *, late: Late = "error"
    ) -> Stream:
        """A stream that goes on after the last bar of a dataset, with its pipeline and scaling.

        Raises:
            ConfigError: when a symbol is not in it, or a block, the code or a version has changed
                since it was built.
            DatasetError: when its saved state is damaged.
        """
        pipeline = Pipeline.from_yaml(dataset.manifest.pipeline)
        chosen = dataset.symbols if symbols is None else symbols
        stream = cls(pipeline, chosen, scaling=dataset.scaling, late=late)
        manifest = dataset.manifest
        check_same(manifest.fingerprints.get("rows"), stream._digest(), manifest.versions)
        path = dataset.path / "state" / f"{manifest.generation:06d}.safetensors"
        saved = load(path)
        stream._refuse_without(saved, dataset)
        for at, symbol in enumerate(stream.symbols):
            one = saved[symbol]
            stream._states[at], stream._closes[at] = one.engine, one.last_close
            stream._ages[at] = stream._age(dataset, one)
            stream._replays[at] = AccountReplay.from_state(one.account)
        return stream

    # --- its parts -----------------------------------------------------------------------------

    def _age(self, dataset: Dataset, saved: Saved) -> int:
        """Bars since the features of a symbol started afresh, as far as a dataset tells.

        Its last bar has a row if it is past the warm-up. If not, bars count from the last one on
        where a gap may have been, and from the first one on where there is none.
        """
        last = dataset.manifest.last_segments.get(saved.symbol)
        if last is not None:
            stop = last.start + last.rows
            if self.close_of(int(dataset.read(stop - 1, stop).time[0])) == saved.last_close:
                return max(saved.bars, self._warmup + 1)
        return saved.bars if self._max_gap is None else 1

    def _digest(self) -> str:
        return rows_digest(self.pipeline, warmup_of(self.pipeline))

    def _check_scaled(self, scaled: bool) -> None:
        if scaled and self.scaling is None:
            raise ConfigError(
                Problem(
                    "the stream has no scaling",
                    expected="the one that was fitted on the train split",
                    got="scaled=True",
                    fix="Stream.from_dataset(dataset), or Stream(..., scaling=dataset.scaling)",
                )
            )

    def _scaled(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.scaling is not None  # noqa: S101  # as was checked
        return self.scaling.apply(rows)

    def _is_sound(self, bars: pl.DataFrame) -> bool:
        """Whether bars plainly keep the usual schema; if not, `validate` says what is wrong."""
        kinds = bars.schema
        time = kinds.get("time")
        if self._schema_name != BARS_SCHEMA or not isinstance(time, pl.Datetime):
            return False
        if time.time_zone is None or kinds["symbol"] != pl.String or not bars.height:
            return False
        if any(not kinds.get(name, pl.String()).is_numeric() for name in (*_PRICES, "volume")):
            return False
        start, high, low, close, volume = (bars[n].to_numpy() for n in (*_PRICES, "volume"))
        inside = (low > 0.0) & (low <= start) & (start <= high) & (low <= close) & (close <= high)
        sound = inside & (high < np.inf) & (volume >= 0.0) & (volume < np.inf)
        numbers = bars.select(pl.col(self.bar_columns).cast(pl.Float64)).to_numpy()
        once = bars["symbol"].n_unique() == bars.height
        return bool(sound.all()) and bool(np.isfinite(numbers).all()) and once

    def _in_time(self, bars: pl.DataFrame) -> list[tuple[int, int, int]]:
        """Place of the symbol, row and close of each bar that comes after the last one."""
        stamps = bars["time"].dt.epoch("ns").to_list()
        found: list[tuple[int, int, int]] = []
        late, twice, seen = [], [], set()
        lasts = self.lasts()
        for row, (symbol, stamp) in enumerate(zip(bars["symbol"].to_list(), stamps, strict=True)):
            at, close = self._places[symbol], self.close_of(stamp)
            last = lasts[at]
            if at in seen:
                twice.append(symbol)
            elif last is None or close > last:
                found.append((at, row, close))
                seen.add(at)
            else:
                late.append((at, close, last))
        problems = [
            Problem(
                f"an update has two bars of {symbol}",
                expected="the next bar of each symbol",
                got="two or more",
                fix="for one in bars.partition_by('time'): stream.update(one)",
            )
            for symbol in dict.fromkeys(twice)
        ]
        if self.late == "error" or problems:
            problems += [
                Problem(
                    f"a bar of {self.symbols[at]} is not after the last one",
                    expected=f"a close after {_text(last)}",
                    got=_text(close),
                    fix='Stream(..., late="skip")',
                )
                for at, close, last in late
            ]
        if problems:
            raise DataError(*problems)
        for at, _, _ in late:
            self.skipped[self.symbols[at]] += 1
        return found

    def _take_fills(self, fills: pl.DataFrame | None) -> None:
        """Deals fills out to the accounts that they move; all of them, or none."""
        if fills is None or fills.is_empty():
            return
        portfolio = self.pipeline.account.scope == "portfolio"
        if not portfolio and len(self.symbols) > 1 and fills["symbol"].null_count():
            raise DataError(
                Problem(
                    "a fill has no symbol, and every symbol has its own account",
                    where=f"{fills['symbol'].null_count()} of {fills.height} fills",
                    expected="a symbol in every row, or one account for all",
                    got=f"{len(self.symbols)} symbols: {', '.join(self.symbols[:5])}",
                    fix="account: {scope: portfolio}",
                )
            )
        dealt = Fills(self.pipeline, fills)
        named = set(fills["symbol"].drop_nulls().to_list())
        self._refuse_unknown(named)
        touched = [at for s, at in self._places.items() if portfolio or dealt.of(s) is not None]
        before = {at: self._replays[at].state() for at in touched}
        try:
            for at in touched:
                self._replays[at].add(dealt.of(self.symbols[at]))
        except DataError:
            for at, state in before.items():
                self._replays[at] = AccountReplay.from_state(state)
            raise

    def _tell_closes(self, bars: pl.DataFrame, found: Sequence[tuple[int, int, int]]) -> None:
        """Of a portfolio, tells each account the closes of the other symbols."""
        if self.pipeline.account.scope != "portfolio":
            return
        prices = bars["close"].cast(pl.Float64).to_list()
        told = {
            self.symbols[at]: (np.array([close]), np.array([prices[row]]))
            for at, row, close in found
        }
        for at, replay in enumerate(self._replays):
            mine = self.symbols[at]
            replay.add(None, {other: each for other, each in told.items() if other != mine})

    def _close(self, at: int, close: int) -> None:
        """Moves the account of a symbol to a close; where features start afresh, so."""
        replay = self._replays[at]
        if not replay.passes(close):
            columns = replay.columns(np.array([close], np.int64))[:, 0]
            self._accounts[at], self._resting[at] = columns[self._account_from], False
        elif not self._resting[at]:
            self._accounts[at], self._resting[at] = replay.held()[self._account_from], True
        last = self._closes[at]
        if self._max_gap is not None and last is not None and close - last > self._max_gap:
            self._states[at], self._ages[at] = self._program.new_state(), 0
        self._closes[at] = close
        self._ages[at] += 1

    def _refuse_unknown(self, symbols: Any) -> None:  # noqa: ANN401  # an iterable of names
        unknown = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self._places]
        if unknown:
            raise DataError(
                Problem(
                    "the stream has no such symbol",
                    where=", ".join(map(str, unknown[:5])),
                    expected=", ".join(self.symbols[:5]),
                    got=f"{len(unknown)} others",
                    fix=f"Stream(pipeline, symbols=[..., {unknown[0]!r}])",
                )
            )

    def _refuse_without(self, saved: Mapping[str, Any], dataset: Dataset) -> None:
        unknown = [symbol for symbol in self.symbols if symbol not in saved]
        if unknown:
            raise ConfigError(
                Problem(
                    "the dataset has no such symbol",
                    where=str(dataset.path),
                    expected=", ".join(list(saved)[:5]),
                    got=", ".join(unknown[:5]),
                    fix="Stream.from_dataset(dataset)",
                )
            )


_NONE = (np.empty(0, np.int64), np.empty(0, np.float64))


def _check_options(symbols: Sequence[str], late: str) -> None:
    problems = []
    twice = sorted({symbol for symbol in symbols if list(symbols).count(symbol) > 1})
    if not symbols or twice or isinstance(symbols, str):
        problems.append(
            Problem(
                "a stream is of one symbol or more, each once",
                expected='such as ["EURUSD", "GBPUSD"]',
                got=repr(symbols)[:80],
                fix='symbols=["EURUSD"]',
            )
        )
    if late not in ("error", "skip"):
        problems.append(
            Problem(
                "there is no such policy for late bars",
                expected="error | skip",
                got=repr(late)[:80],
                fix='late="error"',
            )
        )
    if problems:
        raise ConfigError(*problems)


def _frame(symbol: str, time: int, bar: Mapping[str, float]) -> pl.DataFrame:
    stamp = pl.Series("time", [time]).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame(
        {"symbol": [symbol], **{name: [value] for name, value in bar.items()}}
    ).with_columns(stamp)


def _text(close: int) -> str:
    return str(np.datetime64(close, "ns").astype("M8[s]")).replace("T", " ") + " UTC"
