"""What a dataset says of itself: the manifest.

```
build/NAME/  CURRENT              one line: the name of the generation that readers follow
             gen-000001/          manifest.json, audit.json, profile, quarantine/
             shards/              000001-00000.safetensors: generation, then number
             state/               000001.safetensors: of each symbol after its last bar
             .lock, .staging-*/   of the build that runs now, or of one that was killed
```
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from featurekit.dataset.extents import Extents
from featurekit.errors import DatasetError, Problem
from featurekit.feature import Feature

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 2  # moves when an older featurekit could not read what this one writes
MANIFEST = "manifest.json"
GENERATION = re.compile(r"gen-(\d{6})")
STORED_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # beside the manifest; leads nowhere else
SHARD_FILE = re.compile(r"(\d{6})-\d{5}\.safetensors")


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to predict; it looks `horizon` bars ahead."""

    name: str
    kind: str
    horizon: int


class Segment(NamedTuple):
    """Rows of one symbol with no gap between them; `start` counts rows of the whole dataset."""

    symbol: str
    start: int
    rows: int


class ShardRows(NamedTuple):
    """The rows of one symbol in a shard, from its row `start` on; the times of the first and last.

    They are the symbol's rows from `first` on. The first `halo` of them lie in an older shard too,
    and are repeated so that each window lies in one shard; of all others the newest copy counts.
    """

    symbol: str
    start: int
    rows: int
    first: int
    halo: int
    first_time: int
    last_time: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of rows, sorted by symbol and time; `blocks` are hashes of `BLOCK` bytes each.

    `build` is the fingerprint of the build that wrote it.
    """

    file: str
    build: str
    rows: int
    bytes: int
    xxh3_128: str
    blocks: tuple[str, ...]
    symbols: tuple[ShardRows, ...]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file beside the manifest, such as `audit.json`."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True, slots=True)
class Split:
    """Rows whose time lies in the split, windows of the loader's defaults, symbols without rows."""

    rows: int
    windows: int
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything about one generation that is not a row.

    Rows are numbered by symbol, then by time. `cuts` are the UTC ns at which validation and test
    start; `horizon` is the longest of the targets; `pieces` are the hashes of each 4,096 rows of a
    symbol, `state` is what a later build goes on from. `data_digest` names the logical content:
    names, rows, segments and cuts, whichever files, blocks, executor or versions made it.
    """

    generation: int
    name: str
    features: tuple[Feature, ...]
    targets: tuple[Target, ...]
    rows: int
    symbols: tuple[str, ...]
    segments: tuple[Segment, ...]
    cuts: tuple[int, int]
    embargo: int
    horizon: int
    window_max: int
    splits: Mapping[str, Split]
    shards: tuple[Shard, ...]
    files: Mapping[str, StoredFile]
    state: StoredFile | None
    pieces: Mapping[str, tuple[str, ...]]
    data_digest: str
    fingerprints: Mapping[str, str]
    pipeline: str
    scaling: Mapping[str, Any] | None
    versions: Mapping[str, str]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features in the order of their columns."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def symbol_starts(self) -> NDArray[np.int64]:
        """First row of each symbol, and the number of all rows: `[symbols + 1]`."""
        rows = dict.fromkeys(self.symbols, 0)
        for shard in self.shards:
            for part in shard.symbols:
                rows[part.symbol] = part.first + part.rows
        return np.cumsum([0, *rows.values()], dtype=np.int64)

    @cached_property
    def last_segments(self) -> dict[str, Segment]:
        """The rows of each symbol after its last gap."""
        return {segment.symbol: segment for segment in self.segments}

    @cached_property
    def extents(self) -> Extents:
        """Where each row lies in the shards; of rows that several hold, in the newest."""
        return extents_of(self.symbols, self.shards)

    def without(self, symbols: Collection[str]) -> Manifest:
        """What is left when nothing is said of some symbols; shards of only these are left out."""
        lengths = dict(zip(self.symbols, np.diff(self.symbol_starts).tolist(), strict=True))
        kept = [symbol for symbol in self.symbols if symbol not in symbols]
        before = dict(zip(self.symbols, self.symbol_starts.tolist(), strict=False))
        rows = accumulate((lengths[symbol] for symbol in kept), initial=0)
        moved = {symbol: first - before[symbol] for symbol, first in zip(kept, rows, strict=False)}
        shards = [
            replace(shard, symbols=tuple(p for p in shard.symbols if p.symbol in moved))
            for shard in self.shards
        ]
        return replace(
            self,
            rows=sum(lengths[symbol] for symbol in kept),
            symbols=tuple(kept),
            segments=tuple(
                segment._replace(start=segment.start + moved[segment.symbol])
                for segment in self.segments
                if segment.symbol in moved
            ),
            shards=tuple(shard for shard in shards if shard.symbols),
            pieces={symbol: each for symbol, each in self.pieces.items() if symbol in moved},
        )

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, and a checksum over the rest."""
        body: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        body["format"] = FORMAT
        body["checksum"] = content_digest(body)
        return canonical_json(body) + "\n"

    @staticmethod
    def from_json(text: str | bytes, where: str = MANIFEST) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            DatasetError: when the text is damaged, or of a version that this one cannot read.
        """
        try:
            body = dict(json.loads(text))
            found = body.pop("format")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(where, f"no manifest: {error}") from error
        if found != FORMAT:
            raise DatasetError(
                Problem(
                    "this dataset has another format version",
                    where=where,
                    expected=str(FORMAT),
                    got=str(found),
                    fix="build it again, or read it with the featurekit that wrote it",
                )
            )
        try:
            checksum = body.pop("checksum", None)
            if checksum != content_digest({**body, "format": FORMAT}):
                raise ValueError("the checksum does not match")
            return _manifest(body)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _damaged(where, f"{type(error).__name__}: {error}") from error


def extents_of(symbols: Sequence[str], shards: Sequence[Shard]) -> Extents:
    """Where each row of the symbols lies in the shards; of rows that several hold, in the newest.

    Example:
        >>> old = Shard("a", "", 90, 0, "", (), (ShardRows("A", 0, 90, 0, 0, 0, 89),))
        >>> new = Shard("b", "", 30, 0, "", (), (ShardRows("A", 0, 30, 70, 15, 70, 99),))
        >>> list(extents_of(["A"], [old, new]))
        [Span(shard=0, start=0, rows=85), Span(shard=1, start=15, rows=15)]
    """
    parts: dict[str, list[tuple[int, ShardRows]]] = {symbol: [] for symbol in symbols}
    for code, shard in enumerate(shards):
        for part in shard.symbols:
            parts[part.symbol].append((code, part))
    spans = []
    for held in parts.values():
        stops = [part.first + part.halo for _, part in held[1:]]
        stops += [part.first + part.rows for _, part in held[-1:]]
        for (code, part), stop in zip(held, stops, strict=True):
            spans.append((code, part.start + part.halo, stop - part.first - part.halo))
    return Extents(spans)


def data_digest(
    names: Sequence[str],
    targets: Sequence[Target],
    pieces: Mapping[str, Sequence[str]],
    segments: Sequence[Segment],
    cuts: tuple[int, int],
    embargo: int,
) -> str:
    """Names the logical content of a dataset, whichever files or blocks hold it."""
    content = {
        "features": names,
        "targets": targets,
        "pieces": sorted(pieces.items()),
        "segments": segments,
        "cuts": cuts,
        "embargo": embargo,
    }
    return content_digest(content)


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, infinities as text.

    Example:
        >>> canonical_json({"scale": (0.0, float("inf")), "name": "a"})
        '{"name":"a","scale":[0.0,"inf"]}'
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_digest(value: object) -> str:
    """The xxh3_128 of a value's canonical JSON."""
    return xxhash.xxh3_128_hexdigest(canonical_json(value).encode())


