"""Service: messages in, rows out; what it knows as bytes, and what it took as records.

It knows nothing of HTTP, files or clocks.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from featurekit.errors import ConfigError, FeaturekitError, Problem
from featurekit.ingest import FILLS_SCHEMA
from featurekit.monitor import Monitor
from featurekit.pipeline import Pipeline
from featurekit.schema import validate
from featurekit.serve.messages import MOST_PROBLEMS, RefusedError, time_text
from featurekit.serve.reader import Asked, Reader, digest_of, fills_of, frame_of
from featurekit.serve.recent import Kept, Recent
from featurekit.stream import Stream
from featurekit.stream.state import pack, unpack
from featurekit.timeline import duration
from featurekit.violations import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from featurekit.dataset import Dataset
    from featurekit.monitor import Flag
    from featurekit.nn import TemporalEncoder
    from featurekit.serve.messages import Message, Output

FORMAT = 1
LEAST_KEPT = 32  # rows of a symbol: what a client that lost the connection may send again
NO_SNAPSHOT = Problem(
    "this is no snapshot of a service",
    expected="the bytes of service.snapshot()",
    fix="--state ANOTHER_DIRECTORY",
)
MOST_IDS = 100_000
MOST_FLAGS = 50  # that the page shows


class BrokenError(Exception):
    """Memory and disk may differ: only a restart makes them one again."""


class Taken(NamedTuple):
    """The answer to a message, and what has to be on disk before it is given, if anything."""

    answer: dict[str, Any]
    record: bytes | None


class Service:
    """A stream, its monitor and an encoder behind one door.

    Args:
        dataset: Where it begins, and what its rows are held against.
        encoder: For answers with `output: encoder`.
        window: Rows that the encoder is given.

    Raises:
        ConfigError: when the encoder is of other features, or the window too long for it.
    """

    def __init__(
        self, dataset: Dataset, *, encoder: TemporalEncoder | None = None, window: int = 20
    ) -> None:
        self._begin(Stream.from_dataset(dataset), dataset, encoder, window)
        self._fill_recent(dataset)

    def _begin(
        self, stream: Stream, dataset: Dataset, encoder: TemporalEncoder | None, window: int
    ) -> None:
        if encoder is not None:
            _check_encoder(encoder, stream.pipeline.columns, window)
        self.stream, self.encoder, self.window = stream, encoder, window
        self.pipeline = stream.pipeline
        self.monitor = Monitor(dataset, symbols=stream.symbols)
        self.flags: list[Flag] = []  # the newest, for the page
        self._reader = Reader(stream)
        kept = window + LEAST_KEPT
        self._recent = Recent(len(stream.symbols), kept, len(self.pipeline.columns))
        self._ids: OrderedDict[str, int] = OrderedDict()
        self._gap = duration(self.pipeline.segments.max_gap)
        self._compile()

    def _compile(self) -> None:
        """Runs everything once, so that the first message need not wait for compilers."""
        program = self.pipeline.program
        ones, row = np.ones((1, len(program.inputs))), np.empty((1, program.width), np.float32)
        program.run_each(program.new_state()[None], np.zeros(1, np.int64), ones, row)
        if self.encoder is not None:
            with torch.inference_mode():
                self.encoder(torch.zeros(1, self.window, program.width))

    # --- messages ------------------------------------------------------------------------------

    def take(self, message: Message) -> Taken:
        """Takes a message in, all of it or nothing.

        Raises:
            RefusedError: when a symbol is unknown, a bar late or another one than before, fills
                have no id or an id is of another message.
            DataError: when bars or fills break their schema or make no sense.
            ConfigError: when it asks for an encoder or a scaling that there is none of.
            BrokenError: when it cannot be said what was taken.
        """
        self.check_output(message.output, message.scaled)
        asked, fills = self._reader.bars(message), fills_of(message.fills)
        known, digest = self._known(message)
        new, found = self._new(asked)
        fills = [] if known else fills
        groups = self._reader.groups(new)
        self._check(groups)
        name = message.id if fills else None
        flags: tuple[Flag, ...] = ()
        rows = {
            (at, kept.close): self._told(at, kept, message.output, message.scaled, repeated=True)
            for (at, _), kept in found.items()
        }
        if fills:
            self._take_fills(fills)
        if new or fills:
            try:
                if name is not None:
                    self._remember(name, digest)
                made = self._apply(groups)
                for at, kept in made:
                    rows[at, kept.close] = self._told(at, kept, message.output, message.scaled)
                flags = self._watch(made)
            except Exception as error:
                raise BrokenError from error
        answer = {
            "id": message.id,
            "rows": [rows[one.at, one.close] for one in asked],
            "flags": [flag.to_dict() for flag in flags],
        }
        if not new and not fills:
            return Taken(answer, None)
        bars = [list(one) for one in new]
        record = {"bars": bars, "fills": fills, "id": name, "of": digest}
        return Taken(answer, json.dumps(record).encode())

    def again(self, record: bytes) -> int:
        """Takes in a list of what `take` gave for the disk; how many bars were in it."""
        count = 0
        for told in json.loads(record):
            if told["fills"]:
                self.stream.fill(frame_of(told["fills"]))
            if told["id"] is not None:
                self._remember(told["id"], told["of"])
            bars = [Asked(*one) for one in told["bars"]]
            count += len(self._apply(self._reader.groups(bars)))
        return count

    def check_output(self, output: Output, scaled: bool) -> None:
        """Refuses what cannot be answered.

        Raises:
            ConfigError: when there is no encoder, or no scaling.
        """
        if output == "encoder" and self.encoder is None:
            raise ConfigError(
                Problem(
                    "there is no encoder",
                    where="output",
                    expected='"features"',
                    got='"encoder"',
                    fix="featurekit serve ... --encoder encoder.safetensors",
                )
            )
        if scaled and self.stream.scaling is None:
            raise ConfigError(
                Problem(
                    "the dataset has no scaling",
                    where="scaled",
                    expected="false",
                    got="true",
                    fix="scaling: {kind: standard}   # in the pipeline, and build it again",
                )
            )

    def now(self, now: int) -> None:
        """Holds the bars that there were against a clock, UTC ns."""
        none = np.empty((0, len(self.pipeline.columns)), np.float32)
        self._keep(self.monitor.watch([], [], none, now))

    # --- what it knows -------------------------------------------------------------------------

    def last(self, symbol: str, output: Output = "features", scaled: bool = False) -> Any:  # noqa: ANN401  # JSON
        """The newest row of a symbol as `take` answers it.

        Raises:
            RefusedError: when there is no such symbol, or no bar of it yet.
            ConfigError: as `take`.
        """
        self.check_output(output, scaled)
        at = self._reader.places.get(symbol)
        if at is None:
            raise RefusedError(404, self._reader.unknown(symbol))
        kept = self._recent.last(at)
        if kept is None:
            raise RefusedError(
                404,
                Problem(
                    "there is no row of this symbol yet",
                    where=symbol,
                    fix="POST /bars",
                ),
            )
        return self._told(at, kept, output, scaled, repeated=True)

    def symbols(self) -> list[dict[str, Any]]:
        """What is known of each symbol."""
        told = self.monitor.summary()["symbols"]
        closes, ready = self.stream.closes.tolist(), self.stream.ready.tolist()
        found = []
        for at, symbol in enumerate(self.stream.symbols):
            kept = self._recent.last(at)
            found.append(
                {
                    "symbol": symbol,
                    "time": None if kept is None else time_text(kept.stamp),
                    "close": None if closes[at] < 0 else time_text(closes[at]),
                    "ready": ready[at],
                    "stale": told[symbol]["stale"],
                    "flags": told[symbol]["flags"],
                }
            )
        return found

    def snapshot(self) -> bytes:
        """All it knows, to `restore`: safetensors."""
        state = np.frombuffer(self.stream.state(), np.uint8)
        told = {"format": FORMAT, "ids": list(self._ids.items())}
        return pack("serve", told, {"stream": state, **self._recent.tables()})

    @classmethod
    def restore(
        cls,
        snapshot: bytes,
        dataset: Dataset,
        *,
        encoder: TemporalEncoder | None = None,
        window: int = 20,
    ) -> Service:
        """The service whose `snapshot` this was.

        Raises:
            ConfigError: when it is none, or of another pipeline or version, or as Service.
        """
        told, tables = unpack("serve", snapshot, FORMAT, NO_SNAPSHOT)
        pipeline = Pipeline.from_yaml(dataset.manifest.pipeline)
        stream = Stream.resume(pipeline, tables.pop("stream").tobytes(), scaling=dataset.scaling)
        service = cls.__new__(cls)
        service._begin(stream, dataset, encoder, window)
        service._recent.restore(tables)
        service._ids = OrderedDict((name, digest) for name, digest in told["ids"])
        return service

    # --- its parts -----------------------------------------------------------------------------

    def _new(self, asked: Sequence[Asked]) -> tuple[list[Asked], dict[tuple[int, int], Kept]]:
        """Bars that are to be taken, by time, and the rows of those that were there already.

        Raises:
            RefusedError: when a bar is late, or another one than before.
        """
        lasts, problems = self.stream.lasts(), []
        new: dict[tuple[int, int], Asked] = {}
        found: dict[tuple[int, int], Kept] = {}
        for one in asked:
            key, digest, last = (one.at, one.close), None, lasts[one.at]
            if key in new:
                digest = new[key].digest
            elif last is not None and one.close <= last:
                kept = self._recent.find(one.at, one.close)
                if kept is not None and kept.digest:
                    digest, found[key] = kept.digest, kept
            else:
                new[key] = one
                continue
            if digest != one.digest:
                problems.append(self._late(one, last, digest is not None))
        if problems:
            raise RefusedError(409, *problems[:MOST_PROBLEMS])
        return sorted(new.values(), key=lambda one: (one.close, one.at)), found

    def _check(self, groups: Sequence[tuple[list[Asked], pl.DataFrame | None]]) -> None:
        """Refuses bars that the stream would refuse.

        Raises:
            DataError: when one breaks the schema.
        """
        for _, frame in groups:
            if frame is not None:
                self.stream.check(frame)

    def _take_fills(self, fills: list[dict[str, Any]]) -> None:
        frame = frame_of(fills)
        refuse(validate(frame, FILLS_SCHEMA), "the fills")
        try:
            self.stream.fill(frame)
        except FeaturekitError:  # of which it took none
            raise
        except Exception as error:
            raise BrokenError from error

    def _apply(
        self, groups: Sequence[tuple[list[Asked], pl.DataFrame | None]]
    ) -> list[tuple[int, Kept]]:
        """Moves the stream on by bars that can be taken; places and rows."""
        made: list[tuple[int, Kept]] = []
        for bars, frame in groups:
            if frame is None:
                (one,) = bars
                values = {name: one.values[name] for name in self.stream.bar_columns}
                rows = [self.stream.push(self.stream.symbols[one.at], one.stamp, **values)]
            else:
                table = self.stream.update(frame)
                rows = [table[one.at] for one in bars]
            for one, row in zip(bars, rows, strict=True):
                before = self._recent.last_close(one.at)
                joined = before is not None and one.close - before <= self._gap
                ready = self.stream.is_ready(one.at)
                kept = Kept(one.stamp, one.close, one.digest, ready, joined, row)
                self._recent.put(one.at, kept)
                made.append((one.at, kept))
        return made

    def _watch(self, made: Sequence[tuple[int, Kept]]) -> tuple[Flag, ...]:
        if not made:
            return ()
        symbols = [self.stream.symbols[at] for at, _ in made]
        closes, rows = [kept.close for _, kept in made], np.stack([kept.row for _, kept in made])
        ready = [kept.ready for _, kept in made]
        flags = self.monitor.watch(symbols, closes, rows, ready=None if all(ready) else ready)
        self._keep(flags)
        return flags

    def _keep(self, flags: Sequence[Flag]) -> None:
        if flags:
            self.flags = [*self.flags, *flags][-MOST_FLAGS:]

    def _told(
        self, at: int, kept: Kept, output: Output, scaled: bool, *, repeated: bool = False
    ) -> dict[str, Any]:
        told: dict[str, Any] = {
            "symbol": self.stream.symbols[at],
            "time": time_text(kept.stamp),
            "close": time_text(kept.close),
            "ready": kept.ready,
            "repeated": repeated,
        }
        if output == "encoder":
            told["encoding"] = self._encoding(at, kept.close)
        elif scaled and self.stream.scaling is not None:
            told["features"] = self.stream.scaling.apply(kept.row[None])[0]
        else:
            told["features"] = kept.row
        return told

    def _encoding(self, at: int, close: int) -> NDArray[np.float32] | None:
        """The encoder's vector of the window up to a bar.

        Windows go through it one at a time: the same bits whatever else was asked for.
        """
        window = self._recent.window(at, close, self.window)
        if window is None or self.encoder is None:
            return None
        with torch.inference_mode():
            vector: NDArray[np.float32] = self.encoder(torch.from_numpy(window)[None])[0].numpy()
        return vector

    def _remember(self, name: str, digest: int) -> None:
        self._ids[name] = digest
        if len(self._ids) > MOST_IDS:
            self._ids.popitem(last=False)

    def _known(self, message: Message) -> tuple[bool, int]:
        """Whether a message of this id was taken before, and the digest of what is in it.

        Raises:
            RefusedError: when that was another message, or fills have no id.
        """
        if message.id is None:
            if message.fills:
                raise RefusedError(
                    422,
                    Problem(
                        "fills without an id: sent again, they would be taken twice",
                        where="id",
                        expected="a text that no other message has",
                        got="none",
                        fix='"id": "fills-2024-01-02-17"',
                    ),
                )
            return False, 0
        digest = digest_of(message.model_dump(include={"bars", "fills"}))
        before = self._ids.get(message.id)
        if before is not None and before != digest:
            raise RefusedError(
                409,
                Problem(
                    "another message had this id",
                    where="id",
                    expected="the same bars and fills as then, or an id of its own",
                    got=ascii(message.id)[:80],
                    fix='"id": "..."   # one that no other message has',
                ),
            )
        return before is not None, digest

    def _late(self, bar: Asked, last: int | None, changed: bool) -> Problem:
        symbol = self.stream.symbols[bar.at]
        if changed or last is None:
            return Problem(
                "another bar of this time was taken before",
                where=f"{symbol}, {time_text(bar.stamp)}",
                expected="the same values as then",
                got="others",
                fix="send bars when they are closed: what was computed from them is out",
            )
        return Problem(
            "a bar is not after the last one",
            where=f"{symbol}, {time_text(bar.stamp)}",
            expected=f"a close after {time_text(last)}",
            got=time_text(bar.close),
            fix="GET /symbols   # where each symbol is",
        )

    def _fill_recent(self, dataset: Dataset) -> None:
        """Puts the last rows of a dataset in, which lead up to the first bars."""
        closes = self.stream.closes
        for symbol, segment in dataset.manifest.last_segments.items():
            at, count = self._reader.places[symbol], min(segment.rows, self._recent.rows.shape[1])
            stop = segment.start + segment.rows
            rows = dataset.read(stop - count, stop)
            ends = self.pipeline.closes_of(rows.time)
            if ends[-1] != closes[at]:  # what came after is in its warm-up
                continue
            for k, (stamp, close) in enumerate(zip(rows.time.tolist(), ends.tolist(), strict=True)):
                self._recent.put(at, Kept(stamp, close, 0, True, k > 0, rows.features[k]))


def _check_encoder(encoder: TemporalEncoder, columns: Sequence[str], window: int) -> None:
    problems = []
    if encoder.config["n_features"] != len(columns) or (
        encoder.features and tuple(encoder.features) != tuple(columns)
    ):
        problems.append(
            Problem(
                "the encoder is of other features",
                expected=f"the {len(columns)} of the pipeline, in their order",
                got=f"{encoder.config['n_features']} features",
                fix="an encoder that was trained on this dataset",
            )
        )
    if window > encoder.config["max_window"]:
        problems.append(
            Problem(
                "the window is longer than the encoder takes",
                expected=f"at most {encoder.config['max_window']} rows",
                got=str(window),
                fix=f"--window {encoder.config['max_window']}",
            )
        )
    if problems:
        raise ConfigError(*problems)
