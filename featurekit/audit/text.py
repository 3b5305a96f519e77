"""The audit in a terminal: verdict, block shares, findings, and what the scaling repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from featurekit.audit.report import AuditReport, Finding, Peel

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
    scaled = " after scaling" if _scaled(report) else ""
    console.print(
        f"{report.rows:,} rows x {report.features} features; "
        f"{report.effective:.1f} effective features{scaled}",
        style="dim",
    )
    first, *rest = report.peeled
    if scaled:
        console.print(f"in natural units {first.effective:.1f}" + _peeled(rest), style="dim")
    elif rest:
        console.print(_peeled(rest).removeprefix("; "), style="dim")
    console.print(Padding(_blocks(report), (1, 0)))
    if report.findings:
        _list(report.findings, console)
    if report.repaired:
        of_norm = [finding for finding in report.repaired if finding.metric == "norm share"]
        shown = of_norm[0] if of_norm else report.repaired[0]
        sign = "<" if shown.value < shown.limit else ">"
        console.print(
            f"{len(report.repaired)} findings in natural units are repaired by: "
            f"{shown.repaired_by}\n"
            f"  such as {_name(shown)}: {shown.metric} {shown.value:.4g} {sign} {shown.limit:g}",
            style="dim",
        )


def _peeled(peels: Sequence[Peel]) -> str:
    """What is left of the effective features without the largest ones, which hide the others."""
    if not peels:
        return ""
    names = ", ".join(peel.without for peel in peels)
    return f"; {peels[-1].effective:.1f} without {names}"


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


def _name(finding: Finding) -> str:
    return finding.feature or (f"block {finding.block}" if finding.block else "all features")


def _list(findings: tuple[Finding, ...], console: Console) -> None:
    for finding in findings[:SHOWN]:
        sign = "<" if finding.value < finding.limit else ">"
        place = f" in slice {finding.slice}" if finding.slice else ""
        console.print(
            Text.assemble(
                (f"{finding.severity:<5}", STYLE[finding.severity]),
                (f"{_name(finding)}  ", "bold"),
                f"{finding.metric} {finding.value:.4g} {sign} {finding.limit:g}{place}",
            )
        )
        console.print(Padding(f"{finding.why}", (0, 0, 0, 5)), style="dim")
        console.print(Padding(f"Fix: {finding.fix}", (0, 0, 0, 5)), markup=False)
    if len(findings) > SHOWN:
        console.print(
            f"and {len(findings) - SHOWN} more: {findings[0].command} --json", style="dim"
        )
