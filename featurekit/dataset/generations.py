"""The generations of a dataset on disk: listing them, and removing those that nobody needs."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from featurekit.dataset.manifest import GENERATION, SHARD_FILE
from featurekit.dataset.reader import current_generation, read_manifest
from featurekit.dataset.staging import disk, lock
from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from featurekit.dataset.manifest import Manifest

_STATE_FILE = re.compile(r"(\d{6})\.safetensors")


class Generation(NamedTuple):
    """What a build has made: its rows, the bytes of the shards they lie in, and its verdict.

    `added` are the bytes of the shards that it wrote itself. `damage` is why its manifest cannot
    be read; nothing else is known of it then.
    """

    name: str
    current: bool
    rows: int = 0
    symbols: int = 0
    bytes: int = 0
    added: int = 0
    verdict: str = ""
    damage: str = ""


def generations(root: Path) -> list[Generation]:
    """The generations that are still there, oldest first.

    Raises:
        DatasetError: when the directory is no dataset.
    """
    current = current_generation(root)
    return [_described(root, name, current) for name in _names(root)]


def prune(root: Path, keep: int = 1) -> list[str]:
    """Removes all generations but the current one and the newest others, `keep` in all.

    A generation's own rows may be kept by a later one: a shard goes with the last that needs it.
    Returns the names of what was removed.

    Raises:
        DatasetError: when the directory is no dataset, a build is writing it, or a generation that
            is to stay cannot be read.
        ConfigError: when none is to be kept.
    """
    if keep < 1:
        raise ConfigError(
            Problem(
                "the current generation stays",
                expected="a number from 1 on",
                got=str(keep),
                fix=f"featurekit prune {root} --keep 1",
            )
        )
    current = current_generation(root)
    with disk(root), lock(root):
        names = _names(root)
        others = [name for name in names if name != current]
        stay = {current, *others[len(others) - (keep - 1) :]}
        manifests = [_kept(root, name, current) for name in names if name in stay]
        for name in others:
            if name not in stay:
                shutil.rmtree(root / name)
        _remove_unused(root, manifests)
    return [name for name in names if name not in stay]


def _names(root: Path) -> list[str]:
    found = (path.name for path in root.glob("gen-*") if path.is_dir())
    return sorted(name for name in found if GENERATION.fullmatch(name))


def _described(root: Path, name: str, current: str) -> Generation:
    try:
        manifest = read_manifest(root / name)
    except DatasetError as error:
        return Generation(name, name == current, damage=error.problems[0].what)
    verdict = ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        verdict = str(json.loads((root / name / "audit.json").read_bytes())["verdict"])
    number = f"{manifest.generation:06d}-"
    return Generation(
        name,
        name == current,
        manifest.rows,
        len(manifest.symbols),
        sum(shard.bytes for shard in manifest.shards),
        sum(shard.bytes for shard in manifest.shards if shard.file.startswith(number)),
        verdict,
    )


def _kept(root: Path, name: str, current: str) -> Manifest:
    """The manifest of a generation that stays; without it nobody knows which shards it needs."""
    try:
        return read_manifest(root / name)
    except DatasetError as error:
        fix = "featurekit build PIPELINE" if name == current else f"featurekit prune {root}"
        raise DatasetError(
            Problem(
                f"{name} is to stay and cannot be read, so nothing is removed",
                where=str(root),
                got=error.problems[0].got or error.problems[0].what,
                fix=fix,
            )
        ) from error


def _remove_unused(root: Path, manifests: list[Manifest]) -> None:
    shards = {shard.file for manifest in manifests for shard in manifest.shards}
    states = {f"{manifest.generation:06d}.safetensors" for manifest in manifests}
    for kind, pattern, used in (("shards", SHARD_FILE, shards), ("state", _STATE_FILE, states)):
        for path in (root / kind).glob("*"):
            if pattern.fullmatch(path.name) and path.name not in used:
                path.unlink()
