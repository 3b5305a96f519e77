"""The one function that runs a program over a block of rows, and dispatches its instructions."""

from __future__ import annotations

import sys
import zlib
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numba import njit, types
from numba.core import cgutils, event
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

from featurekit.engine import loops
from featurekit.engine.loops import F8, jit

F4: TypeAlias = NDArray[np.float32]
I8: TypeAlias = NDArray[np.int64]

Op = IntEnum(
    "Op",
    "COPY ADD SUB MUL DIV OVER MINIMUM MAXIMUM LT LE EQ NEG ABS SIGN LOG LOG1P EXP SQRT TANH ASINH "
    "SIN COS DEFINED WHERE FILL COMOMENT DEVIATION SLOPE RANK QUANTILE EMA WILDER SMOOTH SAR HOLD "
    "SINCE RUNNING_MAX CUMSUM AFTER SAMPLE HELD",
)
OPERANDS = 6
# An instruction: code, place of its result, places of its operands, place in the state, the clock
# that it runs on and the clock of its result.
STATED, CLOCK, RESULT = 8, 9, 10

STATES = 7  # doubles of state that an instruction has at most

# Doubles of state of each recursion, all 0 at the start.
STATE = {
    Op.EMA: 3,
    Op.WILDER: 3,
    Op.SMOOTH: 2,
    Op.SAR: 7,
    Op.HOLD: 2,
    Op.SINCE: 2,
    Op.RUNNING_MAX: 1,
    Op.CUMSUM: 1,
    Op.AFTER: 1,
    Op.SAMPLE: 3,
    Op.HELD: 4,
}


