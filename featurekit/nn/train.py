"""Trains the encoder on the targets of a dataset: `python -m featurekit.nn.train DATASET`.

Returns of markets are hard to predict: an R2 near 0 on validation is what to expect. What the run
shows is whether the encoder lives: the share of exact zeros in the projection's gradient.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from featurekit.errors import ConfigError, DataError, FeaturekitError, Problem
from featurekit.nn.encoder import FORMAT, TemporalEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurekit.dataset import Dataset
    from featurekit.dataset.batch import Batch

CLIP = 0.5


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: mean losses, gradient zeros, and on validation a score for each target.

    `gradient_zeros` is the share of exact zeros in `temporal_projection.weight.grad`, before
    clipping, over the epoch. `scores` are R2 against the mean of train for a return, and accuracy
    less that of the more frequent class for a sign.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    gradient_zeros: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """The trained encoder and head, as of the best epoch on validation, and all epochs."""

    encoder: TemporalEncoder
    head: nn.Linear
    epochs: tuple[Epoch, ...]
    best: int


def train(
    dataset: Dataset,
    *,
    epochs: int = 5,
    window: int = 20,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    d_model: int = 128,
    seed: int = 0,
    device: str = "cpu",
    tell: Console | None = None,
) -> Training:
    """Trains an encoder and a linear head on all targets of a dataset, with Adam.

    Raises:
        ConfigError: when the dataset has no targets, or the window is too long for it.
        DataError: when train or validation has no window.
    """
    if not dataset.targets:
        raise ConfigError(
            Problem(
                "the dataset has no targets",
                where=str(dataset.path),
                fix="targets: {ret_next_5: {forward_return: 5}}",
            )
        )
    torch.manual_seed(seed)
    options: dict[str, Any] = {"window": window, "batch_size": batch_size, "seed": seed}
    batches = dataset.loader(split="train", device=device, **options)
    held_out = dataset.loader(split="validation", device=device, shuffle=False, **options)
    for loader, split in ((batches, "train"), (held_out, "validation")):
        if not len(loader):
            raise DataError(
                Problem(
                    f"{split} has no window of {window} rows",
                    where=str(dataset.path),
                    expected="a window or more",
                    got="none",
                    fix="a shorter window, or splits: with other shares",
                )
            )
    targets = Targets(dataset, batches)
    encoder = TemporalEncoder.from_dataset(dataset, d_model).to(device)
    head = nn.Linear(d_model, len(dataset.targets)).to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    done: list[Epoch] = []
    best: dict[str, Tensor] = {}
    with _progress(tell) as bar:
        task = bar.add_task("training", total=epochs * len(batches))
        for number in range(1, epochs + 1):
            encoder.train()
            losses, zeros, steps = 0.0, 0.0, 0
            for batch in batches:
                optimizer.zero_grad(set_to_none=True)
                loss = targets.loss(head(encoder(batch)), batch)
                if not torch.isfinite(loss):
                    raise DataError(_hole(dataset, batch))
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
                gradient = encoder.temporal_projection.weight.grad
                assert gradient is not None  # noqa: S101  # backward() has just run
                zeros += float((gradient == 0).float().mean())
                nn.utils.clip_grad_norm_(parameters, CLIP)
                optimizer.step()
                losses, steps = losses + loss.item(), steps + 1
                bar.advance(task)
            loss_held_out, scores = _evaluate(encoder, head, targets, held_out)
            epoch = Epoch(number, losses / steps, loss_held_out, zeros / steps, scores)
            if not done or epoch.validation_loss < min(e.validation_loss for e in done):
                state = {
                    "head." + k: v for k, v in head.state_dict().items()
                } | encoder.state_dict()
                best = {key: tensor.clone() for key, tensor in state.items()}
                best_epoch = number
            done.append(epoch)
            if tell is not None:
                tell.print(_line(epoch), soft_wrap=True)
    head.load_state_dict({k.removeprefix("head."): v for k, v in best.items() if "head." in k})
    encoder.load_state_dict({k: v for k, v in best.items() if not k.startswith("head.")})
    return Training(encoder.eval(), head.eval(), tuple(done), best_epoch)


class Targets:
    """The loss and the scores of a dataset's targets, standardised by those of train."""

    def __init__(self, dataset: Dataset, batches: Sequence[Batch] | Any) -> None:  # noqa: ANN401  # a Loader
        self.names = [target.name for target in dataset.targets]
        self.is_sign = [target.kind == "forward_sign" for target in dataset.targets]
        values = torch.cat([batch.targets for batch in batches]).double()
        self.mean = values.mean(0).float()
        spread = values.std(0, correction=0).float()
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))

    def loss(self, predicted_BK: Tensor, batch: Batch) -> Tensor:
        """Mean over targets: squared error of a standardised return, cross-entropy of a sign."""
        return sum(self.each(predicted_BK, batch.targets).values()) / torch.tensor(
            float(len(self.names))
        )

    def each(self, predicted_BK: Tensor, target_BK: Tensor) -> dict[str, Tensor]:
        """The loss of each target."""
        losses = {}
        for k, name in enumerate(self.names):
            predicted, target = predicted_BK[:, k], target_BK[:, k]
            if self.is_sign[k]:
                losses[name] = F.binary_cross_entropy_with_logits(predicted, target)
            else:
                losses[name] = F.mse_loss(predicted, (target - self.mean[k]) / self.spread[k])
        return losses

    def scores(self, predicted_NK: Tensor, target_NK: Tensor) -> dict[str, float]:
        """R2 against the mean of train, or accuracy less that of the more frequent class."""
        found = {}
        for k, name in enumerate(self.names):
            predicted, target = predicted_NK[:, k].double(), target_NK[:, k].double()
            if self.is_sign[k]:
                right = ((predicted > 0) == (target > 0.5)).double().mean()
                share = (target > 0.5).double().mean()
                found[name] = float(right - torch.maximum(share, 1 - share))
            else:
                back = predicted * self.spread[k] + self.mean[k]
                rest, total = ((target - back) ** 2).sum(), ((target - self.mean[k]) ** 2).sum()
                found[name] = float(1 - rest / total) if total > 0 else 0.0
        return found


