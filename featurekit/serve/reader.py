"""Reader: messages as numbers and frames, or what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import xxhash

from featurekit.canonical import FILLS, FILLS_OPTIONAL, TEXT
from featurekit.errors import DataError, Problem
from featurekit.serve.messages import MOST_PROBLEMS, RefusedError, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurekit.serve.messages import Fill, Message
    from featurekit.stream import Stream


class Asked(NamedTuple):
    """A bar of a message: place of its symbol, stamp, close, digest and values."""

    at: int
    stamp: int
    close: int
    digest: int
    values: dict[str, Any]


class Reader:
    """Reads messages for a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.places = {symbol: at for at, symbol in enumerate(stream.symbols)}

    def bars(self, message: Message) -> list[Asked]:
        """The bars of a message by number.

        Raises:
            RefusedError: when a symbol is unknown.
            DataError: when a time is none, or what a block reads is no number.
        """
        problems: list[Problem] = []
        unknown = {bar.symbol: None for bar in message.bars if bar.symbol not in self.places}
        unknown |= {
            fill.symbol: None
            for fill in message.fills
            if fill.symbol is not None and fill.symbol not in self.places
        }
        if unknown:
            raise RefusedError(404, *map(self.unknown, list(unknown)[:MOST_PROBLEMS]))
        asked = []
        for number, bar in enumerate(message.bars):
            try:
                stamp = nanoseconds(bar.time, f"bars[{number}].time")
            except DataError as error:
                problems += error.problems
                continue
            values = {
                "open": bar.open,
                "high": bar.high,
                "low": bar.low,
                "close": bar.close,
                "volume": bar.volume,
                **(bar.__pydantic_extra__ or {}),
            }
            close = self.stream.close_of(stamp)
            problems += [
                Problem(
                    f"{name} is no number",
                    where=f"bars[{number}].{name}",
                    expected="a number, or null where the schema allows it",
                    got=ascii(values[name])[:80],
                    fix=f'"{name}": 0.0',
                )
                for name in self.stream.others
                if isinstance(values.get(name), str | bool)
            ]
            asked.append(
                Asked(self.places[bar.symbol], stamp, close, digest_of([stamp, values]), values)
            )
        if problems:
            raise DataError(*problems[:MOST_PROBLEMS])
        return asked

    def groups(self, bars: Sequence[Asked]) -> list[tuple[list[Asked], pl.DataFrame | None]]:
        """Bars in order of time as the stream takes them: by number, or in frames.

        Bars of a portfolio that close together come together.
        """
        if all(self.stream.is_plain(one.values) for one in bars):
            return [([one], None) for one in bars]
        groups: dict[int, list[Asked]] = {}
        for one in bars:
            groups.setdefault(one.close, []).append(one)
        return [(group, self._frame(group)) for group in groups.values()]

    def unknown(self, symbol: str) -> Problem:
        """What is said of a symbol that there is none of."""
        return Problem(
            "there is no such symbol",
            where=ascii(symbol)[:80],
            expected=", ".join(self.stream.symbols[:5]),
            fix="GET /symbols   # those that the state began with; --state ANOTHER for new ones",
        )

    def _frame(self, bars: Sequence[Asked]) -> pl.DataFrame:
        """Canonical bars; what some of them lack is null."""
        names = dict.fromkeys(name for one in bars for name in one.values)
        stamps = pl.Series("time", [one.stamp for one in bars]).cast(pl.Datetime("ns", "UTC"))
        columns = {name: [one.values.get(name) for one in bars] for name in names}
        symbols = [self.stream.symbols[one.at] for one in bars]
        frame = pl.DataFrame({"symbol": symbols, "time": stamps, **columns}, strict=False)
        return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))


def digest_of(values: object) -> int:
    """The xxh3_64 of plain data."""
    return xxhash.xxh3_64_intdigest(json.dumps(values, sort_keys=True).encode())


def fills_of(fills: Sequence[Fill]) -> list[dict[str, Any]]:
    """Fills as plain data, with times in UTC ns.

    Raises:
        DataError: when a time is none.
    """
    problems: list[Problem] = []
    told = []
    for number, fill in enumerate(fills):
        try:
            time = nanoseconds(fill.time, f"fills[{number}].time")
        except DataError as error:
            problems += error.problems
            continue
        told.append({**fill.model_dump(), "time": time})
    if problems:
        raise DataError(*problems[:MOST_PROBLEMS])
    return told


def frame_of(fills: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The same as a canonical frame."""
    kinds: dict[str, pl.DataType] = {
        name: pl.String() if name in TEXT else pl.Float64() for name in (*FILLS, *FILLS_OPTIONAL)
    }
    kinds["time"] = pl.Int64()
    frame = pl.DataFrame(fills, schema=kinds).with_columns(
        pl.col("time").cast(pl.Datetime("ns", "UTC"))
    )
    return frame.drop(name for name in FILLS_OPTIONAL if frame[name].null_count() == frame.height)
