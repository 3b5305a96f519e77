"""Every operation against its plain numpy definition, on hostile input, however rows are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from featurekit.column import Col, sar, where
from featurekit.engine import Program, Reach
from featurekit.engine.kernel import Op
from featurekit.operation import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

F8 = NDArray[np.float64]
X, Y, W = Col.input("x"), Col.input("y"), Col.input("w")
ROWS = 900


def windows(n: int, of: Callable[[F8], F8]) -> Callable[..., F8]:
    """A definition on whole windows [rows, n]; NaN until the first is full or while it has one."""

    def plain(x: F8, *_: F8) -> F8:
        out = np.full(len(x), np.nan)
        if len(x) >= n:
            view = sliding_window_view(x, n)
            out[n - 1 :] = np.where(np.isnan(view).any(axis=1), np.nan, of(view))
        return out

    return plain


def moment(view: F8, power: int) -> F8:
    return ((view - view.mean(axis=1, keepdims=True)) ** power).mean(axis=1)


def meandev(view: F8) -> F8:
    return np.abs(view - view.mean(axis=1, keepdims=True)).mean(axis=1)


def over(x: F8, y: F8, w: F8) -> F8:
    del y
    return np.where(w == 0, np.where(np.isnan(x), x, 7.0), x / np.where(w == 0, 1, w))


def rank(view: F8) -> F8:
    last = view[:, -1:]
    below, same = (view < last).sum(axis=1), (view == last).sum(axis=1) - 1
    return (below + 0.5 * same) / (view.shape[1] - 1)


def slope(view: F8) -> F8:
    k = np.arange(view.shape[1]) - (view.shape[1] - 1) / 2
    return view @ k / (k @ k)


def corr(x: F8, y: F8, *_: F8) -> F8:
    out = np.full(len(x), np.nan)
    for t in range(24, len(x)):
        a, b = x[t - 24 : t + 1], y[t - 24 : t + 1]
        a, b = a - a.mean(), b - b.mean()
        out[t] = (a @ b) / np.sqrt((a @ a) * (b @ b))
    return out


def ema(n: int, seed: str, skip: int = 0) -> Callable[..., F8]:
    def plain(x: F8, *_: F8) -> F8:
        out = np.full(len(x), np.nan)
        known = np.flatnonzero(~np.isnan(x))[skip:]
        need = n if seed == "sma" else 1
        if len(known) < need:
            return out
        y = {"sma": x[known[:need]].mean(), "first": x[known[0]], "zero": 0.0}[seed]
        out[known[need - 1]] = y
        for t in known[need:]:
            y = y + 2 / (n + 1) * (x[t] - y)
            out[t] = y
        return out

    return plain


def wilder(n: int, seed: str) -> Callable[..., F8]:
    def plain(x: F8, y: F8, w: F8) -> F8:
        del y
        out = np.full(len(x), np.nan)
        known = np.flatnonzero(~np.isnan(x) & ~np.isnan(w))
        if len(known) < n:
            return out
        counted = np.where(w != 0, x, 0.0)
        if seed == "mean":
            value = counted[known[:n]].mean()
        else:
            first = counted[known[: n - 1]].sum()
            last = known[n - 1]
            value = first - first / n + x[last] if w[last] != 0 else first
        out[known[n - 1]] = value
        for t in known[n:]:
            if w[t] != 0:
                value = (value * (n - 1) + x[t]) / n if seed == "mean" else value - value / n + x[t]
            out[t] = value
        return out

    return plain


def kama(x: F8, *_: F8) -> F8:
    out, y = np.full(len(x), np.nan), None
    for t in range(10, len(x)):
        part = x[t - 10 : t + 1]
        if np.isnan(part).any():
            continue
        change, path = abs(part[-1] - part[0]), np.abs(np.diff(part)).sum()
        efficiency = 1.0 if path <= change else change / path
        weight = (efficiency * (2 / 3 - 2 / 31) + 2 / 31) ** 2
        y = part[-2] if y is None else y
        y = y + weight * (x[t] - y)
        out[t] = y
    return out


def hold(x: F8, y: F8, w: F8) -> F8:
    del y
    out, value = np.full(len(x), np.nan), np.nan
    for t in range(len(x)):
        if w[t] == w[t]:
            value = x[t] if w[t] != 0 else value
            out[t] = value
    return out


def since(x: F8, y: F8, w: F8) -> F8:
    del x, y
    out, rows = np.full(len(w), np.nan), 9.0
    for t in range(len(w)):
        rows = 0.0 if w[t] == w[t] and w[t] != 0 else min(rows + 1, 9.0)
        out[t] = rows if w[t] == w[t] else np.nan
    return out


def running_max(x: F8, y: F8, w: F8) -> F8:
    del y
    out, best = np.full(len(x), np.nan), 0.0
    for t in range(len(x)):
        if x[t] == x[t] and w[t] == w[t]:
            best = max(x[t], 0.0 if w[t] != 0 else 0.5 * best)
            out[t] = best
    return out


def cumsum(x: F8, y: F8, w: F8) -> F8:
    del y
    out, total = np.full(len(x), np.nan), 0.0
    for t in range(len(x)):
        if x[t] == x[t] and w[t] == w[t]:
            total = x[t] + (0.0 if w[t] != 0 else total)
            out[t] = total
    return out


def after(x: F8, *_: F8) -> F8:
    out = x.copy()
    out[np.flatnonzero(~np.isnan(x))[:5]] = np.nan
    return out


def stop_and_reverse(x: F8, y: F8, *_: F8) -> F8:
    """Wilder's rules for long and for short written out apart; TA-Lib itself is in test_blocks."""
    high, low = np.maximum(x, y), np.minimum(x, y)
    out = np.full(len(x), np.nan)
    rows = np.flatnonzero(~np.isnan(high))
    if len(rows) < 2:
        return out
    a, b = rows[0], rows[1]
    fall, rise = low[a] - low[b], high[b] - high[a]
    long = not (fall > 0 and fall > rise)
    stop, extreme, speed = (low[a], high[b], 0.02) if long else (high[a], low[b], 0.02)
    before = b
    for t in rows[1:]:
        if (long and low[t] <= stop) or (not long and high[t] >= stop):
            long = not long
            stop, speed = extreme, 0.02
            if long:
                stop, extreme = min(stop, low[before], low[t]), high[t]
            else:
                stop, extreme = max(stop, high[before], high[t]), low[t]
            out[t] = stop
        else:
            out[t] = stop
            further = high[t] > extreme if long else low[t] < extreme
            if further:
                extreme, speed = (high[t] if long else low[t]), min(speed + 0.02, 0.2)
        stop = stop + speed * (extreme - stop)
        stop = min(stop, low[before], low[t]) if long else max(stop, high[before], high[t])
        before = t
    return out


