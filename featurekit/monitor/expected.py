"""Expected: what the rows trained on were like, learned once from a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurekit.monitor.watch import (
    EDGE,
    EDGES,
    FAR_HIGH,
    FAR_LOW,
    FLAT,
    FLOOR,
    GROUPS,
    HIGH,
    HOLE,
    HOURS,
    LEVEL,
    LEVELS,
    LOW,
    RUN,
    count_groups,
    longest_runs,
    missed_bars,
)
from featurekit.psi import chance_index, stability_index

if TYPE_CHECKING:
    from featurekit.dataset import Dataset
    from featurekit.monitor.watch import F4, F8, I8
    from featurekit.pipeline import Pipeline

SIDE = "position.side"
READ = 2_000_000  # rows at most that are read, of all symbols alike
STRETCHES = 40  # of train rows, each as long as what a monitor remembers
RANGE_WARN, RANGE_FAIL = 0.5, 3.0  # of the range of the train rows, beyond its ends
DRIFT_WARN, DRIFT_FAIL = 2.0, 5.0  # times the most that a stretch of train rows drifted
FALSE_ALARM = 1e-4  # of a drift by chance, over all features
RUN_MARGIN, SHORTEST_RUN = 2.0, 48  # times the longest run of one value; rows
FLOOR_SHARE = 1e-4  # of the median magnitude: a sine's zeros say nothing of its unit
FEW_BARS = 3.0  # missed, that are nothing to speak of
MOST_GAPS = 0.999  # of the gaps between bars miss fewer
LATE_FAIL = 1.5  # times the most bars that were missed in a row
HOUR = 3_600_000_000_000
HALF_HOUR = HOUR // 2  # by which the clocks of any zone are put forward or back


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Limits of each of F features and each of S symbols.

    `table` and `seasons` are what `watch` reads. `shares` [F, G] are counts of train rows by group,
    `drift` [2, F] the PSI to warn and fail at, `level` [3, F] the mean magnitude of the train rows
    in bits, and the least and the greatest of a short stretch of them. Bars are of `bar` ns, 0 if
    that is not known; if all closes lie on a grid it is of `grid` ns, from `phase` on. `window` and
    `short` are the rows that a monitor remembers, for drift and for a change of unit.
    """

    table: F4
    seasons: F8
    shares: I8
    drift: F8
    level: F8
    bar: int
    grid: int
    phase: int
    window: int
    short: int


