"""The loader and the windows among what torch's users have: DataLoader, DDP, stateful loaders."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset

from featurekit.dataset import Dataset, DatasetWriter, Target
from featurekit.dataset.batch import TENSORS, Batch, Sample, collate
from featurekit.errors import ConfigError, DatasetError
from featurekit.feature import Feature

if TYPE_CHECKING:
    from pathlib import Path

ROWS, WIDTH = 300, 3


def write(root: Path, rows: int = ROWS) -> Dataset:
    features = [Feature(f"market.{k}", "market", "", None, "", 0, 0) for k in range(WIDTH)]
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=features,
        targets=[Target("y", "forward_return", 1)],
        plan=[("A", rows), ("B", rows)],
        max_gap=5,
        shard_bytes=4000,
    ) as writer:
        for k, symbol in enumerate("AB"):
            x = np.random.default_rng(k).standard_normal((rows, WIDTH)).astype("f4")
            writer.write(symbol, np.arange(rows), x, x[:, :1])
        return writer.commit(
            name="demo", pipeline="", fingerprints={}, versions={}, files={}, scaling=None,
            cuts=(rows, rows), embargo=0, window_max=64,
        )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("torch"))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


def test_windows_by_number_are_those_of_the_loader(dataset: Dataset) -> None:
    items = dataset.torch("train", 9)
    (batch,) = dataset.loader(window=9, batch_size=10_000, shuffle=False)
    assert len(items) == len(batch) == dataset.windows("train", 9)
    for index in (0, 7, len(items) - 1, -1):
        sample = items[index]
        assert isinstance(sample, Sample)
        assert sample.features.shape == (9, WIDTH)
        for name in TENSORS:
            assert torch.equal(getattr(sample, name), getattr(batch, name)[index])
    with pytest.raises(IndexError):
        items[len(items)]
    assert sum(1 for _ in dataset.torch("train", 50, stride=20)) == 2 * 13


@pytest.mark.parametrize("options", [{}, {"num_workers": 1, "multiprocessing_context": "spawn"}])
def test_a_data_loader_of_windows_gives_batches(dataset: Dataset, options: dict[str, Any]) -> None:
    items = dataset.torch("train", 9)
    loader = DataLoader(items, batch_size=64, **options)
    expected = list(dataset.loader(window=9, batch_size=64, shuffle=False))
    for batch, other in zip(loader, expected, strict=True):
        assert isinstance(batch, Batch)
        assert equal(batch, other)
        assert batch.names == dataset.names


def test_samples_one_by_one_make_the_same_batch(dataset: Dataset) -> None:
    items = dataset.torch("train", 9)
    one = torch.utils.data.default_collate([items[k] for k in (3, 1, 200)])
    assert equal(one, collate(items.__getitems__([3, 1, 200])))
    (part,) = DataLoader(Subset(items, [3, 1, 200]), batch_size=3)
    assert equal(part, one)


def test_a_distributed_sampler_shares_the_windows_out(dataset: Dataset) -> None:
    items = dataset.torch("train", 9)
    seen = [
        batch.time.tolist()
        for rank in range(2)
        for batch in DataLoader(items, sampler=DistributedSampler(items, 2, rank), batch_size=64)
    ]
    assert sum(map(len, seen)) == len(items)


def test_windows_are_opened_again_in_another_process(dataset: Dataset, tmp_path: Path) -> None:
    items = dataset.torch("train", 9, dtype="bfloat16")
    content = pickle.dumps(items)
    assert len(content) < 1024
    again = pickle.loads(content)  # noqa: S301  # made one line before
    assert torch.equal(again[5].features, items[5].features)
    content = pickle.dumps(write(tmp_path).torch("train", 9))
    write(tmp_path, ROWS + 1)
    with pytest.raises(DatasetError, match="built anew"):
        pickle.loads(content)  # noqa: S301  # made above


@pytest.mark.parametrize("options", [{"window": 65}, {"dtype": "int8"}, {"scaled": True}])
def test_options_of_windows_are_checked(dataset: Dataset, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataset.torch(**{"window": 9, **options})
    with pytest.raises(DatasetError, match="no window of 9 rows"):
        dataset.torch("test", 9)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loader_is_a_dataset_of_batches(dataset: Dataset, prefetch: int) -> None:
    expected = list(dataset.loader(window=9, batch_size=64))
    loader = dataset.loader(window=9, batch_size=64, prefetch=prefetch)
    wrapped = DataLoader(loader, batch_size=None, num_workers=0)
    assert len(wrapped) == len(expected)
    for batch, other in zip(wrapped, expected, strict=True):
        assert equal(batch, other)


def test_workers_of_a_data_loader_are_refused(dataset: Dataset) -> None:
    wrapped = DataLoader(dataset.loader(window=9), batch_size=None, num_workers=1)
    with pytest.raises(ConfigError, match="num_workers=0"):
        next(iter(wrapped))


def test_a_stateful_loader_finds_the_state_that_it_asks_for(dataset: Dataset) -> None:
    """`StatefulDataLoader` takes the state of its dataset, and gives it back to another."""
    expected = list(dataset.loader(window=9, batch_size=64))
    first = dataset.loader(window=9, batch_size=64)
    batches = iter(DataLoader(first, batch_size=None))
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    second = dataset.loader(window=9, batch_size=64)
    second.load_state_dict(state)
    rest = list(DataLoader(second, batch_size=None))
    assert all(equal(one, other) for one, other in zip(rest, expected[3:], strict=True))


def test_a_stateful_data_loader_goes_on_where_it_was(dataset: Dataset) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    expected = list(dataset.loader(window=9, batch_size=64))
    first = stateful(dataset.loader(window=9, batch_size=64), batch_size=None, num_workers=0)
    batches = iter(first)
    for _ in range(3):
        next(batches)
    second = stateful(dataset.loader(window=9, batch_size=64), batch_size=None, num_workers=0)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert all(equal(one, other) for one, other in zip(rest, expected[3:], strict=True))


def test_memory_is_pinned_for_an_accelerator_only(dataset: Dataset) -> None:
    (batch,) = dataset.loader(window=9, batch_size=10_000)
    if torch.accelerator.is_available():
        assert batch.pin_memory().features.is_pinned()
    else:
        with pytest.raises(ConfigError, match="there is none"):
            batch.pin_memory()


DDP = """
import json, os, sys
import torch
import torch.distributed as dist
from torch import nn
from featurekit.dataset import open_dataset

