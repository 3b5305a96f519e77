"""Violations: the rows that are not what they have to be, and how they are told."""

from __future__ import annotations

from typing import Literal

import polars as pl

from featurekit.errors import DataError, Problem

Severity = Literal["fail", "warn"]

VIOLATIONS: dict[str, pl.DataType] = {
    "check": pl.String(),
    "column": pl.String(),
    "symbol": pl.String(),
    "time": pl.Datetime("ns", "UTC"),
    "row": pl.Int64(),
    "value": pl.String(),
    "severity": pl.String(),
}
# The column of a frame that says which row of the file each came from: no input is named so.
ROW = "row of the file"
# What mends a check whose name starts like this; the first that fits.
_MENDS = {
    "is a ": "correct the cell, or remove its row",
    "is ": "cast the column, or schema: a file that declares it as it is",
    "column is there": "columns: {its name here: its name in the file}",
    "one of buy": "side: buy",
    "buys and sells have a price": "the price of the fill; an order update has quantity 0",
    ">= 0": "0 or more; the direction of a fill is its side",
    "each time once": "remove one of the rows, or tell them apart by their symbol",
    "times in": "sort the rows by time",
    "": "correct the value, or remove its row",
}


def refuse(violations: pl.DataFrame, where: str, fix: str = "") -> None:
    """Tells all violations of severity fail: how many of each check, and the first of them.

    `fix` mends them all; without one, each check has its own.

    Raises:
        DataError: when there is one.
    """
    bad = violations.filter(pl.col("severity") == "fail")
    if bad.is_empty():
        return
    counts = bad.group_by("check", "column", maintain_order=True).agg(pl.len())
    lines = ", row 0 is line 2" if where.endswith((".csv", ".csv.gz")) else ""
    problems = []
    for check, column, count in counts.rows():
        rows = bad.filter(pl.col("check") == check, pl.col("column") == column).head(5)
        listed = "; ".join(
            ", ".join(
                part
                for part in (
                    "" if row["row"] is None else f"row {row['row']}",
                    row["symbol"] or "",
                    "" if row["time"] is None else f"{row['time']:%Y-%m-%d %H:%M}",
                    "empty" if row["value"] is None else row["value"],
                )
                if part
            )
            for row in rows.iter_rows(named=True)
        )
        more = f" and {count - rows.height} more" if count > rows.height else ""
        if rows["row"].null_count() < rows.height:
            more += f" (rows count from 0{lines})"
        problems.append(
            Problem(
                f"{column}: {check} does not hold in {count} row{'s' if count > 1 else ''}",
                where=where,
                got=listed + more,
                fix=fix or next((m for start, m in _MENDS.items() if check.startswith(start)), ""),
            )
        )
    raise DataError(*problems)