def _evaluate(
    encoder: TemporalEncoder,
    head: nn.Linear,
    targets: Targets,
    batches: Any,  # noqa: ANN401  # a Loader
) -> tuple[float, dict[str, float]]:
    encoder.eval()
    with torch.no_grad():
        pairs = [(head(encoder(batch)), batch.targets) for batch in batches]
    predicted, target = (torch.cat(each) for each in zip(*pairs, strict=True))
    losses = targets.each(predicted, target)
    return float(sum(losses.values())) / len(losses), targets.scores(predicted, target)


def _hole(dataset: Dataset, batch: Batch) -> Problem:
    bad = ~torch.isfinite(batch.features).all(dim=0).all(dim=0)
    names = [name for name, each in zip(dataset.names, bad.tolist(), strict=True) if each]
    return Problem(
        "the loss is not finite",
        where=str(dataset.path),
        got="NaN or infinity in " + ", ".join(names[:10]) if names else "finite features",
        fix=f"featurekit audit {dataset.path}",
    )


def _line(epoch: Epoch) -> str:
    scores = "  ".join(f"{name} {score:+.4f}" for name, score in epoch.scores.items())
    return (
        f"epoch {epoch.epoch:>3}  loss {epoch.train_loss:.4f}  validation "
        f"{epoch.validation_loss:.4f}  gradient zeros {epoch.gradient_zeros:.2%}  {scores}"
    )


def _progress(tell: Console | None) -> Progress:
    shown = tell is not None and tell.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=tell, transient=True, disable=not shown)


def save(training: Training, path: Path, **metadata: str) -> None:
    """Writes encoder and head as one safetensors file; `TemporalEncoder.load` reads the encoder."""
    encoder = training.encoder
    tensors = {k: t.cpu().contiguous() for k, t in encoder.state_dict().items()}
    tensors |= {"head." + k: t.cpu().contiguous() for k, t in training.head.state_dict().items()}
    head = {
        "format": FORMAT,
        "config": json.dumps(encoder.config),
        "features": json.dumps(encoder.features),
        "epochs": json.dumps([asdict(epoch) for epoch in training.epochs]),
        "best": str(training.best),
    }
    save_file(tensors, str(path), metadata=head | metadata)


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--window", default=20, show_default=True, type=click.IntRange(1), help="Rows.")
@click.option("--batch-size", default=512, show_default=True, type=click.IntRange(1))
@click.option("--learning-rate", default=1e-3, show_default=True, type=float)
@click.option("--d-model", default=128, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--out", default=Path("encoder.safetensors"), show_default=True, type=click.Path(path_type=Path)
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(dataset: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401  # those above
    """Trains the encoder on the targets of DATASET and saves it with its head."""
    from featurekit.dataset import open_dataset

    console = Console(stderr=as_json, highlight=False)
    try:
        if not out.parent.is_dir():
            raise ConfigError(
                Problem(
                    "there is no such directory", where=str(out.parent), fix=f"mkdir {out.parent}"
                )
            )
        opened = open_dataset(dataset)
        training = train(opened, tell=console, **options)
        save(training, out, dataset=opened.manifest.data_digest)
    except FeaturekitError as error:
        click.echo(f"featurekit: {error}", err=True)
        sys.exit(2)
    best = training.epochs[training.best - 1]
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "best": asdict(best)}))
        return
    console.print(f"saved {out}, as of epoch {training.best}")
    console.print(
        "Scores are of validation: R2 of a return against the mean of train, and of a sign the\n"
        "accuracy beyond the more frequent class. Near 0 is what market returns leave to learn.",
        style="dim",
    )


if __name__ == "__main__":
    main()
