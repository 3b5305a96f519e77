"""Places: where the rows of each symbol go while a generation is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featurekit.dataset.digests import PIECE, RowDigest
from featurekit.dataset.manifest import ShardRows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from featurekit.dataset.reader import Dataset
    from featurekit.dataset.shard import ShardFile


class Planned(NamedTuple):
    """The rows that a symbol will have, and which of them are written.

    The first `kept` stay where the generation before has them. The `halo` rows before the others
    are written again, so that each window lies in one shard.
    """

    symbol: str
    rows: int
    kept: int = 0
    halo: int = 0

    @property
    def first(self) -> int:
        """The first row that is written."""
        return self.kept - self.halo if self.kept < self.rows else self.rows


@dataclass(slots=True)
class Stretch:
    """Rows of a symbol from `first` on that lie in one shard, from its row `start` on."""

    first: int
    rows: int
    halo: int
    shard: ShardFile | None = None
    start: int = 0
    first_time: int = 0
    last_time: int = 0

    def described(self, symbol: str) -> ShardRows:
        """What the manifest says of it."""
        return ShardRows(
            symbol, self.start, self.rows, self.first, self.halo, self.first_time, self.last_time
        )


@dataclass(slots=True)
class Place:
    """Where the rows of a symbol go, and what those that came so far have shown."""

    planned: Planned
    digest: RowDigest
    stretches: list[Stretch] = field(default_factory=list)
    written: int = 0
    first_time: int = 0  # of the symbol
    latest: int = 0  # time of the last row that was written
    last_time: int = 0  # of the symbol
    segments: list[int] = field(default_factory=list)

    @staticmethod
    def kept(planned: Planned, base: Dataset | None) -> Place:
        """A place whose kept rows are known."""
        if base is None or not planned.kept:
            return Place(planned, RowDigest())
        manifest, code = base.manifest, base.symbols.index(planned.symbol)
        begin, stop = map(int, manifest.symbol_starts[code : code + 2])
        if planned.kept == stop - begin == planned.rows:
            digest = RowDigest.of(manifest.pieces[planned.symbol], planned.rows)
        else:
            digest = RowDigest(manifest.pieces[planned.symbol][: planned.kept // PIECE])
            rest = base.read(begin + digest.rows, begin + planned.kept)
            digest.update({"features": rest.features, "targets": rest.targets, "time": rest.time})
        segments = [s.start - begin for s in manifest.segments if s.symbol == planned.symbol]
        first, last = (base.read(begin + k, begin + k + 1) for k in (0, planned.kept - 1))
        return Place(
            planned,
            digest,
            first_time=int(first.time[0]),
            last_time=int(last.time[0]),
            segments=[start for start in segments if start < planned.kept],
        )

    def noted(self) -> dict[str, Any]:
        """What `take_over` needs, as plain values; every row was written."""
        names = ("first_time", "last_time", "segments")
        times = [[stretch.first_time, stretch.last_time] for stretch in self.stretches]
        told = {name: getattr(self, name) for name in names}
        return {"pieces": self.digest.pieces, "times": times, **told}

    def take_over(self, noted: Mapping[str, Any]) -> None:
        """All rows were written by a build that was interrupted."""
        self.digest = RowDigest.of(noted["pieces"], self.planned.rows)
        self.written, self.latest = self.to_write, noted["last_time"]
        self.first_time, self.last_time = noted["first_time"], noted["last_time"]
        self.segments = noted["segments"]
        for stretch, times in zip(self.stretches, noted["times"], strict=True):
            stretch.first_time, stretch.last_time = times

    @property
    def to_write(self) -> int:
        """Rows that are written, the halo among them."""
        return self.planned.rows - self.planned.first

    def write(self, rows: dict[str, NDArray[Any]]) -> None:
        """Puts the next rows into each shard that holds some of them.

        Raises:
            OSError: when the disk is full.
        """
        number, time = self.planned.first + self.written, rows["time"]
        for stretch in self.stretches:
            low = max(stretch.first - number, 0)
            high = min(stretch.first + stretch.rows - number, len(time))
            if low < high and stretch.shard is not None:
                row = number + low - stretch.first
                part = {name: block[low:high] for name, block in rows.items()}
                stretch.shard.write(stretch.start + row, part)
                if not row:
                    stretch.first_time = int(time[low])
                stretch.last_time = int(time[high - 1])

    def note(self, rows: Mapping[str, NDArray[Any]], max_gap: int) -> None:
        """Counts and hashes the rows of a block, and finds the segments that start in it."""
        number = self.planned.first + self.written
        self.written += len(rows["time"])
        self.latest = int(rows["time"][-1])
        known = min(max(self.planned.kept - number, 0), len(rows["time"]))
        if known == len(rows["time"]):
            return
        fresh = {name: block[known:] for name, block in rows.items()}
        time, number = fresh["time"], number + known
        if not number:
            self.first_time = self.last_time = int(time[0])
            self.segments.append(0)
        starts = np.flatnonzero(np.diff(time, prepend=self.last_time) > max_gap)
        self.segments += [number + int(start) for start in starts]
        self.last_time = int(time[-1])
        self.digest.update(fresh)
