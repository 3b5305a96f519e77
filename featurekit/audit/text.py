"""The audit in a terminal: verdict, blocks, what the model meets, findings; or one feature."""

from __future__ import annotations

from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from featurekit.audit.limits import LIMITS
from featurekit.audit.views import PROBABILITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from featurekit.audit.report import AuditReport, Finding, Peel, Statistic

STYLE = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
SHOWN = 12  # groups of findings; all of them are in the JSON and in the page
BAR = 24
NARROW = 100  # columns, below which a table leaves out what it can
LIMITED = ("weakest block", "dominance", "starved features", "offset")
SHORT = {"entropy rank": "entropy", "dead at initialisation": "dead units"}


def _plain(text: str) -> str:
    """Text without what moves a cursor or turns a line round: names are the data's."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _text(text: str, style: str = "") -> Text:
    return Text(_plain(text), style=style)


def render(report: AuditReport, console: Console) -> None:
    """Prints the report; readable without colour and at 80 columns."""
    counts = report.counts
    head = Text.assemble(
        ("scale audit  ", "bold"),
        (report.verdict.upper(), STYLE[report.verdict]),
        f"  {counts['fail']} fail, {counts['warn']} warn, {counts['repaired']} repaired",
        f", {counts['waived']} waived" if report.waived else "",
    )
    console.print(head)
    seen = "in natural units" if report.view == "natural" else f"after {report.treatment}"
    console.print(
        f"{report.rows:,} rows x {report.features} features, judged {seen}",
        style="dim",
        markup=False,
    )
    console.print(_text(report.sentence))
    console.print(_text(_peeled(report.peeled), style="dim"))
    console.print(Padding(_blocks(report), (1, 0)))
    if report.model:
        console.print(Padding(_model(report, console.width), (0, 0, 1, 0)))
    if report.findings:
        _list(report, console)
    if report.repaired:
        of_norm = [finding for finding in report.repaired if finding.metric == "norm share"]
        shown = of_norm[0] if of_norm else report.repaired[0]
        console.print(
            f"{len(report.repaired)} findings in natural units are repaired by: "
            f"{shown.repaired_by}\n  such as {shown.of}: {shown.metric} {shown.beyond}",
            style="dim",
            markup=False,
        )
    for waived in report.waived:
        it = waived.finding
        told = f"waived until {waived.until}: {it.of}, {it.metric} {it.beyond} ({waived.reason})"
        console.print(_text(told, style="dim"))
    for note in report.notes:
        console.print(_text(f"note: {note}", style="yellow"))


def _peeled(peels: Sequence[Peel]) -> str:
    """Effective features, and those left without the largest ones, which hide the others."""
    first, *rest = peels
    told = f"effective features in natural units: {first.effective:.1f}"
    if rest:
        names = ", ".join(peel.without for peel in rest)
        told += f"; {rest[-1].effective:.1f} without {names}"
    return told


def _blocks(report: AuditReport) -> Table:
    """Each block's share of the squared norm as bars, before and after the treatment."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("block")
    table.add_column("features", justify="right")
    table.add_column("share of the norm, natural")
    scaled = report.view == "model"
    if scaled:
        table.add_column("as the model meets it")
    for block in report.blocks:
        model = [_bar(block.model)] if scaled else []
        name = _text(block.block or "-")
        table.add_row(name, str(block.features), _bar(block.natural), *model)
    return table


def _bar(share: float) -> str:
    filled = round(share * BAR / 2)
    return f"{'█' * filled}{'·' * (BAR // 2 - filled)} {share:7.2%}"


