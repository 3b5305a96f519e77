"""Damage and crashes: what a verify finds, and what an interrupted build leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from featurekit.dataset import Dataset, DatasetWriter, Manifest, open_dataset, staging
from featurekit.errors import DatasetError
from featurekit.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3_600_000_000_000
PLAN = {"AUDUSD": 40, "EURUSD": 75, "USDJPY": 60}


def writer_of(root: Path, plan: dict[str, int] = PLAN, **options: Any) -> DatasetWriter:  # noqa: ANN401  # passed on
    feature = Feature("market.ret_1", "market", "ratio", None, "", 1, 1)
    defaults = {"features": [feature], "targets": [], "plan": list(plan.items()), "max_gap": HOUR}
    return DatasetWriter(root, fingerprint="0f", **{**defaults, **options})


def write_rows(writer: DatasetWriter) -> None:
    for symbol, n, *_ in writer.plan:
        features = np.random.default_rng(n).standard_normal((n, 1)).astype("f4")
        writer.write(symbol, np.arange(n) * HOUR, features, np.empty((n, 0), "f4"))


def commit(writer: DatasetWriter, files: dict[str, bytes] | None = None) -> Dataset:
    return writer.commit(
        name="demo",
        pipeline="name: demo",
        fingerprints={},
        cuts=(28 * HOUR, 52 * HOUR),
        embargo=0,
        window_max=30,
        scaling=None,
        versions={},
        files={"audit.json": b"{}"} if files is None else files,
    )


def build(root: Path, plan: dict[str, int] = PLAN, **options: Any) -> Dataset:  # noqa: ANN401  # passed on
    with writer_of(root, plan, **options) as writer:
        write_rows(writer)
        return commit(writer)


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {".lock"}


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 100, 66_000, -1])
def test_a_shard_cut_short_is_refused_at_open(tmp_path: Path, cut: int) -> None:
    build(tmp_path, shard_bytes=1)
    path = tmp_path / "shards/000001-00001.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=r"000001-00001\.safetensors is damaged") as caught:
        open_dataset(tmp_path)
    assert len(caught.value.problems) == 1
    assert "EURUSD, 1970-01-01T00:00:00 to 1970-01-04T02:00:00 UTC" in str(caught.value)


def test_all_missing_shards_are_told_at_once(tmp_path: Path) -> None:
    build(tmp_path, shard_bytes=1)
    for number in (0, 2):
        (tmp_path / f"shards/000001-0000{number}.safetensors").unlink()
    with pytest.raises(DatasetError, match="No such file") as caught:
        open_dataset(tmp_path)
    assert ["00000" in p.what or "00002" in p.what for p in caught.value.problems] == [True, True]


@pytest.mark.parametrize("place", [66_000, -1])
def test_a_flipped_byte_is_found_by_a_full_verify(tmp_path: Path, place: int) -> None:
    dataset = build(tmp_path)
    dataset.verify(full=True)
    flip(tmp_path / "shards/000001-00000.safetensors", place)
    open_dataset(tmp_path).verify()  # sizes are right
    with pytest.raises(DatasetError, match="xxh3_128"):
        open_dataset(tmp_path).verify(full=True)


def test_a_flipped_byte_of_a_header_is_found_at_open(tmp_path: Path) -> None:
    build(tmp_path)
    flip(tmp_path / "shards/000001-00000.safetensors", 40)
    with pytest.raises(DatasetError, match="another header"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("missing", [False, True])
def test_a_file_beside_the_manifest_is_verified(tmp_path: Path, missing: bool) -> None:
    dataset = build(tmp_path)
    path = tmp_path / "gen-000001/audit.json"
    if missing:
        path.unlink()
    else:
        flip(path, 0)
    with pytest.raises(DatasetError, match=r"audit\.json is damaged or missing"):
        dataset.verify(full=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"format":2', '"format":3'), "another format version"),
        (lambda text: text.replace('"embargo":0', '"embargo":1'), "checksum"),
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: "[" * 100_000, "damaged"),
        (lambda text: text.replace('"name":"demo"', '"name":"\\ud800"'), "damaged"),
        (lambda text: text.replace('"name":"demo"', f'"name":{"[" * 900}{"]" * 900}'), "damaged"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    tmp_path: Path,
    damage: Callable[[str], str],
    message: str,
) -> None:
    build(tmp_path)
    path = tmp_path / "gen-000001/manifest.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(tmp_path)
    assert str(path) in str(caught.value)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    manifest = build(tmp_path).manifest
    shard = replace(manifest.shards[0], file="../../000001-00000.safetensors")
    stored = {"../../secret": manifest.files["audit.json"]}
    for wrong in (replace(manifest, shards=(shard,)), replace(manifest, files=stored)):
        with pytest.raises(DatasetError, match="no name of a"):
            Manifest.from_json(wrong.to_json())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# --- the commit --------------------------------------------------------------------------------


def test_a_rebuild_is_a_new_generation_and_the_old_one_stays_readable(tmp_path: Path) -> None:
    old = build(tmp_path, {"A": 50})
    before = old.to_polars()
    new = build(tmp_path, {"A": 50, "B": 60})
    assert open_dataset(tmp_path).symbols == new.symbols == ("A", "B")
    assert (new.generation.name, new.manifest.generation) == ("gen-000002", 2)
    assert old.to_polars().equals(before)
    old.verify(full=True)
    assert files_of(tmp_path / "shards") == {"000001-00000.safetensors", "000002-00000.safetensors"}


def test_a_failed_build_leaves_the_old_generation_and_nothing_else(tmp_path: Path) -> None:
    build(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(DatasetError, match="were not written"), writer_of(tmp_path) as writer:
        commit(writer)
    assert files_of(tmp_path) == before
    assert not list(tmp_path.glob(".staging-*"))
    open_dataset(tmp_path).verify(full=True)
    build(tmp_path)
    assert files_of(tmp_path) - before == {
        name.replace("000001", "000002") for name in before if name != "CURRENT"
    }


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [DatasetError, KeyboardInterrupt, SystemExit])
def test_a_first_build_that_fails_leaves_nothing(
    tmp_path: Path, there: bool, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    if there:
        root.mkdir()

    def failing(path: Path) -> None:
        if path.name == "shards" and path.parent == root:  # the shards have been published
            raise error

    monkeypatch.setattr(staging, "sync", failing)
    with pytest.raises(error):
        build(root)
    assert root.exists() == there
    assert not there or not list(root.iterdir())


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_build_that_dies_at_any_step_of_the_commit_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, killed: bool
) -> None:
    died = 0
    for step in range(100):
        root = tmp_path / str(step)
        if not first:
            build(root, {"A": 50})
        if not dies_at(root, step, monkeypatch, killed):
            break
        died += 1
        assert killed or not list(root.glob(".staging-*"))
        if (root / "CURRENT").exists():
            dataset = open_dataset(root)
            dataset.verify(full=True)
            assert dataset.symbols in (("A",), tuple(PLAN))
        else:
            assert first
            left = "no finished dataset" if killed else "no such directory"
            with pytest.raises(DatasetError, match=left):
                open_dataset(root)
        rebuilt = build(root)
        rebuilt.verify(full=True)
        kept = {str(p.relative_to(root)) for p in root.glob("gen-*")}
        shards = {f"gen-{p.name[:6]}" for p in root.glob("shards/*")}
        assert kept == shards, "a generation without shards, or shards without a generation"
        assert not list(root.glob(".staging-*"))
    assert died >= 10


def dies_at(root: Path, step: int, monkeypatch: pytest.MonkeyPatch, killed: bool) -> bool:
    """Builds, with an exception that nobody catches at the given rename, sync or replacement.

    Where it is killed, nothing is done any more; else it cleans up.
    """
    left = step

    def dying(real: Any) -> Any:  # noqa: ANN401  # a function, wrapped
        def wrapped(*args: Any, **options: Any) -> Any:  # noqa: ANN401  # passed on
            nonlocal left
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
            return real(*args, **options)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(staging, "sync", dying(staging.sync))
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(staging.shutil, "rmtree", dying(staging.shutil.rmtree))
        if killed:
            patched.setattr(staging.Staging, "_clean", lambda self, *_: None)
        try:
            build(root)
        except KeyboardInterrupt:
            return True
    return False


KILLED = """
import os, signal, sys
import numpy as np
from featurekit.dataset import DatasetWriter
from featurekit.feature import Feature
feature = Feature("a.b", "a", "", None, "", 0, 0)
with DatasetWriter(
    sys.argv[1], fingerprint="ab", features=[feature], targets=[], plan=[("A", 9)], max_gap=9
) as writer:
    writer.write("A", np.arange(5), np.ones((5, 1), "f4"), np.ones((5, 0), "f4"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_gives_the_lock_back(tmp_path: Path) -> None:
    build(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".staging-ab"))
    open_dataset(tmp_path).verify(full=True)
    assert build(tmp_path).manifest.generation == 2
    assert not list(tmp_path.glob(".staging-*"))


def test_a_second_build_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    with writer_of(tmp_path) as writer:
        with pytest.raises(DatasetError, match="another build"):
            build(tmp_path)
        write_rows(writer)
        commit(writer)
    open_dataset(tmp_path).verify(full=True)


@pytest.mark.parametrize(
    "content",
    [
        {"thesis.tex": "x"},
        {"CURRENT": "MANIFEST-000004\n"},
        {"gen-000001": "x"},
        {".staging-0f/CURRENT": "gen-000001\n", "thesis.tex": "x"},
        {".staging-0f/CURRENT": "gen-000001\n", "thesis.tex": "x", ".lock": ""},
        {".staging-area/notes": "x", ".lock": ""},
        {".staging-0f": "x", ".lock": ""},
    ],
)
def test_a_directory_of_something_else_is_not_touched(
    tmp_path: Path, content: dict[str, str]
) -> None:
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"this is not a dataset.*(?s:.*)--out"):
        build(tmp_path)
    assert files_of(tmp_path) == set(content) - {".lock"}
    with pytest.raises(DatasetError, match="dataset"):
        open_dataset(tmp_path)


def test_what_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(DatasetError, match="this is not a dataset"):
        build(tmp_path / "file")
    with pytest.raises(DatasetError, match="no finished dataset"):
        open_dataset(tmp_path / "file")
    with pytest.raises(DatasetError, match="no such directory"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "CURRENT").write_text("gen-000009\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="no manifest"):
        open_dataset(tmp_path)


def test_what_somebody_keeps_beside_a_dataset_stays(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / ".staging-area").mkdir()
    (tmp_path / ".staging-area" / "notes").write_text("precious", encoding="utf-8")
    build(tmp_path)
    assert (tmp_path / ".staging-area" / "notes").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("name", ["../audit.json", "/etc/x", "a//b", ".hidden", "manifest.json"])
def test_a_file_cannot_be_put_elsewhere(tmp_path: Path, name: str) -> None:
    with writer_of(tmp_path) as writer:
        write_rows(writer)
        with pytest.raises(DatasetError, match="cannot have this name"):
            commit(writer, {name: b""})


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with writer_of(tmp_path) as writer:
        monkeypatch.setattr("featurekit.dataset.shard.os.pwrite", full)
        with pytest.raises(DatasetError, match="No space left on device"):
            write_rows(writer)
