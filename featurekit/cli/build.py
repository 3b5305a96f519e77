"""`featurekit build`: bars and fills into a dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.text import Text

from featurekit.cli.terminal import on_bad, progress, terminable

if TYPE_CHECKING:
    from featurekit.build import Build


@click.command("build")
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Directory; build/NAME by default.")
@on_bad
@click.option("--resplit", is_flag=True, help="Cut the splits and fit the scaling anew.")
@click.option(
    "--verify",
    type=click.Choice(["size", "full"]),
    default="size",
    show_default=True,
    help="How to look for damage in what is there already.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    pipeline: Path,
    out: Path | None,
    on_bad: Literal["fail", "quarantine"],
    resplit: bool,
    verify: Literal["size", "full"],
    as_json: bool,
) -> None:
    """Builds the dataset of a PIPELINE file, or adds to it what is new.

    Exits with 1 when the audit's gate is breached (the dataset is there all the same), with 2 when
    nothing could be built.
    """
    from featurekit.audit.report import BREACH
    from featurekit.build import build
    from featurekit.pipeline import Pipeline

    parsed = Pipeline.from_yaml(pipeline)
    console = Console(stderr=True)
    with terminable(), progress(console) as tell:
        built = build(parsed, out=out, on_bad=on_bad, resplit=resplit, verify=verify, progress=tell)
    for note in built.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    if as_json:
        click.echo(json.dumps(_summary(built)))
    else:
        _print(built)
    sys.exit(int(built.verdict in BREACH[parsed.audit.fail_on]))


def _summary(built: Build) -> dict[str, object]:
    dataset = built.dataset
    return {
        "dataset": str(dataset.path),
        "rows": dataset.rows,
        "features": len(dataset.features),
        "symbols": len(dataset.symbols),
        "windows": sum(split.windows for split in dataset.splits.values()),
        "quarantined": built.quarantined,
        "verdict": built.verdict,
        "up_to_date": built.up_to_date,
        "seconds": round(built.seconds, 3),
    }


def _print(built: Build) -> None:
    from featurekit.audit.text import render

    dataset = built.dataset
    console = Console(highlight=False)
    if built.report is None:
        console.print(
            Text.assemble(
                (str(dataset.path), "bold"),
                f"  up to date: {dataset.rows:,} rows of {dataset.generation.name}, "
                f"verdict {built.verdict}, {built.seconds:.1f} s",
            ),
            soft_wrap=True,
        )
        return
    # As text: what a path has in brackets is no markup.
    console.print(
        Text.assemble(
            (str(dataset.path), "bold"),
            f"  {dataset.rows:,} rows x {len(dataset.features)} features, "
            f"{len(dataset.symbols)} symbol{'s' if len(dataset.symbols) != 1 else ''}, "
            f"{built.seconds:.1f} s",
        ),
        soft_wrap=True,
    )
    for name, split in dataset.splits.items():
        console.print(f"  {name:<11} {split.rows:>10,} rows {split.windows:>10,} windows of 20")
    if built.quarantined:
        aside = f"  {built.quarantined:,} rows set aside in {dataset.generation}/quarantine"
        console.print(Text(aside), soft_wrap=True)
    console.print()
    render(built.report, console)
    page = dataset.generation / "report.html"
    console.print(Text(f"the page of all of it: {page}", style="dim"), soft_wrap=True)
