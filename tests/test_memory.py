"""The memory of a build is bounded by blocks: it does not grow with the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

BUILD = """
import json, sys, threading, time
from featurekit.build import build
from featurekit.pipeline import Pipeline

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

pipeline = Pipeline.from_yaml(sys.argv[1])
pipeline.program
watcher = threading.Thread(target=watch)
watcher.start()
rows = build(pipeline, out=sys.argv[2]).dataset.rows
done.set()
watcher.join()
print(json.dumps({"rows": rows, "peak": peak * 1024}))
"""


def build_of(rows: int, path: Path) -> dict[str, int]:
    """Builds simulated minute bars in a process of its own; its rows and its peak, in bytes."""
    rng = np.random.default_rng(0)
    close = np.exp(rng.normal(0, 1e-4, rows).cumsum())
    time = pl.Series(np.arange(rows) * 60_000_000_000).cast(pl.Datetime("ns", "UTC"))
    pl.DataFrame(
        {"symbol": "X", "time": time, "open": close, "high": close, "low": close, "close": close}
    ).with_columns(volume=pl.Series(rng.lognormal(3, 1, rows))).write_parquet(
        path / f"{rows}.parquet", row_group_size=32_768
    )
    pipeline = path / f"{rows}.yaml"
    pipeline.write_text(
        f"name: big\nbars: {{path: {path / f'{rows}.parquet'}, bar: 1m}}\n"
        "blocks: [market, position, indicator]\ntargets: {y: {forward_return: 5}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", BUILD, pipeline, path / f"out-{rows}"],
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, int] = json.loads(done.stdout)
    return told


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is Linux's")
def test_a_build_does_not_hold_its_rows(tmp_path: Path) -> None:
    small, large = build_of(100_000, tmp_path), build_of(700_000, tmp_path)
    grown = (large["peak"] - small["peak"]) / (large["rows"] - small["rows"])
    # A row of features is 516 bytes; those of the symbol in work that are read again are few.
    assert grown < 64, f"{grown:.0f} bytes a row: {small}, {large}"
