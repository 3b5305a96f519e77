"""Data larger than memory: an order in pools, and the rows of a pool read from the files."""

from __future__ import annotations

import json
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurekit.dataset import Dataset, DatasetWriter, Target, open_dataset
from featurekit.dataset.batch import TENSORS
from featurekit.dataset.pools import POOL_BLOCKS, Pools
from featurekit.dataset.windows import epoch_order
from featurekit.errors import ConfigError, DatasetError
from featurekit.feature import Feature
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.dataset.batch import Batch

NAMES = ("market.a", "market.b", "position.c")
DIGEST = "0123456789abcdef0123456789abcdef"
POOL = 2 * POOL_BLOCKS  # blocks of two rows: several pools of a few hundred rows


def write(root: Path) -> Dataset:
    """Three shards; a gap before row 150 of each symbol; a short symbol."""
    features = [Feature(name, name.split(".")[0], "", None, "", 0, 0) for name in NAMES]
    fitted = Scaling(NAMES, np.ones(3), np.array([2.0, 0.5, 1]), np.array([1, 0, 1]) > 0)
    rows = {"A": 311, "B": 7, "C": 402, "D": 251}
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=features,
        targets=[Target("y", "forward_return", 2), Target("z", "forward_sign", 1)],
        plan=list(rows.items()),
        max_gap=5,
        shard_bytes=9000,
    ) as writer:
        for k, (symbol, n) in enumerate(rows.items()):
            rng = np.random.default_rng(k)
            time = np.arange(n) + np.where(np.arange(n) < 150, 0, 10)
            x, y = (rng.standard_normal((n, c)).astype("f4") for c in (3, 2))
            y[-2:] = np.nan
            writer.write(symbol, time, x, y)
        writer.commit(
            name="demo", pipeline="", fingerprints={}, versions={}, files={},
            scaling=fitted.to_json(), cuts=(370, 400), embargo=0, window_max=64,
        )  # fmt: skip
    dataset = open_dataset(root)
    assert len(dataset.shards) == 3
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("pools"))


def origins(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """Symbol and time of the last row of every window, in the order they came."""
    return [o for b in batches for o in zip(b.symbol.tolist(), b.time.tolist(), strict=True)]


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


@given(
    steps=st.lists(st.sampled_from([1, 1, 1, 2, 3, 40]), min_size=1, max_size=900),
    window=st.integers(1, 9),
    block_rows=st.integers(1, 6),
    seed=st.integers(0, 3),
    batch=st.integers(1, 200),
)
def test_pools_are_an_order_of_all_windows_and_hold_their_rows(
    steps: list[int], window: int, block_rows: int, seed: int, batch: int
) -> None:
    starts = np.cumsum(steps) - 1

    def order(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return epoch_order(values, DIGEST, seed, 0) if seed else values

    pools = Pools(starts, block_rows, order)
    seen, numbers = [], []
    for at in range(0, len(starts), batch):
        places = np.arange(at, min(at + batch, len(starts)))
        covered = 0
        for where, number, found in pools.pieces(places):
            assert where == slice(covered, covered + len(found))
            covered += len(found)
            numbers.append(number)
            seen += found.tolist()
            spans = pools.spans(number, window)
            assert len(spans) <= POOL_BLOCKS
            assert (np.diff(spans[:, 0]) > 0).all()
            block = np.searchsorted(spans[:, 0], found, side="right") - 1
            assert (found + window <= spans[block, 1]).all()
            assert (spans[:, 1] - spans[:, 0] <= block_rows + window - 1).all()
        assert covered == len(places)
    assert sorted(seen) == starts.tolist()
    assert numbers == sorted(numbers)  # one pool after another: each is read once
    assert seed or seen == starts.tolist()
    assert 0 < pools.share <= 1


def test_a_pool_is_of_places_all_over_the_data() -> None:
    starts = np.arange(100_000)
    pools = Pools(starts, 100, lambda values: epoch_order(values, DIGEST, 1, 0))
    assert pools.share == pytest.approx(0.064)
    spread = np.std(pools.take(0, np.arange(6400)))
    assert spread == pytest.approx(100_000 / np.sqrt(12), rel=0.15)


@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"scaled": True, "dtype": "bfloat16"}])
@pytest.mark.parametrize("window", [1, 9, 30])
def test_batches_of_pools_are_those_of_mapped_files(
    dataset: Dataset, window: int, options: dict[str, Any]
) -> None:
    options = {"window": window, "batch_size": 50, "shuffle": False, **options}
    pooled = dataset.loader(**options, memory="pool", pool_rows=POOL)
    for one, other in zip(pooled, dataset.loader(**options, memory="mapped"), strict=True):
        assert equal(one, other)


