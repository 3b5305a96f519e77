"""Monitor: rows as they come, against the rows that were trained on.

Axes: S symbols, n rows, F features.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from featurekit.errors import DataError, Problem
from featurekit.monitor.expected import SIDE as SIDE_COLUMN
from featurekit.monitor.expected import learn, unknown_season
from featurekit.monitor.exposition import exposition
from featurekit.monitor.flag import KINDS, Flag, time_text
from featurekit.monitor.watch import (
    DEAD,
    DRIFT,
    FIRST,
    FOUND,
    GRID,
    GROUPS,
    HIGH,
    HOURS,
    LOW,
    NEWEST,
    NOT_FINITE,
    PHASE,
    RANGE,
    RUN,
    SEEN,
    SIDE,
    SKEW,
    STALE,
    UNIT,
    late,
    means,
    watch,
)
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from featurekit.dataset import Dataset
    from featurekit.dataset.batch import Batch

CHECK = 128  # rows from one look at drift and units to the next
MANY = 8  # features of one bar that share a kind are one flag
OCTAVE = float(1 << 23)  # of a magnitude in the bits of a float32
UNIT_WARN, UNIT_FAIL = 1.0, 3.0  # octaves beyond what a stretch of train rows had
OVER = 0.8  # of its limit: below it what lasted is over
SEVERITIES = ("", "warn", "fail")
NEAR = 0.05  # a factor that is a power of ten but for this is named so
AHEAD = 0.1  # of a bar that a close may lie ahead of the clock: clocks differ


class Monitor:
    """Says which rows of a stream, or of training batches, are unlike the dataset's train rows.

    - `not finite`, `out of range`: a value; beyond the train rows by half their range, or three.
    - `unit change`: a feature whose magnitude moved by a factor, or a return that is one.
    - `dead`: a feature that keeps one value twice as long as it ever did.
    - `drift`: PSI of the last rows, beyond what any stretch of the train rows has.
    - `stale`: a symbol with fewer bars than it has in such hours of the week.
    - `clock skew`: a close ahead of the clock, or beside the grid of all others.

    What lasts is told when it begins. A value is told on each bar.

    Args:
        dataset: Whose train rows are what is expected.
        symbols: Those to be watched; by default the dataset's.
        log: Where each flag is written to as a line of JSON.

    Example:
        ```python
        stream, monitor = fk.Stream.from_dataset(dataset), fk.Monitor(dataset)
        rows = stream.update(bars)
        for flag in monitor.watch(stream.symbols, stream.closes, rows, ready=stream.ready):
            print(flag.severity, flag.kind, flag.symbol, flag.feature, flag.value)
        ```
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        symbols: Sequence[str] | None = None,
        log: IO[str] | None = None,
    ) -> None:
        pipeline = Pipeline.from_yaml(dataset.manifest.pipeline)
        self.features, self.log = dataset.features, log
        self.symbols = tuple(dataset.symbols if symbols is None else symbols)
        self.expected = expected = learn(dataset, pipeline)
        self._names = dataset.names
        self._zeros = dataset.profile("train").zeros / max(dataset.profile("train").rows, 1)
        self._places_of = {name: at for at, name in enumerate(self._names)}
        self._places = {symbol: at for at, symbol in enumerate(self.symbols)}
        known = {symbol: at for at, symbol in enumerate(dataset.symbols)}
        none = unknown_season()
        self._seasons = np.array(
            [expected.seasons[known[s]] if s in known else none for s in self.symbols]
        )
        width, count = len(self._names), len(self.symbols)
        self._last = np.full((count, width), np.nan, np.float32)
        self._runs = np.zeros((count, width), np.int32)
        self._known = np.tile(np.array([-1, 0], np.int64), (count, 1))
        self._groups = np.zeros((expected.window, width), np.uint8)
        self._levels = np.zeros((expected.short, width), np.int32)
        self._sums = np.zeros((width, GROUPS + 2), np.int64)
        self._scalars = np.zeros(PHASE + 1, np.int64)
        self._scalars[[FIRST, NEWEST]] = -1
        self._scalars[SIDE] = self._names.index(SIDE_COLUMN) if SIDE_COLUMN in self._names else -1
        self._scalars[GRID], self._scalars[PHASE] = expected.grid, expected.phase
        self._watched = self._tables(self._seasons, self._last, self._runs, self._known)
        none = np.empty((0, width), np.float32)
        watch(none, np.empty(0, np.int64), np.empty(0, np.int64), 0, *self._watched)  # compiled
        means(self._sums, expected.shares, *np.empty((2, width)))
        self._which, self._close = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._shape = (1, width)
        self._lasts: dict[tuple[str, str], str] = {}  # severity of what lasts
        self._recent: deque[Flag] = deque()
        self.flags: Counter[tuple[str, str]] = Counter()  # by kind and severity
        self.feature_flags: Counter[tuple[str, str]] = Counter()  # by feature and kind
        self.symbol_flags: Counter[str] = Counter()
        self.psi = np.full(width, np.nan)

    def watch(
        self,
        symbols: Sequence[str],
        closes: NDArray[np.int64] | Sequence[int],
        rows: NDArray[np.float32],
        now: int | None = None,
        ready: NDArray[np.bool_] | Sequence[bool] | None = None,
    ) -> tuple[Flag, ...]:
        """Takes the rows `[n, F]` of bars in, in natural units, and says what is unlike before.

        A row whose close, UTC ns, is not after the last of its symbol is no new bar and is passed
        over. With `now`, UTC ns, bars are judged against a clock too, else against each other. Of
        rows that are not `ready`, in their warm-up as a stream says, only the times are looked at.

        Raises:
            DataError: when a symbol is not watched, or the rows are of another width.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        if rows.ndim == 1:
            rows = rows[None]
        places = [self._places.get(s, -1) for s in symbols]
        if len(places) == len(closes) == 1:  # most calls: what was made once is quicker
            which, times = self._which, self._close
            which[0], times[0] = places[0], closes[0]
            closes, sound = times, rows.shape == self._shape
        else:
            which, closes = np.array(places, np.int64), np.asarray(closes, np.int64)
            sound = rows.shape == (len(places), self._shape[1]) and closes.shape == which.shape
        if not sound or -1 in places:
            raise _refused(self.symbols, symbols, closes, rows, len(self._names))
        if ready is not None:
            which = np.where(ready, which, -1 - which)
        flags = self._watch(rows, which, closes, symbols, self._watched)
        if now is not None:
            flags += self._against(now, symbols, closes)
        return self._told(flags) if flags else ()

    def observe(self, batch: Batch) -> tuple[Flag, ...]:
        """Takes the last row of each window of a batch in, in natural units.

        Such rows come in no order of time: nothing is said of runs and of times, but a feature that
        is one value in all of a batch is dead.
        """
        real = batch.mask.numpy()
        rows = np.ascontiguousarray(batch.features[:, -1].float().numpy()[real])
        closes = batch.time.numpy()[real]
        named = [batch.symbols[code] for code in batch.symbol.numpy()[real].tolist()]
        count = len(rows)
        kept = self._scalars[[NEWEST, SIDE, GRID]]
        self._scalars[[NEWEST, SIDE, GRID]] = np.iinfo(np.int64).max, -1, 0
        # Windows one after another are as much alike as rows are.
        mixed = np.mean(np.diff(closes) < 0) > 0.2
        watched = self._tables(  # each of its rows is a symbol of its own
            np.zeros((count, HOURS + 3)),
            np.full(rows.shape, np.nan, np.float32),
            np.zeros(rows.shape, np.int32),
            np.tile(np.array([-1, 0], np.int64), (count, 1)),
        )
        flags = self._watch(rows, np.arange(count), closes, named, watched)
        self._scalars[[NEWEST, SIDE, GRID]] = kept
        seen = int(self._scalars[SEEN])
        if count:
            longest = self.expected.table[RUN]
            still = (rows == rows[0]).all(0) & (longest > 0) & (mixed | (count > longest))
            varies = np.maximum(self._zeros, 0.5) ** count < 1e-6
            for j in np.flatnonzero(still & varies).tolist():
                text = "a value that varies between windows"
                flags.append(self._flag(seen, DEAD, "fail", "", j, closes.max(), rows[0, j], text))
        return self._told(flags)

    @property
    def lasting(self) -> list[dict[str, str]]:
        """What has begun and is not over: kind, feature and severity."""
        return [
            {"kind": kind, "feature": feature, "severity": severity}
            for (kind, feature), severity in sorted(self._lasts.items())
        ]

    def summary(self) -> dict[str, Any]:
        """What was seen, as plain data: counts of flags in all and over the last rows, and PSI."""
        recent = Counter(flag.kind for flag in self._trimmed())
        by_feature: dict[str, dict[str, int]] = {}
        for (feature, kind), count in sorted(self.feature_flags.items()):
            by_feature.setdefault(feature, {})[kind] = count
        return {
            "rows": int(self._scalars[SEEN]),
            "flags": {kind: sum(self.flags[kind, s] for s in ("warn", "fail")) for kind in KINDS},
            "recent": {
                "rows": int(min(self._scalars[SEEN], self.expected.window)),
                "flags": {kind: recent[kind] for kind in KINDS},
            },
            "lasting": self.lasting,
            "features": by_feature,
            "symbols": {
                symbol: {
                    "last": None if close < 0 else time_text(close),
                    "stale": bool(stale),
                    "flags": self.symbol_flags[symbol],
                }
                for symbol, (close, stale) in zip(self.symbols, self._known.tolist(), strict=True)
            },
            "psi": {
                name: None if np.isnan(value) else round(float(value), 6)
                for name, value in zip(self._names, self.psi, strict=True)
            },
        }

    def exposition(self) -> str:
        """The same in the text format of Prometheus."""
        return exposition(self.summary(), self.flags, self._known[:, 0])

    # --- its parts -----------------------------------------------------------------------------

    def _tables(
        self, seasons: NDArray[Any], last: NDArray[Any], runs: NDArray[Any], known: NDArray[Any]
    ) -> tuple[Any, ...]:
        """What `watch` takes besides rows; the last is where it writes what it finds."""
        room = 4 * len(self._names) + 2 * len(known) + 16
        counts = self._groups, self._levels, self._sums, self._scalars, CHECK
        found = np.empty((room, FOUND))
        return (self.expected.table, seasons, last, runs, known, *counts, found)

    def _watch(
        self,
        rows: NDArray[np.float32],
        which: NDArray[np.int64],
        closes: NDArray[np.int64],
        symbols: Sequence[str],
        watched: tuple[Any, ...],
    ) -> list[Flag]:
        flags: list[Flag] = []
        at = 0
        while at < len(rows):
            at, count, due = watch(rows, which, closes, at, *watched)
            if count:
                flags += self._flags(watched[-1][:count], closes, symbols)
            if due:
                flags += self._lasting(int(closes[at - 1]))
        return flags

    def _flags(
        self, found: NDArray[np.float64], closes: NDArray[np.int64], symbols: Sequence[str]
    ) -> Iterable[Flag]:
        """Flags of what `watch` found; many features of one bar are one flag."""
        table = self.expected.table
        many: set[tuple[float, ...]] = set()
        if len(found) > MANY:
            counts = Counter(map(tuple, found[:, :2].tolist()))
            many = {key for key, n in counts.items() if n > MANY}
        told = set()
        for kind, row, j, value, severe, seen in found.tolist():
            symbol, close = symbols[int(row)], int(closes[int(row)])
            severity = "fail" if severe else "warn"
            if (kind, row) in many and kind in (NOT_FINITE, RANGE, DEAD):
                if (kind, row) not in told:
                    told.add((kind, row))
                    same = (found[:, 0] == kind) & (found[:, 1] == row)
                    worst = "fail" if found[same, 4].any() else "warn"
                    text = f"none of {len(self._names)} features"
                    yield self._flag(seen, kind, worst, symbol, None, close, same.sum(), text)
            elif kind == STALE:
                own = self.symbols[int(-1 - j)] if j < 0 else symbol
                text = "no more bars missed than there used to be"
                yield self._flag(seen, kind, severity, own, None, close, value, text)
            elif kind == SKEW:
                text = f"closes on a grid of {self.expected.grid / 1e9:g} s"
                yield self._flag(seen, kind, severity, symbol, None, close, value, text)
            else:
                j = int(j)
                plain = {NOT_FINITE: "a number", DEAD: f"a change within {table[RUN, j]:g} bars"}
                known = f"{table[LOW, j]:.4g} to {table[HIGH, j]:.4g}"
                factor = self._factor(j, value) if kind == RANGE else ""
                if factor:
                    kind, severity, known = UNIT, "fail", f"a price in the same unit, not {factor}"
                yield self._flag(
                    seen, kind, severity, symbol, j, close, value, plain.get(kind, known)
                )

    def _factor(self, j: int, value: float) -> str:
        """By what power of ten a price changed its unit, if that is what a log return says."""
        if self.features[j].unit != "log return" or abs(value) < 2.0:
            return ""
        tens = round(value / np.log(10.0))
        near = abs(value - tens * np.log(10.0)) < NEAR
        return f"{10.0**tens:g} times it" if near else ""

    def _lasting(self, close: int) -> Iterable[Flag]:
        """Drift and units over the last rows: flags of what has begun or become worse."""
        expected, seen = self.expected, int(self._scalars[SEEN])
        psi, level = np.empty((2, len(self._names)))
        means(self._sums, expected.shares, psi, level)
        if seen >= expected.window:
            self.psi = psi
            warn, fail = expected.drift
            for j in self._begun("drift", self.psi, warn, fail):
                severity = self._lasts["drift", self._names[j]]
                text = f"PSI of {warn[j]:.3g} at most"
                yield self._flag(seen, DRIFT, severity, "", j, close, self.psi[j], text)
        if seen >= expected.short:
            usual, least, most = expected.level
            beyond = np.maximum(least - level, level - most) / OCTAVE
            for j in self._begun("unit change", beyond, UNIT_WARN, UNIT_FAIL):
                severity = self._lasts["unit change", self._names[j]]
                factor = 2.0 ** ((level[j] - usual[j]) / OCTAVE)
                text = f"magnitudes as before, not {factor:.2g} times them"
                yield self._flag(seen, UNIT, severity, "", j, close, factor, text)

    def _begun(
        self,
        kind: str,
        value: NDArray[np.float64],
        warn: NDArray[np.float64] | float,
        fail: NDArray[np.float64] | float,
    ) -> Iterable[int]:
        """Features of which something lasts since now, or is worse than it was.

        It is over below `OVER` of the limit: what lies about a limit is not told again and again.
        """
        above = value > warn
        last = [self._places_of[name] for of, name in self._lasts if of == kind]
        if not last and not above.any():
            return
        now = np.where(value > fail, 2, above)
        kept = value > OVER * np.asarray(warn)
        for j in sorted({*np.flatnonzero(now).tolist(), *last}):
            name = self._names[j]
            before = SEVERITIES.index(self._lasts.get((kind, name), ""))
            level = max(int(now[j]), min(before, 1) if kept[j] else 0)
            if level:
                self._lasts[kind, name] = SEVERITIES[level]
            elif before:
                del self._lasts[kind, name]
            if level > before:
                yield j

    def _against(self, now: int, symbols: Sequence[str], closes: NDArray[np.int64]) -> list[Flag]:
        """Flags of bars ahead of a clock, and of symbols whose bars are late by it."""
        seen = int(self._scalars[SEEN])
        found = self._watched[-1]
        first = int(self._scalars[FIRST])
        count = late(self._known, self._seasons, first, now, 0, found, 0, seen)
        times = np.full(max(len(closes), 1), now)
        flags = list(self._flags(found[:count], times, symbols or self.symbols[:1]))
        allowed = now + int(AHEAD * self.expected.bar)
        for at in np.flatnonzero(closes > allowed).tolist():
            ahead, text = (int(closes[at]) - now) / 1e9, "a close that is not in the future, in s"
            flags.append(
                self._flag(seen, SKEW, "fail", symbols[at], None, int(closes[at]), ahead, text)
            )
        return flags

    def _flag(
        self,
        seen: float,
        kind: float,
        severity: Any,  # noqa: ANN401  # warn | fail
        symbol: str,
        j: int | None,
        close: int,
        value: float,
        expected: str,
    ) -> Flag:
        feature = "" if j is None else self._names[j]
        return Flag(
            KINDS[int(kind)],
            severity,
            symbol,
            feature,
            int(close),
            float(value),
            expected,
            int(seen),
        )

    def _told(self, flags: list[Flag]) -> tuple[Flag, ...]:
        for flag in flags:
            self.flags[flag.kind, flag.severity] += 1
            if flag.feature:
                self.feature_flags[flag.feature, flag.kind] += 1
            if flag.symbol:
                self.symbol_flags[flag.symbol] += 1
            if self.log is not None:
                self.log.write(json.dumps(flag.to_dict()) + "\n")
        self._recent += flags
        self._trimmed()
        return tuple(flags)

    def _trimmed(self) -> deque[Flag]:
        """Flags of the last rows."""
        oldest = int(self._scalars[SEEN]) - self.expected.window
        while self._recent and self._recent[0].row < oldest:
            self._recent.popleft()
        return self._recent


def _refused(
    watched: Sequence[str],
    symbols: Sequence[str],
    closes: NDArray[np.int64],
    rows: NDArray[np.float32],
    width: int,
) -> DataError:
    unknown = [symbol for symbol in symbols if symbol not in watched]
    if unknown:
        return DataError(
            Problem(
                "the monitor watches no such symbol",
                where=", ".join(map(str, unknown[:5])),
                expected=", ".join(watched[:5]),
                got=f"{len(unknown)} others",
                fix=f"Monitor(dataset, symbols=[..., {unknown[0]!r}])",
            )
        )
    return DataError(
        Problem(
            "each row is of one symbol and one close, and has a column for each feature",
            expected=f"{len(symbols)} symbols, closes [{len(symbols)}], "
            f"rows [{len(symbols)}, {width}]",
            got=f"{len(symbols)} symbols, closes {list(closes.shape)}, rows {list(rows.shape)}",
            fix="monitor.watch(stream.symbols, stream.closes, stream.update(bars))",
        )
    )
