"""Generations: listed with what each added, and removed but for what a later one needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from featurekit.cli import main
from featurekit.dataset import open_dataset
from featurekit.dataset.generations import generations, prune
from featurekit.dataset.staging import lock
from featurekit.errors import ConfigError, DatasetError

from .test_append import write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three generations: rows of A and B, more of B, and A written anew."""
    first = write(tmp_path / "set", {"A": 60, "B": 60}, shard_bytes=500)
    second = write(tmp_path / "set", {"A": 60, "B": 100}, base=first)
    write(tmp_path / "set", {"A": 60, "B": 100}, base=second, anew="A")
    return tmp_path / "set"


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "shards").iterdir()}


def test_generations_are_listed_with_what_they_added(root: Path) -> None:
    found = generations(root)
    assert found == open_dataset(root).generations()
    assert [each.name for each in found] == ["gen-000001", "gen-000002", "gen-000003"]
    assert [each.current for each in found] == [False, False, True]
    assert [each.rows for each in found] == [120, 160, 160]
    assert found[0].added == found[0].bytes
    assert 0 < found[2].added < found[2].bytes
    done = CliRunner().invoke(main, ["show", str(root), "--generations"])
    assert "gen-000003 (current)" in done.output
    told = json.loads(
        CliRunner().invoke(main, ["show", str(root), "--generations", "--json"]).output
    )
    assert [each["added"] for each in told["generations"]] == [each.added for each in found]


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_what_stays_can_be_read_and_nothing_else_is_there(root: Path, keep: int) -> None:
    before = open_dataset(root).to_polars()
    gone = prune(root, keep)
    assert gone == ["gen-000001", "gen-000002"][: max(3 - keep, 0)]
    stay = [each.name for each in generations(root)]
    assert stay == ["gen-000001", "gen-000002", "gen-000003"][-keep:]
    dataset = open_dataset(root)
    dataset.verify(full=True)
    assert dataset.to_polars().equals(before, null_equal=True)
    used = {shard.file for shard in dataset.manifest.shards}
    assert files(root) == used if keep == 1 else files(root) > used
    assert write(root, {"A": 60, "B": 100}, base=dataset).manifest.generation == 4


def test_a_reader_of_what_is_pruned_goes_on(root: Path) -> None:
    first = open_dataset(root)
    batches = iter(first.loader(window=3, batch_size=4, memory="mapped"))
    next(batches)
    write(root, {"A": 61, "B": 100}, base=first, anew="B")
    prune(root)
    assert sum(len(batch) for batch in batches) == first.windows("train", 3) - 4


def test_the_command_tells_what_it_removed(root: Path) -> None:
    told = json.loads(CliRunner().invoke(main, ["prune", str(root), "--json"]).output)
    assert told["removed"] == ["gen-000001", "gen-000002"]
    assert told["bytes"] > 0
    assert "nothing removed, 0.0 MB" in CliRunner().invoke(main, ["prune", str(root)]).output


def test_a_generation_that_cannot_be_read_is_told_and_not_needed(root: Path) -> None:
    (root / "gen-000002/manifest.json").write_text("{")
    assert "damaged" in generations(root)[1].damage
    before = files(root)
    with pytest.raises(DatasetError, match="gen-000002 is to stay and cannot be read"):
        prune(root, keep=2)
    assert files(root) == before
    assert prune(root) == ["gen-000001", "gen-000002"]
    (root / "gen-000003/manifest.json").write_text("{")
    with pytest.raises(DatasetError, match="gen-000003 is to stay and cannot be read"):
        prune(root)


def test_pruning_waits_for_no_build_and_keeps_the_current_one(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the current generation stays"):
        prune(root, keep=0)
    with pytest.raises(DatasetError, match="no finished dataset"):
        prune(tmp_path)
    with lock(root), pytest.raises(DatasetError, match="another build is writing"):
        prune(root)
