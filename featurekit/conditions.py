"""Conditions: the slices of a pipeline, as one code a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

DEFAULT_SLICES = {"active": '"position.side" != 0', "flat": '"position.side" = 0'}


MOST = 16  # cells are sets of slices, and may be twice as many with each


class Conditions:
    """Conditions in SQL on columns of a table; bit k of a row's code is condition k.

    Raises:
        ConfigError: when one is no SQL, names a column that there is not, or is not true or false
            of a row by itself; when there are more than 16.

    Example:
        >>> Conditions({"up": "x > 0"}, ["x"]).of(np.array([[1.0], [-1.0]], np.float32))
        array([1, 0])
    """

    def __init__(
        self, conditions: Mapping[str, str], columns: Sequence[str], source: str = "slices"
    ) -> None:
        self.columns: dict[str, list[str]] = {}
        self._places = {name: at for at, name in enumerate(columns)}
        self._conditions = []
        problems = []
        if len(conditions) > MOST:
            expected = f"at most {MOST}, which may overlap"
            where, got = f"{source}, key slices", f"{len(conditions)} slices"
            problems.append(Problem("there are too many slices", where, expected, got))
        for name, sql in conditions.items():
            where, expected = f"{source}, key slices.{name}", "a condition on the columns of a row"
            fix = f"""{name}: '"{next(iter(columns), "position.side")}" > 0'"""
            try:
                expression = pl.sql_expr(sql)
                roots = expression.meta.root_names()
            except Exception as error:  # polars' parser raises what it likes
                what = f"the condition of slice {name!r} is no SQL"
                problems.append(Problem(what, where, expected, f"{sql}: {error}", fix))
                continue
            unknown = [root for root in roots if root not in self._places]
            for root in unknown:
                what = f"slice {name!r} names a column that there is not"
                problems.append(Problem(what, where, f"one of {len(columns)} columns", root, fix))
            wrong = "" if unknown else _why_no_condition(expression, roots)
            if wrong:
                what = f"slice {name!r} is no condition on a row"
                problems.append(Problem(what, where, expected, f"{sql}: {wrong}", fix))
            self.columns[name] = roots
            self._conditions.append((expression, roots))
        if problems:
            raise ConfigError(*problems)

    def of(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """The code of each row."""
        code = np.zeros(len(rows), np.int64)
        for bit, (expression, roots) in enumerate(self._conditions):
            # polars orders NaN above all numbers; a value that is not known is in no slice.
            frame = pl.DataFrame(
                {root: pl.Series(rows[:, self._places[root]], nan_to_null=True) for root in roots}
            )
            holds = frame.select(expression.alias("holds"))["holds"].fill_null(False).to_numpy()
            code |= holds.astype(np.int64) << bit
        return code


def _why_no_condition(expression: pl.Expr, roots: Sequence[str]) -> str:
    """Why an expression is not true or false of each row by itself; empty where it is."""
    values = np.array([0.0, 1.0, -1.0, 0.5, 100.0], np.float32)
    frame = pl.DataFrame({root: np.roll(values, k) for k, root in enumerate(roots)})
    try:
        whole = frame.select(expression.alias("holds"))["holds"]
        alone = [row.select(expression.alias("holds"))["holds"] for row in frame.iter_slices(1)]
    except Exception as error:  # whatever polars makes of it
        return str(error).splitlines()[0]
    if not roots:
        return "no column in it"
    if whole.dtype != pl.Boolean:
        return f"its values are {whole.dtype}"
    if not whole.equals(pl.concat(alone)):
        return "it depends on other rows"
    return ""
