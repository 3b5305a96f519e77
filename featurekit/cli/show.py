"""`featurekit show`: the features of a pipeline or of a dataset."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from featurekit.feature import Feature


@click.command("show")
@click.argument("what", metavar="PIPELINE|DATASET", type=click.Path(path_type=Path))
@click.option("--generations", "listed", is_flag=True, help="List what builds of a DATASET made.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(what: Path, listed: bool, as_json: bool) -> None:
    """Shows the table of features: number, name, unit, lookback, memory and what it is."""
    if listed:
        _show_generations(what, as_json)
        return
    name, features = _features(what)
    if as_json:
        click.echo(
            json.dumps({"name": name, "features": [dataclasses.asdict(f) for f in features]})
        )
        return
    console = Console()
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(f"{name}: {len(features)} features"),
        title_justify="left",
    )
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("lookback", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    if console.width >= 100:
        table.add_column(
            "what it is",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
            max_width=console.width - 84,  # what the others leave
        )
    block = ""
    for number, feature in enumerate(features, start=1):
        if block and feature.block != block:
            table.add_section()
        block = feature.block
        row = [str(number), feature.name, feature.unit, str(feature.lookback), str(feature.memory)]
        # As text: what a name or a unit has in brackets is no markup.
        table.add_row(*map(Text, [*row, feature.doc] if console.width >= 100 else row))
    console.print(table)
    console.print(
        "lookback: rows before the first value. "
        "memory: rows after which the start of the history no longer matters.",
        style="dim",
    )


def _show_generations(root: Path, as_json: bool) -> None:
    from featurekit.dataset.generations import generations

    found = generations(root)
    if as_json:
        told = {"dataset": str(root), "generations": [each._asdict() for each in found]}
        click.echo(json.dumps(told))
        return
    table = Table(box=box.SIMPLE_HEAD, title=Text(str(root)), title_justify="left")
    table.add_column("generation", no_wrap=True)
    for name in ("rows", "symbols", "MB", "MB added"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for each in found:
        numbers = [f"{each.rows:,}", f"{each.symbols:,}"]
        numbers += [f"{size / 1e6:,.1f}" for size in (each.bytes, each.added)]
        name = f"{each.name} (current)" if each.current else each.name
        row = [name, *([""] * 4 if each.damage else numbers), each.damage or each.verdict]
        table.add_row(*map(Text, row), style="bold" if each.current else "")
    Console().print(table)


def _features(what: Path) -> tuple[str, tuple[Feature, ...]]:
    if what.is_dir():
        from featurekit.dataset import open_dataset

        return str(what), open_dataset(what).features
    if what.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            Problem(
                "this is neither a pipeline nor a dataset",
                where=str(what),
                expected="a .yaml file, or the directory of a dataset",
                fix="featurekit show pipelines/eurusd_demo.yaml",
            )
        )
    from featurekit.pipeline import Pipeline

    pipeline = Pipeline.from_yaml(what)
    return pipeline.name, pipeline.features
