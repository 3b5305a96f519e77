"""Faults of the machine: whatever a build dies of, and whatever becomes of its files.

Builds run in processes of their own, which are killed, refused by the disk or given a wrong clock;
`tests/faulty.py` makes them quickly. Every instant is a number of steps, so that no clock decides.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit.build import build
from featurekit.dataset.manifest import Manifest
from featurekit.dataset.staging import Staging, lock
from featurekit.errors import DatasetError
from tests.faulty import Forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from featurekit.dataset import Dataset

HOUR = 3_600_000_000_000
ZERO = 1_600_000_000_000_000_000 // HOUR * HOUR
SYMBOLS = ("AUD", "CAD", "CHF", "EUR", "GBP", "JPY", "NZD")
BARS = 160
PHASES = ("start", "rows", "notes", "store", "publish", "end")


def bars_of(symbol: str, rows: int = BARS, seed: int = 0) -> pl.DataFrame:
    """Simulated: the first hours of a random walk, with two days off after each 120."""
    rng = np.random.default_rng([seed, *symbol.encode()])
    close = np.exp(np.cumsum(rng.normal(0, 1e-3, 2_000)))
    start = np.concatenate([[1.0], close[:-1]])
    hour = np.arange(2_000)
    return pl.DataFrame(
        {
            "symbol": [symbol] * 2_000,
            "time": pl.Series(ZERO + (hour + hour // 120 * 48) * HOUR).cast(
                pl.Datetime("ns", "UTC")
            ),
            "open": start,
            "high": np.maximum(start, close) * 1.0005,
            "low": np.minimum(start, close) * 0.9995,
            "close": close,
            "volume": rng.integers(1, 1000, 2_000).astype(float),
        }
    ).head(rows)


def fills_of(symbol: str) -> pl.DataFrame:
    """Simulated: a trade every few bars, now long, now short."""
    rng = np.random.default_rng([7, *symbol.encode()])
    bars = bars_of(symbol)[5:-5:9]
    return bars.select(
        pl.col("time") + pl.duration(minutes=20),
        "symbol",
        pl.Series("side", rng.choice(["buy", "sell"], bars.height)),
        pl.Series("quantity", rng.choice([0.5, 1.0, 2.0], bars.height)),
        price="close",
        fee=pl.lit(0.25),
    )


class Desk:
    """A directory with bars, fills and a pipeline of them."""

    def __init__(self, root: Path, **document: Any) -> None:  # noqa: ANN401  # of the pipeline
        self.root = root
        root.mkdir(exist_ok=True, parents=True)
        self.out, self.path = root / "out", root / "pipeline.yaml"
        self.bars = {symbol: bars_of(symbol) for symbol in SYMBOLS}
        self.document: dict[str, Any] = {
            "name": "desk",
            "bars": {"path": str(root / "bars.parquet"), "bar": "1h", "timezone": "UTC"},
            "fills": {"path": str(root / "fills.csv"), "timezone": "UTC"},
            "blocks": [{"position": {}}],
            "targets": {"ahead": {"forward_return": 5}},
            "splits": {"validation": "2020-09-17", "test": "2020-09-19", "embargo": 3},
            "windows": {"max": 16},
            "warmup": "lookback",
            **document,
        }

    def write(self) -> Path:
        pl.concat(self.bars.values()).write_parquet(self.root / "bars.parquet")
        if "fills" in self.document:
            fills = pl.concat([fills_of(symbol) for symbol in self.bars if symbol in SYMBOLS])
            fills.sort("time", maintain_order=True).write_csv(self.root / "fills.csv")
        self.path.write_text(yaml.safe_dump(self.document, sort_keys=False), encoding="utf-8")
        return self.path

    def build(self, out: Path | None = None, **options: Any) -> Any:  # noqa: ANN401  # passed on
        options = {"shard_bytes": 1, **options}
        return build(fk.Pipeline.from_yaml(self.write()), out=out or self.out, **options)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


def add_bars(desk: Desk) -> None:
    desk.bars = {symbol: bars_of(symbol, BARS + 30) for symbol in SYMBOLS}


def change_the_past(desk: Desk) -> None:
    for symbol in SYMBOLS[1:6]:
        desk.bars[symbol] = bars_of(symbol, BARS, seed=1)
    desk.bars["XAU"] = bars_of("XAU", 60)


SCENARIOS: dict[str, Any] = {"first": None, "append": add_bars, "rebuild": change_the_past}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A dataset before a build, what the build makes of it when nothing fails, and its steps."""

    desk: Desk
    before: Path | None
    old: pl.DataFrame | None
    whole: fk.Dataset
    rows: pl.DataFrame
    steps: list[tuple[str, str]]

    def copy(self, root: Path) -> Path:
        out = root / "out"
        if self.before is not None:
            shutil.copytree(self.before, out)
        return out

    def phases(self) -> list[str]:
        """Of each step: what the build is about at this time."""
        found, at = [], 0
        for what, path in self.steps:
            inner = path.partition("/")[2] if path.startswith(".staging-") else ""
            if what == "pwrite":
                at = max(at, 1)
            if at and inner.startswith("gen-") and what != "fsync":
                at = max(at, 3)
            if at == 3 and what == "fsync" and inner == "":
                at = 4  # all of it is synced, and goes to its place
            noting = at == 1 and inner.startswith(("noting", "checkpoint-"))
            found.append("notes" if noting else PHASES[at])
            if (what, inner) == ("rename", "CURRENT"):
                at = 5
        return found


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> dict[str, Scenario]:
    made = {}
    for name, change in SCENARIOS.items():
        root = tmp_path_factory.mktemp(name)
        desk, before, old = Desk(root), None, None
        if change is not None:
            before = root / "before"
            old = desk.build(before).dataset.to_polars()
            shutil.copytree(before, root / "whole")
            change(desk)
        answer = forks.run(
            root / "result.json",
            "build",
            str(desk.write()),
            str(root / "whole"),
            shard_bytes=1,
            faults={"root": str(root / "whole")},
        )
        assert "error" not in answer, answer
        steps = [(what, path) for what, path in answer["steps"]]
        whole = fk.open_dataset(root / "whole")
        made[name] = Scenario(desk, before, old, whole, whole.to_polars(), steps)
    return made


