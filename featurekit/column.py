"""Col: a symbolic causal column.

A column is a function of this row and the rows before it. No operation can look ahead, because
the only way to reach another row is `lag`, and it reaches back. Windows are trees of lags: the
sum of 100 rows is the sum of 64, of 32 and of 4, each the sum of two halves. Such a window keeps
no running total, so nothing drifts, and a hole leaves it with the row it came in on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

Number: TypeAlias = "Col | float"
_Parts: TypeAlias = "tuple[Col, ...]"


@dataclass(frozen=True, slots=True)
class Label:
    """What a column is called on: unit, expected scale, doc, and a declared memory in rows."""

    unit: str | None = None
    scale: tuple[float, float] | None = None
    doc: str | None = None
    memory: int | None = None


EMA_SEEDS = {"sma": 0, "first": 1, "zero": 2}
WILDER_SEEDS = {"mean": 0, "sum": 1}


@dataclass(frozen=True, eq=False, slots=True)
class Col:
    """A symbolic causal column: an operation on other columns, computed later by the engine.

    Arithmetic, comparisons (1, 0, or NaN where an operand is NaN), `&`, `|` and `~` work on
    columns and numbers. Windows count rows and include the current one; they are NaN until they
    are full and while a NaN is inside.

    Example:
        >>> close = Col.input("close")
        >>> (close / close.lag(1)).log().op
        'log'
    """

    op: str
    args: tuple[Col, ...] = ()
    params: tuple[float, ...] = ()
    name: str = ""
    label: Label = Label()

    @staticmethod
    def input(name: str, *, exact: bool = False) -> Col:
        """A column of the input table; `exact` if its history is known from its very start."""
        return Col("input", params=(float(exact),), name=name)

    @staticmethod
    def of(value: Number) -> Col:
        """The column itself, or a constant column."""
        return value if isinstance(value, Col) else Col("const", params=(float(value),))

    def named(
        self,
        *,
        unit: str | None = None,
        scale: tuple[float, float] | None = None,
        doc: str | None = None,
        memory: int | None = None,
    ) -> Col:
        """The same column with a unit, an expected scale, a doc or a declared memory in rows."""
        old = self.label
        label = Label(
            unit=old.unit if unit is None else unit,
            scale=old.scale if scale is None else scale,
            doc=old.doc if doc is None else doc,
            memory=old.memory if memory is None else memory,
        )
        return replace(self, label=label)

    # --- rows that stand alone -----------------------------------------------------------------

    def __add__(self, other: Number) -> Col:
        return _make("add", self, other)

    def __radd__(self, other: Number) -> Col:
        return _make("add", other, self)

    def __sub__(self, other: Number) -> Col:
        return _make("sub", self, other)

    def __rsub__(self, other: Number) -> Col:
        return _make("sub", other, self)

    def __mul__(self, other: Number) -> Col:
        return _make("mul", self, other)

    def __rmul__(self, other: Number) -> Col:
        return _make("mul", other, self)

    def __truediv__(self, other: Number) -> Col:
        return _make("div", self, other)

    def __rtruediv__(self, other: Number) -> Col:
        return _make("div", other, self)

    def __neg__(self) -> Col:
        return _make("neg", self)

    def __abs__(self) -> Col:
        return _make("abs", self)

    def __lt__(self, other: Number) -> Col:
        return _make("lt", self, other)

    def __le__(self, other: Number) -> Col:
        return _make("le", self, other)

    def __gt__(self, other: Number) -> Col:
        return _make("lt", other, self)

    def __ge__(self, other: Number) -> Col:
        return _make("le", other, self)

    def __eq__(self, other: object) -> Col:  # type: ignore[override]  # a column of 0 and 1, as in polars
        return _make("eq", self, _number(other))

    def __ne__(self, other: object) -> Col:  # type: ignore[override]  # a column of 0 and 1, as in polars
        return 1.0 - _make("eq", self, _number(other))

    __hash__ = object.__hash__

    def __and__(self, other: Number) -> Col:
        return _make("minimum", self, other)

    def __or__(self, other: Number) -> Col:
        return _make("maximum", self, other)

    def __invert__(self) -> Col:
        return 1.0 - self

    def __bool__(self) -> bool:
        raise ConfigError(
            Problem(
                "a column has no truth value: its rows are computed later",
                expected="where(condition, a, b), or & | ~ between conditions",
                got="if, and, or, not, or a chained comparison on a column",
                fix="where(close > open, 1.0, 0.0)",
            )
        )

    def abs(self) -> Col:
        """Absolute value."""
        return _make("abs", self)

    def sign(self) -> Col:
        """-1, 0 or 1."""
        return _make("sign", self)

    def log(self) -> Col:
        """Natural logarithm."""
        return _make("log", self)

    def log1p(self) -> Col:
        """ln(1 + x)."""
        return _make("log1p", self)

    def exp(self) -> Col:
        """Exponential."""
        return _make("exp", self)

    def sqrt(self) -> Col:
        """Square root; NaN below zero."""
        return _make("sqrt", self)

    def tanh(self) -> Col:
        """Hyperbolic tangent."""
        return _make("tanh", self)

    def asinh(self) -> Col:
        """Inverse hyperbolic sine: linear near 0, logarithmic far from it."""
        return _make("asinh", self)

    def sin(self) -> Col:
        """Sine of radians."""
        return _make("sin", self)

    def cos(self) -> Col:
        """Cosine of radians."""
        return _make("cos", self)

    def minimum(self, other: Number) -> Col:
        """The smaller of two columns, row by row; NaN if either is."""
        return _make("minimum", self, other)

    def maximum(self, other: Number) -> Col:
        """The larger of two columns, row by row; NaN if either is."""
        return _make("maximum", self, other)

    def clip(self, low: Number, high: Number) -> Col:
        """Limited to [low, high]."""
        return self.maximum(low).minimum(high)

    def defined(self) -> Col:
        """1 where the column has a value, 0 where it is NaN."""
        return _make("defined", self)

    def fill(self, value: Number) -> Col:
        """The column, with `value` where it is NaN."""
        return _make("fill", self, value)

    def over(self, other: Number, default: Number) -> Col:
        """Quotient, with `default` where the divisor is 0; NaN where either is NaN."""
        return _make("over", self, other, default)

    # --- windows -------------------------------------------------------------------------------

    def lag(self, n: int) -> Col:
        """The value n rows back; before the first row NaN, or what `before` says."""
        _whole("lag", n, 0)
        return self if n == 0 else Col("lag", (self,), (float(n),))

    def diff(self, n: int = 1) -> Col:
        """X - x[-n]."""
        return self - self.lag(n)

    def before(self, value: float) -> Col:
        """The column, with `value` on every row before the first, so that windows start full."""
        return Col("before", (self,), (float(value),))

    def after(self, n: int) -> Col:
        """The column without its first n defined values."""
        _whole("after", n, 0)
        return self if n == 0 else _make("after", self, params=(n,))

    def sum(self, n: int) -> Col:
        """Sum of the last n rows, as a tree: the error is log2(n) roundings, and it never drifts.

        Example:
            >>> Col.input("volume").sum(3).op
            'add'
        """
        return _tree((self,), _whole("sum", n, 1), lambda new, old, *_: (new[0] + old[0],))[0]

    def mean(self, n: int) -> Col:
        """Mean of the last n rows."""
        return self.sum(n) / float(n)

    def max(self, n: int) -> Col:
        """Largest of the last n rows."""
        return _cover(self, _whole("max", n, 1), "maximum")

    def min(self, n: int) -> Col:
        """Smallest of the last n rows."""
        return _cover(self, _whole("min", n, 1), "minimum")

    def argmax(self, n: int) -> Col:
        """Rows since the largest of the last n rows, 0 if it is this one; the latest on ties."""
        return _age(self, _whole("argmax", n, 1), lambda new, old: old <= new)

    def argmin(self, n: int) -> Col:
        """Rows since the smallest of the last n rows, 0 if it is this one; the latest on ties."""
        return _age(self, _whole("argmin", n, 1), lambda new, old: new <= old)

    def constant(self, n: int) -> Col:
        """1 where the last n rows are all the same, so that no standard deviation need be 0."""
        return self.max(n) == self.min(n)

    def var(self, n: int, ddof: int = 1) -> Col:
        """Variance of the last n rows, merged from halves (Chan, Golub, LeVeque 1983)."""
        _whole("var", n, 1 + ddof)
        return _comoment(self, self, n) / float(n - ddof)

    def std(self, n: int, ddof: int = 1) -> Col:
        """Standard deviation of the last n rows."""
        return self.var(n, ddof).sqrt()

    def corr(self, other: Col, n: int) -> Col:
        """Pearson correlation with another column over the last n rows, within [-1, 1]."""
        _whole("corr", n, 2)
        spread = (_comoment(self, self, n) * _comoment(other, other, n)).sqrt()
        return (_comoment(self, other, n) / spread).clip(-1.0, 1.0)

    def meandev(self, n: int) -> Col:
        """Mean absolute deviation from the mean of the last n rows."""
        return _make("deviation", self, self.mean(n), params=(_whole("meandev", n, 1), 1)) / n

    def skew(self, n: int) -> Col:
        """Population skewness of the last n rows; undefined on a constant window."""
        third = _make("deviation", self, self.mean(n), params=(_whole("skew", n, 2), 3)) / n
        variance = self.var(n, 0)
        return third / (variance * variance.sqrt())

    def kurt(self, n: int) -> Col:
        """Population excess kurtosis of the last n rows; undefined on a constant window."""
        fourth = _make("deviation", self, self.mean(n), params=(_whole("kurt", n, 2), 4)) / n
        variance = self.var(n, 0)
        return fourth / (variance * variance) - 3.0

    def slope(self, n: int) -> Col:
        """Least-squares slope over the last n rows, in units per row."""
        return _make("slope", self, params=(_whole("slope", n, 2),))

    def rank(self, n: int) -> Col:
        """Share of the window's other rows below this one, ties by half, from 0 to 1."""
        return _make("rank", self, params=(_whole("rank", n, 2),))

    def quantile(self, n: int, q: float) -> Col:
        """Quantile q of the last n rows, interpolated linearly."""
        if not 0.0 <= q <= 1.0:
            raise ConfigError(
                Problem(
                    "a quantile is of a share", expected="0 <= q <= 1", got=f"q = {q}", fix="q=0.5"
                )
            )
        return _make("quantile", self, params=(_whole("quantile", n, 1), q))

    # --- recursions ----------------------------------------------------------------------------

    def ema(self, n: int, seed: Literal["sma", "first", "zero"] = "sma", *, skip: int = 0) -> Col:
        """Exponential moving average with weight 2/(n + 1) on the newest row.

        Seeded with the mean of the first n defined rows (`sma`, TA-Lib's EMA), with the first
        one (`first`), or with 0 in place of the first one (`zero`). `skip` leaves out that many
        defined rows at the start. A NaN row is NaN and changes nothing.
        """
        kind = _choice("ema seed", seed, EMA_SEEDS)
        return _make("ema", self, params=(_whole("ema", n, 1), kind, _whole("skip", skip, 0)))

    def wilder(self, n: int, seed: Literal["mean", "sum"] = "mean", *, when: Number = 1.0) -> Col:
        """Wilder's smoothing over n rows.

        `mean`: the mean of the first n defined rows, then (y (n - 1) + x) / n. `sum`: the sum of
        the first n - 1, then y - y/n + x. Rows where `when` is 0 count as 0 while seeding and
        keep y afterwards. A NaN row is NaN and changes nothing.
        """
        kind = _choice("wilder seed", seed, WILDER_SEEDS)
        return _make("wilder", self, when, params=(_whole("wilder", n, 1), kind))

    def kama(self, n: int, fast: int = 2, slow: int = 30) -> Col:
        """Kaufman's adaptive moving average (TA-Lib's KAMA); memory declared as 500 rows."""
        change = self.diff(n).abs()
        path = self.diff().abs().sum(n)
        # A path no longer than the change it made is a straight line, or a flat one.
        efficiency = where(path <= change, 1.0, change.over(path, 1.0))
        fastest, slowest = 2.0 / (fast + 1.0), 2.0 / (slow + 1.0)
        weight = efficiency * (fastest - slowest) + slowest
        return _make("smooth", self, weight * weight, self.lag(1)).named(memory=500)

    def hold(self, when: Col) -> Col:
        """The value at the last row where `when` was not 0; NaN before there was one."""
        return _make("hold", self, when)

    def since(self, cap: int) -> Col:
        """Rows since this column was last not 0 (0 on that row), at most `cap`, `cap` before."""
        return _make("since", self, params=(_whole("since", cap, 1),))

    def running_max(self, reset: Number, scale: Number = 1.0) -> Col:
        """Largest value since `reset` was last not 0, starting at 0.

        What is remembered is multiplied by `scale` before it meets each new row.
        """
        return _make("running_max", self, reset, scale)

    def cumsum(self, reset: Number = 0.0) -> Col:
        """Sum of all rows since `reset` was last not 0; a NaN row is NaN and adds nothing."""
        return _make("cumsum", self, reset)


