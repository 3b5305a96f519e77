"""build: from a pipeline to a generation that is current, or word that it is there already."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from featurekit.audit import audit_subject, check_names
from featurekit.build.base import input_digest, open_base, rows_digest, versions
from featurekit.build.changes import Changes, differences
from featurekit.build.fills import Fills
from featurekit.build.parts import cuts_of, parts_of, warmup_of
from featurekit.build.rows import RowMaker
from featurekit.build.saved import Saved, load, save
from featurekit.cells import Cells, ProfileGrid, chunk_edges
from featurekit.conditions import Conditions
from featurekit.dataset import DatasetWriter, Target
from featurekit.dataset.audited import subject
from featurekit.dataset.manifest import content_digest, file_digest
from featurekit.dataset.staging import remove_leftovers
from featurekit.dataset.windows import SPLITS
from featurekit.dataset.writer import SHARD_BYTES
from featurekit.document import read_yaml
from featurekit.errors import ConfigError, DataError, DatasetError, Problem
from featurekit.ingest import ingest
from featurekit.scaling import Scaling
from featurekit.timeline import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport
    from featurekit.build.base import Base
    from featurekit.build.parts import Part
    from featurekit.dataset import Dataset
    from featurekit.ingest import Ingested
    from featurekit.pipeline import Pipeline

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the rows done and all rows."""


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build: the dataset, its audit's verdict, what was set aside, what is to be known.

    `up_to_date` says that there was nothing to do.
    """

    dataset: Dataset
    verdict: str
    quarantined: int
    notes: tuple[str, ...]
    seconds: float
    up_to_date: bool = False
    report: AuditReport | None = None

    @property
    def audit(self) -> AuditReport:
        """The scale audit of the dataset."""
        return self.dataset.audit if self.report is None else self.report


def build(
    pipeline: Pipeline,
    *,
    out: str | Path | None = None,
    executor: str = "local",
    on_bad: Literal["fail", "quarantine"] = "fail",
    resplit: bool = False,
    verify: Literal["size", "full"] = "size",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Build:
    """Builds the dataset of a pipeline and makes it current, all of it or nothing.

    Bars are checked against their schema first; rows that break it stop the build, or with
    `on_bad="quarantine"` are set aside in the dataset with their reason.

    Where a dataset is there already, what has not changed is kept: rows that are new are added,
    and a symbol whose past has changed is computed again. Cuts and scaling stay as they are unless
    `resplit`. What is damaged is built again; `verify="full"` reads every byte to find it.

    Raises:
        ConfigError: when the pipeline names no bars, or an option is none that there is.
        DataError: when bars or fills cannot be used.
        DatasetError: when the directory cannot be written.
    """
    started = time.monotonic()
    _check_options(executor=(executor, "local"), verify=(verify, "size", "full"))
    root = Path(out) if out is not None else Path("build") / _directory(pipeline)
    check_names(pipeline.audit, pipeline.features)
    run = _Run(pipeline, root, on_bad, resplit, verify, shard_bytes, progress)
    dataset = run.there_already()
    if dataset is None:
        with tempfile.TemporaryDirectory(prefix="featurekit-") as scratch, _room(scratch):
            dataset = run.build(Path(scratch))
    return Build(
        dataset=dataset,
        verdict=run.verdict,
        quarantined=run.quarantined,
        notes=tuple(run.notes),
        seconds=time.monotonic() - started,
        up_to_date=run.report is None,
        report=run.report,
    )


class _Run:
    """One build, and what it finds on its way."""

    def __init__(
        self,
        pipeline: Pipeline,
        root: Path,
        on_bad: Literal["fail", "quarantine"],
        resplit: bool,
        verify: Literal["size", "full"],
        shard_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.pipeline, self.root, self.on_bad, self.resplit = pipeline, root, on_bad, resplit
        self.shard_bytes = shard_bytes
        self.tell = progress or (lambda what, done, rows: None)
        self.warmup = warmup_of(pipeline)
        self.slices = Conditions(pipeline.slices, pipeline.columns, pipeline.source)
        self.fingerprints = {
            "pipeline": pipeline.fingerprint,
            "rows": rows_digest(pipeline, self.warmup),
            "input": input_digest(pipeline, on_bad),
        }
        self.notes: list[str] = []
        self.quarantined = 0
        self.verdict = ""
        self.report: AuditReport | None = None
        self.base, told = open_base(root, verify, self.fingerprints["rows"])
        self.notes += told
        self.document, _ = read_yaml(pipeline.to_yaml(), pipeline.source)
        self.changed = differences(self.base.document, self.document) if self.base else []
        # A block's code may say another unit or scale of the same numbers.
        held, rows = self.base and self.base.dataset.features, self.fingerprints["rows"]
        if self.base and self.base.fingerprints.get("rows") == rows and held != pipeline.features:
            self.changed.append("blocks: features are described in another way")

    def there_already(self) -> Dataset | None:
        """The dataset, if it was made of these very files by this very pipeline."""
        base = self.base
        if base is None or self.resplit or self.changed or base.damaged or base.files:
            return None
        held = {key: base.fingerprints.get(key) for key in self.fingerprints}
        if held != self.fingerprints or not base.saved:
            return None
        return self._found(base)

    def _found(self, base: Base) -> Dataset:
        audit = json.loads((base.dataset.generation / "audit.json").read_bytes())
        self.verdict = audit["verdict"]
        aside = (base.dataset.generation / "quarantine").glob("*.parquet")
        self.quarantined = sum(pl.scan_parquet(p).select(pl.len()).collect().item() for p in aside)
        remove_leftovers(self.root)  # a build that was killed after its commit has no other heir
        return base.dataset

    def build(self, scratch: Path) -> Dataset:
        """Reads the bars, and writes a generation of what has changed."""
        pipeline, base = self.pipeline, self.base
        data = ingest(pipeline, scratch, on_bad=self.on_bad, tell=self.tell)
        parts, short = parts_of(pipeline, data.bars, self.warmup)
        fills = Fills(pipeline, data.fills)
        changes = Changes(pipeline, data.bars, fills, parts, base)
        self.fingerprints |= {"data": changes.digest, "short": changes.short}
        files = self._quarantine(data, scratch)
        times = data.bars["time"].unique().sort().dt.epoch("ns").to_numpy()
        cuts, scaling = self._fitted_before(changes)
        cuts = cuts_of(pipeline, times) if cuts is None else cuts
        self.notes += [*data.notes, *short, *self._what_changed(changes)]
        if base is not None and self._nothing_to_do(base, changes, cuts, scaling, files):
            return self._found(base)
        edges = chunk_edges(_rows_times(data, parts, self.warmup, times))
        writer = DatasetWriter(
            self.root,
            fingerprint=content_digest(
                [
                    self.fingerprints,
                    [step.planned for step in changes.steps],
                    base and [base.dataset.generation.name, base.dataset.manifest.data_digest],
                    [cuts, edges, self.shard_bytes],
                    versions(),
                ]
            ),
            features=pipeline.features,
            targets=[Target(n, t.kind, t.horizon) for n, t in pipeline.targets.items()],
            plan=[step.planned for step in changes.steps],
            max_gap=duration(pipeline.segments.max_gap),
            shard_bytes=self.shard_bytes,
            halo=pipeline.windows.max - 1,
            base=None if base is None else base.dataset,
        )
        rows = RowMaker(
            pipeline,
            data.bars,
            fills,
            changes,
            writer.base,
            warmup=self.warmup,
            cuts=cuts,
            slices=self.slices,
        )
        with writer:
            grid = ProfileGrid(pipeline.columns, SPLITS, list(pipeline.slices), edges)
            cells, saved = self._write_rows(writer, rows, changes, grid, scratch)
            train = cells.profile("train")
            if not train.rows:
                raise _no_train_rows(pipeline, cuts)
            if scaling is None:
                scaling = Scaling.fit(train, pipeline.scaling)
            self.report = audit_subject(
                subject(
                    pipeline.to_yaml(),
                    name=pipeline.name,
                    path=self.root,
                    digest=writer.data_digest(cuts, pipeline.splits.embargo),
                    features=pipeline.features,
                    cells=cells,
                    scaling=scaling,
                    rows=writer,
                    symbols=len(parts),
                    span=writer.span,
                    spec=pipeline.audit,
                )
            )
            self.verdict = self.report.verdict
            cells.save(scratch / "profile")
            self.report.to_html(scratch / "report.html")
            save(scratch / "state", saved)
            files |= {
                "audit.json": self.report.to_json().encode(),
                "profile": scratch / "profile",
                "report.html": scratch / "report.html",
            }
            return writer.commit(
                name=pipeline.name,
                pipeline=pipeline.to_yaml(),
                fingerprints=self.fingerprints,
                cuts=cuts,
                embargo=pipeline.splits.embargo,
                window_max=pipeline.windows.max,
                scaling=scaling.to_json(),
                versions=versions(),
                files=files,
                state=scratch / "state",
            )

    def _quarantine(self, data: Ingested, scratch: Path) -> dict[str, bytes | Path]:
        files: dict[str, bytes | Path] = {}
        for name, frame in data.quarantined.items():
            frame.write_parquet(scratch / name)
            files[f"quarantine/{name}"] = scratch / name
            self.quarantined += frame.height
        return files

    def _fitted_before(self, changes: Changes) -> tuple[tuple[int, int] | None, Scaling | None]:
        """Cuts and scaling of the generation before, where they are to stay."""
        base = self.base
        if base is None or self.resplit or not base.saved:
            return None, None
        changed = {line.split(":")[0].split(".")[0] for line in self.changed}
        if "splits" in changed:
            return None, None
        held = base.dataset.scaling
        refit = held is None or "scaling" in changed or changes.past_changed
        return base.dataset.manifest.cuts, None if refit else held

    def _what_changed(self, changes: Changes) -> list[str]:
        base = self.base
        if base is None:
            return []
        before = base.fingerprints.get("rows")
        told = [f"the pipeline has changed: {line}" for line in self.changed]
        if before == self.fingerprints["rows"] and base.saved:
            return told + changes.notes()
        held, now = base.dataset.manifest.versions, versions()
        told += [
            f"{name} was {held.get(name)} and is {version} now"
            for name, version in now.items()
            if held.get(name) != version
        ]
        told = told or ["a block is computed in another way than before"]
        return [*told, "every row is computed again"]

    def _nothing_to_do(
        self,
        base: Base,
        changes: Changes,
        cuts: tuple[int, int],
        scaling: Scaling | None,
        files: dict[str, bytes | Path],
    ) -> bool:
        """Whether the files have changed and nothing that is made of them."""
        manifest = base.dataset.manifest
        aside = {n: f.xxh3_128 for n, f in manifest.files.items() if n.startswith("quarantine/")}
        found = {n: file_digest(path) for n, path in files.items() if isinstance(path, Path)}
        return (
            changes.unchanged
            and not (self.changed or base.damaged or base.files)
            and manifest.pipeline == self.pipeline.to_yaml()
            and manifest.cuts == cuts
            and scaling is not None
            and aside == found
        )

    def _tell_rows(self, before: int, every: int, bars: int) -> None:
        self.tell("rows", before + bars, every)

    def _write_rows(
        self,
        writer: DatasetWriter,
        rows: RowMaker,
        changes: Changes,
        grid: ProfileGrid,
        scratch: Path,
    ) -> tuple[Cells, list[Saved]]:
        """Makes the rows of every symbol, from where a build that was interrupted has ended."""
        done, saved = 0, []
        noted = writer.resume()
        if noted is not None:
            grid = ProfileGrid.of(Cells.load(noted / "profile"), SPLITS)
            saved = list(load(noted / "state").values())
            done = int(json.loads((noted / "done.json").read_bytes()))
            self.notes.append(f"{done} of {len(changes.steps)} symbols were there already")
        finished = writer.finished
        every = sum(step.part.bars for step in changes.steps)
        count = sum(step.part.bars for step in changes.steps[:done])
        for number, step in enumerate(changes.steps[done:], start=done + 1):
            tell = partial(self._tell_rows, count, every)
            saved.append(rows.run(step, writer, grid, tell))
            count += step.part.bars
            if finished < writer.finished < writer.shards:
                finished = writer.finished
                grid.cells().save(scratch / "profile")
                save(scratch / "state", saved)
                writer.note(
                    {
                        "profile": scratch / "profile",
                        "state": scratch / "state",
                        "done.json": json.dumps(number).encode(),
                    }
                )
        return grid.cells(), saved


@contextmanager
def _room(scratch: str) -> Iterator[None]:
    """Tells a full disk of scratch files as such, whichever library met it, and not as bad input.

    Raises:
        DatasetError: when there is no room.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DatasetError) or not _out_of_room(error):
            raise
        raise DatasetError(
            Problem(
                "scratch files cannot be written",
                where=scratch,
                got=os.strerror(errno.ENOSPC),
                fix="free the disk, or scratch files on another one: TMPDIR=DIR featurekit build",
            )
        ) from error