def learn(dataset: Dataset, pipeline: Pipeline) -> Expected:
    """What the train rows of a dataset say that its pipeline made."""
    most = max(READ // len(dataset.symbols), 1)
    spans = [(int(max(first, stop - most)), int(stop)) for first, stop in dataset.bounds[:, :2]]
    parts = {at: dataset.read(*span) for at, span in enumerate(spans) if span[1] > span[0]}
    numbers = np.concatenate([np.arange(*spans[at]) for at in parts])
    closes = [pipeline.closes_of(part.time) for part in parts.values()]
    order = numbers[np.argsort(np.concatenate(closes), kind="stable")]
    window = int(np.clip(len(order) // 10, 50, max(1_000, 20 * len(spans))))
    short = min(max(64, 4 * len(spans)), window)

    table = _table(dataset, [part.features for part in parts.values()])
    whole = np.sum([_counts(part.features, table) for part in parts.values()], axis=0)
    shares = whole[:, :GROUPS]
    whole_rows = np.arange(len(order))
    mixed = np.random.default_rng(0).permutation(whole_rows)  # as training batches mix them
    long, brief = (
        [
            _counts(dataset.take(np.sort(order[row[at : at + rows]])), table)
            for row in (whole_rows, mixed)
            for at in np.unique(np.linspace(0, len(order) - rows, count).astype(np.int64))
        ]
        for rows, count in ((window, STRETCHES), (short, 5 * STRETCHES))
    )
    false, inverse = FALSE_ALARM / table.shape[1], 1.0 / window + 1.0 / len(order)
    chance = [chance_index(inverse, held, false) for held in (shares > 0).sum(1).tolist()]
    usual = [stability_index(shares, each[:, :GROUPS]) for each in long]
    steady = np.maximum(np.max(usual, axis=0), chance)
    levels = np.array([mean_level(each) for each in brief])
    seasons = np.tile(unknown_season(), (len(spans), 1))
    seasons[list(parts)] = [_season(each) for each in closes]
    bar = pipeline.bar
    grid = bar if _in_utc(pipeline) else math.gcd(bar, HALF_HOUR)
    phases = np.unique(np.concatenate(closes) % bar) if bar else np.empty(0, np.int64)
    return Expected(
        table=table,
        seasons=seasons,
        shares=shares,
        drift=np.stack([DRIFT_WARN * steady, DRIFT_FAIL * steady]),
        level=np.stack([mean_level(whole), levels.min(0), levels.max(0)]),
        bar=bar,
        grid=grid if len(phases) == 1 else 0,
        phase=int(phases[0]) % grid if len(phases) == 1 else 0,
        window=window,
        short=short,
    )


def _in_utc(pipeline: Pipeline) -> bool:
    """Whether bars lie on one grid all year; on another clock they move when it is put forward."""
    bars = pipeline.bars
    return bars is None or {bars.timezone or "UTC", bars.exchange_timezone} <= {"UTC"}


def mean_level(sums: I8) -> F8:
    """Mean magnitude [F] in bits of what is not 0; NaN where that is less than a tenth."""
    rows, held = sums[:, :GROUPS].sum(1), sums[:, LEVELS]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: F8 = np.where(10 * held >= np.maximum(rows, 1), sums[:, LEVEL] / held, np.nan)
    return mean


def _counts(rows: F4, table: F4) -> I8:
    counts: I8 = count_groups(rows, table)
    return counts


def _table(dataset: Dataset, parts: list[F4]) -> F4:
    """Limits of each feature by row, as `watch` reads them."""
    profile = dataset.profile("train")
    low, high = profile.minimum, profile.maximum
    known = high >= low
    table = np.empty((EDGE + EDGES, len(dataset.names)), np.float32)
    size = np.where(known, np.maximum(high - low, 1e-6 * np.maximum(abs(high), abs(low))), np.inf)
    for far, near, sign, end in ((FAR_LOW, LOW, -1.0, low), (FAR_HIGH, HIGH, 1.0, high)):
        for column, margin in ((far, RANGE_FAIL), (near, RANGE_WARN)):
            table[column] = np.where(known, end + sign * margin * size, sign * np.inf)
    longest = np.zeros(table.shape[1], np.int64)
    for part in parts:
        longest_runs(part, longest)
    run = np.maximum(RUN_MARGIN * longest, SHORTEST_RUN)
    table[RUN] = np.where(high > low, run, -1.0)
    side = SIDE in dataset.names
    resting = [side and name.startswith(SIDE.split(".")[0] + ".") for name in dataset.names]
    table[FLAT] = 1.0 - np.array(resting)
    middle = np.nan_to_num(profile.absolute_quantiles([0.5])[0])
    table[FLOOR] = (FLOOR_SHARE * middle).astype(np.float32).view(np.int32)
    table[HOLE] = profile.nan > 0
    table[EDGE:] = profile.quantiles([(k + 1) / GROUPS for k in range(EDGES)])
    return table


def unknown_season() -> F8:
    """Of a symbol that was not trained on no bar is expected, and so none is missed."""
    season = np.zeros(HOURS + 3)
    season[HOURS + 1 :] = np.inf
    return season


def _season(closes: I8) -> F8:
    """Bars up to each hour of the week, and how many more than came may be missed."""
    season = unknown_season()
    if len(closes) > 1:
        hours = (closes - 1) // HOUR
        passed = np.arange(hours[0] + 1, hours[-1] + 1) % HOURS
        often, had = (np.bincount(each, minlength=HOURS) for each in (passed, hours[1:] % HOURS))
        season[1 : HOURS + 1] = np.cumsum(had / np.maximum(often, 1))
        missed = missed_bars(season[None], closes)
        season[HOURS + 1] = max(FEW_BARS, float(np.quantile(missed, MOST_GAPS)))
        season[HOURS + 2] = max(season[HOURS + 1], LATE_FAIL * float(missed.max()))
    return season
