"""What the options of an encoder may be, and what is told of those that cannot work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import Tensor

from featurekit.audit.model import model_view
from featurekit.errors import ConfigError, Problem
from featurekit.nn.prelude import Kind
from featurekit.scaling import SQUASHES, Scaling, Squash

if TYPE_CHECKING:
    from featurekit.dataset import Dataset

Norm = Literal["row", "block"]
Activation = Literal["relu", "gelu", "silu"]
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
CHOICES = {"prelude": Kind, "squash": Squash, "norm": Norm, "activation": Activation}
SMALLEST_BLOCK = 8  # features that a layer_norm of their own leaves something of
ROWS = 4_096  # that the audit's numbers are taken on
FROM_DATASET = "TemporalEncoder.from_dataset(dataset)"


def check_options(
    config: Mapping[str, Any], scaling: Scaling | None, features: Sequence[str]
) -> tuple[int, ...]:
    """The widths of the blocks that are normalised by themselves, none for the row alone.

    Raises:
        ConfigError: when an option cannot be, all of them at once.
    """
    problems = [
        Problem(
            f"there is no such {option}",
            expected=" | ".join(get_args(choices)),
            got=repr(config[option]),
            fix=f'{option}="{get_args(choices)[0]}"',
        )
        for option, choices in CHOICES.items()
        if config[option] not in get_args(choices)
    ]
    width, d_model, heads = config["n_features"], config["d_model"], config["heads"]
    if config["prelude"] == "fitted" and scaling is None:
        problems.append(
            Problem(
                "a fitted prelude needs the statistics it was fitted with",
                expected="scaling=dataset.scaling",
                got="no scaling",
                fix=FROM_DATASET,
            )
        )
    if scaling is not None and len(scaling.names) != width:
        expected, got = str(width), str(len(scaling.names))
        problems.append(
            Problem("the scaling is of another width", "", expected, got, fix=FROM_DATASET)
        )
    if scaling is not None and features and tuple(features) != scaling.names:
        expected, got = ", ".join(features[:5]), ", ".join(scaling.names[:5])
        what = "the scaling is of other features, or of another order"
        problems.append(Problem(what, "", expected, got, fix=FROM_DATASET))
    if config["layers"] and d_model % heads:
        expected, got = f"a divisor of {d_model}", f"heads={heads}"
        problems.append(Problem("the heads do not share d_model", "", expected, got, fix="heads=4"))
    blocks = _blocks(config, features, problems) if config["norm"] == "block" else ()
    if problems:
        raise ConfigError(*problems)
    return blocks


def _blocks(
    config: Mapping[str, Any], features: Sequence[str], problems: list[Problem]
) -> tuple[int, ...]:
    groups = [(name, len(list(each))) for name, each in groupby(f.split(".")[0] for f in features)]
    if config["prelude"] == "none":
        problems.append(
            Problem(
                "a layer_norm of each block does not scale the features within it",
                expected="a prelude",
                got='prelude="none"',
                fix='prelude="fitted"',
            )
        )
    tiny = [f"{name} of {n}" for name, n in groups if n < SMALLEST_BLOCK]
    if tiny or not groups:
        problems.append(
            Problem(
                "a layer_norm of so few features leaves little of them",
                expected=f"blocks of {SMALLEST_BLOCK} features or more, named block.feature",
                got=", ".join(tiny) or "no names of features",
                fix='norm="row"',
            )
        )
    return tuple(n for _, n in groups)


def untreated(dataset: Dataset | None = None, squash: Squash = "none") -> str:
    """What is wrong with no prelude, with the audit's numbers where there is a dataset."""
    told = (
        "prelude='none': layer_norm bounds a row but does not bring its features to one scale; "
        "one feature of size A leaves the others a deviation of 11.4/A."
    )
    if dataset is not None and (starts := dataset.starts("train", 1, targets=False)).size:
        rows = dataset.take(starts[:: max(len(starts) // ROWS, 1)])
        plain = np.zeros(rows.shape[1])
        codes = np.full(rows.shape[1], SQUASHES.index(squash), np.int8)
        squashed = Scaling(dataset.names, plain, plain + 1.0, codes).apply(rows)
        blocks = np.array([feature.block for feature in dataset.features])
        seen = model_view(squashed, blocks, norm=True)
        if seen is not None:
            told += f" Of this dataset's train rows, {dataset.names[seen.largest]} is then "
            told += f"{seen.dominance:.1%} of the squared norm (the audit fails beyond 30%), and "
            told += f"{seen.starved:.0%} of the features are starved (beyond 8%)."
    return f"{told} Fix: {FROM_DATASET}"