def known(*columns: F8) -> NDArray[np.bool_]:
    return ~np.isnan(np.sum(columns, axis=0))


def on(of: Callable[..., F8]) -> Callable[..., F8]:
    """A definition on x and y row by row, NaN where either is."""
    return lambda x, y, w: np.where(known(x, y), of(x, y), np.nan)


def lagged(x: F8, *_: F8) -> F8:
    return np.concatenate([np.full(3, np.nan), x[:-3]]) if len(x) > 3 else np.full(len(x), np.nan)


def padded(x: F8, *_: F8) -> F8:
    return windows(4, lambda view: view.sum(axis=1))(np.concatenate([np.full(3, 2.0), x]))[3:]


@dataclass(frozen=True)
class Case:
    """One operation: the column, its definition, and the power of x that its size goes with."""

    col: Col
    plain: Callable[..., F8]
    power: float = 1.0


CASES: dict[str, Case] = {
    "add": Case(X + Y, on(np.add)),
    "sub": Case(X - Y, on(np.subtract)),
    "mul": Case(X * Y, on(np.multiply), 2),
    "div": Case(X / (Y * Y + 1.0), on(lambda x, y: x / (y * y + 1))),
    "over": Case(X.over(W, 7.0), over),
    "minimum": Case(X.minimum(Y), on(np.minimum)),
    "maximum": Case(X.maximum(Y), on(np.maximum)),
    "clip": Case(X.clip(-0.5, Y), on(lambda x, y: np.minimum(np.maximum(x, -0.5), y))),
    "lt": Case(X < Y, on(np.less), 0),
    "gt": Case(X > Y, on(np.greater), 0),
    "le": Case(X <= Y, on(np.less_equal), 0),
    "ge": Case(X >= Y, on(np.greater_equal), 0),
    "eq": Case(Y.maximum(X) == X, on(lambda x, y: x == np.maximum(x, y)), 0),
    "ne": Case(Y.maximum(X) != X, on(lambda x, y: x != np.maximum(x, y)), 0),
    "and": Case((X > 0.0) & (Y > 0.0), on(lambda x, y: (x > 0) & (y > 0)), 0),
    "or": Case((X > 0.0) | (Y > 0.0), on(lambda x, y: (x > 0) | (y > 0)), 0),
    "not": Case(~(X > 0.0), lambda x, y, w: np.where(np.isnan(x), x, x <= 0), 0),
    "neg": Case(-X, lambda x, y, w: -x),
    "abs": Case(X.abs(), lambda x, y, w: np.abs(x)),
    "sign": Case(X.sign(), lambda x, y, w: np.sign(x), 0),
    "log": Case(X.abs().log(), lambda x, y, w: np.log(np.abs(x)), 0),
    "log1p": Case(X.abs().log1p(), lambda x, y, w: np.log1p(np.abs(x)), 0),
    "exp": Case(X.tanh().exp(), lambda x, y, w: np.exp(np.tanh(x)), 0),
    "sqrt": Case(X.abs().sqrt(), lambda x, y, w: np.sqrt(np.abs(x)), 0.5),
    "tanh": Case(X.tanh(), lambda x, y, w: np.tanh(x), 0),
    "asinh": Case(X.asinh(), lambda x, y, w: np.arcsinh(x), 0),
    "sin": Case(X.tanh().sin(), lambda x, y, w: np.sin(np.tanh(x)), 0),
    "cos": Case(X.tanh().cos(), lambda x, y, w: np.cos(np.tanh(x)), 0),
    "defined": Case(X.defined(), lambda x, y, w: (~np.isnan(x)).astype(float), 0),
    "where": Case(where(W, X, Y), lambda x, y, w: np.where(np.isnan(w), w, np.where(w != 0, x, y))),
    "fill": Case(X.fill(Y), lambda x, y, w: np.where(np.isnan(x), y, x)),
    "lag": Case(X.lag(3), lagged),
    "diff": Case(X.diff(3), lambda x, y, w: x - lagged(x)),
    "before": Case(X.before(2.0).sum(4), padded),
    "after": Case(X.after(5), after),
    "sum_1": Case(X.sum(1), lambda x, y, w: x),
    "sum": Case(X.sum(100), windows(100, lambda v: v.sum(axis=1))),
    "mean": Case(X.mean(13), windows(13, lambda v: v.mean(axis=1))),
    "max": Case(X.max(50), windows(50, lambda v: v.max(axis=1))),
    "min": Case(X.min(64), windows(64, lambda v: v.min(axis=1))),
    "argmax": Case(X.argmax(15), windows(15, lambda v: v[:, ::-1].argmax(axis=1)), 0),
    "argmin": Case(X.argmin(9), windows(9, lambda v: v[:, ::-1].argmin(axis=1)), 0),
    "constant": Case(X.constant(3), windows(3, lambda v: v.max(axis=1) == v.min(axis=1)), 0),
    "var": Case(X.var(20), windows(20, lambda v: v.var(axis=1, ddof=1)), 2),
    "var_0": Case(X.var(100, ddof=0), windows(100, lambda v: v.var(axis=1)), 2),
    "meandev": Case(X.meandev(14), windows(14, meandev)),
    "slope": Case(X.slope(14), windows(14, slope)),
    "rank": Case(X.rank(11), windows(11, rank), 0),
    "quantile": Case(X.quantile(21, 0.3), windows(21, lambda v: np.quantile(v, 0.3, axis=1))),
    "ema_sma": Case(X.ema(10), ema(10, "sma")),
    "ema_skip": Case(X.ema(10, skip=4), ema(10, "sma", 4)),
    "ema_first": Case(X.ema(10, "first"), ema(10, "first")),
    "ema_zero": Case(X.ema(10, "zero"), ema(10, "zero")),
    "wilder_mean": Case(X.wilder(14, when=W), wilder(14, "mean")),
    "wilder_sum": Case(X.wilder(14, "sum", when=W), wilder(14, "sum")),
    "kama": Case(X.kama(10), kama),
    "sar": Case(sar(X.maximum(Y), X.minimum(Y)), stop_and_reverse),
    "hold": Case(X.hold(W), hold),
    "since": Case(W.since(9), since, 0),
    "running_max": Case(X.running_max(W, 0.5), running_max),
    "cumsum": Case(X.cumsum(W), cumsum),
}  # fmt: skip


