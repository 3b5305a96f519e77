"""Program: columns compiled to a flat table of instructions over registers, and run."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from featurekit.column import Col
from featurekit.engine import kernel
from featurekit.engine.reach import Reach
from featurekit.errors import ConfigError, Problem
from featurekit.operation import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Rows run at a time: large enough to pay for reading the instructions, small enough for the
# registers to stay in the second-level cache.
BLOCK = 320
_LINE = 8  # doubles in a cache line
_NO_32 = np.empty((0, 0), np.float32)
_NO_64 = np.empty((0, 0))


@dataclass(slots=True)
class _Register:
    col: Col
    operands: tuple[tuple[int, int], ...] = ()  # (register, rows back)
    start: float = math.nan  # its value on the rows before the first
    clock: int = 0  # 0 ticks with each row, the others with each higher bar
    history: int = 0
    place: int = 0  # of its first row of a block


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file of registers that hold `block` rows each, and the tables that say where they lie.

    One row at a time needs no room for 320: its file is small enough for the nearest cache.
    """

    block: int
    code: NDArray[np.int64]
    history: NDArray[np.int64]
    places: NDArray[np.int64]
    outputs: NDArray[np.int64]
    registers: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled list of columns.

    Example:
        >>> close = Col.input("close")
        >>> program = Program.compile([close.lag(1), close.mean(2)])
        >>> state = program.new_state()
        >>> program.run(state, np.array([[1.0, 3.0, 5.0]]))
        array([[nan,  1.,  3.],
               [nan,  2.,  4.]])
    """

    inputs: tuple[str, ...]
    width: int
    instructions: int
    _values: NDArray[np.float64] = field(repr=False)
    _wide: _Layout = field(repr=False)
    _narrow: _Layout = field(repr=False)
    _clocks: int = field(repr=False)
    _state: NDArray[np.float64] = field(repr=False)
    # The register files of each thread; only constants in them outlive a call.
    _scratch: threading.local = field(repr=False, compare=False, default_factory=threading.local)

    @staticmethod
    def compile(columns: Sequence[Col]) -> Program:
        """Compiles columns; subexpressions that are the same are computed once.

        Raises:
            ConfigError: when there is no column.
        """
        if not columns:
            raise ConfigError(
                Problem(
                    "nothing to compute", expected="a column", got="none", fix="blocks: [market]"
                )
            )
        return _Compiler(columns).program()

    @property
    def digest(self) -> str:
        """The xxh3_128 of the instructions: programs of one digest compute the same."""
        digest = xxhash.xxh3_128(repr((self.inputs, self.width)).encode())
        for table in (
            self._wide.code,
            self._values,
            self._wide.history,
            self._wide.places,
            self._wide.outputs,
            self._wide.registers,
            self._state,
        ):
            digest.update(repr(table.shape).encode())
            digest.update(table.tobytes())
        return digest.hexdigest()

    def new_state(self) -> NDArray[np.float64]:
        """The state before the first row: one flat array of doubles."""
        state: NDArray[np.float64] = self._state.copy()
        return state

    def run(
        self,
        state: NDArray[np.float64],
        inputs: NDArray[np.float64],
        out: NDArray[np.float64] | NDArray[np.float32] | None = None,
        at: int = 0,
    ) -> NDArray[np.float64] | NDArray[np.float32]:
        """Computes columns [width, n] from inputs [n_inputs, n], and moves `state` on.

        `out` may be wider than n; rows are then written from `at` on. However the rows are cut
        into calls, the results are the same bits.
        """
        out = np.empty((self.width, inputs.shape[1])) if out is None else out
        if out.dtype == np.float32:
            self._run(state, inputs, columns32=out, at=at)
        else:
            self._run(state, inputs, columns64=out, at=at)
        return out

    def run_rows(
        self,
        state: NDArray[np.float64],
        inputs: NDArray[np.float64],
        out: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Computes the same into rows [n, width] of float32, as datasets store them."""
        self._run(state, inputs, rows32=out)
        return out

    def run_each(
        self,
        states: NDArray[np.float64],
        which: NDArray[np.int64],
        inputs: NDArray[np.float64],
        out: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Computes one row of each of S symbols: inputs [S, n_inputs] into rows [S, width].

        `which` are the symbols' places in `states` [symbols, n]; these move on.
        """
        self._prepare()
        layout = self._narrow
        kernel.run_each(
            layout.code,
            self._values,
            layout.history,
            layout.places,
            layout.outputs,
            self._scratch.narrow,
            states,
            self._scratch.rows,
            which,
            inputs[:, :, None],
            out[:, None, :],
            _NO_32,
            _NO_64,
            layout.block,
        )
        return out

    def _run(
        self,
        state: NDArray[np.float64],
        inputs: NDArray[np.float64],
        *,
        rows32: NDArray[Any] = _NO_32,
        columns32: NDArray[Any] = _NO_32,
        columns64: NDArray[Any] = _NO_64,
        at: int = 0,
    ) -> None:
        n = inputs.shape[1]
        for out in (columns32, columns64):
            if out.size and (out.shape[0] != self.width or out.shape[1] < at + n):
                raise ValueError(f"out of shape ({self.width}, {at + n}) expected: {out.shape}")
        if rows32.size and rows32.shape != (n, self.width):
            raise ValueError(f"out of shape ({n}, {self.width}) expected: {rows32.shape}")
        if inputs.shape[0] != len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs expected, got {inputs.shape[0]}")
        self._prepare()
        layout = self._wide if n > 1 else self._narrow
        kernel.run(
            layout.code,
            self._values,
            layout.history,
            layout.places,
            layout.outputs,
            self._scratch.wide if n > 1 else self._scratch.narrow,
            state,
            self._scratch.rows,
            np.ascontiguousarray(inputs),
            rows32,
            columns32,
            columns64,
            at,
            layout.block,
        )

    def _prepare(self) -> None:
        if not hasattr(self._scratch, "wide"):
            self._scratch.wide = _aligned(self._wide.registers)
            self._scratch.narrow = _aligned(self._narrow.registers)
            self._scratch.rows = np.zeros(self._clocks, np.int64)


class _Compiler:
    def __init__(self, columns: Sequence[Col]) -> None:
        self.registers: list[_Register] = []
        self.reach = Reach()
        self._numbers: dict[tuple[object, ...], int] = {}
        self._known: dict[int, tuple[int, int]] = {}
        self._clocks: dict[int, int] = {}  # by the register of the period
        outputs = [self._place(col) for col in columns]
        # A column that is another one lagged is written from a register of its own.
        self.outputs = [
            register if back == 0 else self._number(Col("copy", (col,)), ((register, back),))
            for col, (register, back) in zip(columns, outputs, strict=True)
        ]

    def _place(self, col: Col) -> tuple[int, int]:
        """The register that holds a column, and how many rows back it is read."""
        known = self._known.get(id(col))
        if known is None:
            known = self._known[id(col)] = self._find(col)
        return known

    def _find(self, col: Col) -> tuple[int, int]:
        if col.op == "lag":
            register, back = self._place(col.args[0])
            if self.registers[register].col.op == "const":
                return register, 0
            return register, back + int(col.params[0])
        return self._number(col, tuple(self._place(arg) for arg in col.args)), 0

    def _number(self, col: Col, operands: tuple[tuple[int, int], ...]) -> int:
        key = (col.op, col.name, col.params, operands)
        if key not in self._numbers:
            self._numbers[key] = len(self.registers)
            start = math.nan if col.op == "copy" else self.reach.prehistory(col)
            clock = self._clock(col.op, operands)
            self.registers.append(_Register(col, operands, start, clock))
        return self._numbers[key]

    def _clock(self, op: str, operands: tuple[tuple[int, int], ...]) -> int:
        if op == "sample":
            return self._clocks.setdefault(operands[1][0], len(self._clocks) + 1)
        if op == "held":
            return 0
        return max((self.registers[operand].clock for operand, _ in operands), default=0)

    def program(self) -> Program:
        for register in self.registers:
            for (operand, back), window in zip(register.operands, _windows(register), strict=True):
                x = self.registers[operand]
                x.history = max(x.history, back + window)
        made = [r for r in self.registers if r.col.op not in ("const", "input")]
        start = [np.zeros(sum(kernel.STATE.get(_code_of(r), 0) for r in made))]
        start += [np.full(r.history, r.start) for r in self.registers if r.col.op != "const"]
        values = [[*register.col.params, 0.0, 0.0, 0.0][:3] for register in made]
        return Program(
            inputs=tuple(r.col.name for r in self.registers if r.col.op == "input"),
            width=len(self.outputs),
            instructions=len(made),
            _values=np.array(values, dtype=np.float64).reshape(-1, 3),
            _wide=self._layout(BLOCK, _LINE),
            _narrow=self._layout(1, 1),
            _clocks=len(self._clocks) + 1,
            _state=np.concatenate(start),
        )

    def _layout(self, block: int, line: int) -> _Layout:
        room = block + 1  # one row may end two higher bars
        file = np.full(self._lay_out(room, line), np.nan)
        code, history, state = [], [], 0
        for register in self.registers:
            if register.col.op == "const":
                file[register.place : register.place + room] = register.col.params[0]
            elif register.col.op != "input":
                row = [0] * (kernel.RESULT + 1)
                row[0], row[1] = _code_of(register), register.place
                for k, ((operand, back), window) in enumerate(
                    zip(register.operands, _windows(register), strict=True)
                ):
                    row[2 + k] = self.registers[operand].place - back - window
                row[kernel.STATED] = state
                sampled = register.col.op == "sample"
                row[kernel.CLOCK] = 0 if sampled else register.clock
                row[kernel.RESULT] = register.clock
                state += kernel.STATE.get(_code_of(register), 0)
                code.append(row)
        for register in self.registers:
            if register.history and register.col.op != "const":
                first = register.place - register.history
                history.append([first, register.history, state, register.clock])
                state += register.history
        inputs = [r.place for r in self.registers if r.col.op == "input"]
        return _Layout(
            block=block,
            code=np.array(code, dtype=np.int64).reshape(-1, kernel.RESULT + 1),
            history=np.array(history, dtype=np.int64).reshape(-1, 4),
            places=np.array(inputs, dtype=np.int64),
            outputs=np.array([self.registers[k].place for k in self.outputs], dtype=np.int64),
            registers=file,
        )

    def _lay_out(self, room: int, line: int) -> int:
        """Gives every register its place; those that nobody reads any more lend theirs on.

        Each starts on a line of the cache, and has `room` after its history.
        """
        last = {operand: at for at, r in enumerate(self.registers) for operand, _ in r.operands}
        kept = set(self.outputs)
        freed: dict[int, list[int]] = {}
        for operand, at in last.items():
            r = self.registers[operand]
            if r.operands and not r.history and operand not in kept:
                freed.setdefault(at, []).append(operand)
        free: list[int] = []
        size = 0
        for at, register in enumerate(self.registers):
            if free and register.operands and not register.history:
                register.place = free.pop()
            else:
                register.place = size + _lines(register.history, line)
                size = register.place + _lines(room, line)
            free += [self.registers[operand].place for operand in freed.get(at, ())]
        return size


def _code_of(register: _Register) -> kernel.Op:
    return kernel.Op["COPY" if register.col.op == "before" else register.col.op.upper()]


def _lines(rows: int, line: int) -> int:
    """Rows rounded up to whole lines."""
    return -(-rows // line) * line


def _aligned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy that starts on a cache line: vectors that straddle two cost a tenth of the run."""
    room = np.empty(values.size + _LINE)
    start = -room.ctypes.data // 8 % _LINE
    room[start : start + values.size] = values
    return room[start : start + values.size]


def _windows(register: _Register) -> list[int]:
    """Rows that an instruction reads in front of each operand, beside its lag."""
    rows = [0] * len(register.operands)
    operation = OPERATIONS.get(register.col.op)
    if operation is not None and operation.window:
        rows[0] = int(register.col.params[0]) - 1
    return rows
