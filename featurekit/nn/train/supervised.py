"""train: the supervised training of the encoder on the targets of a dataset."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file

from featurekit.errors import ConfigError, Problem
from featurekit.nn.health import GradientHealth
from featurekit.nn.probes import Probes
from featurekit.nn.train.board import Board
from featurekit.nn.train.checkpoint import check_free
from featurekit.nn.train.options import Options, Precision, Schedule
from featurekit.nn.train.run import Epoch, Run

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from featurekit.dataset import Dataset
    from featurekit.nn.encoder import TemporalEncoder
    from featurekit.nn.train.metrics import Metrics
    from featurekit.nn.vital_report import Health

__all__ = ["Epoch", "Training", "save", "train"]

SHOWN_EVERY = 20  # steps between two scalars of a step


@dataclass(frozen=True, slots=True)
class Training:
    """The trained encoder and head, as of the best epoch on validation, and all epochs.

    `metrics` are those of each split and phase, of the best epoch; `health` are the measurements
    since the start, or since the training went on.
    """

    encoder: TemporalEncoder
    head: nn.Linear
    epochs: tuple[Epoch, ...]
    best: int
    metrics: dict[str, dict[str, Metrics]]
    health: tuple[Health, ...] = ()


def train(
    dataset: Dataset,
    *,
    epochs: int = 5,
    window: int = 20,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    schedule: Schedule = "cosine",
    warmup: float = 0.05,
    clip: float = 0.5,
    patience: int | None = None,
    d_model: int = 128,
    dropout: float = 0.1,
    seed: int = 0,
    precision: Precision = "float32",
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    health_every: int | None = None,
    tell: Console | None = None,
) -> Training:
    """Trains an encoder and a linear head on all targets of a dataset, with Adam.

    The same options give the same weights, on the same machine to the last bit; on a CPU that
    holds for a training that was interrupted and goes on as well. In a process group of
    `torch.distributed` the ranks share each batch. The caller's random numbers are left alone.

    Args:
        dataset: With targets, and windows in train and validation.
        epochs: At most.
        window: Rows of a window.
        batch_size: Windows of a step, over all ranks.
        learning_rate: The highest.
        schedule: `cosine` falls to 0 over all epochs, `constant` stays.
        warmup: Share of the steps over which the learning rate rises from 0.
        clip: Norm to which gradients are cut.
        patience: Epochs without a better loss on validation after which it stops; None for never.
        d_model: Width of the encoder.
        dropout: In the encoder.
        seed: Of the weights, the order of windows, and dropout.
        precision: `bf16` multiplies in bfloat16 (autocast); weights and losses stay in float32.
        device: Such as cpu or cuda.
        checkpoint: File that is replaced every `checkpoint_every` steps and after each epoch.
        checkpoint_every: Steps.
        resume: Go on from the checkpoint, in the middle of an epoch too.
        tensorboard: Directory for scalars.
        health_every: Steps between two measurements of `GradientHealth`, which change nothing of
            the training; None for none.
        tell: Where to show progress and a line for each epoch.

    Raises:
        ConfigError: when the dataset has no targets, an option is out of range, or the checkpoint
            is of another training, or exists and is not to be gone on with.
        DataError: when a loss is not finite.
        DatasetError: when train or validation has no window, or the checkpoint is damaged.
        MissingExtraError: when tensorboard is asked for and not installed.
    """
    if not dataset.targets:
        raise ConfigError(
            Problem(
                "the dataset has no targets",
                where=str(dataset.path),
                fix="targets: {ret_next_5: {forward_return: 5}}",
            )
        )
    options = Options(
        epochs=epochs,
        window=window,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        clip=clip,
        patience=patience,
        d_model=d_model,
        dropout=dropout,
        seed=seed,
        precision=precision,
    )
    file = _checkpoint(checkpoint, checkpoint_every, resume=resume)
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        run = Run(dataset, options, device)
        if resume and file is not None:
            run.load(file)
        board = Board(Path(tensorboard) if tensorboard and not run.rank else None, run.step)
        health = _health(run, board, health_every) if health_every and not run.rank else None
        _run(run, file, checkpoint_every, board, health, tell if not run.rank else None)
        metrics = run.evaluate_all()
        board.close()
    model = run.model.eval()
    measured = tuple(health.history) if health else ()
    return Training(model.encoder, model.head, tuple(run.epochs), run.best_epoch, metrics, measured)


def _run(
    run: Run,
    file: Path | None,
    every: int,
    board: Board,
    health: GradientHealth | None,
    tell: Console | None,
) -> None:
    with _progress(tell) as bar:
        task = bar.add_task("training", total=run.steps, completed=run.step)
        while not run.done:
            for batch in run.loader:
                scalars = run.train_on(batch)
                if health is not None:
                    health.observe(torch.as_tensor(scalars["train/loss"]))
                if run.step % SHOWN_EVERY == 0:
                    board.write(run.step, {name: float(value) for name, value in scalars.items()})
                if file is not None and run.step % every == 0:
                    run.save(file)
                bar.update(task, completed=run.step)
            epoch = run.end_epoch()
            board.write(run.step, _scalars(epoch))
            if file is not None:
                run.save(file)
            if tell is not None:
                tell.print(_line(epoch), soft_wrap=True)
    if health is not None:
        health.close()
        if tell is not None:
            tell.print(str(health.report), soft_wrap=True)


def _health(run: Run, board: Board, every: int) -> GradientHealth:
    found = GradientHealth(
        run.model.encoder,
        run.optimizer,
        probes=Probes.from_dataset(run.dataset, run.options.window),
        every=every,
        max_norm=run.options.clip,
        writer=board.writer,
    )
    found.steps = run.step  # of a training that goes on
    return found


def save(training: Training, path: Path, **metadata: str) -> None:
    """Writes encoder and head as one safetensors file; `TemporalEncoder.load` reads the encoder."""
    told = {
        "epochs": json.dumps([asdict(epoch) for epoch in training.epochs]),
        "best": str(training.best),
        "metrics": json.dumps(_plain(training.metrics)),
    }
    training.encoder.save(path, **told, **metadata)
    with safe_open(str(path), "pt") as saved:
        head = saved.metadata()
        tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118  # no mapping
    state = training.head.state_dict()
    tensors |= {"head." + key: tensor.cpu().contiguous() for key, tensor in state.items()}
    save_file(tensors, str(path), metadata=head)


def _plain(metrics: dict[str, dict[str, Metrics]]) -> dict[str, dict[str, object]]:
    return {
        split: {phase: asdict(each) for phase, each in phases.items()}
        for split, phases in metrics.items()
    }


def _checkpoint(path: str | Path | None, every: int, *, resume: bool) -> Path | None:
    if path is None and resume:
        raise ConfigError(
            Problem(
                "there is no checkpoint to go on from",
                expected="the file of an earlier training",
                got="checkpoint=None",
                fix='checkpoint="run.safetensors", resume=True',
            )
        )
    if every < 1:
        raise ConfigError(
            Problem(
                "checkpoint_every is out of range",
                expected="1 or more",
                got=repr(every),
                fix="checkpoint_every=200",
            )
        )
    if path is not None:
        check_free(Path(path), resume=resume)
    return None if path is None else Path(path)


def _scalars(epoch: Epoch) -> dict[str, float]:
    found = {"epoch/train_loss": epoch.train_loss, "validation/loss": epoch.validation_loss}
    found |= {f"validation/{name}": score for name, score in epoch.scores.items()}
    for phase, metrics in epoch.phases.items():
        found[f"validation_{phase}/loss"] = metrics.loss
        found |= {f"validation_{phase}/{name}": score for name, score in metrics.scores.items()}
    return found


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