def where(condition: Number, a: Number, b: Number) -> Col:
    """`a` where the condition is not 0, else `b`; NaN where the condition is NaN."""
    return _make("where", condition, a, b)


def sar(high: Col, low: Col, acceleration: float = 0.02, maximum: float = 0.2) -> Col:
    """Wilder's parabolic stop and reverse, in price (TA-Lib's SAR); memory declared as 500 rows.

    A row with a hole is NaN and leaves the state as it was.
    """
    step = min(acceleration, maximum)
    return _make("sar", high, low, params=(step, maximum)).named(memory=500)


# --- how the methods above make columns --------------------------------------------------------


def _make(op: str, *args: Number, params: tuple[float, ...] = ()) -> Col:
    return Col(op, tuple(Col.of(arg) for arg in args), tuple(float(p) for p in params))


def _tree(first: _Parts, n: int, join: Callable[[_Parts, _Parts, int, int], _Parts]) -> _Parts:
    """Joins n rows from powers of two, newest first.

    `join` gets the newer part, the older part already lagged behind it, and the rows of both.
    """

    def lagged(part: _Parts, rows: int) -> _Parts:
        return tuple(col.lag(rows) for col in part)

    parts, size = {1: first}, 1
    while 2 * size <= n:
        parts[2 * size] = join(parts[size], lagged(parts[size], size), size, size)
        size *= 2
    whole, rows = parts[size], size
    while rows < n:
        size = 1 << ((n - rows).bit_length() - 1)
        whole = join(whole, lagged(parts[size], rows), rows, size)
        rows += size
    return whole


