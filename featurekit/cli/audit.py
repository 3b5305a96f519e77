"""`featurekit audit`: the scale audit of a dataset or of a file, and its gate."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurekit.audit import AuditReport, Subject
    from featurekit.contract import AuditSpec


@click.command("audit")
@click.argument("what", metavar="DATASET|FILE", required=False, type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="OTHER",
    type=click.Path(path_type=Path),
    help="Compare with another dataset, file or audit.json: drift, and rows of the same time.",
)
@click.option("--feature", metavar="NAME", help="Show all that is known of one feature.")
@click.option(
    "--contract",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Limits, expectations and waivers: a YAML file, or a pipeline's own.",
)
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write the page.")
@click.option("--redact", is_flag=True, help="Leave extremes out of the page.")
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option("--github", is_flag=True, help="Print findings as annotations of GitHub Actions.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@click.option("--infer", is_flag=True, help="Print the contract that these rows keep, as YAML.")
@click.option(
    "--slack",
    type=click.FloatRange(min=0.0),
    default=0.5,
    show_default=True,
    help="How far beyond these rows an inferred contract lets others go, as a share.",
)
@click.option("--selftest", is_flag=True, help="Plant every fault in clean rows and look for it.")
@click.option(
    "--fail-on",
    type=click.Choice(["warn", "fail"]),
    help="Severity at which the command exits with 1; by default the pipeline's, or fail.",
)
def command(
    what: Path | None,
    against: Path | None,
    feature: str | None,
    contract: Path | None,
    html: Path | None,
    redact: bool,
    junit: Path | None,
    github: bool,
    as_json: bool,
    infer: bool,
    slack: float,
    selftest: bool,
    fail_on: Literal["warn", "fail"] | None,
) -> None:
    """Audits the scale of every feature of a DATASET, or of a Parquet, Arrow, CSV or numpy FILE.

    Exits with 0 if it passes, with 1 if the gate is breached, with 2 if nothing could be judged.
    """
    console = Console(highlight=False)
    if selftest:
        from featurekit.audit.selftest import selftest as run

        sys.exit(int(not run(console)))
    if what is None:
        raise click.UsageError("Missing argument 'DATASET|FILE'.")
    from featurekit.audit.outputs import feature_of, inferred, to_github, to_junit
    from featurekit.audit.text import render, render_feature

    report = _audit(what, against, contract)
    gate = fail_on or report.fail_on
    if html is not None:
        report.to_html(html, redact=redact)
    if junit is not None:
        junit.write_text(to_junit(report, gate), encoding="utf-8")
    if infer:
        click.echo(inferred(report, slack), nl=False)
        return
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif feature is not None:
        render_feature(report, feature_of(report, feature), console)
    else:
        render(report, console)
    if github:
        for line in to_github(report):
            click.echo(line, err=as_json)
    sys.exit(int(report.breaches(gate)))


def _audit(what: Path, against: Path | None, contract: Path | None) -> AuditReport:
    from featurekit.audit import audit_subject
    from featurekit.audit.compare import read_reference
    from featurekit.audit.run import reference_of
    from featurekit.contract import read_contract

    spec, slices = (None, None) if contract is None else read_contract(contract)
    subject = _subject(what, spec, slices)
    if against is None:
        return audit_subject(subject)
    subject = replace(subject, against=str(against))
    if against.suffix == ".json":
        return audit_subject(subject, read_reference(against))
    return audit_subject(subject, reference_of(_subject(against, None, None)))


def _subject(path: Path, spec: AuditSpec | None, slices: Mapping[str, str] | None) -> Subject:
    from featurekit.audit.table import read_table, table_subject

    if path.is_dir():
        from featurekit.dataset import open_dataset

        dataset = open_dataset(path)
        if slices is not None and tuple(slices) != dataset.slices:
            raise ConfigError(
                Problem(
                    "the slices of a dataset are those that it was built with",
                    where=str(path),
                    expected=", ".join(dataset.slices) or "no slices",
                    got=", ".join(slices),
                    fix="slices: in the pipeline, and featurekit build again",
                )
            )
        return dataset.subject(spec)
    return table_subject(read_table(path), source=str(path), kind="file", spec=spec, slices=slices)
