"""Writing a generation: rows come in blocks of any size and go straight to their place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from featurekit.dataset.manifest import (
    MANIFEST,
    Manifest,
    Segment,
    Shard,
    ShardRows,
    Split,
    Target,
    content_digest,
)
from featurekit.dataset.reader import Dataset
from featurekit.dataset.shard import ShardFile, ShardLayout, map_shards, take_rows
from featurekit.dataset.staging import Staging, disk, write_synced
from featurekit.dataset.windows import DEFAULT_WINDOW, SPLITS
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurekit.feature import Feature

SHARD_BYTES = 256 * 2**20


class DatasetWriter:
    """Writes one generation of a dataset, block by block, within `with`.

    `plan` lists the symbols in order with the number of their rows, so that each tensor has its
    place before its first row comes. Blocks of a symbol come in order of time; symbols may
    alternate. A shard holds whole symbols and ends before it exceeds `shard_bytes`: a symbol that
    alone is larger has a larger shard of its own. A gap longer than `max_gap` ns cuts a segment.

    Raises:
        DatasetError: when the directory holds something else, another build is writing it, or the
            plan is empty or not in order.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fingerprint: str,
        features: Sequence[Feature],
        targets: Sequence[Target],
        plan: Sequence[tuple[str, int]],
        max_gap: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.root, self.features, self.targets = Path(root), tuple(features), tuple(targets)
        self.plan, self.max_gap, self.shard_bytes = tuple(plan), max_gap, shard_bytes
        self._staging = Staging(self.root, fingerprint)
        self._opened = ExitStack()
        self._shards: list[ShardFile] = []
        self._places: dict[str, _Place] = {}
        self._check_plan()

    def _check_plan(self) -> None:
        symbols = [symbol for symbol, _ in self.plan]
        named = (*(f.name for f in self.features), *(t.name for t in self.targets))
        columns = ["symbol", "time", *named]
        twice = {column for column in columns if columns.count(column) > 1}
        for wrong, what, got in (
            (symbols != sorted(set(symbols)), "symbols are planned once each, sorted", symbols),
            (any(rows < 0 for _, rows in self.plan), "a number of rows is negative", self.plan),
            (not self.features, "there is no feature to write", self.features),
            (twice, "two columns have one name", twice),
            (not any(rows for _, rows in self.plan), "there is no row to write", self.plan),
        ):
            if wrong:
                raise DatasetError(Problem(what, where=str(self.root), got=str(got)[:80]))

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as opened:
            opened.enter_context(self._staging)
            self._place_symbols(opened)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _place_symbols(self, opened: ExitStack) -> None:
        names = tuple(f.name for f in self.features), tuple(t.name for t in self.targets)
        row_bytes = sum(t.row_bytes for t in ShardLayout(1, *names).tensors.values())
        packed: list[list[tuple[str, int]]] = []
        size = 0
        for symbol, rows in filter(itemgetter(1), self.plan):  # those that have a row
            size += rows * row_bytes
            if not packed or size > self.shard_bytes:
                packed.append([])
                size = rows * row_bytes
            packed[-1].append((symbol, rows))
        for number, symbols in enumerate(packed):
            path = self._staging.shards / f"{self._staging.number:06d}-{number:05d}.safetensors"
            shard = ShardFile(path, ShardLayout(sum(rows for _, rows in symbols), *names))
            opened.callback(shard.close)
            self._shards.append(shard)
            start = 0
            for symbol, rows in symbols:
                self._places[symbol] = _Place(symbol, shard, start, rows)
                start += rows

    def write(
        self,
        symbol: str,
        time: NDArray[np.int64],
        features: NDArray[np.float32],
        targets: NDArray[np.float32],
    ) -> None:
        """The next rows of a symbol: UTC ns `[n]`, features `[n, F]` and targets `[n, K]`.

        Raises:
            DatasetError: when the rows are not those of the plan, times do not increase, or the
                disk is full.
        """
        if not len(time):
            return
        place = self._places.get(symbol)
        self._check_block(symbol, place, time, features, targets)
        assert place is not None  # noqa: S101  # the check raised otherwise
        rows = {
            name: np.ascontiguousarray(block, dtype=place.shard.layout.tensors[name].dtype)
            for name, block in (("features", features), ("targets", targets), ("time", time))
        }
        with disk(place.shard.path):
            place.shard.write(place.start + place.written, rows)
        place.note(rows, self.max_gap)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features `[n, F]` of rows that were written, counted over all symbols."""
        return take_rows([shard.features() for shard in self._shards], numbers)

    def first_number(self, symbol: str) -> int:
        """The number of a symbol's first row, counted over all symbols."""
        place = self._places[symbol]
        before = self._shards[: self._shards.index(place.shard)]
        return sum(shard.layout.rows for shard in before) + place.start

    @property
    def span(self) -> tuple[int, int]:
        """UTC ns of the first and the last row that were written."""
        places = self._places.values()
        return min(p.first_time for p in places), max(p.last_time for p in places)

    def _check_block(
        self,
        symbol: str,
        place: _Place | None,
        time: NDArray[np.int64],
        features: NDArray[np.float32],
        targets: NDArray[np.float32],
    ) -> None:
        n = len(time)
        problem = None
        for name, block, dtype, shape in (
            ("time", time, np.int64, (n,)),
            ("features", features, np.float32, (n, len(self.features))),
            ("targets", targets, np.float32, (n, len(self.targets))),
        ):
            if block.dtype != dtype or block.shape != shape:
                expected, got = f"{np.dtype(dtype)} {shape}", f"{block.dtype} {block.shape}"
                problem = Problem(f"{name} have another shape or type", expected=expected, got=got)
        if place is None or place.written + n > place.rows:
            planned = 0 if place is None else place.rows
            written = 0 if place is None else place.written
            problem = Problem(
                "more rows than planned", expected=f"{planned} rows", got=f"{written + n} rows"
            )
        elif (place.written and time[0] <= place.last_time) or (np.diff(time) <= 0).any():
            problem = Problem(
                "times do not increase", expected="rows sorted by time, each time once"
            )
        if problem is not None:
            raise DatasetError(replace(problem, where=f"symbol {symbol!r}, {self.root}"))

    def commit(
        self,
        *,
        name: str,
        pipeline: str,
        fingerprints: Mapping[str, str],
        cuts: tuple[int, int],
        embargo: int,
        window_max: int,
        scaling: Mapping[str, Any] | None,
        versions: Mapping[str, str],
        files: Mapping[str, bytes | Path],
    ) -> Dataset:
        """Makes the generation current, all of it or nothing, and opens it.

        `pipeline` is its YAML text, `fingerprints` those of pipeline and data, `cuts` the UTC ns at
        which validation and test start, `embargo` the bars skipped after a cut, `window_max` the
        longest window. `files` go beside the manifest: bytes, or a file to copy, by name.

        Raises:
            DatasetError: when rows of the plan are missing, or the disk is full.
        """
        problems = [
            Problem(
                "rows of the plan were not written",
                where=f"symbol {place.name!r}, {self.root}",
                expected=f"{place.rows} rows",
                got=f"{place.written} rows",
            )
            for place in self._places.values()
            if place.written < place.rows
        ]
        if cuts[0] > cuts[1]:
            starts = [f"{np.datetime64(cut, 'ns')}" for cut in cuts]
            problems.append(
                Problem(
                    "validation starts after test",
                    where=name,
                    expected="train, then validation, then test",
                    got=f"validation: {starts[0]}, test: {starts[1]}",
                    fix=f"splits: {{validation: {starts[1][:10]}, test: {starts[0][:10]}}}",
                )
            )
        if problems:
            raise DatasetError(*problems)
        with disk(self.root):
            manifest = Manifest(
                generation=self._staging.number,
                name=name,
                features=self.features,
                targets=self.targets,
                rows=sum(place.rows for place in self._places.values()),
                symbols=tuple(symbol for symbol, _ in self.plan),
                segments=tuple(self._segments()),
                cuts=cuts,
                embargo=embargo,
                horizon=max((target.horizon for target in self.targets), default=0),
                window_max=window_max,
                splits={},
                shards=tuple(self._described(shard) for shard in self._shards),
                files={each: self._staging.store(each, files[each]) for each in sorted(files)},
                data_digest=self.data_digest(cuts, embargo),
                fingerprints=fingerprints,
                pipeline=pipeline,
                scaling=scaling,
                versions=versions,
            )
            mapped = map_shards(self._staging.shards, manifest)
            draft = Dataset(self.root, self._staging.generation, manifest, mapped)
            manifest = replace(manifest, splits=_count(draft))
            write_synced(self._staging.generation / MANIFEST, manifest.to_json().encode())
            return Dataset(self.root, self._staging.publish(), manifest, mapped)

    def _segments(self) -> Iterator[Segment]:
        start = 0
        for place in self._places.values():
            for first, stop in pairwise([*place.segments, place.rows]):
                yield Segment(place.name, start + first, stop - first)
            start += place.rows

    def _described(self, shard: ShardFile) -> Shard:
        symbols = [
            ShardRows(place.name, place.start, place.rows, place.first_time, place.last_time)
            for place in self._places.values()
            if place.shard is shard
        ]
        return Shard(
            shard.path.name, shard.layout.rows, shard.layout.bytes, shard.digest, tuple(symbols)
        )

    def data_digest(self, cuts: tuple[int, int], embargo: int) -> str:
        """Names the logical content of what was written, whichever files or blocks made it."""
        content = {
            "features": [feature.name for feature in self.features],
            "targets": [asdict(target) for target in self.targets],
            "rows": [
                [place.name, {name: each.hexdigest() for name, each in place.digests.items()}]
                for place in self._places.values()
            ],
            "segments": list(self._segments()),
            "cuts": cuts,
            "embargo": embargo,
        }
        return content_digest(content)