# --- killed --------------------------------------------------------------------------------------


def instant(scenario: Scenario, name: str, phase: str, number: int) -> tuple[int, bool]:
    """A step of a phase, and whether it is half done: always the same ones of a number."""
    drawn = random.Random(f"{name} {phase} {number}")  # noqa: S311  # it need not be secret
    steps = [at for at, each in enumerate(scenario.phases()) if each == phase]
    return drawn.choice(steps), drawn.random() < 0.5


def kill(
    forks: Forks, scenario: Scenario, out: Path, at: int, torn: bool = False
) -> dict[str, Any]:
    return forks.run(
        out.parent / "result.json",
        "build",
        str(scenario.desk.path),
        str(out),
        shard_bytes=1,
        faults={"root": str(out), "at": at, "torn": torn},
    )


def noted(out: Path) -> list[Path]:
    """The shards that an interrupted build has finished and noted, wherever they lie now."""
    for staging in out.glob(".staging-*"):
        checkpoints = sorted(staging.glob("checkpoint-*"))
        if checkpoints:
            count = int(checkpoints[-1].name.split("-")[1])
            files = [*staging.glob("shards/*"), *out.glob("shards/*")]
            number = max(int(file.name[:6]) for file in files)
            names = [f"{number:06d}-{k:05d}.safetensors" for k in range(count)]
            return [next(file for file in files if file.name == name) for name in names]
    return []


def assert_readable(scenario: Scenario, out: Path, *, published: bool) -> None:
    """The old generation is there with all its rows, or the new one, or none where none was."""
    if published:
        dataset = fk.open_dataset(out, verify="full")
        assert dataset.to_polars().equals(scenario.rows, null_equal=True)
    elif scenario.old is not None:
        dataset = fk.open_dataset(out, verify="full")
        assert dataset.to_polars().equals(scenario.old, null_equal=True)
    else:
        with pytest.raises(DatasetError, match=r"no finished dataset|no such directory"):
            fk.open_dataset(out)


def assert_whole(scenario: Scenario, out: Path) -> None:
    """As if nothing had ever failed: rows, profile, audit, state, and no file that is not used."""
    dataset, whole = fk.open_dataset(out, verify="full"), scenario.whole
    assert dataset.manifest.data_digest == whole.manifest.data_digest
    assert dataset.to_polars().equals(scenario.rows, null_equal=True)
    for name in ("profile", "audit.json"):
        assert (dataset.generation / name).read_bytes() == (whole.generation / name).read_bytes()
    assert_no_leftovers(out)
    states = [sorted(each.glob("state/*"))[-1].read_bytes() for each in (out, whole.path)]
    assert states[0] == states[1]


def assert_no_leftovers(out: Path) -> None:
    used = {".lock", "CURRENT"}
    for generation in out.glob("gen-*"):
        manifest = Manifest.from_json((generation / "manifest.json").read_bytes())
        names = ("manifest.json", *manifest.files)
        used |= {f"{generation.name}/{name}" for name in names}
        used |= {f"shards/{shard.file}" for shard in manifest.shards}
        used.add(f"state/{manifest.generation:06d}.safetensors")
    assert {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()} == used
    assert not list(out.glob(".staging-*"))


