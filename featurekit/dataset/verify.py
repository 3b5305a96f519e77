"""Whether the files of a dataset hold what its manifest says, by size, by block or as a whole."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from featurekit.dataset.digests import BLOCK, PIECE
from featurekit.dataset.manifest import MANIFEST, Segment, data_digest, file_digest
from featurekit.dataset.shard import ShardLayout, stretch
from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.dataset.manifest import Manifest, Shard, StoredFile
    from featurekit.dataset.shard import MappedShard


class BlockCheck:
    """Compares blocks of mapped shards with their hashes, each when it is first asked for.

    Its methods raise a DatasetError that names each damaged block, the symbols and the times of
    its rows.
    """

    def __init__(self, root: Path, manifest: Manifest, shards: tuple[MappedShard, ...]) -> None:
        self._root, self._manifest, self._shards = root, manifest, shards
        self._layouts = [ShardLayout.of(shard, manifest) for shard in manifest.shards]
        counts = [len(shard.blocks) for shard in manifest.shards]
        self._first = np.cumsum([0, *counts])  # the number of each shard's first block
        self._checked = np.zeros(self._first[-1], np.bool_)
        self._rest = np.zeros(len(counts), np.bool_)  # shards whose targets and times were checked

    def rows(self, first: int, stop: int) -> None:
        """The blocks of all that is known of rows of the dataset."""
        for code, start, rows in self._manifest.extents.spans(first, stop):
            self._check_rest([code])
            one = np.array([code])
            self._check(self._blocks(one, np.array([start]), np.array([start + rows])))

    def windows(self, starts: NDArray[np.int64], window: int) -> None:
        """The blocks of windows, by their first rows."""
        shard, last = self._manifest.extents.locate(starts + window - 1)
        self._check_rest(np.unique(shard).tolist())
        self._check(self._blocks(shard, last - window + 1, last + 1))

    def rest(self) -> None:
        """The blocks of all targets and times."""
        self._check_rest(range(len(self._layouts)))

    def all(self) -> None:
        """Every block."""
        self._check(range(len(self._checked)))

    def damaged(
        self, progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[Shard, Problem]]:
        """Of all blocks each that is damaged: its shard, and what is wrong."""
        found = []
        for number in range(len(self._checked)):
            if problem := self._damage(number):
                code = int(np.searchsorted(self._first, number, side="right")) - 1
                found.append((self._manifest.shards[code], problem))
            if progress is not None:
                progress(number + 1, len(self._checked))
        return found

    def _blocks(
        self, shard: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Iterable[int]:
        """The blocks that the features of rows of shards lie in."""
        header = np.array([len(layout.header) for layout in self._layouts])[shard]
        size = 4 * len(self._manifest.features)
        low = self._first[shard] + (header + start * size) // BLOCK
        high = self._first[shard] + (header + stop * size - 1) // BLOCK
        wide = high - low > 1
        between = [range(a + 1, b) for a, b in zip(low[wide], high[wide], strict=True)]
        found = np.unique(np.concatenate([low, high, *map(np.asarray, between)]))
        unknown: Iterable[int] = found[~self._checked[found]].tolist()
        return unknown

    def _check_rest(self, shards: Iterable[int]) -> None:
        """The blocks of header, targets and times, which are few, of whole shards."""
        for code in shards:
            if not self._rest[code]:
                layout = self._layouts[code]
                after = (len(layout.header) + layout.tensors["targets"].at) // BLOCK
                first, last = self._first[code], self._first[code + 1]
                self._check(dict.fromkeys([first, *range(first + after, last)]))
                self._rest[code] = True

    def _check(self, blocks: Iterable[int]) -> None:
        unknown = [int(number) for number in blocks if not self._checked[number]]
        problems = [problem for number in unknown if (problem := self._damage(number))]
        if problems:
            raise DatasetError(*problems)
        self._checked[unknown] = True

    def _damage(self, number: int) -> Problem | None:
        code = int(np.searchsorted(self._first, number, side="right")) - 1
        shard, layout, block = (
            self._manifest.shards[code],
            self._layouts[code],
            number - int(self._first[code]),
        )
        content = self._shards[code].arena.files[code][block * BLOCK : (block + 1) * BLOCK]
        found = xxhash.xxh3_128_hexdigest(content.data)
        if found == shard.blocks[block]:
            return None
        path = self._root / "shards" / shard.file
        low, high = block * BLOCK, min((block + 1) * BLOCK, shard.bytes)
        time = self._shards[code].time
        places = _places(shard, layout, low, high, time)
        return Problem(
            f"the shard {shard.file} is damaged in block {block} of {len(shard.blocks)}",
            where=f"{path}, bytes {low} to {high}: {places}",
            expected=f"xxh3_128 {shard.blocks[block]}",
            got=found,
            fix=RESTORE,
        )


RESTORE = "featurekit build PIPELINE --verify full   # builds again what is damaged"


def _places(shard: Shard, layout: ShardLayout, low: int, high: int, time: NDArray[np.int64]) -> str:
    """What lies between bytes of a shard: which tensors of which symbols, in which times."""
    found: dict[str, list[str]] = {}
    for name, tensor in layout.tensors.items():
        size = tensor.row_bytes
        at = len(layout.header) + tensor.at
        first = max((low - at) // size, 0) if size else 0
        stop = min(-(-(high - at) // size), layout.rows) if size else 0
        if first < stop:
            found.setdefault(stretch(shard, first, stop, time), []).append(name)
    told = [f"{', '.join(names)} of {where}" for where, names in found.items()]
    return "; ".join(told) or "its header"


def damaged_files(root: Path, generation: Path, manifest: Manifest, *, full: bool) -> list[Problem]:
    """What is wrong with the files beside a manifest, and with what it says of its rows."""
    files: dict[Path, StoredFile] = {generation / n: f for n, f in manifest.files.items()}
    if manifest.state is not None:
        files[root / "state" / f"{manifest.generation:06d}.safetensors"] = manifest.state
    problems = []
    for path, stored in files.items():
        size = path.stat().st_size if path.is_file() else -1
        expected, got = f"{stored.bytes} bytes", f"{size} bytes" if size >= 0 else "no file"
        if full and size == stored.bytes:
            expected, got = f"xxh3_128 {stored.xxh3_128}", f"xxh3_128 {file_digest(path)}"
        if expected != got:
            name = path.name if manifest.state in (stored,) else str(path.relative_to(generation))
            what = f"the file {name} is damaged or missing"
            problems.append(Problem(what, str(path), expected, got, "featurekit build PIPELINE"))
    return problems + undescribed(generation, manifest)


def undescribed(generation: Path, manifest: Manifest) -> list[Problem]:
    """Whether a manifest, edited by hand and given a checksum that matches, contradicts itself."""
    m = manifest
    held = dict.fromkeys(m.symbols, 0)
    for shard in m.shards:
        for part in shard.symbols:
            held[part.symbol] = max(held.get(part.symbol, 0), part.first + part.rows)
    pieces = {symbol: -(-rows // PIECE) for symbol, rows in held.items() if rows}
    starts = accumulate(held.values(), initial=0)
    firsts = dict(zip(held, starts, strict=False))
    segments = [Segment(symbol, firsts[symbol], rows) for symbol, rows in held.items() if rows]
    facts: dict[str, tuple[object, object]] = {
        "generation": (generation.name, f"gen-{m.generation:06d}"),
        "symbols": (sorted(held), list(m.symbols)),
        "rows": (sum(held.values()), m.rows),
        "pieces": (pieces, {symbol: len(each) for symbol, each in m.pieces.items()}),
        "segments": (segments, list(_joined(m.segments))),
        "horizon": (max((target.horizon for target in m.targets), default=0), m.horizon),
        "data_digest": (
            m.data_digest,
            data_digest(m.names, m.targets, m.pieces, m.segments, m.cuts, m.embargo),
        ),
    }
    return [
        Problem(
            "the manifest does not describe the rows that were written",
            where=str(generation / MANIFEST),
            expected=f"{name} {expected}"[:200],
            got=f"{name} {got}"[:200],
            fix="featurekit build PIPELINE",
        )
        for name, (expected, got) in facts.items()
        if expected != got
    ]


def _joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The rows of each symbol from its first segment to the end of its last, if none lack."""
    last: Segment | None = None
    for segment in segments:
        if last is not None and segment[:2] == (last.symbol, last.start + last.rows):
            last = last._replace(rows=last.rows + segment.rows)
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
