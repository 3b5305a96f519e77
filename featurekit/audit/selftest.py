"""The audit's proof of itself: every fault is planted in clean rows, and must be found alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from featurekit.audit import audit
from featurekit.audit.faults import FAULTS, HARMLESS, NAMES, Fault, Rows, draw
from featurekit.audit.limits import LIMITS
from featurekit.profile import Profile
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console

    from featurekit.audit.report import AuditReport, Finding

JOINED = ("mismatch", "unit change", "unmatched rows")  # row by row, by time
UNMATCHED = 78  # rows that are left out, 1.3% of all


def selftest(console: Console, *, metrics: Collection[str] | None = None) -> bool:
    """Plants every fault in turn, prints what was found of each, and whether all was as it has to.

    Also harmless rows, some of them just so, which must have no finding.

    Args:
        console: Where it is printed.
        metrics: Those that are tested; by default all.
    """
    chosen = LIMITS if metrics is None else metrics
    faults = [fault for fault in FAULTS if fault.metric in chosen]
    harmless = [rows for rows in HARMLESS if rows.metric in chosen]
    clean = audit(_frame(draw()))
    good = _planted(faults, clean, console)
    good &= _left_alone(harmless, clean, console)
    for metric, severity in _not_planted(chosen):
        console.print(Text(f"no fault is planted for {metric} to {severity}", style="red"))
        good = False
    told = f"{len(faults)} faults planted, each found and nothing else"
    if not good:
        told = "not as it has to"
    console.print("All rows are simulated, from fixed seeds.", style="dim")
    console.print(Text(told, style="bold green" if good else "bold red"))
    return good


def _planted(faults: list[Fault], clean: AuditReport, console: Console) -> bool:
    table = _table("planted", "to", "in", "found", "others", "beyond it")
    good = True
    for fault in faults:
        findings = planted(fault, clean)
        found = any(_is(finding, fault) for finding in findings)
        beyond = _beyond(fault, findings)
        good &= found and not beyond
        others = len({f.metric for f in findings} - {fault.metric})
        table.add_row(
            fault.metric, fault.severity, fault.feature, _mark(found), str(others or ""),
            Text(beyond, "red"),
        )  # fmt: skip
    console.print(table)
    return good


def _left_alone(harmless: list[Fault], clean: AuditReport, console: Console) -> bool:
    table = _table("harmless", "silent", "beyond it")
    good = True
    for rows in harmless:
        beyond = _beyond(rows, planted(rows, clean))
        good &= not beyond
        table.add_row(rows.told, _mark(not beyond), Text(beyond, "red"))
    console.print()
    console.print(table)
    return good


def planted(fault: Fault, clean: AuditReport) -> tuple[Finding, ...]:
    """The findings of rows with a fault in them, compared with clean ones if the fault is that."""
    rows = fault.rows()
    fault.plant(rows)
    if LIMITS[fault.metric].compared:
        return _against(_frame(rows), fault, clean)
    scaling = None
    if fault.scaling is not None:
        scaling = Scaling.fit(Profile.of(rows, NAMES), fault.scaling)
    return audit(_frame(rows), scaling=scaling, layer_norm=fault.norm, slices=fault.slices).findings


def _against(now: pl.DataFrame, fault: Fault, clean: AuditReport) -> tuple[Finding, ...]:
    """Compared with clean rows: row by row where the fault is of rows, else as a whole."""
    before: pl.DataFrame | AuditReport = clean
    if fault.against is not None:
        before = _frame(fault.against())
    if fault.metric == "missing column":
        now = now.drop(NAMES[3])
    if fault.metric == "new column":
        before = _frame(draw()).drop(NAMES[3])
    if fault.metric in JOINED:
        now, before = _timed(now), _timed(_frame(draw()))
    if fault.metric == "unmatched rows":
        now = now.head(len(now) - UNMATCHED)
    return audit(now, against=before).findings


def _frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=NAMES)


def _timed(frame: pl.DataFrame) -> pl.DataFrame:
    hours = pl.Series("time", np.arange(len(frame)) * 3_600 * 10**9).cast(pl.Datetime("ns", "UTC"))
    return frame.select(hours, pl.lit("X").alias("symbol"), pl.all())


def _is(finding: Finding, fault: Fault) -> bool:
    same = (finding.metric, finding.severity) == (fault.metric, fault.severity)
    return same and fault.feature in ("", finding.feature)


def _beyond(fault: Fault, findings: tuple[Finding, ...]) -> str:
    """What else was found: of other metrics, of other features, or too severe."""
    allowed = {"": (), "warn": ("warn",), "fail": ("warn", "fail")}[fault.severity]
    others = set(fault.also) - {fault.metric}
    beyond = set()
    for finding in findings:
        own = finding.metric == fault.metric and finding.severity in allowed
        elsewhere = bool(fault.feature) and finding.feature not in ("", fault.feature)
        if elsewhere or not (own or finding.metric in others):
            beyond.add(f"{finding.metric} of {finding.of}")
    return ", ".join(sorted(beyond))


def _not_planted(metrics: Collection[str]) -> list[tuple[str, str]]:
    """Limits that no fault is beyond."""
    there = {(metric, "warn") for metric in metrics if LIMITS[metric].warn is not None}
    there |= {(metric, "fail") for metric in metrics if LIMITS[metric].fail is not None}
    return sorted(there - {(fault.metric, fault.severity) for fault in FAULTS})


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name != "beyond it")
    return table


def _mark(good: bool) -> Text:
    return Text("yes", "green") if good else Text("NO", "bold red")
