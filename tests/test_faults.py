"""Faults of the machine: whatever a build dies of, and whatever becomes of its files.

Builds run in processes of their own, which are killed, refused by the disk or given a wrong clock;
`tests/faulty.py` makes them quickly. Every instant is a number of steps, so that no clock decides.
"""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit.build import build
from featurekit.dataset.manifest import Manifest
from featurekit.errors import DatasetError
from tests.faulty import Forks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        fills = pl.concat([fills_of(symbol) for symbol in SYMBOLS])
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
        if answer != {"killed": signal.SIGKILL}:
            break
        assert_readable(scenario, out, published=False)
        assert len(noted(out)) >= most, "what was finished is never lost"
        most = len(noted(out))
    assert most
    if not (out / "CURRENT").exists():
        goes_on(scenario, out, noted(out))
    assert_whole(scenario, out)


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
        for damage in ("flipped", "cut", "gone"):
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
