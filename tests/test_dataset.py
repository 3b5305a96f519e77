"""Writing and reading: what is on disk, and which rows are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurekit.cells import Cell, Cells
from featurekit.dataset import Dataset, DatasetWriter, Manifest, Target, open_dataset
from featurekit.errors import ConfigError, DatasetError
from featurekit.feature import Feature
from featurekit.profile import Profile

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3_600_000_000_000
FEATURES = (
    Feature("market.ret_1", "market", "ratio", (-0.01, 0.01), "Log return.", 1, 1),
    Feature("market.gap", "market", "", None, "", 2, 40),
    Feature("position.fees", "position", "currency", (0.0, float("inf")), "Paid.", 0, 0),
)
TARGETS = (Target("ret_next_2", "forward_return", 2),)
PLAN = {"AUDUSD": 40, "EURUSD": 75, "GBPUSD": 1, "NZDUSD": 0, "USDJPY": 60}

Rows = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def some_rows(plan: dict[str, int] = PLAN, *, gap_at: int = 30) -> Rows:
    """Hourly rows with one gap of a week; the last two targets of a symbol are not known."""
    rows: Rows = {}
    for k, (symbol, n) in enumerate(plan.items()):
        rng = np.random.default_rng(k)
        time = np.arange(n, dtype=np.int64) * HOUR
        time[gap_at:] += 7 * 24 * HOUR
        targets = rng.standard_normal((n, 1)).astype(np.float32)
        targets[-2:] = np.nan
        rows[symbol] = time, rng.standard_normal((n, 3)).astype(np.float32), targets
    return rows


def writer_of(root: Path, rows: Rows, **options: Any) -> DatasetWriter:  # noqa: ANN401  # passed on
    plan = [(symbol, len(time)) for symbol, (time, _, _) in rows.items()]
    defaults = {
        "fingerprint": "0f",
        "features": FEATURES,
        "targets": TARGETS,
        "plan": plan,
        "max_gap": 4 * 24 * HOUR,
    }
    return DatasetWriter(root, **{**defaults, **options})


def write_blocks(writer: DatasetWriter, rows: Rows, block: int = 16) -> None:
    for symbol, (time, features, targets) in rows.items():
        for at in range(0, len(time), block):
            cut = slice(at, at + block)
            writer.write(symbol, time[cut], features[cut], targets[cut])


def commit(writer: DatasetWriter, **facts: Any) -> Dataset:  # noqa: ANN401  # passed on
    defaults = {
        "name": "demo",
        "pipeline": "name: demo\n",
        "fingerprints": {"pipeline": "aa", "data": "bb"},
        "cuts": (28 * HOUR, 52 * HOUR + 7 * 24 * HOUR),
        "embargo": 1,
        "window_max": 30,
        "scaling": None,
        "versions": {"featurekit": "0.1.0"},
        "files": {"audit.json": b"{}", "quarantine/bars.parquet": b"PAR1"},
    }
    return writer.commit(**{**defaults, **facts})


def build(root: Path, rows: Rows | None = None, **options: Any) -> Dataset:  # noqa: ANN401  # passed on
    rows = some_rows() if rows is None else rows
    with writer_of(root, rows, **options) as writer:
        write_blocks(writer, rows)
        return commit(writer)


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {".lock"}


@pytest.mark.parametrize("shard_bytes", [1, 1500, 10**9])
def test_safetensors_reads_every_shard(tmp_path: Path, shard_bytes: int) -> None:
    rows = some_rows()
    build(tmp_path / "out", rows, shard_bytes=shard_bytes)
    shards = sorted((tmp_path / "out" / "shards").iterdir())
    assert len(shards) == {1: 4, 1500: 3, 10**9: 1}[shard_bytes]
    tensors = [safetensors.numpy.load_file(shard) for shard in shards]
    for k, name in enumerate(("time", "features", "targets")):
        expected = np.concatenate([each[k] for each in rows.values()])
        found = np.concatenate([each[name] for each in tensors])
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected, equal_nan=name == "targets")
    for shard, read in zip(shards, tensors, strict=True):
        assert np.array_equal(safetensors.torch.load_file(shard)["time"].numpy(), read["time"])
        with safetensors.safe_open(shard, "numpy") as opened:
            assert json.loads(opened.metadata()["features"]) == [f.name for f in FEATURES]
        assert int.from_bytes(shard.read_bytes()[:8], "little") + 8 == 65_536


def test_a_header_that_needs_more_room_takes_whole_pages(tmp_path: Path) -> None:
    features = [replace(FEATURES[0], name=f"market.{k:0>60}") for k in range(1200)]
    with writer_of(tmp_path, {}, features=features, targets=[], plan=[("A", 2)]) as writer:
        writer.write("A", np.arange(2), np.ones((2, 1200), "f4"), np.ones((2, 0), "f4"))
        dataset = commit(writer)
    (shard,) = (tmp_path / "shards").iterdir()
    assert int.from_bytes(shard.read_bytes()[:8], "little") + 8 == 2 * 65_536
    assert safetensors.numpy.load_file(shard)["features"].shape == (2, 1200)
    assert dataset.to_polars().shape == (2, 1202)


def test_a_dataset_says_what_was_written(tmp_path: Path) -> None:
    rows = some_rows()
    written = build(tmp_path / "out", rows)
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.manifest == written.manifest
    assert dataset.features == FEATURES
    assert dataset.names == ("market.ret_1", "market.gap", "position.fees")
    assert dataset.targets == TARGETS
    assert dataset.symbols == tuple(PLAN)
    assert dataset.rows == sum(PLAN.values())
    assert dataset.scaling is None
    assert dataset.manifest.horizon == 2
    assert dataset.manifest.segments == (
        ("AUDUSD", 0, 30), ("AUDUSD", 30, 10), ("EURUSD", 40, 30), ("EURUSD", 70, 45),
        ("GBPUSD", 115, 1), ("USDJPY", 116, 30), ("USDJPY", 146, 30),
    )  # fmt: skip
    assert {name: split.rows for name, split in dataset.splits.items()} == {
        "train": 28 * 3 + 1,
        "validation": 12 + 24 + 24,
        "test": 75 - 52 + 60 - 52,
    }
    assert dataset.splits["validation"].absent == ("GBPUSD", "NZDUSD")
    for name, split in dataset.splits.items():
        assert split.windows == dataset.windows(name, 20)
    assert (tmp_path / "out/gen-000001/quarantine/bars.parquet").read_bytes() == b"PAR1"


def test_polars_gets_every_row(tmp_path: Path) -> None:
    rows = some_rows()
    frame = build(tmp_path / "out", rows, shard_bytes=1500).to_polars()
    assert frame.schema["time"] == pl.Datetime("ns", "UTC")
    expected = pl.DataFrame(
        {
            "symbol": [symbol for symbol, n in PLAN.items() for _ in range(n)],
            "time": np.concatenate([time for time, _, _ in rows.values()]),
            **{
                name: np.concatenate([features[:, k] for _, features, _ in rows.values()])
                for k, name in enumerate(f.name for f in FEATURES)
            },
            "ret_next_2": np.concatenate([targets[:, 0] for _, _, targets in rows.values()]),
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))
    assert frame.equals(expected)


def test_files_are_the_same_however_the_rows_came(tmp_path: Path) -> None:
    rows = some_rows()
    build(tmp_path / "a", rows)
    with writer_of(tmp_path / "b", rows) as writer:
        for at in range(max(PLAN.values())):  # one row of each symbol in turn
            for symbol, (time, features, targets) in rows.items():
                cut = slice(at, at + 1)
                writer.write(symbol, time[cut], np.asfortranarray(features[cut]), targets[cut])
        commit(writer)
    for name in files_of(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_digest_names_the_content_and_not_its_files(tmp_path: Path) -> None:
    rows = some_rows()
    digest = build(tmp_path / "a", rows).manifest.data_digest
    assert build(tmp_path / "b", rows, shard_bytes=1).manifest.data_digest == digest
    assert build(tmp_path / "b", rows).manifest.data_digest == digest
    with writer_of(tmp_path / "c", rows) as writer:
        write_blocks(writer, rows)
        cut = commit(writer, versions={}, scaling={"a": 1}, name="other").manifest
    assert cut.data_digest == digest


@pytest.mark.parametrize("change", ["row", "target", "time", "name", "cuts", "embargo", "segments"])
def test_other_content_has_another_digest(tmp_path: Path, change: str) -> None:
    digest = build(tmp_path / "a").manifest.data_digest
    rows = some_rows(gap_at=31 if change == "time" else 30)
    if change in ("row", "target"):
        rows["EURUSD"][1 if change == "row" else 2][40, 0] += 1
    features = (replace(FEATURES[0], name="market.other"), *FEATURES[1:])
    options: dict[str, dict[str, Any]] = {
        "name": {"features": features},
        "segments": {"max_gap": 400 * HOUR},
    }
    facts: dict[str, dict[str, Any]] = {
        "cuts": {"cuts": (29 * HOUR, 300 * HOUR)},
        "embargo": {"embargo": 0},
    }
    with writer_of(tmp_path / "b", rows, **options.get(change, {})) as writer:
        write_blocks(writer, rows)
        other = commit(writer, **facts.get(change, {})).manifest
    assert other.data_digest != digest


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.lists(st.sampled_from([1, 1, 1, 2, 9]), min_size=1, max_size=25), min_size=1, max_size=4
    ),
    known=st.integers(0, 2**32 - 1),
    cuts=st.tuples(st.integers(0, 40), st.integers(0, 30)),
    window=st.integers(1, 6),
    shard_bytes=st.sampled_from([1, 500, 10**6]),
)
def test_windows_on_disk_are_those_that_the_rules_allow(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[list[int]],
    known: int,
    cuts: tuple[int, int],
    window: int,
    shard_bytes: int,
) -> None:
    rng = np.random.default_rng(known)
    rows: Rows = {}
    for k, step in enumerate(steps):
        targets = np.where(rng.random((len(step), 1)) < 0.2, np.nan, 1.0).astype("f4")
        rows[f"S{k}"] = np.cumsum(step), np.ones((len(step), 3), "f4"), targets
    cuts = (cuts[0], sum(cuts))
    root = tmp_path_factory.mktemp("windows")
    with writer_of(root, rows, max_gap=2, shard_bytes=shard_bytes) as writer:
        write_blocks(writer, rows, block=7)
        dataset = commit(writer, cuts=cuts, embargo=0)
    for code, split in enumerate(dataset.splits):
        expected, before = {True: [], False: []}, 0
        for time, _, targets in rows.values():
            splits = [sum(t >= cut for cut in cuts) for t in time]
            for first in range(len(time) - window + 1):
                within = slice(first, first + window)
                last = first + window - 1
                if set(splits[within]) == {code} and (np.diff(time[within]) <= 2).all():
                    expected[False].append(before + first)
                    if splits[min(last + 2, len(time) - 1)] == code and targets[last, 0] == 1.0:
                        expected[True].append(before + first)
            before += len(time)
        for asked, starts in expected.items():
            assert dataset.starts(split, window, targets=asked).tolist() == starts


def test_a_manifest_reads_back_and_its_text_is_canonical(tmp_path: Path) -> None:
    manifest = build(tmp_path).manifest
    text = (tmp_path / "gen-000001/manifest.json").read_text(encoding="utf-8")
    assert Manifest.from_json(text) == manifest
    assert manifest.to_json() == text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": [("B", 1), ("A", 1)]}, "sorted"),
        ({"plan": [("A", 1), ("A", 1)]}, "once each"),
        ({"plan": [("A", -1)]}, "negative"),
        ({"plan": [("A", 0)]}, "no row"),
        ({"plan": []}, "no row"),
        ({"features": ()}, "no feature"),
        ({"fingerprint": "../0f"}, "letters and digits"),
        ({"targets": (Target("market.gap", "forward_sign", 1),)}, "two columns"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        writer_of(tmp_path, some_rows(), **options)


@pytest.mark.parametrize(
    ("symbol", "time", "features", "message"),
    [
        ("XXX", [5], np.ones((1, 3), "f4"), "more rows than planned"),
        ("A", [5, 6, 7], np.ones((3, 3), "f4"), "more rows than planned"),
        ("A", [3], np.ones((1, 3), "f4"), "times do not increase"),
        ("A", [6, 5], np.ones((2, 3), "f4"), "times do not increase"),
        ("A", [5], np.ones((1, 3), "f8"), "float64"),
        ("A", [5], np.ones((1, 2), "f4"), r"\(1, 2\)"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(
    tmp_path: Path, symbol: str, time: list[int], features: np.ndarray, message: str
) -> None:
    with writer_of(tmp_path, {}, plan=[("A", 4)]) as writer:
        writer.write("A", np.array([2, 3]), np.ones((2, 3), "f4"), np.ones((2, 1), "f4"))
        with pytest.raises(DatasetError, match=message) as caught:
            writer.write(symbol, np.array(time), features, np.ones((len(time), 1), "f4"))
        assert repr(symbol) in str(caught.value)


def test_a_commit_without_all_rows_is_refused(tmp_path: Path) -> None:
    rows = some_rows()
    with writer_of(tmp_path, rows) as writer:
        write_blocks(writer, {"AUDUSD": rows["AUDUSD"]})
        with pytest.raises(DatasetError, match="were not written") as caught:
            commit(writer)
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "CURRENT").exists()


def test_a_split_has_the_profile_of_its_slices_together(tmp_path: Path) -> None:
    rows, names = some_rows(), [feature.name for feature in FEATURES]
    x = rows["EURUSD"][1]
    parts = {
        Cell("train", (), 0): x[:20],
        Cell("train", ("active",), 0): x[20:50],
        Cell("test", (), 0): x[50:],
    }
    profiles = {cell: Profile.of(part, names) for cell, part in parts.items()}
    Cells(tuple(names), ("active",), profiles=profiles).save(tmp_path / "cells")
    with writer_of(tmp_path / "out", rows) as writer:
        write_blocks(writer, rows)
        dataset = commit(writer, files={"profile": tmp_path / "cells"})
    assert dataset.profile("train").rows == 50
    assert np.array_equal(dataset.profile("train").minimum, x[:50].min(axis=0))
    assert dataset.profile("test").rows == 25
    with pytest.raises(DatasetError, match="'validation' has no rows"):
        dataset.profile("validation")
    with pytest.raises(DatasetError, match="profile cannot be read"):
        build(tmp_path / "without").profile("train")


def test_an_unknown_split_is_told(tmp_path: Path) -> None:
    dataset = build(tmp_path)
    for call in (dataset.profile, dataset.runs):
        with pytest.raises(ConfigError, match=r"train \| validation \| test"):
            call("valid")