def file_digest(path: Path) -> str:
    """The xxh3_128 of a file's bytes.

    Raises:
        OSError: when the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _manifest(body: Mapping[str, Any]) -> Manifest:
    shards = [
        Shard(
            **{
                **each,
                "blocks": tuple(each["blocks"]),
                "symbols": tuple(ShardRows(*part) for part in each["symbols"]),
            }
        )
        for each in body["shards"]
    ]
    for shard in shards:
        if not SHARD_FILE.fullmatch(shard.file):
            raise ValueError(f"{shard.file!r} is no name of a shard")
    for name in body["files"]:
        if not STORED_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file")
    decoded: dict[str, Any] = {
        "features": tuple(_feature(each) for each in body["features"]),
        "targets": tuple(Target(**each) for each in body["targets"]),
        "symbols": tuple(body["symbols"]),
        "segments": tuple(Segment(*each) for each in body["segments"]),
        "cuts": tuple(body["cuts"]),
        "splits": {
            name: Split(**{**each, "absent": tuple(each["absent"])})
            for name, each in body["splits"].items()
        },
        "shards": tuple(shards),
        "state": None if body["state"] is None else StoredFile(**body["state"]),
        "pieces": {symbol: tuple(each) for symbol, each in body["pieces"].items()},
        "files": {name: StoredFile(**each) for name, each in body["files"].items()},
    }
    return Manifest(**{**body, **decoded})


def _feature(body: Mapping[str, Any]) -> Feature:
    scale: Sequence[Any] | None = body["scale"]
    return Feature(**{**body, "scale": None if scale is None else tuple(map(float, scale))})


def _damaged(where: str, got: str) -> DatasetError:
    return DatasetError(
        Problem(
            "the manifest is damaged",
            where=where,
            got=got,
            fix="build the dataset again, or copy it again from where it came",
        )
    )
