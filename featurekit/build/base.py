"""Base: the generation before, as far as a build can go on from it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from featurekit import __version__
from featurekit.build.saved import Saved, load
from featurekit.dataset import Dataset, Manifest
from featurekit.dataset.manifest import content_digest, file_digest
from featurekit.dataset.reader import current_generation, read_manifest
from featurekit.dataset.shard import damaged_shards, map_shards, shard_paths
from featurekit.dataset.verify import BlockCheck, damaged_files, undescribed
from featurekit.document import read_yaml
from featurekit.errors import DatasetError, FeaturekitError
from featurekit.ingest import BARS_SCHEMA, FILLS_SCHEMA
from featurekit.pipeline import FORMULAS
from featurekit.schema import load_schema
from featurekit.sources import source_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from featurekit.dataset.manifest import Shard
    from featurekit.errors import Problem
    from featurekit.pipeline import Pipeline

NUMERICS = ("featurekit", "numba", "numpy")  # of another version, numbers may be others


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The generation before without what is damaged, and what was saved after each symbol's end.

    `damaged` are symbols of which rows or the state are damaged; `files` is whether a file beside
    the manifest is.
    """

    dataset: Dataset
    document: Mapping[str, Any]  # the pipeline that made it
    saved: Mapping[str, Saved] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    files: bool = False

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Of the pipeline, its rows, its input and the data."""
        return self.dataset.manifest.fingerprints


def open_base(
    root: Path, verify: Literal["size", "full"], rows_digest: str
) -> tuple[Base | None, list[str]]:
    """The generation before, if there is one to go on from, and notes on what it lacks.

    Its rows are of use only if they were made as `rows_digest` says.
    """
    if not (root / "CURRENT").exists():
        return None, []
    try:
        generation = root / current_generation(root)
        manifest = read_manifest(generation)
        document, _ = read_yaml(manifest.pipeline, str(generation))
    except FeaturekitError as error:
        return None, [f"the generation before cannot be read: {error.problems[0].what}"]
    if problems := undescribed(generation, manifest):
        return None, [f"the generation before cannot be read: {problems[0].what}"]
    problems = damaged_files(root, generation, manifest, full=verify == "full")
    notes = [problem.what for problem in problems]
    state = root / "state" / f"{manifest.generation:06d}.safetensors"
    saved: dict[str, Saved] = {}
    if manifest.state is not None and str(state) not in {problem.where for problem in problems}:
        try:
            saved = load(state)
        except DatasetError as error:
            notes.append(error.problems[0].what)
    whole, more = _without_damage(root, generation, manifest, full=verify == "full")
    notes += more
    if manifest.fingerprints.get("rows") != rows_digest or not _same_versions(manifest):
        saved = {}
    dataset = Dataset(root, generation, whole, map_shards(shard_paths(root, whole), whole))
    damaged = tuple(symbol for symbol in manifest.symbols if symbol not in whole.symbols)
    return Base(dataset, document, saved, damaged, files=bool(problems)), notes


def _without_damage(
    root: Path, generation: Path, manifest: Manifest, *, full: bool
) -> tuple[Manifest, list[str]]:
    """The manifest without the symbols that lie in a damaged shard, and notes on these shards."""
    damaged = damaged_shards(shard_paths(root, manifest), manifest)
    whole = manifest.without(_symbols(damaged))
    if full:
        blocks = BlockCheck(root, whole, map_shards(shard_paths(root, whole), whole))
        found = blocks.damaged()
        damaged += found
        whole = whole.without(_symbols(found))
    return whole, [problem.what for _, problem in damaged]


def _symbols(damaged: Iterable[tuple[Shard, Problem]]) -> set[str]:
    return {part.symbol for shard, _ in damaged for part in shard.symbols}


def _same_versions(manifest: Manifest) -> bool:
    now = versions()
    return all(manifest.versions.get(name) == now[name] for name in NUMERICS)


def versions() -> dict[str, str]:
    """Versions of what computes and reads."""
    packages = ("numba", "numpy", "polars")
    others = {name: importlib.metadata.version(name) for name in packages}
    return {"featurekit": __version__, **others}


def rows_digest(pipeline: Pipeline, warmup: int) -> str:
    """Names everything that decides the rows of a dataset, except for bars and fills."""
    bars = pipeline.bars
    deciding = {
        "bars": bars and [bars.stamp, bars.bar, bars.exchange_timezone],
        "account": pipeline.account,
        "segments": pipeline.segments,
        "targets": {n: [t.kind, t.horizon] for n, t in pipeline.targets.items()},
        "columns": pipeline.columns,
    }
    return content_digest([FORMULAS, warmup, pipeline.program.digest, deciding])


def input_digest(pipeline: Pipeline, on_bad: str) -> str:
    """Names the bytes of all files that a build reads, and what becomes of bad rows."""
    digest = xxhash.xxh3_128(on_bad.encode())
    for section, default in ((pipeline.bars, BARS_SCHEMA), (pipeline.fills, FILLS_SCHEMA)):
        if section is not None:
            digest.update(repr(load_schema(section.schema or default)).encode())
            for file in source_files(str(section.path)):
                digest.update(file_digest(Path(file)).encode())
    return digest.hexdigest()
