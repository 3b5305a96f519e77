"""The state of a loader: which batches it counts, and how many of them were delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurekit.dataset.options import whole
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_state(state: Mapping[str, Any], counted: Mapping[str, Any]) -> None:
    """Refuses a state without epoch and step, or one that differs from what is `counted`.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = [
        Problem(
            f"this state has another {key}",
            where="load_state_dict",
            expected=repr(value),
            got=repr(state.get(key)),
            fix="a loader with the options, and a dataset with the data, of the saved one, "
            "or strict=False",
        )
        for key, value in counted.items()
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
        if not whole(state.get(key)) or state[key] < 0
    ]
    if problems:
        raise ConfigError(*problems)