@pytest.mark.parametrize("stride", [1, 3, 50])
def test_shuffled_pools_hold_every_window_once(dataset: Dataset, stride: int) -> None:
    options: dict[str, Any] = {"window": 9, "batch_size": 50, "stride": stride}
    loader = dataset.loader(**options, memory="pool", pool_rows=POOL)
    (whole,) = dataset.loader(**{**options, "batch_size": 5000}, shuffle=False)
    place = {origin: k for k, origin in enumerate(origins([whole]))}
    epochs = []
    for _ in range(2):
        batches = list(loader)
        for batch in batches:
            at = [place[origin] for origin in origins([batch])]
            assert torch.equal(batch.features, whole.features[at])
            assert torch.equal(batch.targets, whole.targets[at])
        epochs.append(origins(batches))
        assert sorted(epochs[-1]) == sorted(place)
    assert epochs[0] != epochs[1]
    share = {1: 0.14, 3: 0.22, 50: 1.0}[stride]
    assert loader.shuffle_quality == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_ranks_share_the_batches_of_one(dataset: Dataset, world_size: int, tail: Any) -> None:  # noqa: ANN401  # a literal
    options: dict[str, Any] = {
        "window": 9, "batch_size": 99, "tail": tail, "memory": "pool", "pool_rows": POOL
    }  # fmt: skip
    whole = [origins([batch]) for batch in dataset.loader(**options)]
    ranks = [
        [origins([b]) for b in dataset.loader(rank=rank, world_size=world_size, **options)]
        for rank in range(world_size)
    ]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole


def test_a_run_resumed_at_any_step_equals_an_uninterrupted_one(dataset: Dataset) -> None:
    options: dict[str, Any] = {
        "window": 9, "batch_size": 70, "seed": 5, "memory": "pool", "pool_rows": POOL
    }  # fmt: skip
    one = dataset.loader(**options)
    expected = list(one)
    for stop in range(len(one) + 1):
        interrupted = dataset.loader(**options)
        assert len(list(islice(interrupted, stop))) == stop
        state = json.loads(json.dumps(interrupted.state_dict()))
        assert len(json.dumps(state)) < 1024
        resumed = dataset.loader(**options)
        resumed.load_state_dict(state)
        rest = list(resumed) if state["epoch"] == 0 else []
        assert all(equal(a, b) for a, b in zip(rest, expected[stop:], strict=True))


def test_a_state_of_pools_is_none_of_a_whole_shuffle(dataset: Dataset) -> None:
    state = dataset.loader(window=9, memory="pool").state_dict()
    with pytest.raises(ConfigError, match="another pool_rows"):
        dataset.loader(window=9, memory="mapped").load_state_dict(state)
    with pytest.raises(ConfigError, match="another pool_rows"):
        dataset.loader(window=9, memory="pool", pool_rows=POOL).load_state_dict(state)


def test_an_epoch_that_is_left_early_leaves_no_rows_to_the_next(dataset: Dataset) -> None:
    options: dict[str, Any] = {"window": 9, "batch_size": 50, "memory": "pool", "pool_rows": POOL}
    left, fresh = dataset.loader(**options), dataset.loader(**options)
    next(iter(left))
    fresh.set_epoch(1)
    assert all(equal(a, b) for a, b in zip(left, fresh, strict=True))


def test_a_pool_takes_the_memory_of_the_one_before(dataset: Dataset) -> None:
    loader = dataset.loader(window=9, batch_size=50, memory="pool", pool_rows=POOL, prefetch=0)
    next(iter(loader))
    assert loader._reader is not None
    taken = sum(each.size for each in loader._reader._memory.values())
    assert taken <= POOL_BLOCKS * (2 + 8) * (3 * 4 + 2 * 4 + 8)
    assert len(list(loader)) == len(loader)
    assert sum(each.size for each in loader._reader._memory.values()) < 1.3 * taken


def test_a_file_cut_short_is_told_when_it_is_read(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    path = dataset.path / "shards" / dataset.manifest.shards[1].file
    content = path.read_bytes()
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(content[:66_000])
    loader = dataset.loader(window=9, memory="pool", targets=False)
    with pytest.raises(DatasetError, match="is damaged") as caught:
        list(loader)
    assert "a shorter file" in str(caught.value)


def test_a_shuffle_of_all_and_none_say_so(dataset: Dataset) -> None:
    assert dataset.loader(window=9).shuffle_quality == 1.0
    assert dataset.loader(window=9, memory="pool").shuffle_quality == 1.0
    assert dataset.loader(window=9, shuffle=False).shuffle_quality == 0.0
    text = repr(dataset.loader(window=9, memory="pool", pool_rows=POOL))
    assert "memory='pool', shuffle_quality=0.1" in text
