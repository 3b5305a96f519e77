"""check_block: what every block has to hold, the built-in ones and a user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from featurekit.clock import CLOCK_COLUMNS, Clock
from featurekit.engine import Program, Reach
from featurekit.ledger import ACCOUNT_COLUMNS, AccountReplay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from featurekit.block import Block

Inputs = dict[str, NDArray[np.float64]]

HOUR = 3_600_000_000_000
PRICES = ("open", "high", "low", "close", "bid", "ask", "average_price", "stop", "target")
# Units that do not change when prices are quoted in another unit.
DIMENSIONLESS = (
    "ratio", "log return", "log ratio", "bps", "percent", "z", "bars", "count", "ATR multiple",
    "-1, 0, 1",
)  # fmt: skip


def check_block(
    block: Block,
    *,
    options: Mapping[str, object] | None = None,
    inputs: Callable[[int], Inputs] | None = None,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Proves of a block what every block has to hold, on simulated bars and fills.

    Each column has a unit and a doc; none sees the future; each starts at its lookback and forgets
    as its memory says; blocks of 1, 7 and all rows give the same bits; inputs are left as they
    were; empty, one-row, constant and zero-volume input gives no infinity; columns without a
    dimension do not change when prices are 1,000 times as high.

    Args:
        block: The block.
        options: Its options, where they are not the defaults.
        inputs: Makes n rows of its input columns; by default simulated bars and fills, and a
            random walk around 1 for any other name.
        exempt: Names of checks to leave out, each with its reason.

    Raises:
        AssertionError: when a check fails; all failures are listed.

    Example:
        >>> from featurekit.blocks import market
        >>> check_block(market)
    """
    exempt = dict(exempt or {})
    unknown = set(exempt) - set(_CHECKS)
    if unknown or not all(exempt.values()):
        raise AssertionError(f"exempt names a check of {sorted(_CHECKS)}, each with its reason")
    subject = _Subject(block, options or {}, inputs or simulated_inputs)
    failures = [
        f"{name}: {failure}"
        for name, check in _CHECKS.items()
        if name not in exempt
        for failure in check(subject)
    ]
    if failures:
        raise AssertionError(f"block {block.name!r}\n  " + "\n  ".join(failures))


def simulated_inputs(rows: int) -> Inputs:
    """Simulated bars, clock and account of `rows` hours, from a fixed seed."""
    rng = np.random.default_rng(11)
    close = np.exp(rng.normal(0, 2e-3, rows).cumsum())
    open_ = close * np.exp(rng.normal(0, 1e-3, rows))
    wick = np.abs(rng.normal(0, 1e-3, (2, rows)))
    closes = (np.arange(rows, dtype=np.int64) + 420_000) * HOUR
    bars = {
        "open": open_,
        "high": np.maximum(open_, close) * (1 + wick[0]),
        "low": np.minimum(open_, close) * (1 - wick[1]),
        "close": close,
        "volume": rng.lognormal(5, 1, rows),
        **Clock(CLOCK_COLUMNS, "UTC").columns(closes),
    }
    at = np.arange(20, rows, 17)
    side = np.where(rng.random(len(at)) < 0.5, "buy", "sell")
    fills = pl.DataFrame(
        {
            "time": pl.Series(closes[at] - 1).cast(pl.Datetime("ns", "UTC")),
            "symbol": ["X"] * len(at),
            "side": side,
            "quantity": rng.integers(1, 4, len(at)).astype(float),
            "price": close[at],
            "fee": np.full(len(at), 0.01),
            "stop": close[at] * np.where(side == "buy", 0.99, 1.01),
            "target": close[at] * np.where(side == "buy", 1.02, 0.98),
        }
    )
    replay = AccountReplay(fills, "X", cash=1e3, multiplier=10.0, leverage=30.0)
    return bars | dict(zip(ACCOUNT_COLUMNS, replay.columns(closes), strict=True))