def _borrowed(_: Any, array: Any) -> Any:  # noqa: ANN401  # numba has no types
    """The array without its reference count, which a slice of it then need not keep.

    Five atomic counts cost more than the rows of a short block. The caller holds the array.
    """

    def code(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
        view = make_array(array)(context, builder, args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()

    return array(array), code


borrowed: Any = intrinsic(_borrowed)


def _part(_: Any, array: Any, at: Any, rows: Any) -> Any:  # noqa: ANN401  # numba has no types
    """`array[at : at + rows]` of what is known to lie inside: a slice asks, and counts from behind.

    For one row that takes longer than what an instruction does to it.
    """

    def code(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
        whole = make_array(array)(context, builder, args[0])
        view = make_array(array)(context, builder)
        size = context.get_constant(
            types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype))
        )
        populate_array(
            view,
            data=builder.gep(whole.data, [args[1]]),
            shape=[args[2]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return view._getvalue()

    return array(array, types.intp, types.intp), code


part: Any = intrinsic(_part)


@jit
def execute(code: I8, values: F8, r: F8, state: F8, rows: I8) -> None:
    """Runs every instruction over the rows of its clock; operands are places in the file `r`."""
    for j in range(code.shape[0]):
        n = rows[code[j, CLOCK]]
        if n == 0:
            continue
        op, a, b, c = code[j, 0], code[j, 2], code[j, 3], code[j, 4]
        p, q = values[j, 0], values[j, 1]
        o = part(r, code[j, 1], n)
        x, y, z = part(r, a, n), part(r, b, n), part(r, c, n)
        s = part(state, code[j, STATED], STATES)
        if op == Op.ADD:
            for i in range(n):
                o[i] = x[i] + y[i]
        elif op == Op.SUB:
            for i in range(n):
                o[i] = x[i] - y[i]
        elif op == Op.MUL:
            for i in range(n):
                o[i] = x[i] * y[i]
        elif op == Op.DIV:
            for i in range(n):
                o[i] = x[i] / y[i]
        elif op == Op.OVER:
            loops.over(x, y, z, o)
        elif op == Op.MINIMUM:
            loops.minimum(x, y, o)
        elif op == Op.MAXIMUM:
            loops.maximum(x, y, o)
        elif op == Op.LT:
            loops.less(x, y, o)
        elif op == Op.LE:
            loops.less_equal(x, y, o)
        elif op == Op.EQ:
            loops.equal(x, y, o)
        elif op == Op.WHERE:
            loops.where(x, y, z, o)
        elif op == Op.COPY:
            o[:] = x
        elif op == Op.NEG:
            for i in range(n):
                o[i] = -x[i]
        elif op == Op.ABS:
            for i in range(n):
                o[i] = abs(x[i])
        elif op == Op.SQRT:
            for i in range(n):
                o[i] = np.sqrt(x[i])
        elif op == Op.SIGN:
            for i in range(n):
                o[i] = np.sign(x[i])
        elif op == Op.LOG:
            for i in range(n):
                o[i] = np.log(x[i])
        elif op == Op.LOG1P:
            for i in range(n):
                o[i] = np.log1p(x[i])
        elif op == Op.EXP:
            for i in range(n):
                o[i] = np.exp(x[i])
        elif op == Op.TANH:
            for i in range(n):
                o[i] = np.tanh(x[i])
        elif op == Op.ASINH:
            for i in range(n):
                o[i] = np.arcsinh(x[i])
        elif op == Op.SIN:
            loops.sine(x, o)
        elif op == Op.COS:
            loops.cosine(x, o)
        elif op == Op.DEFINED:
            for i in range(n):
                o[i] = 1.0 if x[i] == x[i] else 0.0
        elif op == Op.FILL:
            for i in range(n):
                v, w = x[i], y[i]
                o[i] = v if v == v else w
        elif op == Op.COMOMENT:
            d, e, f = code[j, 5], code[j, 6], code[j, 7]
            loops.comoment(x, y, z, part(r, d, n), part(r, e, n), part(r, f, n), p, q, o)
        elif op == Op.DEVIATION:
            loops.deviation(part(r, a, n + int(p) - 1), y, int(p), int(q), o)
        elif op == Op.SLOPE:
            loops.slope(part(r, a, n + int(p) - 1), int(p), o)
        elif op == Op.RANK:
            loops.rank(part(r, a, n + int(p) - 1), int(p), o)
        elif op == Op.QUANTILE:
            loops.quantile(part(r, a, n + int(p) - 1), int(p), q, o)
        elif op == Op.EMA:
            loops.ema(x, int(p), int(q), int(values[j, 2]), s, o)
        elif op == Op.WILDER:
            loops.wilder(x, y, int(p), int(q), s, o)
        elif op == Op.SMOOTH:
            loops.smooth(x, y, z, s, o)
        elif op == Op.SAR:
            loops.sar(x, y, p, q, s, o)
        elif op == Op.HOLD:
            loops.hold(x, y, s, o)
        elif op == Op.SINCE:
            loops.since(x, p, s, o)
        elif op == Op.RUNNING_MAX:
            loops.running_max(x, y, z, s, o)
        elif op == Op.CUMSUM:
            loops.cumsum(x, y, s, o)
        elif op == Op.AFTER:
            loops.after(x, p, s, o)
        elif op == Op.SAMPLE:
            at = code[j, 1]
            rows[code[j, RESULT]] = loops.sample(x, y, int(p), s, part(r, at, n + 1))
        elif op == Op.HELD:
            loops.held(part(r, a, n + 1), y, s, o)


def _cached(source: int) -> Any:  # noqa: ANN401  # numba has no types
    """The runner, in numba's cache under `source`: a cached function knows its own file only."""

    @njit(cache=True, error_model="numpy")
    def run(
        code: I8,
        values: F8,
        history: I8,
        places: I8,
        outputs: I8,
        r: F8,
        state: F8,
        rows: I8,
        inputs: F8,
        rows32: F4,
        columns32: F4,
        columns64: F8,
        column: int,
        block: int,
    ) -> None:
        """Runs a program over inputs [n_inputs, n], `block` rows at a time, into what is not empty.

        The outputs are rows [n, n_outputs], or columns [n_outputs, ...] from place `column` on;
        one function has them all, so that it is compiled once. `history` says, for each register
        that is read back in time, where its old rows lie, how many they are, where `state` keeps
        them between calls, and their clock. `rows` counts those of each clock in a block.
        """
        n = inputs.shape[1] if source >= 0 else 0
        r, state, inputs = borrowed(r), borrowed(state), borrowed(inputs)
        rows32, columns32, columns64 = borrowed(rows32), borrowed(columns32), borrowed(columns64)
        for h in range(history.shape[0]):
            at, old, kept = history[h, 0], history[h, 1], history[h, 2]
            here, there = part(r, at, old), part(state, kept, old)
            for k in range(old):
                here[k] = there[k]
        for first in range(0, n, block):
            m = min(block, n - first)
            for i in range(places.size):
                r[places[i] : places[i] + m] = inputs[i, first : first + m]
            rows[0] = m
            execute(code, values, r, state, rows)
            if rows32.size:
                # A few rows at a time: one line of each register then stays in the nearest cache.
                for tile in range(0, m, 8):
                    for i in range(tile, min(tile + 8, m)):
                        row, x = rows32[first + i], r[i:]
                        for k in range(outputs.size):
                            row[k] = np.float32(x[outputs[k]])
            for k in range(outputs.size):
                o = r[outputs[k] : outputs[k] + m]
                if columns32.size:
                    o32 = columns32[k, column + first : column + first + m]
                    for i in range(m):
                        o32[i] = np.float32(o[i])
                if columns64.size:
                    columns64[k, column + first : column + first + m] = o
            for h in range(history.shape[0]):
                at, size, kept = history[h, 0], history[h, 1], history[h, 2]
                newest = part(r, at + rows[history[h, 3]], size)
                here = part(state, kept, size) if first + m == n else part(r, at, size)
                for k in range(size):  # forwards: the two may overlap
                    here[k] = newest[k]

    return run


run = _cached(zlib.crc32(Path(loops.__file__).read_bytes()))


@njit(cache=True, error_model="numpy")
def run_each(
    code: I8,
    values: F8,
    history: I8,
    places: I8,
    outputs: I8,
    r: F8,
    states: F8,
    rows: I8,
    which: I8,
    inputs: F8,
    rows32: F4,
    columns32: F4,
    columns64: F8,
    block: int,
) -> None:
    """Runs a program over one row of each of some symbols: [S, n_inputs, 1] into [S, 1, n_outputs].

    `which` are their places in `states` [symbols, n]; the columns are empty.
    """
    for k in range(which.size):
        run(
            code,
            values,
            history,
            places,
            outputs,
            r,
            states[which[k]],
            rows,
            inputs[k],
            rows32[k],
            columns32,
            columns64,
            0,
            block,
        )


class _FirstCompile(event.Listener):
    """Says, once, that the engine is being compiled: it takes seconds, and is then on disk."""

    def __init__(self) -> None:
        self.told = False

    def on_start(self, event: event.Event) -> None:
        if not self.told and event.data["dispatcher"].py_func is run.py_func:
            self.told = True
            sys.stderr.write("featurekit: compiling the engine, once on this machine ...\n")
            sys.stderr.flush()

    def on_end(self, event: event.Event) -> None:
        """Nothing to say."""


event.register("numba:compile", _FirstCompile())