def series(kind: str) -> dict[str, F8]:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, ROWS))
    w = (rng.random(ROWS) < 0.2).astype(float)
    if kind == "constant":
        x, y = np.full(ROWS, 1.1), np.full(ROWS, 0.3)
    elif kind == "monotone":
        x, y = np.linspace(-3, 40, ROWS), np.linspace(5, -5, ROWS)
    elif kind == "steps":
        x, y = np.round(x), np.round(y)
    elif kind == "holes":
        x[rng.random(ROWS) < 0.02] = np.nan
        y[rng.random(ROWS) < 0.02] = np.nan
        w[rng.random(ROWS) < 0.02] = np.nan
    elif kind == "hole at the start":
        x[:3] = np.nan
    elif kind == "price":
        x = 1.1 + 1e-4 * x.cumsum()
        y = x + 1e-5 * y
    return {"x": x, "y": y, "w": w}


def compute(col: Col, inputs: dict[str, F8], block: int | None = None) -> F8:
    program = Program.compile([col])
    rows = np.array([inputs[name] for name in program.inputs])
    state, n = program.new_state(), rows.shape[1]
    step = block or n
    parts = [program.run(state, rows[:, at : at + step])[0] for at in range(0, n, step)]
    return np.concatenate(parts)


KINDS = ["random", "constant", "monotone", "steps", "holes", "hole at the start", "price"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_equals_its_plain_definition(name: str, kind: str) -> None:
    case, inputs = CASES[name], series(kind)
    with np.errstate(all="ignore"):
        expected = case.plain(*inputs.values())
    size = np.nansum(np.abs(inputs["x"])) + np.nansum(np.abs(inputs["y"]))
    got = compute(case.col, inputs)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * max(size, 1.0) ** case.power)