def _cover(x: Col, n: int, op: str) -> Col:
    """Joins n rows from two powers of two that may overlap, as extremes allow."""
    size = 1
    while 2 * size <= n:
        x = _make(op, x, x.lag(size))
        size *= 2
    return x if size == n else _make(op, x, x.lag(n - size))


def _age(x: Col, n: int, newer_wins: Callable[[Col, Col], Col]) -> Col:
    """Rows since the extreme: values and ages are joined side by side."""

    def join(new: _Parts, old: _Parts, rows: int, _: int) -> _Parts:
        wins = newer_wins(new[0], old[0])
        return where(wins, new[0], old[0]), where(wins, new[1], old[1] + float(rows))

    return _tree((x, x * 0.0), n, join)[1]


def _comoment(x: Col, y: Col, n: int) -> Col:
    """Sum of (x - mean x)(y - mean y) over n rows, merged without ever forming raw squares."""

    def join(new: _Parts, old: _Parts, rows: int, more: int) -> _Parts:
        sums = tuple(a + b for a, b in zip(new[:2], old[:2], strict=True))
        return *sums, _make("comoment", *new, *old, params=(rows, more))

    return _tree((x, y, (x - x) * (y - y)), n, join)[2]


def _whole(what: str, n: int, least: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < least:
        raise ConfigError(
            Problem(
                f"{what} counts rows",
                expected=f"a whole number >= {least}",
                got=repr(n),
                fix=f".{what}({max(least, 20)})",
            )
        )
    return int(n)


def _choice(what: str, value: str, known: dict[str, int]) -> int:
    if value not in known:
        raise ConfigError(
            Problem(
                f"there is no such {what}",
                expected=" | ".join(known),
                got=repr(value),
                fix=f"seed={next(iter(known))!r}",
            )
        )
    return known[value]


def _number(value: object) -> Number:
    if isinstance(value, (Col, int, float)):
        return value
    raise ConfigError(
        Problem(
            "a column meets columns and numbers only",
            expected="a column, or a number of Python",
            got=f"{type(value).__name__} {value!r}"[:80],
            fix="float(...)",
        )
    )
