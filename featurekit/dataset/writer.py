"""Writing a generation: rows come in blocks of any size and go straight to their place."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.dataset.manifest import (
    MANIFEST,
    Manifest,
    Segment,
    Shard,
    Split,
    Target,
    data_digest,
    extents_of,
)
from featurekit.dataset.places import Place, Planned, Stretch
from featurekit.dataset.reader import Dataset, current_generation
from featurekit.dataset.shard import ShardFile, ShardLayout, map_shards, take_rows
from featurekit.dataset.staging import Staging, disk, write_synced
from featurekit.dataset.windows import DEFAULT_WINDOW, SPLITS
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from featurekit.feature import Feature

SHARD_BYTES = 256 * 2**20
NOTED = "writer.json"


class DatasetWriter:
    """Writes one generation of a dataset, block by block, within `with`.

    `plan` lists the symbols in order with the number of their rows, so that each tensor has its
    place before its first row comes; of a symbol that has rows in `base`, the generation before,
    the rows from `first` on are written. Blocks of a symbol come in order of time; symbols may
    alternate. A shard holds whole symbols and ends before it exceeds `shard_bytes`: a symbol that
    alone is larger has a larger shard of its own. One of more than four times as many bytes is cut,
    if `halo` says how many rows are then repeated: those of the longest window but one. A gap
    longer than `max_gap` ns cuts a segment.

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
        plan: Sequence[Planned | tuple[str, int]],
        max_gap: int,
        shard_bytes: int = SHARD_BYTES,
        halo: int | None = None,
        base: Dataset | None = None,
    ) -> None:
        self.root, self.features, self.targets = Path(root), tuple(features), tuple(targets)
        self.plan, self.base = tuple(Planned(*each) for each in plan), base
        self.max_gap, self.shard_bytes, self.halo = max_gap, shard_bytes, halo
        self.staging = Staging(self.root, fingerprint)
        self._opened = ExitStack()
        self._shards: list[ShardFile] = []
        self._within: set[int] = set()  # numbers of shards that begin within a symbol
        self._places: dict[str, Place] = {}
        self._check_plan()
        rows = accumulate((planned.rows for planned in self.plan), initial=0)
        self._firsts = {p.symbol: first for p, first in zip(self.plan, rows, strict=False)}

    def _check_plan(self) -> None:
        symbols = [planned.symbol for planned in self.plan]
        named = (*(f.name for f in self.features), *(t.name for t in self.targets))
        columns = ["symbol", "time", *named]
        twice = {column for column in columns if columns.count(column) > 1}
        for wrong, what, got in (
            (symbols != sorted(set(symbols)), "symbols are planned once each, sorted", symbols),
            (
                not all(0 <= p.halo <= p.kept <= p.rows for p in self.plan),
                "a number of rows is negative, or more are kept than there are",
                self.plan,
            ),
            (
                self.base is None and any(p.kept for p in self.plan),
                "rows are kept of no generation",
                self.plan,
            ),
            (not self.features, "there is no feature to write", self.features),
            (twice, "two columns have one name", twice),
            (not any(p.rows for p in self.plan), "there is no row to write", self.plan),
        ):
            if wrong:
                raise DatasetError(Problem(what, where=str(self.root), got=str(got)[:80]))

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as opened:
            opened.enter_context(self.staging)
            self._check_base()
            self._place_symbols(opened)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def _check_base(self) -> None:
        """Refuses to go on from a generation that another build has replaced meanwhile."""
        before = None if self.base is None else self.base.generation.name
        if before is not None and (current := current_generation(self.root)) != before:
            raise DatasetError(
                Problem(
                    "another build has finished meanwhile",
                    where=str(self.root),
                    expected=before,
                    got=current,
                    fix="featurekit build PIPELINE",
                )
            )

    @property
    def finished(self) -> int:
        """Shards of whole symbols whose every row was written, before the first that lacks one."""
        lacking = (k for k, shard in enumerate(self._shards) if not shard.finished)
        last = next(lacking, len(self._shards))
        return max(k for k in range(last + 1) if k not in self._within)

    @property
    def shards(self) -> int:
        """Number of shards that are written."""
        return len(self._shards)

    def note(self, files: Mapping[str, bytes | Path]) -> None:
        """Notes which shards are finished, with files of the caller's, for `resume`.

        Raises:
            DatasetError: when the disk is full.
        """
        shards = self._shards[: self.finished]
        noted = {
            "shards": [[shard.hashed.whole, shard.hashed.blocks] for shard in shards],
            "places": {
                symbol: place.noted()
                for symbol, place in self._places.items()
                if place.stretches and place.stretches[-1].shard in shards
            },
        }
        with disk(self.root):
            self.staging.note(len(shards), {**files, NOTED: json.dumps(noted).encode()})

    def resume(self) -> Path | None:
        """Takes over what a build that was interrupted has noted: the directory of its files.

        Its finished shards are read again; if one is damaged, or the note is, or there is none, it
        is None.
        """
        directory = self.staging.checkpoint
        noted: dict[str, Any] = {"shards": [], "places": {}}
        if directory is not None:
            with suppress(OSError, ValueError):
                noted = json.loads((directory / NOTED).read_bytes())
        shards = self._shards[: len(noted["shards"])]
        if not all(
            shard.take_over(whole, blocks)
            for shard, (whole, blocks) in zip(shards, noted["shards"], strict=True)
        ):
            noted, shards = {"shards": [], "places": {}}, []
        if not shards:
            with disk(self.root):
                self.staging.forget()
        for symbol, place in noted["places"].items():
            self._places[symbol].take_over(place)
        for shard in self._shards[len(shards) :]:
            shard.path.unlink(missing_ok=True)
        return directory if shards else None

    def _place_symbols(self, opened: ExitStack) -> None:
        names = tuple(f.name for f in self.features), tuple(t.name for t in self.targets)
        row_bytes = sum(t.row_bytes for t in ShardLayout(1, *names).tensors.values())
        packed: list[list[tuple[str, Stretch]]] = []
        size = 0
        for planned in self.plan:
            if planned.rows:
                self._places[planned.symbol] = Place.kept(planned, self.base)
            for stretch in self._stretches(planned, 4 * self.shard_bytes // row_bytes):
                size += stretch.rows * row_bytes
                if not packed or size > self.shard_bytes:
                    packed.append([])
                    size = stretch.rows * row_bytes
                packed[-1].append((planned.symbol, stretch))
        for number, stretches in enumerate(packed):
            name = f"{self.staging.number:06d}-{number:05d}.safetensors"
            rows = [stretch.rows for _, stretch in stretches]
            layout = ShardLayout(sum(rows), *names, self.staging.fingerprint, name)
            shard = ShardFile(self.staging.shards / name, layout)
            opened.callback(shard.close)
            self._shards.append(shard)
            for (symbol, stretch), start in zip(
                stretches, accumulate(rows, initial=0), strict=False
            ):
                placed = replace(stretch, shard=shard, start=start)
                place = self._places[symbol]
                if place.stretches:
                    self._within.add(number)
                place.stretches.append(placed)

    def _stretches(self, planned: Planned, most: int) -> Iterator[Stretch]:
        """The rows of a symbol that are written, so many at most in one shard."""
        first, halo = planned.first, planned.halo
        if self.halo is None or most <= 2 * self.halo:
            most = planned.rows
        while first + halo < planned.rows:
            rows = min(most, planned.rows - first)
            yield Stretch(first, rows, halo)
            if first + rows == planned.rows:
                return
            first, halo = first + rows - (self.halo or 0), self.halo or 0

    def write(
        self,
        symbol: str,
        time: NDArray[np.int64],
        features: NDArray[np.float32],
        targets: NDArray[np.float32],
    ) -> None:
        """The next rows of a symbol: UTC ns `[n]`, features `[n, F]` and targets `[n, K]`.

        The first ones are those of its halo.

        Raises:
            DatasetError: when the rows are not those of the plan, times do not increase, or the
                disk is full.
        """
        if not len(time):
            return
        place = self._places.get(symbol)
        self._check_block(symbol, place, time, features, targets)
        assert place is not None  # noqa: S101  # the check raised otherwise
        kinds = (("features", features, "<f4"), ("targets", targets, "<f4"), ("time", time, "<i8"))
        rows = {name: np.ascontiguousarray(block, dtype) for name, block, dtype in kinds}
        with disk(self.root):
            place.write(rows)
        place.note(rows, self.max_gap)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features `[n, F]` of rows that were written or kept, by their numbers."""
        kept = [] if self.base is None else [shard.features for shard in self.base.shards]
        held = self._kept_shards()
        features = [each for each, shard in zip(kept, held, strict=True) if shard is not None]
        features += [shard.features() for shard in self._shards]
        extents = extents_of([planned.symbol for planned in self.plan], self._described())
        return take_rows(features, extents, numbers)

    def first_number(self, symbol: str) -> int:
        """The number of a symbol's first row."""
        return self._firsts[symbol]

    @property
    def span(self) -> tuple[int, int]:
        """UTC ns of the first and the last row that were written or kept."""
        places = self._places.values()
        return min(p.first_time for p in places), max(p.last_time for p in places)

    def _check_block(
        self,
        symbol: str,
        place: Place | None,
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
        if place is None or place.written + n > place.to_write:
            planned = 0 if place is None else place.to_write
            written = 0 if place is None else place.written
            problem = Problem(
                "more rows than planned", expected=f"{planned} rows", got=f"{written + n} rows"
            )
        elif (place.written and time[0] <= place.latest) or (np.diff(time) <= 0).any():
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
        state: Path | None = None,
    ) -> Dataset:
        """Makes the generation current, all of it or nothing, and opens it.

        `pipeline` is its YAML text, `fingerprints` those of pipeline and data, `cuts` the UTC ns at
        which validation and test start, `embargo` the bars skipped after a cut, `window_max` the
        longest window. `files` go beside the manifest: bytes, or a file to copy, by name. From the
        file `state` a later build goes on.

        Raises:
            DatasetError: when rows of the plan are missing, or the disk is full.
        """
        problems = [
            Problem(
                "rows of the plan were not written",
                where=f"symbol {symbol!r}, {self.root}",
                expected=f"{place.to_write} rows",
                got=f"{place.written} rows",
            )
            for symbol, place in self._places.items()
            if place.written < place.to_write
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
        if (
            any(len(place.stretches) > 1 for place in self._places.values())
            and (self.halo or 0) < window_max - 1
        ):
            problems.append(
                Problem(
                    "a symbol is cut, and what is repeated is shorter than the longest window",
                    where=name,
                    expected=f"at least {window_max - 1} rows",
                    got=str(self.halo),
                    fix=f"halo={window_max - 1}",
                )
            )
        if problems:
            raise DatasetError(*problems)
        with disk(self.root):
            manifest = Manifest(
                generation=self.staging.number,
                name=name,
                features=self.features,
                targets=self.targets,
                rows=sum(planned.rows for planned in self.plan),
                symbols=tuple(planned.symbol for planned in self.plan),
                segments=tuple(self._segments()),
                cuts=cuts,
                embargo=embargo,
                horizon=max((target.horizon for target in self.targets), default=0),
                window_max=window_max,
                splits={},
                shards=self._described(),
                files={each: self.staging.store(each, files[each]) for each in sorted(files)},
                state=None if state is None else self.staging.store_state(state),
                pieces=self._pieces(),
                data_digest=self.data_digest(cuts, embargo),
                fingerprints=fingerprints,
                pipeline=pipeline,
                scaling=scaling,
                versions=versions,
            )
            kept, written = self.root / "shards", self.staging.shards
            mine = {shard.path.name for shard in self._shards}
            paths = [(written if s.file in mine else kept) / s.file for s in manifest.shards]
            mapped = map_shards(paths, manifest)
            draft = Dataset(self.root, self.staging.generation, manifest, mapped)
            manifest = replace(manifest, splits=_count(draft))
            write_synced(self.staging.generation / MANIFEST, manifest.to_json().encode())
            return Dataset(self.root, self.staging.publish(), manifest, mapped)

    def _segments(self) -> Iterator[Segment]:
        for symbol, place in self._places.items():
            start = self.first_number(symbol)
            for first, stop in pairwise([*place.segments, place.planned.rows]):
                yield Segment(symbol, start + first, stop - first)

    def _kept_shards(self) -> list[Shard | None]:
        """The shards of the generation before with what of them is kept, or None for nothing."""
        if self.base is None:
            return []
        kept = {planned.symbol: planned.kept for planned in self.plan}
        found = []
        for shard in self.base.manifest.shards:
            parts = tuple(p for p in shard.symbols if p.first + p.halo < kept.get(p.symbol, 0))
            found.append(replace(shard, symbols=parts) if parts else None)
        return found

    def _described(self) -> tuple[Shard, ...]:
        shards = [shard for shard in self._kept_shards() if shard is not None]
        for file in self._shards:
            symbols = [
                stretch.described(symbol)
                for symbol, place in self._places.items()
                for stretch in place.stretches
                if stretch.shard is file
            ]
            shards.append(
                Shard(
                    file.path.name,
                    file.layout.build,
                    file.layout.rows,
                    file.layout.bytes,
                    file.hashed.whole,
                    file.hashed.blocks,
                    tuple(symbols),
                )
            )
        return tuple(shards)

    def data_digest(self, cuts: tuple[int, int], embargo: int) -> str:
        """Names the logical content of what was written, whichever files or blocks made it."""
        names, pieces = [feature.name for feature in self.features], self._pieces()
        return data_digest(names, self.targets, pieces, list(self._segments()), cuts, embargo)

    def _pieces(self) -> dict[str, tuple[str, ...]]:
        return {symbol: place.digest.pieces for symbol, place in self._places.items()}


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