@pytest.mark.parametrize("name", ["corr", "skew", "kurt"])
@pytest.mark.parametrize("kind", ["random", "monotone", "price"])
def test_standardised_moments_equal_their_plain_definitions(name: str, kind: str) -> None:
    col, plain = {
        "corr": (X.corr(Y, 25), corr),
        "skew": (X.skew(50), windows(50, lambda v: moment(v, 3) / moment(v, 2) ** 1.5)),
        "kurt": (X.kurt(50), windows(50, lambda v: moment(v, 4) / moment(v, 2) ** 2 - 3)),
    }[name]
    inputs = series(kind)
    np.testing.assert_allclose(
        compute(col, inputs), plain(*inputs.values()), rtol=1e-10, atol=1e-10
    )


# These remember for longer than the series, or are not of the size of x.
LASTING = ("hold", "running_max", "cumsum", "kama", "sar", "exp", "sin", "cos")
SPIKED = [name for name in CASES if name not in LASTING]


@pytest.mark.parametrize("name", SPIKED)
def test_a_spike_leaves_no_trace_once_its_window_has_passed(name: str) -> None:
    case, inputs = CASES[name], series("random")
    inputs["x"][100] = 1e12
    with np.errstate(all="ignore"):
        expected = case.plain(*inputs.values())
    gone = slice(100 + 101, None)
    if name.startswith(("ema", "wilder")):
        # The spike is still in there, as it is in the definition.
        gone = slice(100 + 500, None)
    size = np.abs(inputs["x"][gone]).sum()
    np.testing.assert_allclose(
        compute(case.col, inputs)[gone],
        expected[gone],
        rtol=0,
        atol=1e-9 * size,
    )


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_any_size_give_the_same_bits(name: str) -> None:
    inputs = series("holes")
    whole = compute(CASES[name].col, inputs)
    for block in (1, 7, 256, 1024):
        np.testing.assert_array_equal(compute(CASES[name].col, inputs, block), whole)


