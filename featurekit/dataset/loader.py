"""Batches of a split's windows, epoch after epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from featurekit.dataset.rows import Rows, symbol_codes
from featurekit.dataset.windows import ORDER_VERSION, epoch_order
from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.dataset.batch import Batch
    from featurekit.dataset.reader import Dataset

MOST = 2**31 - 1  # of windows, ranks and rows that an option counts


class Loader:
    """Batches of a split's windows, in an order that depends on the data, the seed and the epoch.

    The order never depends on the number of ranks: `batch_size` counts the windows of all ranks,
    and each rank takes its contiguous part of every batch. Train is shuffled, other splits are not,
    unless `shuffle` says so. Each `for` is one epoch, the next is the next one; `set_epoch` names
    it. A last batch with fewer windows is short, or left out with `tail="drop"`.

    Raises:
        ConfigError: when an option is out of range, or the split or device does not exist.
        DatasetError: when no symbol of the split has a window of this length.
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
        device: str = "cpu",
        scaled: bool = False,
        shuffle: bool | None = None,
        stride: int = 1,
        tail: Literal["short", "drop"] = "short",
        targets: bool = True,
    ) -> None:
        ranks = world_size if _whole(world_size) and world_size >= 1 else 1
        _check_options(
            dataset,
            window,
            device,
            scaled,
            ("batch_size", batch_size, ranks, MOST),
            ("seed", seed, 0, 2**64 - 1),
            ("world_size", world_size, 1, MOST),
            ("rank", rank, 0, ranks - 1),
            ("stride", stride, 1, MOST),
        )
        if tail not in ("short", "drop"):
            raise ConfigError(
                Problem("no such tail", expected="short | drop", got=repr(tail), fix='tail="short"')
            )
        self.dataset, self.split, self.device = dataset, split, device
        self.window, self.batch_size, self.stride = int(window), int(batch_size), int(stride)
        self.seed, self.rank, self.world_size = int(seed), int(rank), int(world_size)
        self.scaled, self.tail, self.targets = scaled, tail, targets
        self.shuffle = split == "train" if shuffle is None else shuffle
        self.epoch = self.step = 0
        self._resumed = False
        self._starts = dataset.starts(split, self.window, stride=self.stride, targets=targets)
        if not len(self._starts):
            raise _no_window(dataset, split, self.window, targets)
        self._check_tail()

    def _check_tail(self) -> None:
        windows, rest = len(self._starts), len(self._starts) % self.batch_size
        if self.tail == "drop" and windows < self.batch_size:
            raise ConfigError(
                Problem(
                    "every batch is dropped",
                    where=f"split {self.split!r}",
                    expected=f"batch_size of at most {windows}, all its windows",
                    got=str(self.batch_size),
                    fix='tail="short"',
                )
            )
        if self.tail == "short" and 0 < rest < self.world_size:
            raise ConfigError(
                Problem(
                    "the last batch has fewer windows than there are ranks",
                    where=f"split {self.split!r}, {windows} windows",
                    expected=f"{self.world_size} windows or more",
                    got=str(rest),
                    fix='tail="drop"',
                )
            )

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
        return full + (rest > 0 and self.tail == "short")

    def __iter__(self) -> Iterator[Batch]:
        if self.step and not self._resumed:  # the last epoch was left early
            self.set_epoch(self.epoch + 1)
        self._resumed = False
        order = self._order()
        rows = Rows(self.dataset, scaled=self.scaled)
        rows.populate()
        while self.step < len(self):
            batch = order[self.step * self.batch_size : (self.step + 1) * self.batch_size]
            cut = len(batch) * self.rank // self.world_size
            end = len(batch) * (self.rank + 1) // self.world_size
            self.step += 1  # counts what is delivered: the caller has it when it asks for the state
            yield rows.batch(batch[cut:end], self.window, targets=self.targets).to(self.device)
        self.set_epoch(self.epoch + 1)

    def _order(self) -> NDArray[np.int64]:
        if not self.shuffle:
            return self._starts
        return epoch_order(self._starts, self.dataset.manifest.data_digest, self.seed, self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """The next `for` is this epoch, from its first batch."""
        self.epoch, self.step, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches delivered in it, and what they count; the same on every rank."""
        return {**self._identity(), "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next `for` goes on after the last batch that was delivered before.

        Raises:
            ConfigError: when the state is of other data, or counts other batches.
        """
        problems = [
            Problem(
                f"this state has another {key}",
                where="load_state_dict",
                expected=repr(value),
                got=repr(state.get(key)),
                fix="a loader with the options, and a dataset with the data, of the saved one",
            )
            for key, value in self._identity().items()
            if state.get(key) != value
        ]
        problems += [
            Problem(
                f"this state has no {key}",
                where="load_state_dict",
                expected="what state_dict() gave",
                got=repr(state.get(key))[:80],
                fix="loader.load_state_dict(loader.state_dict())",
            )
            for key in ("epoch", "step")
            if not isinstance(state.get(key), int) or state[key] < 0
        ]
        if problems:
            raise ConfigError(*problems)
        self.epoch, self.step, self._resumed = state["epoch"], state["step"], True

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
        }


