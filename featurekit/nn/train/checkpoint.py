"""A training as it stands after a step, in one safetensors file with JSON in its header."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, optim

FORMAT = "featurekit-training-1"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replaces the file at once: who reads it finds the old training or the new one."""
    aside = path.with_name(path.name + ".part")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, str(aside), metadata={"format": FORMAT, "facts": json.dumps(facts)})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises:
        DatasetError: when the file is missing or is no checkpoint.
    """
    try:
        with safe_open(str(path), "pt") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT:
                raise ValueError(f"format {head.get('format')}, not {FORMAT}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        return tensors, json.loads(head["facts"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DatasetError(
            Problem(
                "this is no checkpoint of a training",
                where=str(path),
                expected="what a training with this checkpoint has written",
                got=str(error)[:200],
                fix="without resume: a training from its start",
            )
        ) from error


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuses to go on with other options, which would be another training.

    Raises:
        ConfigError: with every option that differs.
    """
    problems = [
        Problem(
            f"the checkpoint is of a training with another {name}",
            where=str(path),
            expected=f"{name}={saved.get(name)!r}, as in the checkpoint",
            got=repr(value),
            fix=f"{name}={saved.get(name)!r}, or another checkpoint",
        )
        for name, value in now.items()
        if saved.get(name) != value
    ]
    if problems:
        raise ConfigError(*problems)


def check_free(path: Path, *, resume: bool) -> None:
    """Refuses to write over a training that nobody asked to go on with.

    Raises:
        ConfigError: when there is a checkpoint, or its directory does not exist.
    """
    if not path.parent.is_dir():
        raise ConfigError(
            Problem(
                "there is no such directory", where=str(path.parent), fix=f"mkdir {path.parent}"
            )
        )
    if path.exists() and not resume:
        raise ConfigError(
            Problem(
                "there is a checkpoint already",
                where=str(path),
                expected="a training that goes on with it, or another file",
                got="a training from its start",
                fix="resume=True, or --resume",
            )
        )


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer by parameter and name."""
    state = optimizer.state_dict()["state"]
    return {f"{at}.{name}": tensor for at, each in state.items() for name, tensor in each.items()}


def restore_optimizer(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        at, name = key.split(".", 1)
        state.setdefault(int(at), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it.

    Example:
        >>> under({"a.x": 1, "b.x": 2}, "a.")
        {'x': 1}
    """
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
