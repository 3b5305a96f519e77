"""What a loader is asked for, checked at once: everything that cannot be is told, with its fix."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from featurekit.dataset.treatment import DTYPES
from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from featurekit.dataset.reader import Dataset

Tail = Literal["short", "drop", "pad"]
Memory = Literal["auto", "mapped", "resident", "pool"]
Dtype = Literal["float32", "bfloat16", "float16"]

MOST = 2**31 - 1  # of windows, ranks and rows that an option counts


def check_options(
    dataset: Dataset,
    window: int,
    device: str | torch.device,
    scaled: bool,
    dtype: str = "float32",
    numbers: Iterable[tuple[str, int, int, int]] = (),
    choices: Iterable[tuple[str, str, tuple[str, ...]]] = (),
) -> None:
    """Tells all options that are out of range at once.

    Args:
        dataset: Which knows the longest window, and whether there is a scaling.
        window: Rows of a window.
        device: Where batches go.
        scaled: Whether features are scaled.
        dtype: What they are cast to.
        numbers: Name, value, least and greatest of more whole numbers.
        choices: Name, value and all that it may be.

    Raises:
        ConfigError: when one cannot be.
    """
    problems = []
    window_max = dataset.manifest.window_max
    for name, number, low, high in (("window", window, 1, window_max), *numbers):
        below = not whole(number) or number < low
        if below or number > high:
            problems.append(
                Problem(
                    f"{name} is out of range",
                    expected=f"a whole number, {low} to {high}",
                    got=repr(number),
                    fix=f"{name}={low if below else high}",
                )
            )
    if whole(window) and window > window_max:
        problems[0] = replace(
            problems[0], fix=f"window={window_max}, or windows: {{max: {window}}} and a new build"
        )
    problems += [
        Problem(
            f"no such {name}",
            expected=" | ".join(known),
            got=repr(value),
            fix=f'{name}="{known[0]}"',
        )
        for name, value, known in (*choices, ("dtype", dtype, tuple(DTYPES)))
        if value not in known
    ]
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


def whole(value: object) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_tail(split: str, windows: int, batch_size: int, world_size: int, tail: Tail) -> None:
    """Refuses a tail that leaves no batch, or a rank without a window.

    Raises:
        ConfigError: when it does.
    """
    rest = windows % batch_size
    if tail == "drop" and windows < batch_size:
        raise ConfigError(
            Problem(
                "every batch is dropped",
                where=f"split {split!r}",
                expected=f"batch_size of at most {windows}, all its windows",
                got=str(batch_size),
                fix='tail="short"',
            )
        )
    if tail == "short" and 0 < rest < world_size:
        raise ConfigError(
            Problem(
                "the last batch has fewer windows than there are ranks",
                where=f"split {split!r}, {windows} windows",
                expected=f"{world_size} windows or more",
                got=str(rest),
                fix='tail="pad", or tail="drop"',
            )
        )


def no_window(dataset: Dataset, split: str, window: int, targets: bool) -> DatasetError:
    """The error of a split that has no window of this length."""
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
