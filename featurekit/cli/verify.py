"""`featurekit verify`: whether a dataset's files are what its manifest says."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Read every byte and compare its hash.")
def command(dataset: Path, full: bool) -> None:
    """Checks the files of a DATASET: sizes and headers, with --full every byte."""
    from featurekit.dataset import open_dataset

    opened = open_dataset(dataset)
    opened.verify(full=full)
    what = "every byte" if full else "sizes and headers"
    shards = len(opened.manifest.shards)
    click.echo(f"{opened.path}: {opened.rows:,} rows in {shards} shards, {what} as written")
