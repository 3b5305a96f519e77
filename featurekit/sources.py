"""Where bars and fills come from: files of several formats into canonical polars frames.

CSV is read as text and cast afterwards, so that a text in a number is told with its row and
nothing is guessed.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from featurekit.canonical import BARS, FILLS, FILLS_OPTIONAL, Source, canonical
from featurekit.errors import ConfigError, DataError, Problem
from featurekit.violations import ROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMATS = (".csv", ".csv.gz", ".parquet", ".arrow", ".ipc", ".feather")


def read_bars(
    path: str | Path,
    *,
    symbol: str | None = None,
    columns: Mapping[str, str] | None = None,
    timezone: str | None = None,
    time_format: str | None = None,
) -> pl.DataFrame:
    """Canonical bars: symbol, time (ns, UTC), open, high, low, close, volume, further numbers.

    Bars are grouped by symbol, each symbol's in the order of the file. `symbol` names it where the
    file has no such column; `timezone` that of times that have none; `time_format` is polars'
    (strftime), or epoch_s, epoch_ms, epoch_us, epoch_ns.

    Raises:
        DataError: when the file cannot be read, lacks a column, or has text in a number.

    Example:
        >>> from featurekit.samples import sample
        >>> where = {key: sample("eurusd_h1")[key] for key in ("symbol", "timezone", "time_format")}
        >>> read_bars(sample("eurusd_h1")["path"], **where).height
        6225
    """
    source = Source(str(path), symbol, columns or {}, timezone, time_format)
    with readable(source):
        return scan_bars(source).collect().drop(ROW)


def read_fills(
    path: str | Path,
    format: str = "canonical",
    *,
    symbol: str | None = None,
    columns: Mapping[str, str] | None = None,
    timezone: str | None = None,
    time_format: str | None = None,
) -> pl.DataFrame:
    """Canonical fills: time, symbol, side, quantity, price, fee, and what else is known of them.

    Raises:
        ConfigError: when the format is not one of those known.
        DataError: when the file cannot be read, lacks a column, or has text in a number.
    """
    if format != "canonical":
        raise ConfigError(
            Problem(
                "fills of this format cannot be read",
                expected="canonical",
                got=repr(format),
                fix="format: canonical",
            )
        )
    source = Source(str(path), symbol, columns or {}, timezone, time_format)
    with readable(source):
        return scan_fills(source).collect().drop(ROW)


def scan_bars(source: Source) -> pl.LazyFrame:
    """Canonical bars, not read yet, with the row of the file in `row`; cells are checked first."""
    frame = _scan(source, BARS, (), further_numbers=True)
    # Grouped by symbol, each in the order of the file; where they are already, nothing is sorted.
    runs = frame.select((pl.col("symbol") < pl.col("symbol").shift(1)).any()).collect()
    return frame.sort("symbol", maintain_order=True) if runs.item() else frame


def scan_fills(source: Source) -> pl.LazyFrame:
    """Canonical fills, not read yet, with the row of the file in `row`; cells are checked first."""
    return _scan(source, FILLS, FILLS_OPTIONAL, further_numbers=False)


@contextmanager
def readable(source: Source) -> Iterator[None]:
    """Tells what a reader refuses as an error that names the file.

    Raises:
        DataError: when the file is missing, empty, cut short or of another format.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        text = str(getattr(error, "strerror", None) or error).split("\n")[0]
        raise DataError(
            Problem(
                "the file cannot be read",
                where=source.path,
                expected="a whole file of the format its name says: " + ", ".join(FORMATS),
                got=f"{type(error).__name__}: {text[:200]}",
                fix="copy it again from where it came",
            )
        ) from error
    except BaseException as error:
        # polars' reader of compressed files panics on some of them.
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(
            Problem(
                "the file cannot be read",
                where=source.path,
                got=str(error)[:200],
                fix="copy it again from where it came",
            )
        ) from error


def _scan(
    source: Source, required: tuple[str, ...], optional: tuple[str, ...], *, further_numbers: bool
) -> pl.LazyFrame:
    with readable(source):
        files = source_files(source.path)
        raw = pl.concat([_open(file) for file in files]).with_row_index(ROW)
        # Nothing traded is an account too; without bars there is nothing to compute.
        if further_numbers and raw.head(1).collect().is_empty():
            raise DataError(
                Problem(
                    "the file has no rows",
                    where=source.path,
                    expected="bars",
                    got="a header only",
                    fix="path: a file with bars",
                )
            )
        return canonical(raw, source, required, optional, further_numbers=further_numbers)


def source_files(path: str) -> list[str]:
    """The files of a path: one file, those of a directory or of a pattern, sorted.

    Raises:
        DataError: when there is none.
        ConfigError: when it is the address of something else.
    """
    if path.startswith(("http:", "https:", "s3:")):
        raise ConfigError(
            Problem(
                "only files can be read",
                where=path,
                expected="a file, a directory of files or a pattern",
                fix=f"path: data/{path.rsplit('/', 1)[-1] or 'bars.parquet'}   # downloaded first",
            )
        )
    here = Path(path)
    if here.is_dir():
        found = sorted(str(p) for p in here.iterdir() if str(p).endswith(FORMATS))
    elif here.exists():  # whatever signs of a pattern its name has
        found = [path]
    else:
        found = sorted(glob(path))
    if not found:
        names = [p.name for p in here.parent.glob("*") if p != here]
        near = difflib.get_close_matches(here.name, names, 1)
        raise DataError(
            Problem(
                "there is no such file",
                where=path,
                expected="a file, a directory of files or a pattern: " + ", ".join(FORMATS),
                got=f"working directory {Path.cwd()}",
                fix=f"path: {here.parent / near[0] if near else 'data/bars.parquet'}",
            )
        )
    wrong = [name for name in found if not name.endswith(FORMATS)]
    if wrong:
        raise DataError(
            Problem(
                "the format is not known",
                where=wrong[0],
                expected=", ".join(FORMATS),
                fix=f"path: {Path(wrong[0]).with_suffix('.csv')}   # converted to a format above",
            )
        )
    empty = [name for name in found if not Path(name).stat().st_size]
    if empty:
        raise DataError(
            Problem(
                "the file is empty",
                where=empty[0],
                expected="a header at least",
                got="0 bytes",
                fix="copy it again from where it came",
            )
        )
    return found


def _open(file: str) -> pl.LazyFrame:
    if file.endswith(".parquet"):
        return pl.scan_parquet(file, glob=False)
    if file.endswith((".arrow", ".ipc", ".feather")):
        return pl.scan_ipc(file, glob=False)
    return pl.scan_csv(file, glob=False, infer_schema=False, null_values=[""])
