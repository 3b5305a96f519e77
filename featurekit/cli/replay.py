"""`featurekit replay`: rows that were live, against the same rows in batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurekit.cli.terminal import progress, terminable

if TYPE_CHECKING:
    import polars as pl

    from featurekit.replay import Replay

MOST = 12  # features that are listed


@click.command("replay")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("feed", type=click.Path(path_type=Path))
@click.option("--bars", type=click.Path(path_type=Path), help="In place of the pipeline's bars.")
@click.option("--fills", type=click.Path(path_type=Path), help="In place of its fills.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    dataset: Path, feed: Path, bars: Path | None, fills: Path | None, as_json: bool
) -> None:
    """Computes the rows of a live FEED again in batch, and names the first difference.

    FEED is a Parquet file: symbol, time, and the features as a stream gave them. Exits with 1 if
    one bit differs or a row is missing.
    """
    from featurekit.dataset import open_dataset
    from featurekit.replay import replay

    opened = open_dataset(dataset)
    console = Console(stderr=True, highlight=False)
    with terminable(), progress(console) as tell:
        found = replay(opened, _read(feed), bars=bars, fills=fills, tell=tell)
    if as_json:
        click.echo(json.dumps({"dataset": str(dataset), "feed": str(feed), **found.to_dict()}))
    else:
        _print(found, feed)
    sys.exit(0 if found.same else 1)


def _read(feed: Path) -> pl.DataFrame:
    import polars as pl

    from featurekit.errors import DataError, Problem

    try:
        return pl.read_parquet(feed)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            Problem(
                "the feed cannot be read",
                where=str(feed),
                expected="a Parquet file: symbol, time and the features",
                got=str(getattr(error, "strerror", None) or error).split("\n")[0][:120],
                fix="feed.write_parquet('feed.parquet')",
            )
        ) from error


def _print(found: Replay, feed: Path) -> None:
    console = Console(highlight=False)
    verdict = ("same", "bold green") if found.same else ("different", "bold red")
    compared = f"  {feed}: {found.rows:,} rows x {found.features} features"
    if found.symbols < found.of_symbols:
        compared += f", of {found.symbols} of {found.of_symbols} symbols"
    console.print(Text.assemble(verdict, compared), soft_wrap=True)
    if found.first is not None:
        first = found.first
        apart = "" if first.ulps is None else f", {first.ulps:,} float32 apart"
        console.print(
            Text.assemble(
                "first: ",
                (first.feature, "bold"),
                f" at {first.symbol} {first.time}: live {_number(first.live)}, "
                f"batch {_number(first.batch)}{apart}",
            ),
            soft_wrap=True,
        )
        console.print(Text(found.why, style="dim"), soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("feature", no_wrap=True)
        table.add_column("rows that differ", justify="right")
        for name, count in list(found.differing.items())[:MOST]:
            table.add_row(Text(name), f"{count:,}")
        if len(found.differing) > MOST:
            table.add_row(f"and {len(found.differing) - MOST} more", "")
        console.print(table)
    for count, what, where in (
        (found.unknown, "rows of the feed without a bar", found.first_unknown),
        (found.missing, "bars without a row in the feed", found.first_missing),
    ):
        if count:
            console.print(Text(f"{what}: {count:,}, the first: {where}"), soft_wrap=True)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.9g}"
