"""Opening a dataset: the current generation, its shards mapped into memory, and its tables."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from featurekit.dataset.manifest import (
    GENERATION,
    MANIFEST,
    Manifest,
    Split,
    Target,
    file_digest,
)
from featurekit.dataset.shard import MappedShard, damaged_shards, map_shards, shard_paths, take_rows
from featurekit.dataset.tables import Rows, frame_of, rows_of
from featurekit.dataset.verify import BlockCheck, damaged_files
from featurekit.dataset.windows import SPLITS, Runs, split_rows
from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport, Subject
    from featurekit.cells import Cells
    from featurekit.contract import AuditSpec
    from featurekit.dataset.batch import Batch
    from featurekit.dataset.generations import Generation
    from featurekit.dataset.items import Items
    from featurekit.dataset.loader import Loader
    from featurekit.dataset.options import Dtype, Memory, Tail
    from featurekit.dataset.tensors import Tensors
    from featurekit.export import Export
    from featurekit.feature import Feature
    from featurekit.profile import Profile
    from featurekit.scaling import Scaling

Verify: TypeAlias = Literal["size", "lazy", "full"]


def open_dataset(path: str | Path, *, verify: Verify = "size") -> Dataset:
    """The current generation of a dataset on disk; sizes and headers are checked, no row is read.

    With `verify="lazy"` each block of rows is compared with its hash when it is first read, with
    `verify="full"` every byte is now.

    Raises:
        DatasetError: when the directory is no dataset, or a file of it is missing, cut short or
            damaged.
        ConfigError: when there is no such way to verify.
    """
    if verify not in ("size", "lazy", "full"):
        raise ConfigError(
            Problem(
                "there is no such way to verify a dataset",
                expected="size | lazy | full",
                got=repr(verify)[:80],
                fix='verify="lazy"',
            )
        )
    root = Path(path)
    generation = root / current_generation(root)
    manifest = read_manifest(generation)
    shards = map_shards(shard_paths(root, manifest), manifest)
    blocks = BlockCheck(root, manifest, shards) if verify == "lazy" else None
    dataset = Dataset(root, generation, manifest, shards, blocks)
    if verify == "full":
        dataset.verify(full=True)
    return dataset


def current_generation(root: Path) -> str:
    """The name of the generation that `CURRENT` names.

    Raises:
        DatasetError: when there is none.
    """
    build = "featurekit build PIPELINE --out " + str(root)
    try:
        name = (root / "CURRENT").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = "no such directory" if not root.exists() else "this is no finished dataset"
        got = "" if not root.exists() else getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            Problem(what, where=str(root), expected="a file CURRENT", got=got, fix=build)
        ) from error
    if not GENERATION.fullmatch(name):
        raise DatasetError(
            Problem(
                "CURRENT names no generation: this directory is no dataset",
                where=str(root / "CURRENT"),
                expected="such as gen-000001",
                got=repr(name[:80]),
                fix=build,
            )
        )
    return name


def read_manifest(generation: Path) -> Manifest:
    """The manifest of a generation.

    Raises:
        DatasetError: when it is missing, damaged or of another version.
    """
    path = generation / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            Problem(
                "the generation that CURRENT names has no manifest",
                where=str(path),
                got=error.strerror or str(error),
                fix="build the dataset again, or copy it again from where it came",
            )
        ) from error
    return Manifest.from_json(text, str(path))


class Dataset:
    """Rows of all symbols on disk, in natural units, and everything that is known of them.

    Rows are sorted by symbol and time, and numbered in this order. `open_dataset` makes one.
    """

    def __init__(
        self,
        path: Path,
        generation: Path,
        manifest: Manifest,
        shards: tuple[MappedShard, ...],
        blocks: BlockCheck | None = None,
    ) -> None:
        self.path, self.generation = path, generation
        self.manifest, self.shards, self.blocks = manifest, shards, blocks

    def __repr__(self) -> str:
        return (
            f"Dataset({str(self.path)!r}, {self.rows} rows of {len(self.features)} features, "
            f"{len(self.symbols)} symbols, {self.generation.name})"
        )

    @property
    def features(self) -> tuple[Feature, ...]:
        """Name, block, unit, scale, lookback, memory and doc of each column."""
        return self.manifest.features

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features in the order of their columns."""
        return self.manifest.names

    @property
    def targets(self) -> tuple[Target, ...]:
        """Name, kind and horizon of each target."""
        return self.manifest.targets

    @property
    def symbols(self) -> tuple[str, ...]:
        """All symbols in order; a batch's `symbol` counts in it."""
        return self.manifest.symbols

    @property
    def rows(self) -> int:
        """Number of rows of all symbols."""
        return self.manifest.rows

    @property
    def splits(self) -> dict[str, Split]:
        """Rows, windows and absent symbols of train, validation and test."""
        return dict(self.manifest.splits)

    @cached_property
    def scaling(self) -> Scaling | None:
        """The scaling fitted on train, or None if the pipeline has none."""
        if self.manifest.scaling is None:
            return None
        from featurekit.scaling import Scaling  # rows can be read without it

        return Scaling.from_json(self.manifest.scaling)

    @cached_property
    def cells(self) -> Cells:
        """Summaries of the rows by split, slices and stretch of time.

        Raises:
            DatasetError: when the profile is missing or damaged.
        """
        from featurekit.cells import Cells  # it compiles; rows are read without it

        path = self.generation / "profile"
        stored = self.manifest.files.get("profile")
        if stored is not None and path.is_file() and file_digest(path) != stored.xxh3_128:
            raise DatasetError(
                Problem(
                    "the profile is damaged",
                    where=str(path),
                    expected=f"xxh3_128 {stored.xxh3_128}",
                    got="another one",
                    fix="build the dataset again, or copy this file again from where it came",
                )
            )
        return Cells.load(path)

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of the slices that the audit judges apart."""
        return self.cells.slices

    def profile(self, split: str) -> Profile:
        """The summary of a split's rows, its slices added up.

        Raises:
            ConfigError: when there is no such split.
            DatasetError: when the profile is missing, or the split has no rows.
        """
        _split_code(split)
        found = self.cells.profile(split)
        if not found.rows:
            raise DatasetError(Problem(f"the split {split!r} has no rows", where=str(self.path)))
        return found

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of the features `[n, F]` of rows, counted over all symbols."""
        if self.blocks is not None:
            self.blocks.windows(numbers, 1)
        features = [shard.features for shard in self.shards]
        return take_rows(features, self.manifest.extents, numbers)

    def read(self, first: int, stop: int) -> Rows:
        """The rows from one to before another: read-only views if they lie in one shard."""
        if self.blocks is not None:
            self.blocks.rows(first, stop)
        return rows_of(self.manifest, self.shards, first, stop)

    def subject(self, spec: AuditSpec | None = None) -> Subject:
        """What the audit needs of these rows; `spec` in place of the pipeline's `audit:`.

        Raises:
            ConfigError: when the `audit:` or `slices:` that it was built with cannot be read.
            DatasetError: when the profile is missing or damaged.
        """
        from featurekit.dataset.audited import subject  # as above

        shards = self.manifest.shards
        return subject(
            self.manifest.pipeline,
            name=self.manifest.name,
            path=self.path,
            digest=self.manifest.data_digest,
            features=self.features,
            cells=self.cells,
            scaling=self.scaling,
            rows=self,
            symbols=len(self.symbols),
            span=(
                min(
                    rows.first_time for shard in shards for rows in shard.symbols if not rows.first
                ),
                max(rows.last_time for shard in shards for rows in shard.symbols),
            ),
            spec=spec,
            frame=self.to_polars,
        )

    @cached_property
    def audit(self) -> AuditReport:
        """The scale audit of these rows."""
        from featurekit.audit import audit  # as above

        return audit(self)

    def to_polars(self) -> pl.DataFrame:
        """All rows: symbol, time, the features and the targets; a copy in memory."""
        names = [*self.names, *(target.name for target in self.targets)]
        symbols = pl.Series("symbol", self.symbols, pl.String)
        frames = []
        for first, stop in pairwise(self.manifest.extents.first.tolist()):
            rows = self.read(first, stop)
            symbol = symbols.gather(rows.symbol)
            frames.append(frame_of(names, symbol, rows.features, rows.targets, rows.time))
        return pl.concat(frames)

    def to_numpy(self) -> Rows:
        """All rows: features `[n, F]`, targets `[n, K]`, time `[n]` and symbol codes `[n]`.

        Read-only views of the files, without a copy, where the dataset is one shard.
        """
        return self.read(0, self.rows)

    def to_torch(self) -> Tensors:
        """All rows as tensors; of one shard without a copy.

        What is written into them stays in this process, and never reaches the files.
        """
        from featurekit.dataset.tensors import tensors_of  # brings torch

        if self.blocks is not None:
            self.blocks.all()
        shards = map_shards(shard_paths(self.path, self.manifest), self.manifest, writable=True)
        return tensors_of(rows_of(self.manifest, shards))

    def export(
        self,
        path: str | Path,
        to: str = "parquet",
        *,
        split: str | None = None,
        scaled: bool = False,
        window: int | None = None,
        verify: bool = True,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Export:
        """Writes these rows as parquet, arrow, npy, mds, webdataset or hf into a directory.

        `featurekit.export.export` says what the options do and when it raises.
        """
        from featurekit.export import export  # a layer above, as users expect the method here

        return export(
            self,
            path,
            to,
            split=split,
            scaled=scaled,
            window=window,
            verify=verify,
            progress=progress,
        )

    def verify(
        self, *, full: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Compares every file with the manifest: its size and header, and with `full` its hashes.

        `progress` is told the blocks of the shards that were read, and all of them.

        Raises:
            DatasetError: naming each damaged file, of shards each damaged block with its symbols
                and times.
        """
        shards = damaged_shards(shard_paths(self.path, self.manifest), self.manifest)
        if full:
            blocks = BlockCheck(self.path, self.manifest, self.shards)
            shards += blocks.damaged(progress)
        files = damaged_files(self.path, self.generation, self.manifest, full=full)
        if shards or files:
            raise DatasetError(*(problem for _, problem in shards), *files)

    def generations(self) -> list[Generation]:
        """What builds have made of this dataset and is still there, oldest first."""
        from featurekit.dataset.generations import generations  # it reads manifests as we do

        return generations(self.path)

    def prune(self, keep: int = 1) -> list[str]:
        """Removes older generations, and returns their names; the newest `keep` stay.

        Raises:
            DatasetError: when a build is writing the dataset.
            ConfigError: when none is to be kept.
        """
        from featurekit.dataset.generations import prune  # as above

        return prune(self.path, keep)

    def runs(self, split: str, *, targets: bool = True) -> Runs:
        """The stretches of rows in which every window belongs to the split.

        Raises:
            ConfigError: when there is no such split.
        """
        horizon = self.manifest.horizon if targets else 0
        code = _split_code(split)
        return Runs.of(
            *self._segments, self.bounds, code, embargo=self.manifest.embargo, horizon=horizon
        )

    def starts(
        self, split: str, window: int, *, stride: int = 1, targets: bool = True
    ) -> NDArray[np.int64]:
        """First rows of a split's windows, ascending.

        With `targets`, a window is left out if a target of its last row is not known, or looks
        into the next split. No window crosses a gap or a cut.

        Raises:
            ConfigError: when there is no such split.
        """
        starts = self.runs(split, targets=targets).starts(window, stride)
        return starts[self._known[starts + window - 1]] if targets else starts

    def windows(self, split: str, window: int, *, stride: int = 1, targets: bool = True) -> int:
        """Number of windows of a split.

        Raises:
            ConfigError: when there is no such split.
        """
        return len(self.starts(split, window, stride=stride, targets=targets))

    def loader(
        self,
        split: str = "train",
        window: int = 20,
        batch_size: int = 512,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        scaled: bool = False,
        dtype: Dtype = "float32",
        shuffle: bool | None = None,
        stride: int = 1,
        tail: Tail = "short",
        targets: bool = True,
        memory: Memory = "auto",
        pool_rows: int = 524_288,
        prefetch: int = 2,
        copy: bool = True,
    ) -> Loader:
        """Batches of a split's windows; `Loader` says what the options do and when it raises."""
        from featurekit.dataset.loader import Loader  # brings torch

        return Loader(
            self,
            split=split,
            window=window,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=device,
            scaled=scaled,
            dtype=dtype,
            shuffle=shuffle,
            stride=stride,
            tail=tail,
            targets=targets,
            memory=memory,
            pool_rows=pool_rows,
            prefetch=prefetch,
            copy=copy,
        )

    def torch(
        self,
        split: str = "train",
        window: int = 20,
        *,
        scaled: bool = False,
        dtype: Dtype = "float32",
        stride: int = 1,
        targets: bool = True,
    ) -> Items:
        """A split's windows as a map-style dataset, in order of symbol and time.

        For a `DataLoader` with a sampler and workers of its own; `loader` is faster.

        Raises:
            ConfigError: when an option is out of range.
            DatasetError: when no symbol of the split has a window of this length.
        """
        from featurekit.dataset.items import Items  # brings torch

        return Items(
            self, split, window, scaled=scaled, dtype=dtype, stride=stride, targets=targets
        )

    def latest(
        self,
        window: int,
        *,
        scaled: bool = False,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> Batch:
        """One batch with the last window of each symbol, for inference.

        Raises:
            ConfigError: when the window is longer than `windows.max`.
            DatasetError: when no symbol has so many rows after its last gap.
        """
        from featurekit.dataset.latest import latest  # brings torch

        return latest(self, window, scaled=scaled, dtype=dtype, device=device)

    @cached_property
    def _segments(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        codes = {symbol: code for code, symbol in enumerate(self.symbols)}
        table = np.array(
            [(codes[s.symbol], s.start, s.start + s.rows) for s in self.manifest.segments],
            dtype=np.int64,
        ).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """Rows at which the splits of each symbol start, and the row after it: `[symbols, 4]`."""
        first = self.manifest.symbol_starts
        bounds = np.repeat(first[:-1, None], len(SPLITS) + 1, axis=1)
        if self.blocks is not None:
            self.blocks.rest()
        for code, (begin, stop) in enumerate(pairwise(first.tolist())):
            for shard, start, rows in self.manifest.extents.spans(begin, stop):
                time = self.shards[shard].time[start : start + rows]
                bounds[code] += split_rows(time, self.manifest.cuts)
        return bounds

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        """Rows of which every target is known."""
        targets = [
            self.shards[code].targets[start : start + rows]
            for code, start, rows in self.manifest.extents
        ]
        return np.concatenate([~np.isnan(each).any(axis=1) for each in targets])


def _split_code(split: str) -> int:
    if split not in SPLITS:
        raise ConfigError(
            Problem(
                "there is no such split",
                expected=" | ".join(SPLITS),
                got=repr(split),
                fix=f'split="{SPLITS[0]}"',
            )
        )
    return SPLITS.index(split)
