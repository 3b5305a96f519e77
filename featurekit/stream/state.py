"""The state of a stream as bytes, and whether it may be gone on from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from featurekit.build.base import NUMERICS, versions
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

FORMAT = 2  # 2: ages


def write_state(head: Mapping[str, Any], engine: NDArray[np.float64]) -> bytes:
    """Safetensors: the columns' states [symbols, n], and the rest as JSON."""
    told = {"format": FORMAT, "versions": versions(), **head}
    return save({"engine": engine}, metadata={"stream": json.dumps(told)})


def check_same(rows: object, now: str, built: Mapping[str, str]) -> None:
    """Refuses a state that other columns, another account or other versions made.

    Raises:
        ConfigError: naming each of them.
    """
    problems = []
    current = versions()
    if rows != now:
        problems.append(
            Problem(
                "the state is of another pipeline: columns, account, targets or segments differ",
                expected=f"fingerprint {rows}",
                got=now,
                fix="the pipeline that the state was saved with",
            )
        )
    problems += [
        Problem(
            f"the state was saved with another version of {name}",
            expected=str(built.get(name)),
            got=current[name],
            fix=f"pip install {name}=={built.get(name)}",
        )
        for name in NUMERICS
        if built.get(name) != current[name]
    ]
    if problems:
        raise ConfigError(*problems)


def read_state(state: bytes) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """What `write_state` wrote.

    Raises:
        ConfigError: when these bytes are something else, damaged or of another format.
    """
    try:
        length = int.from_bytes(state[:8], "little")
        metadata = json.loads(state[8 : 8 + length])["__metadata__"]
        head = json.loads(metadata["stream"])
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}, not {FORMAT}")
        return head, load(state)["engine"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            Problem(
                "this is no state of a stream",
                expected="the bytes of stream.state()",
                got=f"{type(error).__name__}: {str(error)[:80]}",
                fix="Stream.resume(pipeline, stream.state())",
            )
        ) from error
