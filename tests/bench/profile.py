"""Speed of `Profile.of` over 1,000,000 rows of 129 columns, as ratios in one run.

    python tests/bench/profile.py [ROWS]

The limit is a copy of the same bytes. polars' `describe` gives fewer figures of the same table:
no histogram, no third and fourth moment, no row-wise share. All run on one thread.
"""

from __future__ import annotations

import os
import sys
import time

os.environ["POLARS_MAX_THREADS"] = "1"

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

import featurekit as fk

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
COPY, PROFILE, DESCRIBE = "copy of the same bytes", "featurekit Profile", "polars describe"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    table = rng.standard_normal((rows, 129), np.float32) * np.logspace(-4, 6, 129, dtype=np.float32)
    frame = pl.DataFrame(np.asfortranarray(table))
    copy = np.empty_like(table)
    runs: dict[str, Callable[[], object]] = {
        COPY: lambda: np.copyto(copy, table),
        PROFILE: lambda: fk.Profile.of(table),
        DESCRIBE: frame.describe,
    }
    fk.Profile.of(table[:1000])  # compiled
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # in turn, so that a slow spell of the machine meets all
        for name, run in runs.items():
            taken[name].append(seconds(run))
    best = {name: min(each) for name, each in taken.items()}
    print(f"{rows:,} rows of 129 float32 columns, one thread, seconds, best of {ROUNDS}")
    for name, each in best.items():
        print(f"  {name:28} {each:7.3f}")
    print(f"{PROFILE} / {COPY}: {best[PROFILE] / best[COPY]:.1f}")
    print(f"{PROFILE} / {DESCRIBE}: {best[PROFILE] / best[DESCRIBE]:.2f}")


if __name__ == "__main__":
    main()
