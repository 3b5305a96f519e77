"""`featurekit prune`: removing the generations of a dataset that nobody needs."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("prune")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--keep", type=int, default=1, show_default=True, help="Generations that stay.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(dataset: Path, keep: int, as_json: bool) -> None:
    """Removes older generations of a DATASET: the current one stays, and with --keep some more."""
    from featurekit.dataset.generations import prune

    before = _bytes(dataset)
    removed = prune(dataset, keep)
    freed = before - _bytes(dataset)
    if as_json:
        click.echo(json.dumps({"dataset": str(dataset), "removed": removed, "bytes": freed}))
    else:
        names = ", ".join(removed) or "nothing"
        click.echo(f"{dataset}: {names} removed, {freed / 1e6:,.1f} MB freed")


def _bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
