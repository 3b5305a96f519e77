"""A table without a pipeline as something to audit: a frame, an array, or a file of one."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xxhash

from featurekit.audit.subject import Subject
from featurekit.cells import Cells
from featurekit.conditions import DEFAULT_SLICES, Conditions
from featurekit.contract import AuditSpec
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from featurekit.scaling import Scaling

KEYS = ("symbol", "time")  # columns that name a row and are none of its features
UNNAMED = "(no name)"  # of a column whose name is empty
TURNED = 512  # rows turned at a time, so that they stay in the cache


def table_subject(
    data: pl.DataFrame | NDArray[Any],
    *,
    source: str,
    kind: Literal["file", "frame"] = "frame",
    scaling: Scaling | None = None,
    layer_norm: bool | None = None,
    slices: Mapping[str, str] | None = None,
    spec: AuditSpec | None = None,
) -> Subject:
    """A frame's columns of numbers, or an array [rows, F], as rows of a train split.

    Raises:
        DataError: when there are no rows or no columns of numbers.
        ConfigError: when a slice is no condition on these columns, or the scaling is of others.
    """
    if data.shape[:1] == (0,):
        raise DataError(Problem("there are no rows to audit", where=source))
    if isinstance(data, pl.DataFrame) and "" in data.columns:
        data = data.rename({"": UNNAMED})
    names, rows, overflow, notes = _matrix(data, source)
    if scaling is not None and scaling.names != names:
        expected, got = ", ".join(scaling.names[:5]), ", ".join(names[:5])
        raise ConfigError(Problem("the scaling is of other columns", expected=expected, got=got))
    if slices is None:
        slices = DEFAULT_SLICES if "position.side" in names else {}
    conditions = Conditions(slices, names, source)
    code = conditions.of(rows)
    held = {name: code >> bit & 1 == 1 for bit, name in enumerate(slices)}
    span = None
    if isinstance(data, pl.DataFrame) and data.schema.get("time") in (pl.Date, pl.Datetime):
        ends = data.select(pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
        times = ends.unpivot()["value"].dt.epoch("ns").to_list()
        span = None if None in times else (times[0], times[1])
    return Subject(
        kind=kind,
        name=source.rsplit("/", 1)[-1],
        path=source,
        digest=xxhash.xxh3_128_hexdigest(rows.data),
        features=[
            Feature(name, name.partition(".")[0] if "." in name else "", "", None, "", 0, 0)
            for name in names
        ],
        cells=Cells.of_table(rows, names, held),
        take=lambda numbers: rows[numbers],
        scaling=scaling,
        norm=scaling is not None if layer_norm is None else layer_norm,
        spec=spec or AuditSpec(),
        slice_columns=conditions.columns,
        symbols=data["symbol"].n_unique()
        if isinstance(data, pl.DataFrame) and "symbol" in data.columns
        else None,
        span=span,
        overflow=overflow,
        rows=(lambda: data) if isinstance(data, pl.DataFrame) and "time" in data.columns else None,
        notes=notes,
    )


def read_table(path: Path) -> pl.DataFrame | NDArray[Any]:
    """A Parquet, Arrow, CSV or numpy file.

    Raises:
        ConfigError: when it is of another kind.
        DataError: when it cannot be read.
    """
    from featurekit.canonical import Source
    from featurekit.sources import readable

    readers: dict[str, Any] = {
        ".parquet": pl.read_parquet,
        ".arrow": pl.read_ipc,
        ".ipc": pl.read_ipc,
        ".feather": pl.read_ipc,
        ".csv": _read_csv,
        ".gz": _read_csv,
        ".npy": _read_numpy,
        ".npz": _read_numpy,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            Problem(
                "this is neither a dataset nor a file that can be audited",
                where=str(path),
                expected="the directory of a dataset, or " + ", ".join(readers),
            )
        )
    with readable(Source(str(path))):
        found: pl.DataFrame | NDArray[Any] = reader(path)
    return found


def _read_csv(path: Path) -> pl.DataFrame:
    # Every row is looked at before a column is said to be text.
    return pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)


def _read_numpy(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = loaded.files
            if len(names) != 1:
                expected, got = "one array", ", ".join(names) or "none"
                raise DataError(
                    Problem("which array?", where=str(path), expected=expected, got=got)
                )
            only: NDArray[Any] = loaded[names[0]]
            return only
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            Problem(
                "this is no numpy file",
                where=str(path),
                expected="an array [rows, columns] of numbers, saved by np.save",
                got=str(error)[:200],
            )
        ) from error


def _matrix(
    data: pl.DataFrame | NDArray[Any], source: str
) -> tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.float64], tuple[str, ...]]:
    """Names, rows [n, F] in float32, the share of each column that overflows, and notes."""
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or not data.shape[1] or data.dtype.kind not in "fiub":
            raise DataError(
                Problem(
                    "there is no column of numbers",
                    where=source,
                    expected="rows x columns",
                    got=f"{data.dtype} {data.shape}",
                )
            )
        names = tuple(f"x{k}" for k in range(data.shape[1]))
        with np.errstate(over="ignore"):  # what float32 cannot hold is counted as infinite
            rows = np.ascontiguousarray(data, np.float32)
        lost = np.zeros(len(names))
        if data.dtype.kind == "f" and data.dtype.itemsize > 4:
            lost = (np.isfinite(data) & ~np.isfinite(rows)).mean(axis=0)
        return names, rows, lost, ()
    numeric = [
        name
        for name, kind in data.schema.items()
        if name not in KEYS
        and (kind.is_numeric() or kind.is_decimal() or kind in (pl.Boolean, pl.Null))
    ]
    if not numeric:
        got = ", ".join(f"{name} {kind}" for name, kind in list(data.schema.items())[:10])
        raise DataError(
            Problem(
                "there is no column of numbers", where=source, expected="rows x columns", got=got
            )
        )
    left = [f"{n!r} ({k})" for n, k in data.schema.items() if n not in numeric and n not in KEYS]
    notes: tuple[str, ...] = ()
    if left:
        shown = ", ".join(left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
        notes = (f"no column of numbers, so not audited: {shown}",)
    columns = np.empty((len(numeric), data.height), np.float32)
    lost = np.zeros(len(numeric))
    for k, name in enumerate(numeric):
        column = data[name]
        if column.dtype not in (pl.Float32, pl.Float64):
            column = column.cast(pl.Float64)
        values = (
            column.to_numpy() if not column.null_count() else column.fill_null(np.nan).to_numpy()
        )
        with np.errstate(over="ignore"):
            columns[k] = values
        if column.dtype == pl.Float64:
            infinite = ~np.isfinite(columns[k])
            if infinite.any():
                lost[k] = (infinite & np.isfinite(values)).mean()
    rows = np.empty((data.height, len(numeric)), np.float32)
    for start in range(0, data.height, TURNED):
        cut = slice(start, start + TURNED)
        rows[cut] = columns[:, cut].T
    return tuple(numeric), rows, lost, notes
