"""`featurekit verify`: whether a dataset's files are what its manifest says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import Console

from featurekit.cli.terminal import progress, terminable


@click.command("verify")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Read every byte and compare its hash.")
def command(dataset: Path, full: bool) -> None:
    """Checks the files of a DATASET: sizes and headers, with --full every byte."""
    from featurekit.dataset import open_dataset

    opened = open_dataset(dataset)
    console = Console(stderr=True)
    with terminable(), progress(console) as tell:
        opened.verify(full=full, progress=partial(tell, "blocks"))
    what = "every byte" if full else "sizes and headers"
    shards = len(opened.manifest.shards)
    click.echo(f"{opened.path}: {opened.rows:,} rows in {shards} shards, {what} as written")
