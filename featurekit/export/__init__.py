"""Datasets in the formats of others: written, read back with their own library, and compared.

```
OUT/  export.json    what this is: format, split, names, and every file with its size and hash
      manifest.json  the dataset's own
      ...            the format's files
```
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featurekit.dataset.manifest import MANIFEST
from featurekit.dataset.windows import SPLITS
from featurekit.errors import ConfigError, DatasetError, Problem
from featurekit.export.directory import replacing, seal
from featurekit.export.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from featurekit.dataset.reader import Dataset
    from featurekit.export.parts import Block, Part


class Format(NamedTuple):
    """What the module of this name writes: splits apart from each other, and windows if asked."""

    by_split: bool
    windows: bool


FORMATS = {
    "parquet": Format(by_split=False, windows=False),
    "arrow": Format(by_split=False, windows=False),
    "npy": Format(by_split=False, windows=False),
    "mds": Format(by_split=True, windows=True),
    "webdataset": Format(by_split=True, windows=True),
    "hf": Format(by_split=True, windows=False),
}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written where; `parts` are the samples of each, `verified` by which library."""

    path: Path
    format: str
    parts: dict[str, int]
    files: int
    bytes: int
    verified: str
    seconds: float


def export(
    dataset: Dataset,
    out: str | Path,
    to: str,
    *,
    split: str | None = None,
    scaled: bool = False,
    window: int | None = None,
    verify: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Export:
    """Writes a dataset in another format, all of it or nothing.

    Rows are those of one `split`, or all; with `window` samples are windows of so many rows, with
    the targets and the time of the last one. `scaled` features are those of the fitted scaling.
    Unless `verify` is off, all is read back with the format's own library and compared bit for
    bit before it is put in place. `progress` hears what is done, and of how many samples.

    Raises:
        ConfigError: when an option is out of range, or `out` holds something else.
        DatasetError: when there is nothing to write, it cannot be written, or what is read back
            differs.
        MissingExtraError: when the library of the format is not installed.
    """
    began = time.perf_counter()
    _check(dataset, to, split, scaled, window)
    module = importlib.import_module(f"featurekit.export.{to}")
    by_split = FORMATS[to].by_split
    parts = parts_of(dataset, by_split=by_split, split=split, scaled=scaled, window=window)
    if not parts:
        raise _nothing(dataset, split, window)
    told = _Counter(progress, sum(part.samples for part in parts))
    out = Path(out)
    with replacing(out) as directory:
        told.start("writing")
        module.write(parts, directory, told)
        if verify:
            told.start("reading back")
            for part in parts:
                _compare(part, module, directory, told)
        manifest = (dataset.generation / MANIFEST).read_bytes()
        (directory / MANIFEST).write_bytes(manifest)
        facts = _facts(dataset, to, split, scaled, window, parts)
        sizes = seal(directory, facts)
    return Export(
        path=out,
        format=to,
        parts={part.name: part.samples for part in parts},
        files=len(sizes),
        bytes=sum(sizes.values()),
        verified=module.LIBRARY if verify else "",
        seconds=time.perf_counter() - began,
    )


def _facts(
    dataset: Dataset,
    to: str,
    split: str | None,
    scaled: bool,
    window: int | None,
    parts: Sequence[Part],
) -> dict[str, Any]:
    return {
        "format": to,
        "dataset": dataset.manifest.name,
        "data_digest": dataset.manifest.data_digest,
        "split": split,
        "scaled": scaled,
        "window": window,
        "samples": {part.name: part.samples for part in parts},
        "features": list(dataset.names),
        "targets": [target.name for target in dataset.targets],
    }


class _Counter:
    """Adds up the samples that are done, for the progress bar."""

    def __init__(self, progress: Callable[[str, int, int], None] | None, samples: int) -> None:
        self.progress, self.samples = progress, samples
        self.what, self.done = "", 0

    def start(self, what: str) -> None:
        self.what, self.done = what, 0
        self(0)

    def __call__(self, samples: int) -> None:
        self.done += samples
        if self.progress is not None:
            self.progress(self.what, self.done, self.samples)


def _compare(part: Part, module: ModuleType, directory: Path, tell: Callable[[int], None]) -> None:
    """Refuses what is not read back as it was written.

    Raises:
        DatasetError: at the first block that differs.
    """
    for wrote, read in zip_longest(part.blocks(), module.read(part, directory)):
        wrong = _difference(wrote, read)
        if wrong is not None:
            raise DatasetError(
                Problem(
                    "what is read back is not what was written, and nothing was put in place",
                    where=f"{part.name}, symbol {getattr(wrote, 'symbol', '')[:80]!r}",
                    expected="the same bits",
                    got=f"{wrong}, read by {module.LIBRARY}",
                    fix=f"another format, or another version of {module.LIBRARY}",
                )
            )
        tell(len(wrote.time))


def _difference(wrote: Block | None, read: Block | None) -> str | None:
    """What differs between a block and what was read of it, in words."""
    if wrote is None or read is None:
        return "more samples" if wrote is None else "fewer samples"
    if wrote.symbol != read.symbol:
        return f"symbol {read.symbol[:80]!r}"
    for name in ("features", "targets", "time"):
        a, b = getattr(wrote, name), getattr(read, name)
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{name} of {b.dtype} {b.shape} for {a.dtype} {a.shape}"
        bits = f"u{a.itemsize}"  # as NaN is not NaN, and 0.0 is -0.0
        same = np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)
        if not same.all():
            return f"{np.count_nonzero(~same)} values of {name} that differ"
    return None


def _check(dataset: Dataset, to: str, split: str | None, scaled: bool, window: int | None) -> None:
    """Tells all options that are out of range at once."""
    problems = []
    if to not in FORMATS:
        problems.append(
            Problem(
                "there is no such format",
                expected=" | ".join(FORMATS),
                got=repr(to),
                fix="--to parquet",
            )
        )
    if split is not None and split not in SPLITS:
        problems.append(
            Problem(
                "there is no such split",
                expected=" | ".join(SPLITS),
                got=repr(split),
                fix="--split train",
            )
        )
    if scaled and dataset.scaling is None:
        problems.append(
            Problem(
                "this dataset has no scaling",
                where=str(dataset.path),
                expected="scaling: {kind: standard, squash: asinh} in its pipeline",
                fix="without --scaled",
            )
        )
    most = dataset.manifest.window_max
    if window is not None and not 1 <= window <= most:
        problems.append(
            Problem(
                "window is out of range",
                expected=f"a whole number, 1 to {most}",
                got=repr(window),
                fix=f"--window {min(max(window, 1), most)}",
            )
        )
    if window is not None and to in FORMATS and not FORMATS[to].windows:
        kinds = [name for name, form in FORMATS.items() if form.windows]
        problems.append(
            Problem(
                f"{to} holds rows, and each row once",
                expected="windows in " + " or ".join(kinds),
                got=f"--window {window}",
                fix=f"--to {kinds[0]} --window {window}, or no --window",
            )
        )
    if problems:
        raise ConfigError(*problems)


def _nothing(dataset: Dataset, split: str | None, window: int | None) -> DatasetError:
    what = "rows" if window is None else f"windows of {window} rows"
    rows = ", ".join(f"{name} {each.rows}" for name, each in dataset.splits.items())
    return DatasetError(
        Problem(
            f"there are no {what} to export",
            where=f"{dataset.path}, {f'split {split!r}' if split else 'every split'}",
            got=f"rows: {rows}",
            fix="another --split" if split and window is None else "a shorter --window",
        )
    )