path, store, rank, world_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.manual_seed(0)
model = nn.Linear(9 * 3, 1)
if world_size > 1:
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world_size)
    model = nn.parallel.DistributedDataParallel(model)
loader = open_dataset(path).loader(
    window=9, batch_size=32, rank=rank, world_size=world_size, tail="drop"
)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
seen = []
for epoch in range(2):
    for batch in loader:
        optimizer.zero_grad()
        loss = (model(batch.features.flatten(1)) - batch.targets).square().mean()
        loss.backward()
        optimizer.step()
        seen += batch.time.tolist()
weights = [value for each in model.parameters() for value in each.flatten().tolist()]
print(json.dumps({"weights": weights, "seen": seen}))
if world_size > 1:
    dist.barrier()  # none leaves while another still works
    dist.destroy_process_group()
"""


def test_two_processes_train_as_one_does(dataset: Dataset, tmp_path: Path) -> None:
    def start(rank: int, world_size: int) -> subprocess.Popen[str]:
        arguments = [str(dataset.path), str(tmp_path / f"store{world_size}"), rank, world_size]
        return subprocess.Popen(
            [sys.executable, "-c", DDP, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    running = [start(0, 2), start(1, 2), start(0, 1)]
    told = [each.communicate(timeout=300) for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], told
    left, right, alone = (json.loads(out) for out, _ in told)
    assert left["weights"] == right["weights"]
    assert left["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    pairs = zip(
        np.reshape(left["seen"], (-1, 16)), np.reshape(right["seen"], (-1, 16)), strict=True
    )
    assert np.concatenate([np.concatenate(pair) for pair in pairs]).tolist() == alone["seen"]
