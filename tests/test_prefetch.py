"""Memory that is used again and a thread that runs ahead: nothing of it reaches the caller."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from featurekit.dataset import Dataset, DatasetWriter, Target
from featurekit.dataset.batch import Batch
from featurekit.dataset.buffers import Buffers
from featurekit.dataset.gpu import Gpu
from featurekit.dataset.prefetch import Prefetch, one_thread
from featurekit.errors import ConfigError
from featurekit.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS, WIDTH = 400, 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    features = [Feature(f"market.{k}", "market", "", None, "", 0, 0) for k in range(WIDTH)]
    with DatasetWriter(
        tmp_path_factory.mktemp("prefetch"),
        fingerprint="0f",
        features=features,
        targets=[Target("y", "forward_return", 1)],
        plan=[("A", ROWS)],
        max_gap=5,
    ) as writer:
        x = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype("f4")
        writer.write("A", np.arange(ROWS), x, x[:, :1])
        return writer.commit(
            name="demo", pipeline="", fingerprints={}, versions={}, files={}, scaling=None,
            cuts=(ROWS, ROWS), embargo=0, window_max=64,
        )  # fmt: skip


def prefetching() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "featurekit-prefetch"]


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    buffers = Buffers(count=4)
    kept = [buffers.take((8, 2), torch.float32) for _ in range(3)]
    places = {each.data_ptr() for each in kept}
    assert len(places) == 3
    part, array = kept[0][3:].view(-1)[1:], kept[1].numpy()[::2]
    del kept
    gc.collect()
    again = [buffers.take((8, 2), torch.float32) for _ in range(3)]
    assert len(places & {each.data_ptr() for each in again}) == 1  # the third's alone
    del part, array
    assert {buffers.take((8, 2), torch.float32).data_ptr() for _ in range(2)} < places


def test_memory_fits_whatever_is_asked_for() -> None:
    buffers = Buffers(count=1)
    for shape, dtype in (((4,), torch.float32), ((9, 9), torch.float16), ((2, 3), torch.bfloat16)):
        taken = buffers.take(shape, dtype)
        assert (tuple(taken.shape), taken.dtype) == (shape, dtype)
        taken.zero_()


def test_memory_that_comes_back_late_is_not_kept() -> None:
    buffers = Buffers(count=2)
    many = [buffers.take((4,), torch.float32) for _ in range(10)]
    assert len(many) == 10
    del many
    assert len(buffers._free) == 2


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
def test_batches_are_the_same_however_far_a_thread_runs_ahead(
    dataset: Dataset, prefetch: int
) -> None:
    expected = [batch.features for batch in dataset.loader(window=9, batch_size=32, prefetch=0)]
    loader = dataset.loader(window=9, batch_size=32, prefetch=prefetch)
    kept = [batch.features for batch in loader]  # all of them at once: each is the caller's
    assert all(torch.equal(one, other) for one, other in zip(kept, expected, strict=True))
    loader.set_epoch(0)
    for batch, features in zip(loader, expected, strict=True):
        assert torch.equal(batch.features, features)
        batch.features.zero_()


def test_an_epoch_of_batches_takes_the_memory_of_a_few(dataset: Dataset) -> None:
    loader = dataset.loader(window=9, batch_size=8, prefetch=2)
    places = {batch.features.data_ptr() for batch in loader}
    assert len(loader) == 49
    assert len(places) <= 2 + 3


def test_without_copies_a_batch_holds_until_the_next_but_one(dataset: Dataset) -> None:
    loader = dataset.loader(window=9, batch_size=8, prefetch=2, copy=False)
    expected = [b.features for b in dataset.loader(window=9, batch_size=8)]
    seen, held = [], []
    for batch, features in zip(loader, expected, strict=True):
        assert torch.equal(batch.features, features)
        held.append(batch.features)
        seen.append(batch.features.data_ptr())
    assert len(set(seen)) == 4
    assert seen[:4] * 2 == seen[:8]
    assert not torch.equal(held[0], expected[0])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_state_counts_what_was_delivered(dataset: Dataset, prefetch: int) -> None:
    loader = dataset.loader(window=9, batch_size=8, prefetch=prefetch)
    for step, _ in enumerate(loader, 1):
        assert loader.state_dict()["step"] == step


def test_leaving_early_ends_the_thread(dataset: Dataset) -> None:
    for _ in dataset.loader(window=9, batch_size=8):
        assert len(prefetching()) == 1
        break
    assert prefetching() == []
    iterator = iter(dataset.loader(window=9, batch_size=8))
    next(iterator)
    assert len(prefetching()) == 1
    del iterator
    assert prefetching() == []
    list(dataset.loader(window=9, batch_size=8))
    assert prefetching() == []


def test_a_loader_of_which_nothing_was_asked_has_no_thread(dataset: Dataset) -> None:
    iterator = iter(dataset.loader(window=9))
    assert prefetching() == []
    del iterator


def test_nothing_is_left_of_a_loader(dataset: Dataset) -> None:
    def alive() -> int:
        gc.collect()
        kinds = (Batch, Buffers, Prefetch)  # type(): other modules' objects warn when asked
        return sum(type(each) in kinds for each in gc.get_objects())

    before = alive()
    for _ in range(3):
        for batch in dataset.loader(window=9, batch_size=8):
            kept = batch.features
    del batch, kept
    assert alive() == before


def test_the_error_of_the_thread_reaches_the_caller(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = dataset.loader(window=9, batch_size=8)
    batches = iter(loader)
    next(batches)
    monkeypatch.setattr("featurekit.dataset.loader.batch_part", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(batches)
    assert prefetching() == []


def test_items_come_in_order_and_never_more_than_the_depth_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(50):
            made.append(k)
            yield k

    with Prefetch(items(), depth=3) as ready:
        for k, item in enumerate(ready):
            assert item == k
            assert len(made) <= k + 1 + 3
    assert made == list(range(50))


def test_an_error_after_items_comes_after_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    with Prefetch(items(), depth=4) as ready:
        assert list(islice(ready, 2)) == [1, 2]
        with pytest.raises(OSError, match="gone"):
            next(ready)


def test_the_thread_takes_one_core_and_leaves_the_others_theirs() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    found = []

    def work() -> None:
        one_thread()
        found.append(torch.get_num_threads())
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1, 3]
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


@pytest.mark.parametrize("change", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_loader_is_not_pickled(dataset: Dataset, change: Any) -> None:  # noqa: ANN401  # a function
    with pytest.raises(ConfigError, match="a loader cannot be copied to another process") as caught:
        change(dataset.loader(window=9))
    assert "num_workers=0" in caught.value.problems[0].fix


FORK = """
import os, sys
from featurekit.dataset import open_dataset
loader = open_dataset(sys.argv[1]).loader(window=9, batch_size=8)
batches = iter(loader)
first = next(batches).time.tolist()
child = os.fork()
if child == 0:
    try:
        next(batches)
    except Exception as error:
        assert "a fork copied it from" in str(error), error
        loader.set_epoch(0)
        assert next(iter(loader)).time.tolist() == first
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert sum(1 for _ in batches) == len(loader) - 1
unfinished = iter(loader)
next(unfinished)
print("done")  # with a thread that waits: the end of the program ends it
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_starts_its_own_and_the_end_of_a_program_ends_all(dataset: Dataset) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, dataset.path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


class FakeEvent:
    """Ends when it is waited for."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def synchronize(self) -> None:
        self.log.append(f"copied {self.name}")


def test_page_locked_memory_is_filled_again_only_after_its_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of things; torch's streams and page-locked memory are replaced by notes of them."""
    log: list[str] = []

    class FakeStream:
        def __init__(self, device: torch.device) -> None:
            self.sent = 0

        def record_event(self) -> FakeEvent:
            self.sent += 1
            return FakeEvent(log, str(self.sent))

    def made(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        log.append("new")
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr("torch.cuda.Stream", FakeStream)
    monkeypatch.setattr("torch.cuda.stream", lambda _: nullcontext())
    monkeypatch.setattr("featurekit.dataset.gpu.pinned", made)
    gpu = Gpu(torch.device("meta"), count=2)
    empty = torch.empty(0)
    for size in (4, 4, 4, 3, 4):
        x_BTF = gpu.take((size, 2, 1), torch.float32)
        assert x_BTF.shape == (size, 2, 1)
        batch, _ = gpu.send(Batch(x_BTF, *[empty] * 5, (), ()))
        assert batch.features.device.type == "meta"
    assert log == ["new", "new", "copied 1", "copied 2", "copied 3"]
