"""The proofs in a terminal: one line each, and below what was found."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from featurekit.checks.result import Checks, Finding

STYLE = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
MARK = {"pass": "+", "warn": "!", "fail": "x"}
SHOWN = 12  # findings of a proof; all are in the JSON


def render(checks: Checks, console: Console) -> None:
    """Prints the proofs; readable without colour and at 80 columns."""
    verdict = "pass" if checks.passed else "fail"
    rows = f"{checks.rows:,} bars of {', '.join(checks.symbols[:5])}"
    if checks.rows < checks.of_rows:
        symbols = "1 symbol" if checks.of_symbols == 1 else f"{checks.of_symbols} symbols"
        rows += f"  (of {checks.of_rows:,} bars, {symbols}; --thorough: all)"
    console.print(
        Text.assemble((f"check {checks.pipeline}  ", "bold"), (verdict.upper(), STYLE[verdict])),
        soft_wrap=True,
    )
    console.print(_text(rows, "dim"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, expand=False)
    table.add_column("proof", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("looked at", style="dim")
    for proof in checks.proofs:
        mark = Text(f"{MARK[proof.verdict]} {proof.verdict}", STYLE[proof.verdict])
        found = str(len(proof.findings) or "")
        table.add_row(Text(proof.name), mark, found, _text(proof.looked_at))
    console.print(table)
    for name, group in groupby(checks.findings, key=lambda finding: finding.proof):
        found_here = list(group)
        console.print(Text(name, "bold"))
        for finding in found_here[:SHOWN]:
            _finding(finding, console)
        if len(found_here) > SHOWN:
            console.print(_text(f"  and {len(found_here) - SHOWN} more: --json", "dim"))


def _finding(finding: Finding, console: Console) -> None:
    head = Text.assemble("  ", (MARK[finding.severity], STYLE[finding.severity]), " ")
    head.append_text(_text(finding.what))
    console.print(head, soft_wrap=True)
    places = [f"block {finding.block}"] if finding.block else []
    places += [f"first at {finding.symbol} {finding.time}"] if finding.symbol else []
    told = [("where:    ", ", ".join(places)), ("expected: ", finding.expected)]
    told.append(("got:      ", finding.got))
    for label, text in told if finding.severity == "fail" else []:
        if text:
            console.print(_text(f"    {label}{text}", "dim"), soft_wrap=True)
    if finding.fix:
        console.print(_text(f"    Fix: {finding.fix}"), soft_wrap=True)


def _text(text: str, style: str = "") -> Text:
    """Text without what moves a cursor or turns a line round: names are the data's."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), style=style)