def goes_on(scenario: Scenario, out: Path, finished: list[Path]) -> None:
    """The next build makes of it what it would have been, and does nothing twice."""
    before = {file.name: file.stat() for file in finished}
    built = scenario.desk.build(out)
    resumed = [note for note in built.notes if "symbols were there already" in note]
    assert bool(resumed) == bool(finished), built.notes
    for name, stat in before.items():
        now = (out / "shards" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert_whole(scenario, out)


KILLS = [(name, phase, 0) for name in SCENARIOS for phase in PHASES]
KILLS += [("first", "notes", 1), ("append", "publish", 1)]
LONG = [(name, phase, number) for name in SCENARIOS for phase in PHASES for number in range(2, 14)]


@pytest.mark.parametrize(
    ("name", "phase", "number"),
    [*KILLS, *(pytest.param(*each, marks=pytest.mark.long) for each in LONG)],
)
def test_a_killed_build_loses_nothing_and_the_next_one_goes_on(
    name: str,
    phase: str,
    number: int,
    tmp_path: Path,
    forks: Forks,
    scenarios: dict[str, Scenario],
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    at, torn = instant(scenario, name, phase, number)
    assert kill(forks, scenario, out, at, torn) == {"killed": signal.SIGKILL}
    assert_readable(scenario, out, published=phase == "end")
    finished = noted(out) if phase != "end" else []
    assert bool(finished) or phase in ("start", "rows", "notes", "end")
    goes_on(scenario, out, finished)


def test_the_phases_are_those_of_a_build(scenarios: dict[str, Scenario]) -> None:
    for scenario in scenarios.values():
        phases = scenario.phases()
        assert set(phases) == set(PHASES)
        assert len(scenario.whole.manifest.shards) >= 6
        ends = [phases.index(phase) for phase in ("start", "rows", "store", "publish", "end")]
        assert ends == sorted(ends)


KILLED_TWICE = [
    ("first", "rows", "notes"),
    ("first", "publish", "start"),
    ("append", "notes", "store"),
    ("rebuild", "publish", "publish"),
]


@pytest.mark.parametrize(("name", "once", "again"), KILLED_TWICE)
def test_a_build_that_goes_on_may_be_killed_too(
    name: str,
    once: str,
    again: str,
    tmp_path: Path,
    forks: Forks,
    scenarios: dict[str, Scenario],
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    at, torn = instant(scenario, name, once, 100)
    assert kill(forks, scenario, out, at, torn) == {"killed": signal.SIGKILL}
    # The one that goes on has fewer steps: those of the same phase are found in a copy.
    shutil.copytree(out, tmp_path / "copy" / "out", copy_function=shutil.copy2)
    steps = kill(forks, scenario, tmp_path / "copy" / "out", -1)["steps"]
    second = Scenario(scenario.desk, out, None, scenario.whole, scenario.rows, steps)
    at, torn = instant(second, name, again, 101)
    assert kill(forks, scenario, out, at, torn) == {"killed": signal.SIGKILL}
    assert_readable(scenario, out, published=False)
    goes_on(scenario, out, noted(out))


@pytest.mark.parametrize("count", [12, pytest.param(40, marks=pytest.mark.long)])
def test_a_build_that_is_killed_again_and_again_comes_to_its_end(
    count: int, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios["first"]
    out = scenario.copy(tmp_path)
    drawn = random.Random(count)  # noqa: S311  # as above
    most = 0
    for _ in range(count):
        answer = kill(forks, scenario, out, drawn.randrange(60), drawn.random() < 0.5)
        if answer != {"killed": signal.SIGKILL} or (out / "CURRENT").exists():
            break
        assert_readable(scenario, out, published=False)
        assert len(noted(out)) >= most, "what was finished is never lost"
        most = len(noted(out))
    assert most
    goes_on(scenario, out, [] if (out / "CURRENT").exists() else noted(out))


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_is_synced_before_readers_are_led_to_it(
    name: str, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    last = [(what, path.endswith("/CURRENT")) for what, path in scenario.steps].index(
        ("rename", True)
    )
    before = scenario.steps[:last]
    synced = {path for what, path in before if what == "fsync"}
    manifest = scenario.whole.manifest
    mine = [s for s in manifest.shards if s.file.startswith(f"{manifest.generation:06d}-")]
    assert len(mine) >= 6
    generation = f"gen-{manifest.generation:06d}"
    files = [f"shards/{shard.file}" for shard in mine]
    files += [f"{generation}/{file}" for file in ("manifest.json", *manifest.files)]
    files += [f"state/{manifest.generation:06d}.safetensors", "CURRENT", generation]
    staging = next(path for _, path in before if path.startswith(".staging-")).split("/")[0]
    assert {f"{staging}/{file}" for file in files} <= synced
    # The lists of files are synced after the last of them came, their root after all of these.
    renamed = [at for at, (what, _) in enumerate(before) if what == "rename"]
    order = [at for at, (what, path) in enumerate(before) if (what, path) == ("fsync", ".")]
    assert order[-1] > renamed[-1]
    assert scenario.steps[last + 1] == ("fsync", ".")


def test_a_checkpoint_that_is_damaged_is_no_reason_to_fail(
    tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios["first"]
    at = max(at for at, phase in enumerate(scenario.phases()) if phase == "notes")
    (tmp_path / "killed").mkdir()
    killed = scenario.copy(tmp_path / "killed")
    kill(forks, scenario, killed, at)
    staging = next(killed.glob(".staging-*"))
    names = [str(f.relative_to(killed)) for f in staging.glob("checkpoint-*/*")]
    names += [str(f.relative_to(killed)) for f in sorted(staging.glob("shards/*"))[:2]]
    for number, name in enumerate(names):
        # One file cut short, one that is gone: each of them is compared in the same way.
        for damage in ("flipped", "cut", "gone")[: 3 if not number else 1]:
            out = tmp_path / f"{number}-{damage}"
            shutil.copytree(killed, out)
            content = bytearray((out / name).read_bytes())
            content[len(content) // 2] ^= 1
            if damage == "gone":
                (out / name).unlink()
            else:
                (out / name).write_bytes(content if damage == "flipped" else content[:-9])
            goes_on(scenario, out, [])


def test_a_first_shard_that_is_damaged_is_written_again(
    tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios["first"]
    phases = scenario.phases()
    first = phases.index("notes")
    at = next(at for at in range(first, len(phases)) if phases[at] == "rows")
    out = scenario.copy(tmp_path)
    kill(forks, scenario, out, at + 2)
    (shard,) = noted(out)
    shard.write_bytes(shard.read_bytes()[:-1])
    goes_on(scenario, out, [])


# --- a full disk, a directory that is read-only ---------------------------------------------------


def assert_told(answer: dict[str, Any], got: str) -> None:
    """A message that says what is wrong and what mends it, and exit code 2."""
    assert answer["code"] == 2, answer
    assert "cannot be written" in answer["err"]
    assert got in answer["err"]
    assert "Fix: " in answer["err"]
    assert "Traceback" not in answer["err"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["first", "append"])
def test_a_disk_that_is_full_at_any_step_is_told_and_loses_nothing(
    name: str, phase: str, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    at, torn = instant(scenario, name, phase, 200)
    answer = forks.run(
        tmp_path / "result.json",
        "cli",
        "build",
        str(scenario.desk.path),
        "--out",
        str(out),
        faults={"root": str(out), "at": at, "torn": torn, "error": errno.ENOSPC},
        shard_bytes=1,
    )
    # Behind the commit only what nobody needs is removed, and that asks for no room.
    synced = phase == "end" and ("fsync", ".") not in scenario.steps[at:]
    if synced:
        assert answer["code"] in (0, 1)
    else:
        assert_told(answer, "No space left on device")
    assert_readable(scenario, out, published=phase == "end")
    left = {path.name for staging in out.glob(".staging-*") for path in staging.iterdir()}
    if phase != "publish":  # what was renamed already could not be renamed back
        assert all(name == "shards" or name.startswith("checkpoint-") for name in left)
    goes_on(scenario, out, noted(out) if phase != "end" else [])


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["first", "append"])
def test_a_small_disk_is_told_and_when_it_is_freed_the_build_goes_on(
    name: str, share: float, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    sizes = [
        sum(-(-f.stat().st_size // 4096) * 4096 for f in root.rglob("*") if f.is_file())
        for root in (scenario.whole.path, scenario.before)
        if root is not None
    ]
    answer = forks.run(
        tmp_path / "result.json",
        "full_disk",
        str(scenario.desk.path),
        None if scenario.before is None else str(scenario.before),
        str(tmp_path / "disk"),
        share * (sizes[0] - sum(sizes[1:])),
        how={"mounts": True},
    )
    if "raised" in answer:
        pytest.skip("this machine lets no process mount a disk of its own")
    assert_told(answer["told"], "No space left on device")
    if name != "first":
        assert "every byte as written" in answer["verified"]["out"]
    assert answer["again"]["code"] in (0, 1)  # by the audit's verdict
    if share > 0.5:
        assert "symbols were there already" in answer["again"]["err"]
    assert_whole(scenario, tmp_path / "disk-copy")


@pytest.mark.parametrize("size", [8, 64, 160])
def test_scratch_files_that_find_no_room_are_told(
    size: int, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios["append"]
    out = scenario.copy(tmp_path)
    answer = forks.run(
        tmp_path / "result.json",
        "full_scratch",
        str(scenario.desk.path),
        str(tmp_path / "disk"),
        str(out),
        size,
        how={"mounts": True},
    )
    if "raised" in answer:
        pytest.skip("this machine lets no process mount a disk of its own")
    assert_told(answer, "No space left on device")
    assert_readable(scenario, out, published=False)
    goes_on(scenario, out, noted(out))


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("name", ["append", "rebuild"])
def test_a_directory_that_is_read_only_can_be_read_and_is_told(
    name: str, mounted: bool, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    pipeline = str(scenario.desk.path)
    if mounted:
        run = forks.run(
            tmp_path / "result.json", "read_only", pipeline, str(out), how={"mounts": True}
        )
        if "raised" in run:
            pytest.skip("this machine lets no process mount a disk of its own")
        assert "every byte as written" in run["read"]["out"]
        answer = run["told"]
    else:
        faults = {"root": str(out), "at": 0, "error": errno.EROFS}
        args = ("build", pipeline, "--out", str(out))
        answer = forks.run(tmp_path / "result.json", "cli", *args, faults=faults)
    assert_told(answer, "Read-only file system")
    assert_readable(scenario, out, published=False)
    goes_on(scenario, out, [])


def test_what_is_up_to_date_needs_no_directory_to_write(
    tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios["append"]
    out = tmp_path / "out"
    shutil.copytree(scenario.whole.path, out)
    (out / ".staging-0f").mkdir()  # of a build that was killed; it cannot be removed here
    faults = {"root": str(out), "at": 0, "error": errno.EROFS}
    args = ("build", str(scenario.desk.path), "--out", str(out))
    answer = forks.run(tmp_path / "result.json", "cli", *args, faults=faults)
    assert answer["code"] in (0, 1)
    assert "up to date" in answer["out"]


# --- two at once, and a clock that goes back ------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["first", "append"])
def test_of_two_builds_at_once_one_is_told_to_wait(
    name: str, phase: str, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    at, _ = instant(scenario, name, phase, 300)
    locked = scenario.steps.index(("open", ".lock"))
    at = max(at, locked + 1)
    one = forks.start(
        tmp_path / "one.json",
        "build",
        str(scenario.desk.path),
        str(out),
        shard_bytes=1,
        faults={"root": str(out), "at": at, "stop": True},
    )
    assert os.WIFSTOPPED(forks.wait(one))  # in the midst of it, with the lock
    other = ("build", str(scenario.desk.path), "--out", str(out))
    answer = forks.run(tmp_path / "other.json", "cli", *other, shard_bytes=1)
    if phase == "end":
        assert "up to date" in answer["out"], answer
    else:
        assert answer["code"] == 2
        assert "another build is writing this dataset" in answer["err"]
        assert "Fix: wait until it ends" in answer["err"]
    assert_readable(scenario, out, published=phase == "end")
    os.kill(one, signal.SIGCONT)
    assert forks.wait(one) == 0
    assert_whole(scenario, out)


@pytest.mark.parametrize("name", ["first", "append"])
def test_builds_that_race_leave_one_dataset(
    name: str, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    results = [tmp_path / f"{k}.json" for k in range(3)]
    pids = [
        forks.start(result, "build", str(scenario.desk.path), str(out), shard_bytes=1)
        for result in results
    ]
    assert [forks.wait(pid) for pid in pids] == [0, 0, 0]
    answers = [json.loads(result.read_text(encoding="utf-8")) for result in results]
    told = [answer["error"] for answer in answers if "error" in answer]
    assert len(told) < len(answers)
    assert all("another build" in error for error in told)
    assert_whole(scenario, out)


def test_a_build_waits_for_one_whose_files_it_does_not_know_yet(tmp_path: Path) -> None:
    """What a build is about to rename or remove may look like anything to the other one."""
    with lock(tmp_path):
        (tmp_path / "half").touch()
        with pytest.raises(DatasetError, match="another build is writing"), Staging(tmp_path, "0f"):
            pass
    with pytest.raises(DatasetError, match="this is not a dataset"), Staging(tmp_path, "0f"):
        pass


@pytest.mark.parametrize("name", ["append", "rebuild"])
def test_a_clock_that_goes_back_moves_no_generation_back(
    name: str, tmp_path: Path, forks: Forks, scenarios: dict[str, Scenario]
) -> None:
    scenario = scenarios[name]
    out = scenario.copy(tmp_path)
    for path in [*out.rglob("*"), scenario.desk.root / "bars.parquet"]:
        os.utime(path, (4_000_000_000, 4_000_000_000))  # written in the year 2096
    answer = forks.run(
        tmp_path / "result.json",
        "build",
        str(scenario.desk.path),
        str(out),
        shard_bytes=1,
        how={"clock": -40 * 365 * 86_400},
    )
    assert answer["generation"] == "gen-000002"
    assert_whole(scenario, out)


# --- readers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["mapped", "resident", "pool"])
def test_a_reader_goes_on_with_its_rows_while_others_are_added(
    memory: Any,  # noqa: ANN401  # a literal
    tmp_path: Path,
    scenarios: dict[str, Scenario],
) -> None:
    scenario = scenarios["append"]
    out = scenario.copy(tmp_path)
    options: dict[str, Any] = {"window": 8, "batch_size": 16, "memory": memory, "pool_rows": 200}
    expected = [batch.features.numpy().copy() for batch in fk.open_dataset(out).loader(**options)]
    dataset = fk.open_dataset(out, verify="lazy")
    loader = dataset.loader(**options)
    batches = iter(loader)
    got = [next(batches).features.numpy().copy() for _ in range(len(expected) // 2)]
    scenario.desk.build(out)
    assert_whole(scenario, out)
    got += [batch.features.numpy().copy() for batch in batches]
    assert len(got) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(got, expected, strict=True))
    assert scenario.old is not None
    assert dataset.to_polars().equals(scenario.old, null_equal=True)
    dataset.verify(full=True)
    assert fk.open_dataset(out).rows > dataset.rows


def test_a_dataset_can_be_opened_at_any_time_while_generations_are_committed(
    tmp_path: Path, forks: Forks
) -> None:
    desk = Desk(tmp_path / "desk")
    desk.bars = {symbol: bars_of(symbol) for symbol in SYMBOLS[:3]}
    known = {1: desk.build().dataset.manifest.data_digest}
    readers = [
        forks.start(tmp_path / f"{k}.json", "reads", str(desk.out), str(tmp_path / "until"))
        for k in range(2)
    ]
    try:
        for more in range(1, 9):
            desk.bars = {symbol: bars_of(symbol, BARS + 5 * more) for symbol in SYMBOLS[:3]}
            built = desk.build().dataset.manifest
            known[built.generation] = built.data_digest
    finally:
        (tmp_path / "until").touch()
        ended = [forks.wait(reader) for reader in readers]
    assert ended == [0, 0]
    assert len(known) == 9
    for k in range(2):
        answer = json.loads((tmp_path / f"{k}.json").read_text(encoding="utf-8"))
        assert "raised" not in answer, answer
        assert answer["seen"].items() <= {f"gen-{n:06d}": each for n, each in known.items()}.items()
        assert "gen-000009" in answer["seen"]


# --- damage --------------------------------------------------------------------------------------

HEADER = 65_536


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Path, str]:
    """A dataset of four shards with files of every kind, beside its bars, and its digest."""
    desk = Desk(tmp_path_factory.mktemp("kept"))
    desk.bars = {symbol: bars_of(symbol) for symbol in SYMBOLS[:4]}
    bad = pl.int_range(pl.len()) == 40
    desk.bars["CHF"] = desk.bars["CHF"].with_columns(
        low=pl.when(bad).then(pl.col("high") * 2).otherwise("low")
    )
    built = desk.build(on_bad="quarantine")
    assert built.quarantined == 1
    assert len(built.dataset.manifest.shards) == 4
    return desk, desk.out, built.dataset.manifest.data_digest


def flip(path: Path, at: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def heals(desk: Desk, out: Path, digest: str, verify: str = "full") -> None:
    """A build makes the dataset whole again, and another one has nothing to do."""
    built = desk.build(out, on_bad="quarantine", verify=verify)
    assert built.dataset.manifest.data_digest == digest
    assert any("damaged" in note or "cannot be read" in note for note in built.notes), built.notes
    fk.open_dataset(out, verify="full")
    assert desk.build(out, on_bad="quarantine", verify="full").up_to_date


FEATURES, TARGETS = 159 * 27 * 4, 159 * 4  # of CHF, of which one bar is set aside
FLIPPED: dict[str, tuple[str, int, str, str]] = {
    "header": ("shards/000001-00002.safetensors", 60, "size", r"shard 000001-00002\..*is damaged"),
    "padding": ("shards/000001-00002.safetensors", HEADER - 1, "size", "another header"),
    "features": (
        "shards/000001-00002.safetensors",
        HEADER + 99,
        "full",
        "features.* of CHF, 2020-",
    ),
    "targets": (
        "shards/000001-00002.safetensors",
        HEADER + FEATURES + 9,
        "full",
        r"block 0 of 1(?s:.*)targets.* of CHF, 2020-",
    ),
    "time": ("shards/000001-00002.safetensors", -3, "full", "time of CHF, 2020-"),
    "manifest": ("gen-000001/manifest.json", 900, "size", "the manifest is damaged"),
    "generation": ("CURRENT", 2, "size", "CURRENT names no generation"),
    "number": ("CURRENT", 9, "size", "no manifest"),
    "profile": ("gen-000001/profile", 5_000, "full", "the file profile is damaged"),
    "audit": ("gen-000001/audit.json", 300, "full", r"the file audit\.json is damaged"),
    "page": ("gen-000001/report.html", 300, "full", r"the file report\.html is damaged"),
    "state": (
        "state/000001.safetensors",
        2_000,
        "full",
        r"the file 000001\.safetensors is damaged",
    ),
    "quarantine": (
        "gen-000001/quarantine/bars.parquet",
        50,
        "full",
        r"the file quarantine/bars\.parquet is damaged",
    ),
}


@pytest.mark.parametrize("kind", FLIPPED)
def test_a_flipped_byte_of_every_kind_of_file_is_named_and_healed(
    kind: str, tmp_path: Path, kept: tuple[Desk, Path, str]
) -> None:
    desk, before, digest = kept
    file, at, verify, message = FLIPPED[kind]
    out = tmp_path / "out"
    shutil.copytree(before, out)
    flip(out / file, at)
    if verify == "full":
        fk.open_dataset(out).verify()
    with pytest.raises(DatasetError, match=message) as caught:
        fk.open_dataset(out, verify=verify)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 1
    assert kind == "number" or str(out / file) in str(caught.value)
    assert "Fix: " in str(caught.value)
    heals(desk, out, digest)


def test_every_byte_of_the_manifest_counts(kept: tuple[Desk, Path, str]) -> None:
    content = (kept[1] / "gen-000001/manifest.json").read_bytes()
    whole = Manifest.from_json(content)
    refused = 0
    for at in range(0, len(content), 11):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        try:
            found = Manifest.from_json(bytes(flipped))
        except DatasetError:
            refused += 1
        else:  # the last digit of a number that is the same number, or 1E-06 for 1e-06
            assert found == whole
    assert refused > 0.99 * len(content) // 11


def test_no_flipped_bit_of_current_leads_elsewhere(
    tmp_path: Path, kept: tuple[Desk, Path, str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(kept[1], out)
    for at in range(len("gen-000001\n")):
        for bit in range(8):
            flip(out / "CURRENT", at, 1 << bit)
            try:
                assert fk.open_dataset(out).generation.name == "gen-000001"
            except DatasetError as error:
                assert "CURRENT" in str(error)  # noqa: PT017  # most of them, not all
            flip(out / "CURRENT", at, 1 << bit)


def swapped(out: Path) -> list[str]:
    one, other = (out / f"shards/000001-0000{k}.safetensors" for k in (0, 1))
    one.rename(out / "aside")
    other.rename(one)
    (out / "aside").rename(other)
    return ["000001-00000.safetensors", "000001-00001.safetensors"]


def foreign(out: Path) -> list[str]:
    """The shard of the same name and size of another dataset."""
    desk = Desk(out.parent / "foreign", name="foreign")
    desk.bars = {symbol: bars_of(symbol, seed=5) for symbol in SYMBOLS[:4]}
    built = desk.build().dataset
    name = built.manifest.shards[1].file
    shutil.copy(built.path / "shards" / name, out / "shards" / name)
    return [name]


def truncated(out: Path) -> list[str]:
    for k in (1, 3):
        path = out / f"shards/000001-0000{k}.safetensors"
        path.write_bytes(path.read_bytes()[: -1 if k == 1 else 70_000])
    return ["000001-00001.safetensors", "000001-00003.safetensors"]


def missing(out: Path) -> list[str]:
    (out / "shards/000001-00000.safetensors").unlink()
    return ["000001-00000.safetensors"]


@pytest.mark.parametrize("damage", [swapped, foreign, truncated, missing])
def test_shards_that_are_not_those_of_the_manifest_are_named_and_healed(
    damage: Callable[[Path], list[str]], tmp_path: Path, kept: tuple[Desk, Path, str]
) -> None:
    desk, before, digest = kept
    out = tmp_path / "out"
    shutil.copytree(before, out)
    names = damage(out)
    with pytest.raises(DatasetError) as caught:
        fk.open_dataset(out)
    problems = caught.value.problems
    assert [problem.what for problem in problems] == [
        f"the shard {name} is damaged" for name in names
    ]
    for problem, name in zip(problems, names, strict=True):
        symbol = SYMBOLS[int(name[-13])]
        assert f"{symbol}, 2020-09-1" in str(problem.where)
        assert " UTC" in str(problem.where)
        assert damage in (truncated, missing) or "that of 000001-0000" in str(problem.got)
    heals(desk, out, digest, verify="size")


EDITS: dict[str, tuple[Callable[[Manifest], dict[str, Any]], str]] = {
    "cuts": (lambda m: {"cuts": (m.cuts[0] + 1, m.cuts[1])}, "does not describe the rows"),
    "embargo": (lambda m: {"embargo": 0}, "does not describe the rows"),
    "names": (
        lambda m: {"features": (replace(m.features[0], name="position.other"), *m.features[1:])},
        "damaged",
    ),
    "targets": (
        lambda m: {"targets": (replace(m.targets[0], horizon=1),)},
        "does not describe the rows",
    ),
    "segments": (lambda m: {"segments": m.segments[:-1]}, "does not describe the rows"),
    "pieces": (lambda m: {"pieces": {**m.pieces, "AUD": ("00",)}}, "does not describe the rows"),
    "blocks": (
        lambda m: {"shards": (replace(m.shards[0], blocks=("00",)), *m.shards[1:])},
        "damaged in block 0",
    ),
    "shards": (lambda m: {"shards": m.shards[:-1]}, "does not describe the rows"),
    "rows": (lambda m: {"rows": m.rows - 1}, "does not describe the rows"),
    "symbols": (
        lambda m: {"symbols": ("AUD", "CAD", "CHF", "XXX")},
        "does not describe the rows",
    ),
    "order": (
        lambda m: {"symbols": ("AUD", "CHF", "CAD", "EUR")},
        "does not describe the rows",
    ),
    "generation": (lambda m: {"generation": 7}, "does not describe the rows"),
    "horizon": (lambda m: {"horizon": 0}, "does not describe the rows"),
    "files": (lambda m: {"files": {"audit.json": m.files["profile"]}}, "audit.json is damaged"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_edited_by_hand_with_its_checksum_is_named_and_healed(
    edit: str, tmp_path: Path, kept: tuple[Desk, Path, str]
) -> None:
    desk, before, digest = kept
    change, message = EDITS[edit]
    out = tmp_path / "out"
    shutil.copytree(before, out)
    path = out / "gen-000001/manifest.json"
    manifest = Manifest.from_json(path.read_bytes())
    path.write_text(replace(manifest, **change(manifest)).to_json(), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        fk.open_dataset(out, verify="full")
    built = desk.build(out, on_bad="quarantine", verify="full")
    assert built.dataset.manifest.data_digest == digest
    fk.open_dataset(out, verify="full")


# --- lazy verification ---------------------------------------------------------------------------

BLOCK = 4_096
DAMAGED = 22  # the block: bytes of rows 227 to 265, all of them of the second symbol
FIRST, LAST = 227, 265


@pytest.fixture
def lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Opened lazily, with a byte of block 22 flipped; one shard of three symbols, many blocks."""
    for module in ("digests", "shard", "verify"):
        monkeypatch.setattr(f"featurekit.dataset.{module}.BLOCK", BLOCK)
    desk = Desk(tmp_path / "desk")
    desk.bars = {symbol: bars_of(symbol) for symbol in SYMBOLS[:3]}
    whole = desk.build(shard_bytes=1 << 20).dataset
    assert (len(whole.manifest.shards), whole.rows) == (1, 480)
    assert (HEADER + FIRST * 108) // BLOCK == DAMAGED - 1
    assert (HEADER + (FIRST + 1) * 108) // BLOCK == (HEADER + LAST * 108) // BLOCK == DAMAGED
    flip(desk.out / "shards" / whole.manifest.shards[0].file, DAMAGED * BLOCK + 2_000)
    return fk.open_dataset(desk.out, verify="lazy")


def assert_names_the_block(dataset: Dataset, read: Callable[[], object]) -> None:
    with pytest.raises(DatasetError) as caught:
        read()
    text = str(caught.value)
    first, last = (np.datetime64(int(dataset.shards[0].time[k]), "ns") for k in (FIRST, LAST))
    assert len(caught.value.problems) == 1
    assert f"the shard {dataset.manifest.shards[0].file} is damaged in block {DAMAGED} of" in text
    times = f"{first.astype('M8[s]')} to {last.astype('M8[s]')} UTC"
    assert f"features of CAD, {times}" in text
    assert "Fix: featurekit build PIPELINE --verify full" in text


READS: dict[str, Callable[[Dataset], object]] = {
    "read": lambda d: d.read(FIRST, FIRST + 1),
    "read last": lambda d: d.read(LAST, LAST + 1),
    "read all": lambda d: d.read(0, d.rows),
    "take": lambda d: d.take(np.array([3, 250])),
    "to_polars": lambda d: d.to_polars(),
    "to_numpy": lambda d: d.to_numpy(),
    "to_torch": lambda d: d.to_torch(),
    "items": lambda d: d.torch("train", 8)[int(np.searchsorted(d.starts("train", 8), 230))],
    "resident": lambda d: next(iter(d.loader(window=8, memory="resident"))),
    "export": lambda d: d.export(d.path.parent / "exported", "npy"),
    "verify": lambda d: d.verify(full=True),
}


@pytest.mark.parametrize("name", READS)
def test_a_damaged_block_is_named_when_it_is_read(name: str, lazily: Dataset) -> None:
    assert_names_the_block(lazily, lambda: READS[name](lazily))
    assert_names_the_block(lazily, lambda: READS[name](lazily))  # as often as it is


def test_a_damaged_block_does_no_harm_to_what_lies_elsewhere(lazily: Dataset) -> None:
    assert lazily.read(0, FIRST).features.shape == (FIRST, 27)
    assert lazily.read(LAST + 1, lazily.rows).features.shape == (480 - LAST - 1, 27)
    assert lazily.take(np.array([FIRST - 1, LAST + 1, 479])).shape == (3, 27)
    assert len(lazily.latest(8).features) == 3
    assert_names_the_block(lazily, lambda: lazily.latest(16) and lazily.read(FIRST, LAST))
    items = lazily.torch("train", 8)
    starts = lazily.starts("train", 8)
    for at, start in enumerate(starts.tolist()):
        if start + 7 < FIRST or start > LAST:
            assert items[at]


@pytest.mark.parametrize("memory", ["mapped", "pool"])
def test_a_loader_gives_its_batches_up_to_the_damaged_block(
    memory: Any,  # noqa: ANN401  # a literal
    lazily: Dataset,
) -> None:
    starts = lazily.starts("train", 8)
    loader = lazily.loader(
        window=8, batch_size=1, shuffle=False, prefetch=0, memory=memory, pool_rows=64
    )
    batches = iter(loader)
    given = 0

    def read() -> None:
        nonlocal given
        for _ in batches:
            given += 1

    assert_names_the_block(lazily, read)
    before = int((starts + 7 < FIRST).sum())
    # A pool is read at once: with it, some of the windows before the block are not given.
    assert given == before if memory == "mapped" else before - 64 <= given <= before
    assert given


@pytest.mark.parametrize("what", ["targets", "time"])
def test_damage_of_targets_and_times_is_named_before_they_are_used(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[Desk, Path, str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(kept[1], out)
    flip(out / FLIPPED[what][0], FLIPPED[what][1])
    dataset = fk.open_dataset(out, verify="lazy")
    with pytest.raises(DatasetError, match=f"{what}.* of CHF, 2020-"):
        dataset.loader(window=8)
    with pytest.raises(DatasetError, match=f"{what}.* of CHF, 2020-"):
        dataset.to_polars()


# --- short symbols -------------------------------------------------------------------------------


def test_symbols_too_short_for_a_window_are_rows_without_windows(tmp_path: Path) -> None:
    splits = {"validation": "2020-09-14T20:00", "test": "2020-09-15T12:00", "embargo": 3}
    desk = Desk(tmp_path, splits=splits)
    del desk.document["fills"]
    lengths = {f"S{k:03d}": 70 + k if k % 10 < 7 else k % 7 + 1 for k in range(100)}
    assert sum(n < 8 for n in lengths.values()) == 30
    assert 1 in lengths.values()
    desk.bars = {symbol: bars_of(symbol, n) for symbol, n in lengths.items()}
    dataset = desk.build(shard_bytes=100_000).dataset
    assert dataset.symbols == tuple(lengths)
    assert dataset.rows == sum(lengths.values())
    assert dataset.to_polars()["symbol"].value_counts(sort=True).height == 100
    assert len(dataset.latest(8).features) == 70
    for memory in ("mapped", "resident", "pool"):
        for split in ("train", "validation", "test"):
            loader = dataset.loader(split, window=8, memory=memory, targets=False)
            codes = np.concatenate([batch.symbol.numpy() for batch in loader])
            assert {lengths[dataset.symbols[code]] < 8 for code in codes.tolist()} <= {False}
            bounds = dataset.bounds
            at = ("train", "validation", "test").index(split)
            rows = bounds[:, at + 1] - bounds[:, at] - (3 if at else 0)  # behind an embargo
            assert len(codes) == np.maximum(rows - 7, 0).sum()
    assert {s for split in dataset.splits.values() for s in split.absent} == {
        symbol for symbol, n in lengths.items() if n < 50
    }


def test_a_symbol_of_one_row_grows_long_enough(tmp_path: Path, forks: Forks) -> None:
    desk = Desk(tmp_path, blocks=[{"market": {}}])
    del desk.document["fills"]
    pipeline = fk.Pipeline.from_yaml(desk.write())
    warmup = max(feature.lookback for feature in pipeline.features)
    desk.bars = {
        "LONG": bars_of("LONG", warmup + 120),
        "NONE": bars_of("NONE", warmup),
        "ONE": bars_of("ONE", warmup + 1),
        "ZERO": bars_of("ZERO", 1),
    }
    desk.document["splits"] = {"validation": 0.2, "test": 0.2}
    told = forks.run(
        tmp_path / "told.json", "cli", "build", str(desk.write()), "--out", str(desk.out)
    )
    assert "note: 2 symbols are shorter than the warm-up: NONE" in told["err"]
    first = fk.open_dataset(desk.out, verify="full")
    assert first.symbols == ("LONG", "ONE")
    assert first.rows == 121
    assert len(first.latest(8).features) == 1
    for more in (1, 20):
        desk.bars = {
            symbol: bars_of(symbol, bars.height + more) for symbol, bars in desk.bars.items()
        }
        built = desk.build()
        assert any("NONE (" in note or "new symbols: NONE" in note for note in built.notes), (
            built.notes
        )
        assert any("ONE (" in note and "are added" in note for note in built.notes), built.notes
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        # Cuts are those of the first build until they are asked for.
        stay = [str(np.datetime64(cut, "ns")) for cut in first.manifest.cuts]
        anew = Desk(tmp_path / "anew", **desk.document)
        del anew.document["fills"]
        anew.document["splits"] = {"validation": stay[0], "test": stay[1]}
        anew.bars = desk.bars
        whole = anew.build(tmp_path / "whole").dataset
        assert built.dataset.to_polars().equals(whole.to_polars(), null_equal=True)
        assert built.dataset.manifest.segments == whole.manifest.segments
        built.dataset.verify(full=True)
    assert built.dataset.symbols == ("LONG", "NONE", "ONE")
    assert len(built.dataset.latest(8).features) == 3
