"""`python -m featurekit.nn.train DATASET`: a training on the command line, alone or by torchrun."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from featurekit.errors import ConfigError, FeaturekitError, Problem
from featurekit.nn.train.supervised import save, train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurekit.nn.train.supervised import Training

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("dataset", type=PATH)
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1), help="At most.")
@click.option("--window", default=20, show_default=True, type=click.IntRange(1), help="Rows.")
@click.option(
    "--batch-size",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="Windows of a step, over all processes.",
)
@click.option("--learning-rate", default=1e-3, show_default=True, type=float, help="The highest.")
@click.option(
    "--schedule",
    default="cosine",
    show_default=True,
    type=click.Choice(["cosine", "constant"]),
    help="Of the learning rate, after the warm-up.",
)
@click.option(
    "--warmup", default=0.05, show_default=True, type=float, help="Share of the steps it rises."
)
@click.option(
    "--patience", type=click.IntRange(1), help="Epochs without a better validation, then it stops."
)
@click.option("--d-model", default=128, show_default=True, type=click.IntRange(1))
@click.option("--dropout", default=0.1, show_default=True, type=float)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16"])
)
@click.option("--checkpoint", type=PATH, help="File to go on from after an interruption.")
@click.option(
    "--checkpoint-every", default=200, show_default=True, type=click.IntRange(1), help="Steps."
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option("--tensorboard", type=PATH, help="Directory for scalars.")
@click.option(
    "--health-every", type=click.IntRange(1), help="Steps between measurements of GradientHealth."
)
@click.option("--out", default=Path("encoder.safetensors"), show_default=True, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(dataset: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401  # those above
    """Trains the encoder on the targets of DATASET and saves it with its head.

    \b
    torchrun --nproc-per-node 2 -m featurekit.nn.train DATASET

    shares each batch among processes, on the CPU or on a GPU each.
    """  # noqa: D301  # click's mark of lines that stay as they are
    from featurekit.dataset import open_dataset

    console = Console(stderr=as_json, highlight=False)
    try:
        if not out.parent.is_dir():
            raise ConfigError(
                Problem(
                    "there is no such directory", where=str(out.parent), fix=f"mkdir {out.parent}"
                )
            )
        with _process_group(options["device"]) as (rank, device):
            opened = open_dataset(dataset)
            training = train(opened, tell=console, **options | {"device": device})
            if rank == 0:
                save(training, out, dataset=opened.manifest.data_digest)
    except FeaturekitError as error:
        click.echo(f"featurekit: {error}", err=True)
        sys.exit(2)
    if rank == 0:
        _print(training, out, console, as_json=as_json)


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, str]]:
    """The rank and device of this process, in the group that torchrun has described, if it has."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, device
        return
    on_gpu = device.startswith("cuda")
    dist.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    try:
        yield dist.get_rank(), device
        dist.barrier()  # none leaves while another still works
    finally:
        dist.destroy_process_group()


def _print(training: Training, out: Path, console: Console, *, as_json: bool) -> None:
    best = training.epochs[training.best - 1]
    metrics = {
        split: {phase: asdict(each) for phase, each in phases.items()}
        for split, phases in training.metrics.items()
    }
    if as_json:
        told = {"checkpoint": str(out), "best": asdict(best), "metrics": metrics}
        if training.health:
            told["health"] = json.loads(training.health[-1].to_json())
        click.echo(json.dumps(told))
        return
    console.print(f"saved {out}, as of epoch {training.best} of {len(training.epochs)}")
    table = Table("split", "phase", "windows", "loss", *best.scores, box=None, pad_edge=False)
    for split, phases in training.metrics.items():
        for phase, each in phases.items():
            scores = [f"{score:+.4f}" for score in each.scores.values()]
            table.add_row(split, phase, f"{each.windows:,}", f"{each.loss:.4f}", *scores)
    console.print(table)
    console.print(
        "Scores: R2 of a return against the mean of train, and of a sign the accuracy beyond\n"
        "the more frequent class. Near 0 is what market returns leave to learn.",
        style="dim",
        soft_wrap=True,
    )
