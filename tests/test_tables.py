"""All rows as arrays and tensors: the same bits as the frame, and where possible no copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.test_dataset import FEATURES, PLAN, build, some_rows

if TYPE_CHECKING:
    from pathlib import Path

ONE_SHARD = 10**9
TABLES = ("features", "targets", "time")


def bits(array: np.ndarray) -> tuple[object, ...]:
    return array.dtype, array.shape, array.tobytes()


@pytest.mark.parametrize("shard_bytes", [1500, ONE_SHARD])
def test_arrays_and_tensors_are_the_rows(shard_bytes: int, tmp_path: Path) -> None:
    dataset = build(tmp_path, some_rows(), shard_bytes=shard_bytes)
    assert (len(dataset.shards) == 1) == (shard_bytes == ONE_SHARD)
    frame, rows, tensors = dataset.to_polars(), dataset.to_numpy(), dataset.to_torch()
    features = np.ascontiguousarray(frame.select(f.name for f in FEATURES).to_numpy())
    assert bits(rows.features) == bits(features)
    assert bits(rows.targets) == bits(frame.select("ret_next_2").to_numpy())
    assert bits(rows.time) == bits(frame["time"].to_physical().to_numpy())
    assert [dataset.symbols[code] for code in rows.symbol] == frame["symbol"].to_list()
    assert rows.symbol.dtype == np.int64
    for name, array in rows._asdict().items():
        assert bits(getattr(tensors, name).numpy()) == bits(array)


def test_a_batch_and_the_arrays_count_symbols_alike(tmp_path: Path) -> None:
    dataset = build(tmp_path, some_rows())
    rows = dataset.to_numpy()
    (batch,) = dataset.loader("train", window=1, shuffle=False, targets=False)
    at = dataset.starts("train", 1, targets=False)
    assert batch.symbol.tolist() == rows.symbol[at].tolist()
    assert batch.time.tolist() == rows.time[at].tolist()
    assert len(dataset.symbols) == len(PLAN)


def test_arrays_of_one_shard_are_views_that_cannot_be_written(tmp_path: Path) -> None:
    dataset = build(tmp_path, some_rows(), shard_bytes=ONE_SHARD)
    rows = dataset.to_numpy()
    for name in TABLES:
        assert np.shares_memory(getattr(rows, name), getattr(dataset.shards[0], name))
        assert not getattr(rows, name).flags.writeable


def test_tensors_can_be_written_and_the_files_stay(tmp_path: Path) -> None:
    dataset = build(tmp_path, some_rows(), shard_bytes=ONE_SHARD)
    before = bits(dataset.to_numpy().features)
    dataset.to_torch().features.fill_(7.0)
    assert bits(dataset.to_numpy().features) == before
    dataset.verify(full=True)
