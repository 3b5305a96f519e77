"""The state of a stream as bytes, and whether it may be gone on from."""

from __future__ import annotations

import json
from dataclasses import replace
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
NO_STATE = Problem(
    "this is no state of a stream",
    expected="the bytes of stream.state()",
    fix="Stream.resume(pipeline, stream.state())",
)


def write_state(head: Mapping[str, Any], engine: NDArray[np.float64]) -> bytes:
    """Safetensors: the columns' states [symbols, n], and the rest as JSON."""
    return pack("stream", {"format": FORMAT, "versions": versions(), **head}, {"engine": engine})


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
    head, tables = unpack("stream", state, FORMAT, NO_STATE)
    return head, tables["engine"]


def pack(name: str, head: Mapping[str, Any], tables: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors of tables, with a head as JSON, which has a `format`."""
    return save(dict(tables), metadata={name: json.dumps(head)})


def unpack(
    name: str, data: bytes, version: int, none: Problem
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `pack` wrote.

    Raises:
        ConfigError: `none`, with what it is instead, when these bytes are something else, damaged
            or of another format.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][name])
        if head["format"] != version:
            raise ValueError(f"format {head['format']}, not {version}")
        return head, load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {str(error)[:80]}"
        raise ConfigError(replace(none, got=got)) from error
