"""The audit's proof of itself: every fault is planted in clean rows, and must be found alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from featurekit.audit import audit
from featurekit.audit.compare import Reference
from featurekit.audit.faults import FAULTS, NAMES, SLICES, Fault, Rows, clean
from featurekit.audit.limits import LIMITS
from featurekit.audit.run import audit_subject
from featurekit.audit.table import table_subject
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from featurekit.audit.report import AuditReport, Finding


def selftest(console: Console) -> bool:
    """Plants every fault in turn, prints what was found of each, and whether all was as it has to.

    Also that clean rows have no finding, bare, scaled and against themselves.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in ("planted", "in", "found", "others that see it", "beyond it"):
        table.add_column(name)
    good = True
    for name, report in _clean_reports():
        nothing = not report.findings
        good &= nothing
        told = ", ".join(f"{f.metric} of {f.of}" for f in report.findings)
        table.add_row("nothing", name, _mark(nothing), "", Text(told, "red"))
    for fault in FAULTS:
        findings = planted(fault)
        found = any(_is(finding, fault) for finding in findings)
        beyond = [f for f in findings if f.metric not in (fault.metric, *fault.also)]
        # Planted in one feature, it is found in that one.
        beyond += [f for f in findings if fault.feature and f.feature not in ("", fault.feature)]
        good &= found and not beyond
        also = sorted({f.metric for f in findings} - {fault.metric})
        told = ", ".join(sorted({f"{f.metric} of {f.of}" for f in beyond}))
        seen = str(len(also)) if also else ""
        table.add_row(fault.metric, fault.feature, _mark(found), seen, Text(told, "red"))
    console.print(table)
    missing = sorted(set(LIMITS) - {fault.metric for fault in FAULTS})
    for metric in missing:
        console.print(Text(f"no fault is planted for {metric}", style="red"))
    good &= not missing
    told = (
        f"{len(FAULTS)} faults planted, each found and nothing else" if good else "not as it has to"
    )
    console.print(Text(told, style="bold green" if good else "bold red"))
    return good


def planted(fault: Fault) -> tuple[Finding, ...]:
    """The findings of rows with a fault in them."""
    rows = clean()
    fault.plant(rows)
    if LIMITS[fault.metric].compared:
        return _against(rows, fault.metric).findings
    scaling = None
    if fault.scaling is not None:
        scaling = Scaling.fit(Profile.of(rows, NAMES), fault.scaling)
    slices = SLICES if fault.slices else {}
    return audit(_frame(rows), scaling=scaling, layer_norm=fault.norm, slices=slices).findings


def _is(finding: Finding, fault: Fault) -> bool:
    return finding.metric == fault.metric and fault.feature in ("", finding.feature)


def _mark(good: bool) -> Text:
    return Text("yes", "green") if good else Text("NO", "bold red")


def _clean_reports() -> Iterator[tuple[str, AuditReport]]:
    rows = clean()
    yield "as it is", audit(_frame(rows), slices=SLICES)
    fitted = Scaling.fit(Profile.of(rows, NAMES), ScalingSpec())
    yield "scaled", audit(_frame(rows), scaling=fitted, slices=SLICES)
    yield "against itself", _against(rows, "")
    other = np.random.default_rng(8).normal(size=rows.shape)
    yield "against its like", _against(other, "shape drift")


def _frame(rows: Rows, *, timed: bool = False) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=NAMES)
    if not timed:
        return frame
    hours = pl.Series("time", np.arange(len(rows)) * 3_600 * 10**9).cast(pl.Datetime("ns", "UTC"))
    return frame.select(hours, pl.lit("X").alias("symbol"), pl.all())


JOINED = ("", "mismatch", "unit change", "unmatched rows")


def _against(rows: Rows, metric: str) -> AuditReport:
    """Compared with clean rows: row by row where the fault is of rows, else as a whole."""
    timed = metric in JOINED
    before, now = _frame(clean(), timed=timed), _frame(rows, timed=timed)
    if metric == "unmatched rows":
        now = now.head(len(rows) - 200)
    if metric == "missing column":
        now = now.drop(NAMES[3])
    if metric == "new column":
        before = before.drop(NAMES[3])
    told = audit(before).columns
    reference = Reference(
        "clean", {c["name"]: c for c in told}, (lambda: before) if timed else None
    )
    return audit_subject(table_subject(now, source="planted"), reference)
