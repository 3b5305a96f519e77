"""`featurekit audit`: the scale audit of a dataset or of a file, and its gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from featurekit.audit import AuditReport


@click.command("audit")
@click.argument("what", metavar="DATASET|FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@click.option(
    "--fail-on",
    type=click.Choice(["warn", "fail"]),
    default="fail",
    show_default=True,
    help="Severity at which the command exits with 1.",
)
def command(what: Path, as_json: bool, fail_on: Literal["warn", "fail"]) -> None:
    """Audits the scale of every feature of a DATASET, or of a Parquet, Arrow or CSV FILE.

    Exits with 0 if it passes, with 1 if the gate is breached, with 2 if nothing could be judged.
    """
    report = _report(what)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        from featurekit.audit.text import render

        render(report, Console(highlight=False))
    sys.exit(int(report.breaches(fail_on)))


def _report(what: Path) -> AuditReport:
    from featurekit.audit import audit

    if what.is_dir():
        from featurekit.dataset import open_dataset

        return audit(open_dataset(what))
    import polars as pl

    from featurekit.canonical import Source
    from featurekit.sources import readable

    readers = {
        ".parquet": pl.read_parquet,
        ".arrow": pl.read_ipc,
        ".ipc": pl.read_ipc,
        ".feather": pl.read_ipc,
        ".csv": pl.read_csv,
    }
    reader = readers.get(what.suffix)
    if reader is None:
        raise ConfigError(
            Problem(
                "this is neither a dataset nor a file that can be audited",
                where=str(what),
                expected="the directory of a dataset, or " + ", ".join(readers),
            )
        )
    with readable(Source(str(what))):
        frame = reader(what)
    return audit(frame, source=str(what))