def _model(report: AuditReport, width: int) -> Table:
    """The statistics that tell failing from learning encoders, of all rows and of each slice."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("rows")
    table.add_column("", justify="right")
    named: dict[str, Statistic] = {}
    for each in report.model:
        named |= {statistic.metric: statistic for statistic in each.statistics}
    shown = [m for m in named if width >= NARROW or m in LIMITED]
    for metric in shown:
        limit = named[metric].fail if named[metric].fail is not None else named[metric].warn
        sign = ">" if named[metric].low else "<"
        table.add_column(f"{SHORT.get(metric, metric)}\n{sign} {limit:g}", justify="right")
    for each in report.model:
        found = {statistic.metric: statistic for statistic in each.statistics}
        cells = [
            _text(f"{found[m].value:.3f}", style=STYLE.get(found[m].severity, ""))
            if m in found
            else _text("-", style="dim")
            for m in shown
        ]
        table.add_row(_text(each.slice or "all"), f"{each.rows:,}", *cells)
    return table


def _list(report: AuditReport, console: Console) -> None:
    """Findings of one metric together: the worst of them, and how many there are."""
    groups = [
        list(each)
        for _, each in groupby(
            sorted(report.findings, key=_group), key=lambda f: (f.severity, f.metric, f.slice)
        )
    ]
    groups.sort(key=lambda each: (each[0].severity != "fail", -each[0].margin))
    for findings in groups[:SHOWN]:
        _told(findings, console)
    hidden = sum(map(len, groups[SHOWN:]))
    if hidden:
        console.print(
            _text(f"and {hidden} more: {groups[0][0].command.split(' --')[0]} --json", style="dim")
        )


def _group(finding: Finding) -> tuple[str, str, str, float]:
    return finding.severity, finding.metric, finding.slice, -finding.margin


def _told(findings: Sequence[Finding], console: Console, *, command: bool = True) -> None:
    worst = findings[0]
    place = f" in slice {worst.slice}" if worst.slice else ""
    several = f"{len(findings)} features, worst " if len(findings) > 1 and worst.feature else ""
    console.print(
        Text.assemble(
            (f"{worst.severity:<5}", STYLE[worst.severity]),
            (f"{worst.metric}  ", "bold"),
            _plain(f"{several}{worst.of} {worst.beyond}{place}"),
        )
    )
    console.print(Padding(_text(worst.why, style="dim"), (0, 0, 0, 5)))
    console.print(Padding(_text(f"Fix: {worst.fix}"), (0, 0, 0, 5)))
    if worst.feature and command:
        console.print(Padding(_text(worst.command, style="dim"), (0, 0, 0, 5)))


def render_feature(report: AuditReport, column: Mapping[str, Any], console: Console) -> None:
    """Prints all that was measured of one feature."""
    status = column["status"]
    console.print(
        Text.assemble(
            (_plain(f"{column['name']}  "), "bold"),
            (status.upper(), STYLE.get(status, "bold green")),
            _plain(f"  {column['unit']}") if column["unit"] else "",
        )
    )
    if column["doc"]:
        console.print(_text(f"{column['doc']}", style="dim"))
    console.print(Padding(_quantiles(column, console.width), (1, 0)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name, justify in (("check", "left"), ("value", "right"), ("warn", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # two of rich's words
    table.add_column("fail", justify="right")
    table.add_column("")
    for metric, check in column["checks"].items():
        sign = "<" if LIMITS[metric].low else ">"
        bounds = ["" if isnan(check[s]) else f"{sign} {check[s]:.3g}" for s in ("warn", "fail")]
        severity = check["severity"]
        state = _text(severity or "ok", style=STYLE.get(severity, "green"))
        table.add_row(metric, f"{check['value']:.4g}", *bounds, state)
    console.print(Padding(table, (0, 0, 1, 0)))
    for name, part in column["slices"].items():
        told = f"in {name}: {part['rows']:,.0f} rows, scale {part['scale']:.4g}"
        told += f", median {part['median']:.4g}, zeros {part['zeros']:.1%}"
        console.print(_text(told, style="dim"))
    for finding in report.findings:
        if finding.feature == column["name"]:
            _told([finding], console, command=False)
    for finding in report.repaired:
        if finding.feature == column["name"]:
            told = f"repaired: {finding.metric} {finding.beyond}, by {finding.repaired_by}"
            console.print(_text(told, style="dim"))


def _quantiles(column: Mapping[str, Any], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("quantile")
    shown = [1, 2, 4, 5, 6, 8, 9] if width >= NARROW else [2, 4, 5, 6, 8]
    for at in shown:
        table.add_column(f"{PROBABILITIES[at] * 100:g}%", justify="right")
    rows = {"natural": column["quantiles"]}
    if column["scaled"]:
        rows["scaled"] = column["scaled"]["quantiles"]
    for name, values in rows.items():
        table.add_row(name, *(f"{values[at]:.3g}" for at in shown))
    return table