def _out_of_room(error: BaseException | None) -> bool:
    """Whether this, or what it was raised from, is a full disk; not all of them have the number."""
    if error is None:
        return False
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in full:
        return True
    text = str(error)
    return any(f"(os error {code})" in text for code in full) or _out_of_room(error.__cause__)


def _check_options(**given: tuple[str, ...]) -> None:
    problems = [
        Problem(
            f"there is no such {name}",
            expected=" | ".join(known),
            got=repr(value)[:80],
            fix=f'{name}="{known[0]}"',
        )
        for name, (value, *known) in given.items()
        if value not in known
    ]
    if problems:
        raise ConfigError(*problems)


def _directory(pipeline: Pipeline) -> str:
    """The pipeline's name as that of a directory; a name is never a path."""
    name = pipeline.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(
            Problem(
                "the pipeline's name cannot be that of a directory",
                where=f"{pipeline.source}, key name",
                expected="letters, digits, _, - and .",
                got=repr(name),
                fix="featurekit build ... --out build/mine",
            )
        )
    return name


def _rows_times(
    data: Ingested, parts: list[Part], warmup: int, times: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The times from the first row of the dataset on."""
    firsts = data.bars["time"].gather([part.first + part.since(warmup) for part in parts])
    since = np.searchsorted(times, firsts.dt.epoch("ns").to_numpy())
    return times[since.min() :]


def _no_train_rows(pipeline: Pipeline, cuts: tuple[int, int]) -> DataError:
    return DataError(
        Problem(
            "the train split has no rows",
            expected="rows before the first cut that are not warm-up",
            got=f"the first cut is at {np.datetime64(cuts[0], 'ns')}",
            fix="splits: {train: 0.7, validation: 0.15, test: 0.15}"
            if pipeline.warmup == "lookback"
            else "warmup: lookback",
        )
    )
