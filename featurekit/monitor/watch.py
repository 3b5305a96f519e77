"""The one loop of a monitor: a row against what is expected, and the counts of the last rows."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

F4: TypeAlias = NDArray[np.float32]
F8: TypeAlias = NDArray[np.float64]
I8: TypeAlias = NDArray[np.int64]
U1: TypeAlias = NDArray[np.uint8]

EDGES = 9  # between groups of a tenth of the train rows each
GROUPS = EDGES + 1
# Rows of the table of features: what is far too low, too low, too high, far too high; the
# longest run of one value; whether runs count in a flat position; the least magnitude that is told
# from smaller ones, in bits; whether it may be missing; the edges of the groups.
FAR_LOW, LOW, HIGH, FAR_HIGH, RUN, FLAT, FLOOR, HOLE, EDGE = range(9)
# Columns of the sums over the last rows: groups, then magnitudes in bits, and how many are not 0.
LEVEL, LEVELS = GROUPS, GROUPS + 1
# What a finding says: kind, row, feature, value, whether it is severe, and rows seen before.
# Kinds count like `KINDS` of flags.
NOT_FINITE, RANGE, UNIT, DEAD, DRIFT, STALE, SKEW = range(7)
FOUND = 6
# Scalars: rows seen, first and newest close, position.side's column or -1, length of the grid or 0,
# its phase.
SEEN, FIRST, NEWEST, SIDE, GRID, PHASE = range(6)
HOURS = 168
LARGEST = 3.4028235e38  # of float32
_HOUR = 3_600_000_000_000

jit: Any = njit(cache=True, error_model="numpy")


@jit
def group_of(table: F4, j: int, v: float) -> int:
    """The group of a value: how many edges are not above it."""
    group = 0
    for k in range(EDGES):
        group += table[EDGE + k, j] <= v
    return group


@jit
def level_of(table: F4, j: int, v: float, bits: int) -> int:
    """The magnitude: the bits of a float32 without its sign, nearly its logarithm; 0 of zero."""
    return max(bits & 0x7FFFFFFF, np.int64(table[FLOOR, j])) if v != 0.0 and v == v else 0


@jit
def expected_bars(seasons: F8, s: int, since: int, until: int) -> float:
    """Bars that a symbol has between two times, by the hours of the week that it had them in."""
    total = 0.0
    for sign, time in ((1.0, until), (-1.0, since)):
        hours = time // _HOUR
        week, hour = hours // HOURS, hours % HOURS
        inside = (time - hours * _HOUR) / _HOUR
        here = seasons[s, hour] + inside * (seasons[s, hour + 1] - seasons[s, hour])
        total += sign * (week * seasons[s, HOURS] + here)
    return total


@jit
def missed_bars(seasons: F8, closes: I8) -> F8:
    """Bars that one symbol should have had between each two that it had."""
    missed = np.empty(closes.size - 1)
    for i in range(closes.size - 1):
        missed[i] = expected_bars(seasons, 0, closes[i], closes[i + 1]) - 1.0
    return missed


@jit
def watch(
    rows: F4,
    which: I8,
    closes: I8,
    start: int,
    table: F4,
    seasons: F8,
    last: F4,
    runs: NDArray[np.int32],
    known: I8,
    groups: U1,
    levels: NDArray[np.int32],
    sums: I8,
    scalars: I8,
    check: int,
    found: F8,
) -> tuple[int, int, bool]:
    """Takes rows [n, F] in from `start` on; the row it stopped before, and how much it found.

    It stops, and says so, where `check` rows more have been seen, and where `found` [n, 6] may not
    hold the next. A row whose close is not after the last of its symbol is none. `which` is the
    place of its symbol, or -1 less that if the row itself is not to be judged. `known` [S, 2] holds
    the last close of each symbol and whether it is stale.
    """
    width, symbols, bits = rows.shape[1], known.shape[0], rows.view(np.int32)
    n, side = 0, scalars[SIDE]
    for i in range(start, rows.shape[0]):
        if n + 2 * width + symbols + 2 > found.shape[0]:
            return i, n, False
        judged = which[i] >= 0
        s, close = which[i] if judged else -1 - which[i], closes[i]
        before = known[s, 0]
        if close <= before:
            continue
        # --- the bar
        if scalars[GRID] and close % scalars[GRID] != scalars[PHASE]:
            n = _note(
                found,
                n,
                scalars[SEEN],
                SKEW,
                i,
                -1,
                (close - scalars[PHASE]) % scalars[GRID] / 1e9,
                0.0,
            )
        if before >= 0 and not known[s, 1]:
            missed = expected_bars(seasons, s, before, close) - 1.0
            if missed > seasons[s, HOURS + 1]:
                far = missed > seasons[s, HOURS + 2]
                n = _note(found, n, scalars[SEEN], STALE, i, -1 - s, missed, 1.0 * far)
        known[s, 0], known[s, 1] = close, 0
        if close > scalars[NEWEST]:
            scalars[NEWEST] = close
            if scalars[FIRST] < 0:
                scalars[FIRST] = close
            n = late(known, seasons, scalars[FIRST], close, i, found, n, scalars[SEEN])
        if not judged:
            continue
        # --- its features
        flat = side >= 0 and rows[i, side] == 0.0
        at, level_at = scalars[SEEN] % groups.shape[0], scalars[SEEN] % levels.shape[0]
        full, level_full = scalars[SEEN] >= groups.shape[0], scalars[SEEN] >= levels.shape[0]
        row, previous, run, group, level = rows[i], last[s], runs[s], groups[at], levels[level_at]
        for j in range(width):
            v = row[j]
            if not (table[LOW, j] <= v <= table[HIGH, j] and abs(v) <= LARGEST):
                if v != v and table[HOLE, j] > 0.0:
                    pass
                elif not abs(v) <= LARGEST:
                    n = _note(found, n, scalars[SEEN], NOT_FINITE, i, j, v, 1.0)
                else:
                    far = v < table[FAR_LOW, j] or v > table[FAR_HIGH, j]
                    n = _note(found, n, scalars[SEEN], RANGE, i, j, v, 1.0 * far)
            if v == previous[j] and not (flat and table[FLAT, j] == 0.0):
                run[j] += 1
                if run[j] == table[RUN, j]:
                    n = _note(found, n, scalars[SEEN], DEAD, i, j, v, 1.0)
            else:
                run[j] = 0
            previous[j] = v
        for j in range(width):
            of = sums[j]
            if full:
                of[group[j]] -= 1
            if level_full:
                of[LEVEL] -= level[j]
                of[LEVELS] -= level[j] != 0
            level[j] = level_of(table, j, row[j], bits[i, j])
            of[LEVEL] += level[j]
            of[LEVELS] += level[j] != 0
        for j in range(width):
            group[j] = group_of(table, j, row[j])
        for j in range(width):
            sums[j, group[j]] += 1
        scalars[SEEN] += 1
        if scalars[SEEN] % check == 0:
            return i + 1, n, True
    return rows.shape[0], n, False


@jit
def late(
    known: I8, seasons: F8, first: int, now: int, row: int, found: F8, n: int, seen: int
) -> int:
    """Notes each symbol that should have had more bars by now, once until its next one.

    One that had none is waited for since the `first` close of any.
    """
    for s in range(known.shape[0]):
        since = known[s, 0] if known[s, 0] >= 0 else first
        if since >= 0 and since < now and not known[s, 1]:
            missed = expected_bars(seasons, s, since, now) - 1.0
            if missed > seasons[s, HOURS + 1]:
                known[s, 1] = 1
                far = 1.0 * (missed > seasons[s, HOURS + 2])
                n = _note(found, n, seen, STALE, row, -1 - s, missed, far)
    return n


@jit
def _note(
    found: F8, n: int, seen: int, kind: int, row: int, j: int, value: float, severe: float
) -> int:
    said = found[n]
    said[0], said[1], said[2], said[3], said[4], said[5] = kind, row, j, value, severe, seen
    return n + 1


@jit
def count_groups(rows: F4, table: F4) -> I8:
    """The sums [F, G + 2] of rows [n, F] alone."""
    bits = rows.view(np.int32)
    sums = np.zeros((rows.shape[1], GROUPS + 2), np.int64)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            v = rows[i, j]
            sums[j, group_of(table, j, v)] += 1
            level = level_of(table, j, v, bits[i, j])
            sums[j, LEVEL] += level
            sums[j, LEVELS] += level != 0
    return sums


@jit
def means(sums: I8, shares: I8, psi: F8, level: F8) -> None:
    """What `stability_index` and `mean_level` say of sums [F, G + 2] of the last rows: `[F]` each.

    They take thirty steps of numpy, which cost as much as a hundred rows.
    """
    for j in range(sums.shape[0]):
        rows, all_rows = sums[j, :GROUPS].sum(), shares[j].sum()
        index = 0.0
        for k in range(GROUPS):
            p = (shares[j, k] + 0.5) / (all_rows + 0.5 * GROUPS)
            q = (sums[j, k] + 0.5) / (rows + 0.5 * GROUPS)
            index += (q - p) * np.log(q / p)
        psi[j] = index
        held = sums[j, LEVELS]
        level[j] = sums[j, LEVEL] / held if 10 * held >= max(rows, 1) else np.nan


@jit
def longest_runs(rows: F4, longest: I8) -> None:
    """Raises `longest` [F] to the most rows in a row that repeat the value before."""
    for j in range(rows.shape[1]):
        run, most = 0, longest[j]
        for i in range(1, rows.shape[0]):
            run = run + 1 if rows[i, j] == rows[i - 1, j] else 0
            most = max(most, run)
        longest[j] = most