class _Subject:
    """A block compiled, with what it gives on 1,500 simulated rows."""

    rows = 1500

    def __init__(
        self, block: Block, options: Mapping[str, object], make: Callable[[int], Inputs]
    ) -> None:
        self.columns = block.columns(options, ACCOUNT_COLUMNS)
        self.names = list(self.columns)
        self.program = Program.compile(list(self.columns.values()))
        self._make = make
        self.inputs = self.make(self.rows)
        self.out = self.compute(self.inputs)

    def make(self, rows: int) -> Inputs:
        known = self._make(rows)
        rng = np.random.default_rng(5)
        return {
            name: known[name] if name in known else np.exp(rng.normal(0, 1e-3, rows).cumsum())
            for name in self.program.inputs
        }

    def compute(self, inputs: Inputs, block: int | None = None) -> NDArray[np.float64]:
        """Columns [width, rows], computed `block` rows at a time."""
        rows = np.array([inputs[name] for name in self.program.inputs])
        state = self.program.new_state()
        step = block or max(rows.shape[1], 1)
        parts = [
            self.program.run(state, rows[:, at : at + step]) for at in range(0, rows.shape[1], step)
        ]
        return np.concatenate([np.empty((self.program.width, 0)), *parts], axis=1)

    def different(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> list[str]:
        """Names of the columns that are not the same bits."""
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return [name for name, each in zip(self.names, same, strict=True) if not each.all()]


def _labelled(subject: _Subject) -> Iterator[str]:
    for name, col in subject.columns.items():
        for what, value in (("unit", col.label.unit), ("doc", col.label.doc)):
            if not value:
                yield f"{name} has no {what}"


def _causal(subject: _Subject) -> Iterator[str]:
    for cut in (37, 512, 1201):
        future = {k: v.copy() for k, v in subject.inputs.items()}
        for values in future.values():
            values[cut:] = values[cut:][::-1] * 1.7 + 0.1
        for name in subject.different(subject.compute(future)[:, :cut], subject.out[:, :cut]):
            yield f"{name} sees beyond row {cut}"


def _lookback(subject: _Subject) -> Iterator[str]:
    reach = Reach()
    for name, col, values in zip(subject.names, subject.columns.values(), subject.out, strict=True):
        defined = np.flatnonzero(~np.isnan(values))
        first = int(defined[0]) if defined.size else None
        if first != reach.lookback(col):
            yield f"{name} starts at row {first}, its lookback is {reach.lookback(col)}"


def _memory(subject: _Subject) -> Iterator[str]:
    reach, late = Reach(), 400
    # Account state is exact from its start, so it is computed before the cut and then cut.
    part = subject.compute({k: v[late:] for k, v in subject.inputs.items()})
    whole = subject.out[:, late:]
    for k, (name, col) in enumerate(subject.columns.items()):
        memory = reach.memory(col)
        if memory == float("inf"):
            yield f"{name} never forgets: declare .named(memory=...)"
        elif not set(subject.program.inputs) & set(ACCOUNT_COLUMNS):
            start = int(memory)
            scale = max(float(np.nanstd(whole[k])), 1e-12)
            if start < part.shape[1]:
                worst = float(np.abs(part[k, start:] - whole[k, start:]).max())
                if not worst <= 1e-6 * scale:
                    yield f"{name} is {worst / scale:.1e} deviations off after its memory"


def _parity(subject: _Subject) -> Iterator[str]:
    for block in (1, 7):
        for name in subject.different(subject.compute(subject.inputs, block), subject.out):
            yield f"{name} differs in blocks of {block}"


def _untouched(subject: _Subject) -> Iterator[str]:
    for name, values in subject.make(subject.rows).items():
        if not np.array_equal(values, subject.inputs[name], equal_nan=True):
            yield f"the input {name} was changed"


def _finite(subject: _Subject) -> Iterator[str]:
    constant = {k: np.full(300, v[0]) for k, v in subject.make(300).items()}
    silent = {k: np.zeros(300) if k == "volume" else v for k, v in subject.make(300).items()}
    still = {k: np.zeros(300) if k == "volume" else v for k, v in constant.items()}
    cases = {
        "empty": subject.make(0),
        "one-row": subject.make(1),
        "constant": constant,
        "zero-volume": silent,
        "constant and zero-volume": still,
    }
    for case, inputs in cases.items():
        for name, values in zip(subject.names, subject.compute(inputs), strict=True):
            if np.isinf(values).any():
                yield f"{name} is infinite on {case} input"


def _scale_free(subject: _Subject) -> Iterator[str]:
    # Quoted in thousandths: prices are 1,000 times as high, a contract is 1,000 times as small.
    factor = dict.fromkeys(PRICES, 1000.0) | {"multiplier": 1e-3}
    quoted = {k: v * factor.get(k, 1.0) for k, v in subject.inputs.items()}
    out = subject.compute(quoted)
    for k, (name, col) in enumerate(subject.columns.items()):
        if col.label.unit in DIMENSIONLESS and not np.allclose(
            out[k], subject.out[k], rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            yield f"{name} ({col.label.unit}) changes when prices are 1,000 times as high"


_CHECKS: dict[str, Callable[[_Subject], Iterator[str]]] = {
    "labelled": _labelled,
    "causal": _causal,
    "lookback": _lookback,
    "memory": _memory,
    "parity": _parity,
    "untouched": _untouched,
    "finite": _finite,
    "scale-free": _scale_free,
}
