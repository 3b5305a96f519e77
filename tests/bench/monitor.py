"""What a monitor adds to a stream: microseconds a bar, and as a share of the stream's own.

    python tests/bench/monitor.py

On one thread, by CPU time: stretches of bars with and without a monitor take turns. Bars are
simulated: random walks. The dataset is built from the first hours of each symbol, 20,000 of one
alone and 1,500 of several; what is measured comes after them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"
# profile.py beside this file is not Python's, which others import.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import numpy as np
import polars as pl

import featurekit as fk

HOUR = 3_600_000_000_000
LIVE = 600
LIMIT = 0.2


def bars(symbol: str, rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.exp(np.cumsum(rng.normal(0, 1e-3, rows)))
    start = np.concatenate([[1.0], close[:-1]])
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "time": pl.Series((420_000 + np.arange(rows)) * HOUR).cast(pl.Datetime("ns", "UTC")),
            "open": start,
            "high": np.maximum(start, close) * 1.0005,
            "low": np.minimum(start, close) * 0.9995,
            "close": close,
            "volume": rng.lognormal(5, 1, rows),
        }
    )


def run(symbols: int, folder: Path) -> tuple[float, float]:
    """Microseconds a bar of the stream and of its monitor, medians over hours."""
    names = [f"S{k:03d}" for k in range(symbols)]
    rows, live = (1_500, LIVE) if symbols > 1 else (20_000, 10 * LIVE)
    table = pl.concat([bars(name, rows + live, k) for k, name in enumerate(names)])
    cut = (420_000 + rows) * HOUR
    path = folder / "bars.parquet"
    now = pl.col("time").dt.epoch("ns")
    table.filter(now < cut).write_parquet(path)
    source = {"path": str(path), "stamp": "open", "bar": "1h", "timezone": "UTC"}
    blocks = ["market", "position", "indicator"]
    pipeline = fk.Pipeline(name="bench", bars=source, blocks=blocks)
    dataset = pipeline.build(folder / f"of_{symbols}")
    stream, monitor = fk.Stream.from_dataset(dataset), fk.Monitor(dataset)
    hours = table.filter(now >= cut).sort("time", "symbol").partition_by("time")
    prices = [hour.row(0, named=True) for hour in hours]
    stamps = [int(one.pop("time").timestamp()) * 1_000_000_000 for one in prices]

    def take(k: int, watched: bool) -> None:
        if symbols == 1:
            row = stream.push(time=stamps[k], **prices[k])
            if watched:
                monitor.watch(names, [stamps[k] + HOUR], row)
        else:
            rows = stream.update(hours[k])
            if watched:
                monitor.watch(names, stream.closes, rows)

    length = live // 60
    times = np.zeros((2, 60))
    for stretch in range(60):
        begin = time.process_time()
        for k in range(stretch * length, (stretch + 1) * length):
            take(k, stretch % 2 == 1)
        times[stretch % 2, stretch] = time.process_time() - begin
    alone, both = (float(np.median(t[t > 0][2:])) / length / symbols * 1e6 for t in times)
    return alone, both - alone


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for symbols in (1, 50, 500):
            stream, guard = run(symbols, Path(folder))
            share = guard / stream
            missed += share > LIMIT
            print(
                f"{symbols:4d} symbols: stream {stream:5.1f} us a bar, monitor {guard:4.1f} us: "
                f"{share:.2f} of it (at most {LIMIT})"
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
