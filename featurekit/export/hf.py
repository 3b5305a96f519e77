"""Hugging Face datasets: a directory that `datasets.load_from_disk` opens.

A row has symbol, time, and the features and targets as one list each of fixed length.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.export.extras import missing
from featurekit.export.parts import Block, common

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.export.parts import Part

LIBRARY = "datasets"


def library() -> Any:  # noqa: ANN401  # a module without types
    """The library.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing("hf", LIBRARY, error) from error
    return datasets


def write(parts: Sequence[Part], directory: Path, tell: Callable[[int], None]) -> None:
    """Writes a `DatasetDict` of the splits; `tell` hears how many samples a block had."""
    datasets = library()
    splits = {}
    written = directory / ".written"
    written.mkdir()
    for part in parts:
        path = written / part.name
        _write_stream(part, path, tell)
        found = datasets.Dataset.from_file(str(path))
        digest = part.dataset.manifest.data_digest  # else a fingerprint would hold the time
        splits[part.name] = datasets.Dataset(
            found.data, split=datasets.NamedSplit(part.name), fingerprint=f"{digest}-{part.name}"
        )
    with _quiet():
        datasets.DatasetDict(splits).save_to_disk(str(directory))
    for part in parts:
        (written / part.name).unlink()
    written.rmdir()


def read(part: Part, directory: Path) -> Iterator[Block]:
    """The blocks of a part as the library reads them."""
    found = library().load_from_disk(str(directory))[part.name].with_format("arrow")
    for span in part.spans():
        table = found[span.start : len(found) if span.stop is None else span.stop]
        n = len(table)
        yield Block(
            common(table["symbol"].unique().to_pylist()),
            _flat(table["features"], n),
            _flat(table["targets"], n) if part.targets else np.empty((n, 0), np.float32),
            table["time"].to_numpy().view(np.int64),
        )


def _write_stream(part: Part, path: Path, tell: Callable[[int], None]) -> None:
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    def lists(rows: NDArray[np.float32]) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])

    with ArrowWriter(path=str(path), features=_features(part)) as writer:
        for block in part.blocks():
            n = len(block.time)
            columns = {
                "symbol": pa.array([block.symbol] * n, pa.string()),
                "time": pa.array(block.time, pa.timestamp("ns", "UTC")),
                "features": lists(block.features),
            }
            if part.targets:
                columns["targets"] = lists(block.targets)
            writer.write_table(pa.table(columns))
            tell(n)
        writer.finalize()


def _features(part: Part) -> Any:  # noqa: ANN401  # the library's
    datasets = library()
    value = datasets.Value("float32")
    features = {
        "symbol": datasets.Value("string"),
        "time": datasets.Value("timestamp[ns, tz=UTC]"),
        "features": datasets.List(value, length=len(part.dataset.names)),
    }
    if part.targets:
        features["targets"] = datasets.List(value, length=len(part.targets))
    return datasets.Features(features)


def _flat(column: Any, n: int) -> NDArray[np.float32]:  # noqa: ANN401  # a pyarrow column
    flat: NDArray[np.float32] = np.concatenate([c.flatten().to_numpy() for c in column.chunks])
    return flat.reshape(n, -1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's own progress bars off the terminal."""
    datasets = library()
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