@dataclass(slots=True)
class _Place:
    """Where the rows of a symbol go, and what those that came so far have shown."""

    name: str
    shard: ShardFile
    start: int
    rows: int
    written: int = 0
    first_time: int = 0
    last_time: int = 0
    segments: list[int] = field(default_factory=list)
    digests: dict[str, xxhash.xxh3_128] = field(
        default_factory=lambda: {
            name: xxhash.xxh3_128() for name in ("features", "targets", "time")
        }
    )

    def note(self, rows: Mapping[str, NDArray[Any]], max_gap: int) -> None:
        """Counts and hashes the rows of a block, and finds the segments that start in it."""
        time = rows["time"]
        if not self.written:
            self.first_time = self.last_time = int(time[0])
            self.segments.append(0)
        starts = np.flatnonzero(np.diff(time, prepend=self.last_time) > max_gap)
        self.segments += [self.written + int(start) for start in starts]
        self.written += len(time)
        self.last_time = int(time[-1])
        for name, digest in self.digests.items():
            digest.update(rows[name].tobytes())


def _count(dataset: Dataset) -> dict[str, Split]:
    """Rows and symbols of each split, and the windows that a loader gives by default."""
    window = min(DEFAULT_WINDOW, dataset.manifest.window_max)
    counted = {}
    for code, split in enumerate(SPLITS):
        rows = dataset.bounds[:, code + 1] - dataset.bounds[:, code]
        counted[split] = Split(
            rows=int(rows.sum()),
            windows=dataset.windows(split, window),
            absent=tuple(s for s, n in zip(dataset.symbols, rows, strict=True) if not n),
        )
    return counted