def latest(dataset: Dataset, window: int, *, scaled: bool = False, device: str = "cpu") -> Batch:
    """One batch with the last window of each symbol; symbols whose last segment is shorter lack.

    Raises:
        ConfigError: when the window is longer than `windows.max`, or the device does not exist.
        DatasetError: when no symbol has so many rows after its last gap.
    """
    _check_options(dataset, window, device, scaled)
    last = {segment.symbol: segment for segment in dataset.manifest.segments}
    starts = [s.start + s.rows - window for s in last.values() if s.rows >= window]
    if not starts:
        longest = max(segment.rows for segment in last.values())
        raise DatasetError(
            Problem(
                f"no symbol has {window} rows after its last gap",
                where=str(dataset.path),
                expected=f"a window of at most {longest} rows",
                got=str(window),
                fix=f"window={longest}",
            )
        )
    batch = Rows(dataset, scaled=scaled).batch(np.array(starts), window, targets=False)
    return batch.to(device)


def _check_options(
    dataset: Dataset,
    window: int,
    device: str,
    scaled: bool,
    *numbers: tuple[str, int, int, int],
) -> None:
    """Tells all options that are out of range at once."""
    problems = []
    window_max = dataset.manifest.window_max
    for name, value, low, high in (("window", window, 1, window_max), *numbers):
        below = not _whole(value) or value < low
        if below or value > high:
            problems.append(
                Problem(
                    f"{name} is out of range",
                    expected=f"a whole number, {low} to {high}",
                    got=repr(value),
                    fix=f"{name}={low if below else high}",
                )
            )
    if _whole(window) and window > window_max:
        problems[0] = replace(
            problems[0], fix=f"window={window_max}, or windows: {{max: {window}}} and a new build"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        got = f"{device!r}: {str(error).splitlines()[0]}"
        problems.append(Problem("this device cannot be used", got=got, fix='device="cpu"'))
    if scaled and dataset.scaling is None:
        problems.append(
            Problem(
                "this dataset has no scaling",
                where=str(dataset.path),
                expected="scaling: {kind: standard, squash: asinh} in its pipeline",
                fix="scaled=False",
            )
        )
    if problems:
        raise ConfigError(*problems)


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _no_window(dataset: Dataset, split: str, window: int, targets: bool) -> DatasetError:
    longest = dataset.runs(split, targets=targets).longest(len(dataset.symbols))
    most = int(longest.max(initial=0))
    found = [f"{s} {rows}" for s, rows in zip(dataset.symbols, longest, strict=True)]
    more = f" and {len(found) - 20} more symbols" if len(found) > 20 else ""
    if most >= window:
        got, fix = "no target of a window's last row is known", "targets=False"
    else:
        got = "longest runs of rows: " + ", ".join(found[:20]) + more
        fix = f"window={most}" if most else "another split, or splits: with other shares"
    return DatasetError(
        Problem(
            f"the split {split!r} has no window of {window} rows",
            where=str(dataset.path),
            expected=f"a symbol with {window} rows between two gaps and within the split",
            got=got,
            fix=fix,
        )
    )
