"""Speed of writing, verifying and adding to a dataset, as ratios in one run.

    python tests/bench/storage.py [ROWS]

Writing is compared in turn with `dd conv=fdatasync` of as many bytes to the same disk, by the
clock, since both wait for it. Bars are simulated: a random walk, 20 symbols.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

# profile.py beside this file is not Python's, which others import.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import numpy as np
import polars as pl

import featurekit as fk
from featurekit.build import build
from featurekit.dataset import DatasetWriter, Target
from featurekit.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, SYMBOLS, ROUNDS, PIECE = 129, 20, 5, 4_096
DD = shutil.which("dd") or "dd"
PIPELINE = """
name: bench
bars: {{path: {path}, bar: 1h, timezone: UTC}}
blocks: [market: {{}}, indicator: {{}}]
targets: {{ahead: {{forward_return: 5}}}}
"""


def written(root: Path, block: np.ndarray, rows: int) -> int:
    """Writes a dataset of copies of a block, and gives its bytes."""
    each = rows // SYMBOLS
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=[Feature(f"market.f{k}", "market", "", None, "", 0, 0) for k in range(WIDTH)],
        targets=[Target("ahead", "forward_return", 5)],
        plan=[(f"S{k:02d}", each) for k in range(SYMBOLS)],
        max_gap=10,
    ) as writer:
        for symbol in range(SYMBOLS):
            for start in range(0, each, PIECE):
                x = block[: min(PIECE, each - start)]
                time_ = np.arange(start, start + len(x))
                writer.write(f"S{symbol:02d}", time_, x, x[:, :1].copy())
        dataset = writer.commit(
            name="bench", pipeline="", fingerprints={}, versions={}, files={}, scaling=None,
            cuts=(each, each), embargo=0, window_max=128,
        )  # fmt: skip
    return sum(shard.bytes for shard in dataset.manifest.shards)


def taken(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def against_dd(root: Path, rows: int) -> None:
    block = np.random.default_rng(0).standard_normal((PIECE, WIDTH), np.float32)
    ratios, speeds = [], []
    for _ in range(ROUNDS):
        size = 0

        def ours() -> None:
            nonlocal size
            size = written(root / "written", block, rows)

        seconds = taken(ours)
        count = ["if=/dev/zero", f"of={root / 'dd'}", "bs=1M", f"count={size >> 20}"]
        plain = taken(
            lambda count=count: subprocess.run(
                [DD, *count, "conv=fdatasync"], check=True, capture_output=True
            )
        )
        ratios.append(plain / seconds)
        speeds.append(size / seconds / 1e6)
        (root / "dd").unlink()
        shutil.rmtree(root / "written")
    print(
        f"  written at {np.median(speeds):,.0f} MB/s, hashed and synced: "
        f"{np.median(ratios):.2f} of dd conv=fdatasync (at least 0.50)"
    )


def bars(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    frames = []
    for symbol in range(SYMBOLS):
        close = np.exp(np.cumsum(rng.normal(0, 1e-3, rows)))
        start = np.concatenate([[1.0], close[:-1]])
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [f"S{symbol:02d}"] * rows,
                    "time": pl.Series(np.arange(rows) * 3_600_000_000_000).cast(
                        pl.Datetime("ns", "UTC")
                    ),
                    "open": start,
                    "high": np.maximum(start, close) * 1.0005,
                    "low": np.minimum(start, close) * 0.9995,
                    "close": close,
                    "volume": rng.integers(1, 1000, rows).astype(float),
                }
            )
        )
    return pl.concat(frames)


def rebuilt(root: Path, rows: int) -> None:
    each, path = rows // SYMBOLS, root / "bars.parquet"
    table = bars(each + 24)
    table.filter(pl.int_range(pl.len()).over("symbol") < each).write_parquet(path)
    pipeline = fk.Pipeline.from_yaml(PIPELINE.format(path=path))
    first = taken(lambda: build(pipeline, out=root / "out"))
    print(f"  built in {first:.2f} s: {rows:,} bars of {SYMBOLS} symbols")
    again = taken(lambda: build(pipeline, out=root / "out"))
    print(f"  up to date in {again:.2f} s (at most 2)")
    table.write_parquet(path)
    added = taken(lambda: build(pipeline, out=root / "out"))
    print(f"  24 bars a symbol added in {added:.2f} s: {added / first:.2f} of the build")
    dataset = fk.open_dataset(root / "out")
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    checked = taken(lambda: dataset.verify(full=True))
    print(f"  verified at {size / checked / 1e9:.1f} GB/s")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    print(f"{rows:,} rows of {WIDTH} features, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as directory:
        against_dd(Path(directory), rows)
        rebuilt(Path(directory), rows)


if __name__ == "__main__":
    main()
