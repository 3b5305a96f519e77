"""Saved: what is known of a symbol after its last bar, so that later bars can go on from there."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 1
_ENGINE = "engine"  # [symbols, n]: the states of the columns


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """The columns' state and the account of a symbol, and digests of what they were made of.

    `bars` and `fills` are numbers of rows from the first on: fills are those that the last bar has
    seen. `last_close` is in UTC ns.
    """

    symbol: str
    bars: int
    bars_digest: str
    last_close: int
    fills: int
    fills_digest: str
    account: Mapping[str, Any]
    engine: NDArray[np.float64]


def digest_rows(frame: pl.DataFrame, rows: int) -> str:
    """The xxh3_128 of the first rows of a frame, column by column, whatever their chunks.

    Example:
        >>> one, two = pl.DataFrame({"x": [1.0, 2.0]}), pl.DataFrame({"x": [1.0, 3.0]})
        >>> digest_rows(one, 1) == digest_rows(two, 1), digest_rows(one, 2) == digest_rows(two, 2)
        (True, False)
    """
    digest = xxhash.xxh3_128()
    for column in frame.head(rows).iter_columns():
        digest.update(f"{column.name}:{column.dtype}:{column.null_count()};".encode())
        if column.dtype.is_numeric() or column.dtype.is_temporal():
            values = column.to_physical().fill_null(0).to_numpy()
            digest.update(np.ascontiguousarray(values).data)
            if column.null_count():
                digest.update(np.ascontiguousarray(column.is_null().to_numpy()).data)
        else:
            digest.update(json.dumps(column.cast(pl.String).to_list()).encode())
    return digest.hexdigest()


def save(path: Path, saved: Iterable[Saved]) -> None:
    """Writes one safetensors file, in the order of the symbols."""
    table = sorted(saved, key=lambda one: one.symbol)
    head = {
        "format": FORMAT,
        "symbols": [
            {each.name: getattr(one, each.name) for each in fields(one) if each.name != _ENGINE}
            for one in table
        ],
    }
    engine = np.stack([one.engine for one in table]) if table else np.empty((0, 0))
    # One entry: safetensors writes several in any order.
    save_file({_ENGINE: engine}, str(path), metadata={"saved": json.dumps(head)})


def load(path: Path) -> dict[str, Saved]:
    """Reads what `save` wrote, by symbol.

    Raises:
        DatasetError: when the file is missing, damaged or of another version.
    """
    try:
        with safe_open(str(path), "numpy") as file:
            head = json.loads((file.metadata() or {})["saved"])
            if head["format"] != FORMAT:
                raise ValueError(f"format {head['format']}, not {FORMAT}")
            engine = file.get_tensor(_ENGINE)
        found = [
            Saved(**one, engine=state) for one, state in zip(head["symbols"], engine, strict=True)
        ]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            Problem(
                "the saved state cannot be read",
                where=str(path),
                got=str(error)[:200],
                fix="featurekit build PIPELINE",
            )
        ) from error
    return {one.symbol: one for one in found}
