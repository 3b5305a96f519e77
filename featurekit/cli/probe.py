"""`featurekit probe`: which input treatment an encoder lives under, on a dataset or a replay."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from featurekit.cli.terminal import progress


@click.command("probe")
@click.argument("dataset", required=False, type=click.Path(path_type=Path))
@click.option(
    "--reproduce",
    is_flag=True,
    help="Replay the original gradient death on a simulated stream, in place of a dataset.",
)
@click.option(
    "--inputs",
    default="raw,layer_norm,default",
    show_default=True,
    help="Input treatments; also asinh, running, linear, clip, block.",
)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(8), help="Updates.")
@click.option("--window", default=20, show_default=True, type=click.IntRange(1), help="Rows.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(2))
@click.option("--seed", default=0, show_default=True, help="Of the weights and the order.")
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw it, as an SVG file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    dataset: Path | None,
    reproduce: bool,
    inputs: str,
    steps: int,
    window: int,
    batch_size: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Trains small encoders on the targets of a DATASET under several input treatments.

    `default` is the pipeline's own. With --reproduce, which takes a minute or two, the command
    exits with 1 if the default treatment breaks a promise.
    """
    console = Console(highlight=False)
    names = [name.strip() for name in inputs.split(",") if name.strip()]
    if reproduce:
        sys.exit(_reproduce(names, plot, console, as_json=as_json))
    if dataset is None:
        raise click.UsageError("Missing argument 'DATASET'; or --reproduce.")
    from featurekit.dataset import open_dataset
    from featurekit.nn.probe import probe, to_json
    from featurekit.nn.probe_text import plot_probe, render_probe

    opened = open_dataset(dataset)
    with progress(Console(stderr=True)) as tell:
        probed = probe(
            opened,
            names,
            steps=steps,
            window=window,
            batch_size=batch_size,
            seed=seed,
            tell=tell,
        )
    if plot is not None:
        plot_probe(probed, plot)
    if as_json:
        click.echo(to_json(opened, probed))
    else:
        render_probe(probed, console)


def _reproduce(names: list[str], plot: Path | None, console: Console, *, as_json: bool) -> int:
    from featurekit.nn.probe_text import kept, plot_replays, render_replays
    from featurekit.nn.reproduce import means
    from featurekit.nn.reproduce import reproduce as replay

    with progress(Console(stderr=True)) as tell:
        replays = replay(names, tell=tell)
    found = means(replays)
    if plot is not None:
        plot_replays(replays, plot)
    if as_json:
        treatments = {name: asdict(each) for name, each in found.items()}
        click.echo(json.dumps({"treatments": treatments}))
    else:
        render_replays(replays, console)
    return int("default" in found and not all(kept(found).values()))
