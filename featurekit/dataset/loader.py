"""Batches of a split's windows, epoch after epoch.

Axes: B windows of a batch, T rows of a window, F features.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from featurekit.dataset.blocks import PoolReader
from featurekit.dataset.buffers import Buffers
from featurekit.dataset.gpu import Gpu
from featurekit.dataset.machine import machine_memory
from featurekit.dataset.options import (
    MOST,
    Dtype,
    Memory,
    Tail,
    check_options,
    check_tail,
    no_window,
    whole,
)
from featurekit.dataset.pools import POOL_BLOCKS, Pools
from featurekit.dataset.prefetch import Prefetch
from featurekit.dataset.rows import Piece, Rows, batch_of, symbol_codes
from featurekit.dataset.state import check_state
from featurekit.dataset.treatment import DTYPES, Treatment
from featurekit.dataset.windows import ORDER_VERSION, batch_part, epoch_order
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.dataset.batch import Batch
    from featurekit.dataset.reader import Dataset

HOST = torch.device("cpu")


class Loader(IterableDataset["Batch"]):
    """Batches of a split's windows, in an order that depends on the data, the seed and the epoch.

    The order never depends on the number of ranks: `batch_size` counts the windows of all ranks,
    and each rank takes its contiguous part of every batch. Each `for` is one epoch, the next is
    the next one; `set_epoch` names it. It is an `IterableDataset` of batches, for
    `DataLoader(loader, batch_size=None)`, and has the state of a `StatefulDataLoader`'s.

    Args:
        dataset: Whose rows.
        split: train, validation or test.
        window: Rows of a window.
        batch_size: Windows of a batch, over all ranks.
        seed: Of the order.
        rank: Of this process, from 0 on.
        world_size: Number of processes that share the batches.
        device: Where batches go.
        scaled: Features by the scaling that was fitted on train, instead of natural units.
        dtype: Of the features, cast after scaling: float32, bfloat16 or float16.
        shuffle: Or in order of symbol and time; by default only train is shuffled.
        stride: Rows between the starts of windows.
        tail: A last batch with fewer windows is `short`, left out by `drop`, or by `pad` filled up
            with windows of its own whose weight is 0 and whose mask is False.
        targets: Without them, also windows whose targets are not known yet.
        memory: `mapped` copies windows from the mapped files; `resident` first treats every row
            once and keeps it on the device; `pool` reads pools of rows, for data larger than
            memory, and shuffles within each, which `shuffle_quality` tells. By default what the
            device, the machine's memory and the treatment suggest.
        pool_rows: Rows of a pool, in 64 blocks from all over the data.
        prefetch: Batches that a thread makes before they are asked for; 0 makes each when it is.
        copy: A batch is the caller's for as long as the caller has it. With False, its features
            are overwritten once the next batch but one is asked for, and memory never grows.

    Raises:
        ConfigError: when an option is out of range, or the split or device does not exist.
        DatasetError: when no symbol of the split has a window of this length, or a value of it is
            too large for float16.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        split: str = "train",
        window: int = 20,
        batch_size: int = 512,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        scaled: bool = False,
        dtype: Dtype = "float32",
        shuffle: bool | None = None,
        stride: int = 1,
        tail: Tail = "short",
        targets: bool = True,
        memory: Memory = "auto",
        pool_rows: int = 524_288,
        prefetch: int = 2,
        copy: bool = True,
    ) -> None:
        ranks = world_size if whole(world_size) and world_size >= 1 else 1
        numbers = (
            ("batch_size", batch_size, ranks, MOST),
            ("seed", seed, 0, 2**64 - 1),
            ("world_size", world_size, 1, MOST),
            ("rank", rank, 0, ranks - 1),
            ("stride", stride, 1, MOST),
            ("prefetch", prefetch, 0, 64),
            ("pool_rows", pool_rows, 1, MOST),
        )
        choices = (("tail", tail, get_args(Tail)), ("memory", memory, get_args(Memory)))
        check_options(dataset, window, device, scaled, dtype, numbers, choices)
        self.dataset, self.split, self.device = dataset, split, torch.device(device)
        self.window, self.batch_size, self.stride = int(window), int(batch_size), int(stride)
        self.seed, self.rank, self.world_size = int(seed), int(rank), int(world_size)
        self.scaled, self.tail, self.targets = scaled, tail, targets
        self.shuffle = split == "train" if shuffle is None else shuffle
        self.prefetch, self.copy = int(prefetch), copy
        self._buffers = Buffers(self.prefetch + 2, copy=copy)
        self.epoch = self.step = 0
        self._resumed = False
        self.pool_rows = int(pool_rows)
        self._rows: Rows | None = None
        self._reader: PoolReader | None = None
        self._treatment = Treatment(
            dataset.names, dataset.scaling if scaled else None, DTYPES[dtype]
        )
        self._starts = dataset.starts(split, self.window, stride=self.stride, targets=targets)
        if not len(self._starts):
            raise no_window(dataset, split, self.window, targets)
        check_tail(split, len(self._starts), self.batch_size, self.world_size, tail)
        self._check_range()
        self.memory = self._suggested() if memory == "auto" else memory

    def _check_range(self) -> None:
        """Refuses before the first batch what the split's profile says does not fit float16."""
        if self._treatment.dtype != torch.float16 or "profile" not in self.dataset.manifest.files:
            return
        profile = self.dataset.profile(self.split)
        extremes = torch.from_numpy(np.stack([profile.minimum, profile.maximum])).float()
        self._treatment.apply(extremes, torch.empty(extremes.shape, dtype=torch.float16))

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self._treatment.dtype

    @property
    def windows(self) -> int:
        """Number of windows of an epoch, over all ranks."""
        return len(self) * self.batch_size if self.tail == "drop" else len(self._starts)

    @property
    def absent(self) -> tuple[str, ...]:
        """Symbols without a window of this length in the split."""
        present = set(symbol_codes(self.dataset, self._starts).tolist())
        return tuple(s for code, s in enumerate(self.dataset.symbols) if code not in present)

    def __len__(self) -> int:
        full, rest = divmod(len(self._starts), self.batch_size)
        return full + (rest > 0 and self.tail != "drop")

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise _in_worker()
        if self.step and not self._resumed:  # the last epoch was left early
            self.set_epoch(self.epoch + 1)
        self._resumed = False
        epoch, step = self.epoch, self.step
        gpu = Gpu(self.device, self.prefetch + 2) if self.device.type == "cuda" else None
        made = self._made(epoch, step, gpu)
        with Prefetch(made, self.prefetch) if self.prefetch else nullcontext(made) as ready:
            for batch, event in ready:
                if gpu is not None:
                    gpu.receive(batch, event)
                step += 1
                self.epoch, self.step = epoch, step  # what is delivered: the caller has it now
                yield batch
        self.set_epoch(epoch + 1)

    def _made(self, epoch: int, step: int, gpu: Gpu | None) -> Iterator[tuple[Batch, Any]]:
        """Batches of an epoch from a step on, each with the event after which it is there."""
        pieces, where = self._source(epoch)
        for at in range(step, len(self)):
            places, mask = batch_part(
                len(self._starts),
                self.batch_size,
                at,
                self.rank,
                self.world_size,
                pad=self.tail == "pad",
            )
            shape = (len(places), self.window, len(self.dataset.names))
            with gpu.making() if gpu else nullcontext():
                if where != HOST:
                    x_BTF = torch.empty(shape, dtype=self.dtype, device=where)
                else:
                    x_BTF = (gpu or self._buffers).take(shape, self.dtype)
                batch = batch_of(self.dataset, pieces(places), mask, x_BTF, targets=self.targets)
                made = gpu.send(batch) if gpu else (batch.to(self.device), None)
            del x_BTF, batch  # the caller's alone
            yield made

    def _source(
        self, epoch: int
    ) -> tuple[Callable[[NDArray[np.int64]], Iterable[Piece]], torch.device]:
        """What the windows at places of an epoch are copied from, and where they are copied."""
        if self.memory == "pool":
            pools = self._pools(epoch)
            if self._reader is None:
                self._reader = PoolReader(self.dataset, self._treatment, self.window)
            return partial(self._reader.pieces, pools), HOST
        if self._rows is None:
            self._rows = self._open_rows()
        rows, order = self._rows, self._order(epoch)(self._starts)
        return lambda places: [(slice(None), rows, order[places])], rows.device

    def _order(self, epoch: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        if not self.shuffle:
            return lambda values: values
        digest = self.dataset.manifest.data_digest
        return lambda values: epoch_order(values, digest, self.seed, epoch)

    def _pools(self, epoch: int) -> Pools:
        block_rows = max(self.pool_rows // POOL_BLOCKS, 1)
        return Pools(self._starts, block_rows, self._order(epoch))

    def _open_rows(self) -> Rows:
        if self.memory == "resident":
            return Rows.resident(self.dataset, self._treatment, self.device)
        self.dataset.shards[0].arena.populate()
        return Rows.mapped(self.dataset, self._treatment)

    def _suggested(self) -> Memory:
        """Where the rows are best kept, by their size and by what becomes of them."""
        machine = machine_memory()
        size = self.dataset.rows * len(self.dataset.names) * self.dtype.itemsize
        if self.device.type == "cuda" and size <= torch.cuda.mem_get_info(self.device)[0] // 2:
            return "resident"
        if sum(shard.bytes for shard in self.dataset.manifest.shards) > machine * 3 // 4:
            return "pool"
        fits = size * self.world_size <= machine // 4
        return "resident" if self._treatment.changes and self.device == HOST and fits else "mapped"

    @property
    def shuffle_quality(self) -> float:
        """Of all windows, how many a window is mixed with: 1 is all, less is a pool of them."""
        if not self.shuffle:
            return 0.0
        return self._pools(self.epoch).share if self.memory == "pool" else 1.0

    def __repr__(self) -> str:
        return (
            f"Loader({self.split}: {self.windows} windows of {self.window} rows, {len(self)} "
            f"batches of {self.batch_size}, memory={self.memory!r}, "
            f"shuffle_quality={self.shuffle_quality:.3g})"
        )

    def set_epoch(self, epoch: int) -> None:
        """The next `for` is this epoch, from its first batch."""
        self.epoch, self.step, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches delivered in it, and what they count; the same on every rank."""
        return {**self._identity(), "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """The next `for` goes on after the last batch that was delivered before.

        Args:
            state: What `state_dict` gave, on any rank of any number.
            strict: Or take epoch and step from a state that counts other batches.

        Raises:
            ConfigError: when the state is of other data, or counts other batches.
        """
        check_state(state, self._identity() if strict else {})
        self.epoch, self.step, self._resumed = state["epoch"], state["step"], True

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            Problem(
                "a loader cannot be copied to another process",
                where=f"a loader of {self.dataset!r}",
                expected="one loader in each process that trains, with its rank",
                fix="DataLoader(loader, batch_size=None, num_workers=0); it has its own thread",
            )
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "order_version": ORDER_VERSION,
            "data_digest": self.dataset.manifest.data_digest,
            "split": self.split,
            "window": self.window,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "stride": self.stride,
            "tail": self.tail,
            "targets": self.targets,
            "pool_rows": self.pool_rows if self.memory == "pool" else None,
        }


def _in_worker() -> ConfigError:
    return ConfigError(
        Problem(
            "each worker of a DataLoader would give all batches of a loader again",
            where="DataLoader(loader, num_workers=...)",
            expected="num_workers=0: a loader has a thread of its own",
            fix="DataLoader(loader, batch_size=None, num_workers=0)",
        )
    )