@pytest.mark.parametrize("name", CASES)
def test_lookback_is_the_first_defined_row(name: str) -> None:
    got = compute(CASES[name].col, series("random"))
    if name == "hold":
        return  # its first value waits for the first `when`, not for rows
    assert Reach().lookback(CASES[name].col) == np.flatnonzero(~np.isnan(got))[0]


@pytest.mark.parametrize("name", CASES)
def test_no_operation_sees_the_future(name: str) -> None:
    inputs = series("random")
    changed = {key: values.copy() for key, values in inputs.items()}
    for values in changed.values():
        values[400:] = -3.0
    before = compute(CASES[name].col, inputs)[:400]
    np.testing.assert_array_equal(compute(CASES[name].col, changed)[:400], before)


FORGETTING = {name: case.col for name, case in CASES.items() if not name.startswith("wilder")} | {
    "wilder_mean": X.wilder(14),
    "wilder_sum": X.wilder(14, "sum"),
    "twice": X.ema(9).wilder(14).sum(5),
}


@pytest.mark.parametrize("name", FORGETTING)
def test_memory_is_honest(name: str) -> None:
    """Another start of the history changes nothing by more than 1e-6 deviations after `memory`."""
    col = FORGETTING[name]
    memory = Reach().memory(col)
    # KAMA and SAR declare their memory for prices, which they are made for.
    inputs = series("price" if name in ("kama", "sar") else "random")
    whole = compute(col, inputs)[200:]
    part = compute(col, {key: values[200:] for key, values in inputs.items()})
    if memory == float("inf"):
        assert name in ("hold", "running_max", "cumsum")
        return
    start = int(memory)
    assert start < len(part)
    close = 1e-6 * max(float(np.nanstd(whole)), 1e-12)
    np.testing.assert_allclose(part[start:], whole[start:], rtol=0, atol=close)


def test_every_opcode_is_in_the_table_and_is_tested() -> None:
    reached: set[str] = set()

    def walk(col: Col) -> None:
        reached.add(col.op)
        for arg in col.args:
            walk(arg)

    for case in CASES.values():
        walk(case.col)
    assert set(OPERATIONS) == {op.name.lower() for op in Op} - {"copy"}
    higher_bars = {"sample", "held"}  # in test_timeframe.py: they change the clock
    assert reached - {"input", "const", "lag", "before"} == set(OPERATIONS) - higher_bars


def test_common_subexpressions_are_computed_once() -> None:
    one = Program.compile([X.mean(20)]).instructions
    assert Program.compile([X.mean(20), X.mean(20), X.mean(20)]).instructions == one
    assert (
        Program.compile([X.sum(16), X.sum(32)]).instructions
        == Program.compile([X.sum(32)]).instructions
    )
