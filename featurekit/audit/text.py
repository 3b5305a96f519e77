"""The audit in a terminal: verdict, block shares, findings, and what the scaling repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from featurekit.audit.report import AuditReport, Finding

STYLE = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
SHOWN = 12  # findings; all of them are in the JSON
BAR = 24


def render(report: AuditReport, console: Console) -> None:
    """Prints the report; readable without colour and at 80 columns."""
    counts = {s: sum(f.severity == s for f in report.findings) for s in ("fail", "warn")}
    head = Text.assemble(
        ("scale audit  ", "bold"),
        (report.verdict.upper(), STYLE[report.verdict]),
        f"  {counts['fail']} fail, {counts['warn']} warn, {len(report.repaired)} repaired",
    )
    console.print(head)
    scaled = " after scaling" if report.repaired or _scaled(report) else ""
    console.print(
        f"{report.rows:,} rows x {report.features} features; "
        f"{report.effective:.1f} effective features{scaled}",
        style="dim",
    )
    if report.peeled and scaled:
        steps = " -> ".join(
            f"{peel.effective:.1f}" + (f" without {peel.without}" if peel.without else "")
            for peel in report.peeled[:2]
        )
        console.print(f"in natural units: {steps}", style="dim")
    console.print(Padding(_blocks(report), (1, 0)))
    if report.findings:
        _list(report.findings, console)
    if report.repaired:
        line = report.repaired[0].repaired_by
        worst = report.repaired[0]
        name = worst.feature or worst.block
        console.print(
            f"{len(report.repaired)} findings in natural units are repaired by: {line}\n"
            f"  the worst: {worst.metric} {worst.value:.4g} > {worst.limit:g}"
            + (f" in {name}" if name else ""),
            style="dim",
        )


def _scaled(report: AuditReport) -> bool:
    return any(block.natural != block.model for block in report.blocks)


def _blocks(report: AuditReport) -> Table:
    """Each block's share of the squared norm as bars, before and after the treatment."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("block")
    table.add_column("features", justify="right")
    table.add_column("share of the norm, natural")
    scaled = _scaled(report)
    if scaled:
        table.add_column("as the model meets it")
    for block in report.blocks:
        row = [block.block or "-", str(block.features), _bar(block.natural)]
        table.add_row(*row, *([_bar(block.model)] if scaled else []))
    return table


def _bar(share: float) -> str:
    filled = round(share * BAR / 2)
    return f"{'█' * filled}{'·' * (BAR // 2 - filled)} {share:7.2%}"


def _list(findings: tuple[Finding, ...], console: Console) -> None:
    for finding in findings[:SHOWN]:
        name = finding.feature or (f"block {finding.block}" if finding.block else "all features")
        sign = "<" if finding.value < finding.limit else ">"
        place = f" in slice {finding.slice}" if finding.slice else ""
        console.print(
            Text.assemble(
                (f"{finding.severity:<5}", STYLE[finding.severity]),
                (f"{name}  ", "bold"),
                f"{finding.metric} {finding.value:.4g} {sign} {finding.limit:g}{place}",
            )
        )
        console.print(Padding(f"{finding.why}", (0, 0, 0, 5)), style="dim")
        console.print(Padding(f"Fix: {finding.fix}", (0, 0, 0, 5)), markup=False)
    if len(findings) > SHOWN:
        console.print(
            f"and {len(findings) - SHOWN} more: {findings[0].command} --json", style="dim"
        )
