"""The loop of each operation: what one instruction does to a block of rows.

Every loop writes `o` from its operands, arrays of the same rows; a window is given n - 1 rows more
in front. Each row is computed by the same additions in the same order whatever the block, so that
blocks of 1 and of 1,000 rows agree bit for bit. NaN is a hole: windows are NaN while it is inside,
recursions skip it and keep their state `s`.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# SVML's vector logarithms may differ from its scalar ones in the last bit: batch and stream would
# then disagree. numba reads this when it is first imported.
os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")

from numba import njit  # after the line above

F8: TypeAlias = NDArray[np.float64]
NAN = np.nan

# No fastmath: it licenses the compiler to assume that there is no NaN.
jit: Any = njit(error_model="numpy")


@jit
def over(x: F8, y: F8, default: F8, o: F8) -> None:
    """O = x / y, or the default where y is 0 and x is known."""
    for i in range(o.size):
        a, b, d = x[i], y[i], default[i]
        o[i] = d if (b == 0.0) & (a == a) else a / b


@jit
def minimum(x: F8, y: F8, o: F8) -> None:
    """O = min(x, y); NaN if either is."""
    for i in range(o.size):
        a, b = x[i], y[i]
        o[i] = a if (a < b) | (a != a) else b


@jit
def maximum(x: F8, y: F8, o: F8) -> None:
    """O = max(x, y); NaN if either is."""
    for i in range(o.size):
        a, b = x[i], y[i]
        o[i] = a if (a > b) | (a != a) else b


@jit
def less(x: F8, y: F8, o: F8) -> None:
    """O = 1 if x < y else 0; NaN if either is."""
    for i in range(o.size):
        a, b = x[i], y[i]
        known = (a == a) & (b == b)
        o[i] = (1.0 if a < b else 0.0) if known else NAN


@jit
def less_equal(x: F8, y: F8, o: F8) -> None:
    """O = 1 if x <= y else 0; NaN if either is."""
    for i in range(o.size):
        a, b = x[i], y[i]
        known = (a == a) & (b == b)
        o[i] = (1.0 if a <= b else 0.0) if known else NAN


@jit
def equal(x: F8, y: F8, o: F8) -> None:
    """O = 1 if x == y else 0; NaN if either is."""
    for i in range(o.size):
        a, b = x[i], y[i]
        known = (a == a) & (b == b)
        o[i] = (1.0 if a == b else 0.0) if known else NAN


@jit
def where(c: F8, x: F8, y: F8, o: F8) -> None:
    """O = x if c else y; NaN if c is."""
    for i in range(o.size):
        # Both are read before they are chosen from: the loop then has no branch.
        test, a, b = c[i], x[i], y[i]
        chosen = a if test != 0.0 else b
        o[i] = chosen if test == test else NAN


@jit
def comoment(sa: F8, ta: F8, ca: F8, sb: F8, tb: F8, cb: F8, n: float, m: float, o: F8) -> None:
    """O = sum of (x - mean x)(y - mean y) over n + m rows, from sums s, t and comoments c."""
    weight = 1.0 / (n * m * (n + m))
    for i in range(o.size):
        o[i] = ca[i] + cb[i] + (m * sa[i] - n * sb[i]) * (m * ta[i] - n * tb[i]) * weight


@jit
def sine(x: F8, o: F8) -> None:
    """O = sin x, computed again only where x changes, as a weekday seldom does."""
    angle, value = NAN, NAN
    for i in range(o.size):
        if x[i] != angle:
            angle = x[i]
            value = np.sin(angle)
        o[i] = value


@jit
def cosine(x: F8, o: F8) -> None:
    """O = cos x, computed again only where x changes."""
    angle, value = NAN, NAN
    for i in range(o.size):
        if x[i] != angle:
            angle = x[i]
            value = np.cos(angle)
        o[i] = value


@jit
def deviation(x: F8, centre: F8, n: int, power: int, o: F8) -> None:
    """o[i] = sum over the window of |x - centre[i]| (power 1) or (x - centre[i])**power."""
    o[:] = 0.0
    for k in range(n):
        if power == 1:
            for i in range(o.size):
                o[i] += abs(x[i + k] - centre[i])
        elif power == 3:
            for i in range(o.size):
                d = x[i + k] - centre[i]
                o[i] += d * d * d
        else:
            for i in range(o.size):
                d = x[i + k] - centre[i]
                o[i] += (d * d) * (d * d)


@jit
def slope(x: F8, n: int, o: F8) -> None:
    """O = sum((k - mean k) x[k]) / sum((k - mean k)^2) over the window."""
    middle = (n - 1) / 2.0
    o[:] = 0.0
    for k in range(n):
        for i in range(o.size):
            o[i] += (k - middle) * x[i + k]
    scale = 12.0 / (n * (float(n) * n - 1.0))
    for i in range(o.size):
        o[i] *= scale


@jit
def rank(x: F8, n: int, o: F8) -> None:
    """O = (rows below + half the other rows equal) / (n - 1) over the window."""
    for i in range(o.size):
        last, below, same, hole = x[i + n - 1], 0.0, -1.0, False
        for k in range(n):
            v = x[i + k]
            hole |= v != v
            below += 1.0 if v < last else 0.0
            same += 1.0 if v == last else 0.0
        o[i] = NAN if hole else (below + 0.5 * same) / (n - 1)


@jit
def quantile(x: F8, n: int, q: float, o: F8) -> None:
    """O = the value at rank q (n - 1) of the sorted window, interpolated linearly."""
    at = q * (n - 1)
    low = int(at)
    for i in range(o.size):
        window = np.sort(x[i : i + n])  # NaN sorts last
        if window[n - 1] != window[n - 1]:
            o[i] = NAN
        else:
            high = min(low + 1, n - 1)
            o[i] = window[low] + (at - low) * (window[high] - window[low])


@jit
def ema(x: F8, n: int, seed: int, skip: int, s: F8, o: F8) -> None:
    """Y += 2/(n + 1) (x - y), from the mean of the first n rows, the first row, or 0 for it."""
    seen, total, y = s[0], s[1], s[2]
    k = 2.0 / (n + 1.0)
    rows = n if seed == 0 else 1
    for i in range(o.size):
        v = x[i]
        if v != v:
            o[i] = NAN
            continue
        seen += 1.0
        if seen > skip + rows:
            y += k * (v - y)
            o[i] = y
            continue
        if seen > skip:
            total += v if seed != 2 else 0.0
        y = total / rows
        o[i] = y if seen == skip + rows else NAN
    s[0], s[1], s[2] = seen, total, y


@jit
def wilder(x: F8, when: F8, n: int, seed: int, s: F8, o: F8) -> None:
    """Y += (x - y)/n from the mean of n rows; or y += x - y/n from the sum of n - 1."""
    seen, total, y = s[0], s[1], s[2]
    rows = n if seed == 0 else n - 1
    share, keep = 1.0 / n, 1.0 - 1.0 / n
    for i in range(o.size):
        v, counts = x[i], when[i]
        if v != v or counts != counts:
            o[i] = NAN
            continue
        seen += 1.0
        if seen > rows:
            if counts != 0.0:
                y = y + (v - y) * share if seed == 0 else y * keep + v
            o[i] = y
            continue
        total += v if counts != 0.0 else 0.0
        y = total / n if seed == 0 else total
        o[i] = y if seen == n else NAN
    s[0], s[1], s[2] = seen, total, y


@jit
def smooth(x: F8, weight: F8, start: F8, s: F8, o: F8) -> None:
    """Y += weight (x - y), from `start` at the first row where all three are defined."""
    begun, y = s[0], s[1]
    for i in range(o.size):
        v, w = x[i], weight[i]
        if v != v or w != w or (begun == 0.0 and start[i] != start[i]):
            o[i] = NAN
            continue
        if begun == 0.0:
            begun, y = 1.0, start[i]
        y += w * (v - y)
        o[i] = y
    s[0], s[1] = begun, y


@jit
def sar(high: F8, low: F8, step: float, most: float, s: F8, o: F8) -> None:
    """Wilder's stop and reverse: y += a (extreme - y), kept outside the last two rows' range.

    A short position is a long one in prices turned upside down, so both run as long ones.
    """
    rows, side, y, extreme, a, old_high, old_low = s[0], s[1], s[2], s[3], s[4], s[5], s[6]
    for i in range(o.size):
        h, l = high[i], low[i]  # noqa: E741  # h and l are what they are called
        if h != h or l != l:
            o[i] = NAN
            continue
        rows += 1.0
        if rows == 1.0:
            old_high, old_low = h, l
            o[i] = NAN
            continue
        if rows == 2.0:
            falls = old_low - l
            side = -1.0 if falls > 0.0 and falls > h - old_high else 1.0
            y = old_low if side > 0.0 else -old_high
            extreme = h if side > 0.0 else -l
            a = step
            old_high, old_low = h, l
        top, bottom = (h, l) if side > 0.0 else (-l, -h)
        old_bottom = old_low if side > 0.0 else -old_high
        if bottom <= y:
            # Reverse: the extreme becomes the stop, on the far side of both rows.
            side = -side
            top, bottom = -bottom, -top
            old_bottom = old_low if side > 0.0 else -old_high
            y = min(-extreme, old_bottom, bottom)
            o[i] = side * y
            a, extreme = step, top
        else:
            o[i] = side * y
            if top > extreme:
                extreme = top
                a = min(a + step, most)
        y = min(y + a * (extreme - y), old_bottom, bottom)
        old_high, old_low = h, l
    s[0], s[1], s[2], s[3], s[4], s[5], s[6] = rows, side, y, extreme, a, old_high, old_low


@jit
def hold(x: F8, when: F8, s: F8, o: F8) -> None:
    """O = x at the last row where when != 0; NaN before there was one."""
    begun, y = s[0], s[1]
    for i in range(o.size):
        c = when[i]
        if c == c and c != 0.0:
            begun, y = 1.0, x[i]
        o[i] = y if begun != 0.0 and c == c else NAN
    s[0], s[1] = begun, y


@jit
def _turn(phase: float, period: float, x: float) -> Any:  # noqa: ANN401  # numba has no types
    """The phase and the period after a row, and whether one ended before it, begins, ends with it.

    Phases: 0 before the first row, 1 in a period whose start was not seen, 2 in a whole one, 3
    between two. `x` is whole on the row that a period ends with, else half below.
    """
    at = np.ceil(x)
    before = (phase == 2.0) & (at != period)
    begins = (phase == 0.0) | (phase == 3.0) | (at != period)
    whole = (phase == 2.0) | (begins & (phase != 0.0))
    ends = at == x
    return (3.0 if ends else 2.0 if whole else 1.0), at, before, begins, ends & whole


@jit
def sample(x: F8, period: F8, how: int, s: F8, o: F8) -> int:
    """O = x over each period that ended: its first, highest, lowest, last, or sum; how many did.

    A period whose start was not seen is left out. A row may end two: the one before it, which had
    no row at its end, and its own.
    """
    phase, known, y = s[0], s[1], s[2]
    n = 0
    for i in range(period.size):
        phase, known, before, begins, ends = _turn(phase, known, period[i])
        if before:
            o[n] = y
            n += 1
        v = x[i]
        if begins or how == 3:
            y = v
        elif how == 1:
            y = y if (y > v) | (y != y) else v
        elif how == 2:
            y = y if (y < v) | (y != y) else v
        elif how == 4:
            y += v
        if ends:
            o[n] = y
            n += 1
    s[0], s[1], s[2] = phase, known, y
    return n


@jit
def held(x: F8, period: F8, s: F8, o: F8) -> None:
    """O = x of the last period that ended; NaN before one has."""
    phase, known, begun, y = s[0], s[1], s[2], s[3]
    n = 0
    for i in range(o.size):
        phase, known, before, _, ends = _turn(phase, known, period[i])
        for ended in (before, ends):
            if ended:
                begun, y = 1.0, x[n]
                n += 1
        o[i] = y if begun != 0.0 else NAN
    s[0], s[1], s[2], s[3] = phase, known, begun, y


@jit
def since(when: F8, cap: float, s: F8, o: F8) -> None:
    """O = rows since when was last not 0, at most cap."""
    begun, y = s[0], s[1]
    for i in range(o.size):
        c = when[i]
        if c == c and c != 0.0:
            begun, y = 1.0, 0.0
        elif begun != 0.0:
            y = min(y + 1.0, cap)
        o[i] = (y if begun != 0.0 else cap) if c == c else NAN
    s[0], s[1] = begun, y


@jit
def running_max(x: F8, reset: F8, scale: F8, s: F8, o: F8) -> None:
    """Y = max(x, scale y), y being 0 where reset != 0."""
    y = s[0]
    for i in range(o.size):
        v, r, k = x[i], reset[i], scale[i]
        if v != v or r != r or k != k:
            o[i] = NAN
            continue
        y = max(v, 0.0 if r != 0.0 else k * y)
        o[i] = y
    s[0] = y


@jit
def cumsum(x: F8, reset: F8, s: F8, o: F8) -> None:
    """Y += x, y being 0 before a row where reset != 0."""
    y = s[0]
    for i in range(o.size):
        v, r = x[i], reset[i]
        if v != v or r != r:
            o[i] = NAN
            continue
        y = v if r != 0.0 else y + v
        o[i] = y
    s[0] = y


@jit
def after(x: F8, n: float, s: F8, o: F8) -> None:
    """O = x without its first n defined values."""
    seen = s[0]
    for i in range(o.size):
        seen += 1.0 if x[i] == x[i] and seen <= n else 0.0
        o[i] = x[i] if seen > n else NAN
    s[0] = seen
