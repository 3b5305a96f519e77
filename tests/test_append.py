"""Rows that are added to a dataset: what is read of it is as if it had been written at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.dataset import Dataset, DatasetWriter, Target, open_dataset
from featurekit.dataset.places import Planned
from featurekit.errors import DatasetError
from featurekit.feature import Feature
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("market.a", "market.b", "position.c")
HORIZON, LONGEST = 2, 6
FITTED = Scaling(NAMES, np.ones(3), np.array([2.0, 0.5, 1]), np.array([1, 0, 1]) > 0)


def table(symbol: str, rows: int) -> tuple[NDArray[np.int64], Any, Any]:
    """The first rows of a symbol; its last two targets are not known yet."""
    rng = np.random.default_rng(ord(symbol))
    x, y = rng.standard_normal((200, 3)).astype("f4"), rng.standard_normal((200, 1)).astype("f4")
    y = y[:rows].copy()
    y[-HORIZON:] = np.nan
    time = np.cumsum(rng.choice([1, 1, 1, 9], 200))
    return time[:rows], x[:rows], y


def write(
    root: Path,
    rows: dict[str, int],
    *,
    base: Dataset | None = None,
    anew: str = "",
    shard_bytes: int = 3000,
    halo: int | None = None,
) -> Dataset:
    """A generation of so many rows of each symbol; with `base`, of those that it lacks."""
    before = dict.fromkeys(rows, 0)
    if base is not None:
        counts = np.diff(base.manifest.symbol_starts).tolist()
        before |= dict(zip(base.symbols, counts, strict=True))
    plan = []
    for symbol, n in rows.items():
        old = 0 if symbol == anew else before[symbol]
        kept = n if old == n else max(old - HORIZON, 0)
        plan.append(Planned(symbol, n, kept, min(kept, LONGEST - 1) if kept < n else 0))
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=[Feature(name, name.split(".")[0], "", None, "", 0, 0) for name in NAMES],
        targets=[Target("ahead", "forward_return", HORIZON)],
        plan=plan,
        max_gap=5,
        shard_bytes=shard_bytes,
        halo=halo,
        base=base,
    ) as writer:
        for planned in plan:
            columns = table(planned.symbol, planned.rows)
            for at in range(planned.first, planned.rows, 7):
                cut = slice(at, min(at + 7, planned.rows))
                writer.write(planned.symbol, *(column[cut] for column in columns))
        return writer.commit(
            name="demo", pipeline="", fingerprints={}, versions={}, files={},
            scaling=FITTED.to_json(), cuts=(200, 280), embargo=2, window_max=LONGEST,
        )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 40), min_size=1),
        min_size=1,
        max_size=4,
    ),
    anew=st.sampled_from(["", "A", "C"]),
    shard_bytes=st.sampled_from([90, 500, 3000, 10**6]),
    halo=st.sampled_from([None, LONGEST - 1]),
    window=st.integers(1, LONGEST),
)
def test_what_is_added_reads_as_if_written_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[dict[str, int]],
    anew: str,
    shard_bytes: int,
    halo: int | None,
    window: int,
) -> None:
    root, rows = tmp_path_factory.mktemp("steps"), {"A": 3}
    added = write(root, rows)
    for step in steps:
        for symbol, more in step.items():
            rows[symbol] = rows.get(symbol, 0) + more
        rows = dict(sorted(rows.items()))
        added = write(root, rows, base=added, anew=anew, shard_bytes=shard_bytes, halo=halo)
    whole = write(tmp_path_factory.mktemp("whole"), rows)
    added = open_dataset(root)
    added.verify(full=True)
    assert added.manifest.data_digest == whole.manifest.data_digest
    assert added.manifest.pieces == whole.manifest.pieces
    assert added.manifest.segments == whole.manifest.segments
    assert added.to_polars().equals(whole.to_polars(), null_equal=True)
    assert np.array_equal(added.bounds, whole.bounds)
    for one, other in zip(added.to_numpy(), whole.to_numpy(), strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    every = np.arange(added.rows)
    assert np.array_equal(added.take(every[::-1]), whole.take(every[::-1]))
    memories: list[Literal["mapped", "resident", "pool"]] = ["mapped", "resident", "pool"]
    for split in ("train", "validation", "test"):
        if not added.windows(split, window):
            assert not whole.windows(split, window)
            continue
        for memory in memories:
            batches = [
                list(each.loader(split, window, 16, memory=memory, pool_rows=64, scaled=True))
                for each in (added, whole)
            ]
            for one, other in zip(*batches, strict=True):
                for name in ("features", "targets", "symbol", "time"):
                    assert torch.equal(getattr(one, name), getattr(other, name)), (memory, name)


def test_shards_that_nobody_reads_any_more_are_left_out(tmp_path: Path) -> None:
    first = write(tmp_path, {"A": 60, "B": 60}, shard_bytes=500)
    second = write(tmp_path, {"A": 60, "B": 90}, base=first, anew="A")
    assert [shard.file[:6] for shard in second.manifest.shards] == ["000001", "000002"]
    assert [part.symbol for part in second.manifest.shards[0].symbols] == ["B"]
    assert [(p.symbol, p.first, p.halo) for p in second.manifest.shards[1].symbols] == [
        ("A", 0, 0),
        ("B", 60 - HORIZON - (LONGEST - 1), LONGEST - 1),
    ]


@pytest.mark.parametrize(
    ("plan", "base", "message"),
    [
        (Planned("A", 9, 10, 0), True, "more are kept than there are"),
        (Planned("A", 9, 3, 4), True, "more are kept than there are"),
        (Planned("A", 9, 3, 0), False, "kept of no generation"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    tmp_path: Path, plan: Planned, base: bool, message: str
) -> None:
    before = write(tmp_path, {"A": 60}) if base else None
    with pytest.raises(DatasetError, match=message):
        DatasetWriter(
            tmp_path, fingerprint="0f", features=[Feature("a.x", "a", "", None, "", 0, 0)],
            targets=[], plan=[plan], max_gap=5, base=before,
        )  # fmt: skip


@pytest.mark.parametrize("to", ["parquet", "arrow", "npy"])
def test_what_is_added_is_exported_as_if_written_at_once(tmp_path: Path, to: str) -> None:
    first = write(tmp_path / "steps", {"A": 60, "B": 60}, shard_bytes=500)
    added = write(tmp_path / "steps", {"A": 90, "B": 61}, base=first)
    whole = write(tmp_path / "whole", {"A": 90, "B": 61})
    for dataset, name in ((added, "one"), (whole, "other")):
        dataset.export(tmp_path / name, to)
    files = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) >= 2
    for path in files:
        if path.suffix != ".json":
            same = tmp_path / "other" / path.relative_to(tmp_path / "one")
            assert path.read_bytes() == same.read_bytes(), path


def test_a_symbol_of_more_than_four_shards_is_cut(tmp_path: Path) -> None:
    dataset = write(tmp_path / "cut", {"A": 20, "B": 150, "C": 20}, shard_bytes=300, halo=5)
    parts = [
        [(p.symbol, p.first, p.rows, p.halo) for p in s.symbols] for s in dataset.manifest.shards
    ]
    assert parts == [
        [("A", 0, 20, 0)],
        [("B", 0, 50, 0)],
        [("B", 45, 50, 5)],
        [("B", 90, 50, 5)],
        [("B", 135, 15, 5)],
        [("C", 0, 20, 0)],
    ]
    with pytest.raises(DatasetError, match="is shorter than the longest window"):
        write(tmp_path / "short", {"B": 150}, shard_bytes=300, halo=4)
