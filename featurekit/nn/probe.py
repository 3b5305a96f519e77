"""The probe: small encoders under several input treatments, trained on a dataset's own targets.

Axes: B windows, T rows of a window, F features, K targets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.nn.health import GradientHealth
from featurekit.nn.probes import Probes, active_rows
from featurekit.nn.treatments import COMPARED, check_treatments, treated
from featurekit.nn.trial import CLIP, Record, Trial, one_thread
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from featurekit.dataset import Dataset
    from featurekit.dataset.batch import Batch
    from featurekit.nn.vital_report import Health

MEASUREMENTS = 8
HELD_OUT = 2_048  # windows of validation at most


@dataclass(frozen=True, slots=True)
class Probed:
    """One treatment: its last health, all of them, every update, and its loss by phase.

    `losses` are of windows of validation that end flat, and that end active.
    """

    treatment: str
    health: Health
    history: tuple[Health, ...]
    record: Record
    losses: dict[str, float]


def probe(
    dataset: Dataset,
    inputs: Sequence[str] = COMPARED,
    *,
    steps: int = 300,
    window: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Probed]:
    """Trains an encoder of 128 units under each treatment, on the same windows of train.

    `default` is the pipeline's own treatment. Needs a CPU and less than a minute.

    Raises:
        ConfigError: when the dataset has no targets, or there is no such treatment.
        DataError: when train has no window of this length whose features are all known.
    """
    check_treatments(inputs)
    if not dataset.targets:
        raise ConfigError(
            Problem(
                "the probe trains on targets, and the dataset has none",
                where=str(dataset.path),
                fix="targets: {ret_next_5: {forward_return: 5}}",
            )
        )
    with one_thread():
        return _probed(dataset, inputs, steps, window, batch_size, seed, tell)


def _probed(
    dataset: Dataset,
    inputs: Sequence[str],
    steps: int,
    window: int,
    batch_size: int,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> list[Probed]:
    scaling = dataset.scaling or Scaling.fit(dataset.profile("train"), ScalingSpec())
    task, active = _Task(dataset), _active(dataset)
    probes = Probes.from_dataset(dataset, window)
    every = max(steps // MEASUREMENTS, 1)
    trials, healths = {}, {}
    for name in inputs:
        torch.manual_seed(seed)
        encoder = treated(name, scaling, max_window=max(window, 32))
        trial = trials[name] = Trial(encoder, len(dataset.targets))
        healths[name] = GradientHealth(
            encoder, trial.optimizer, probes=probes, every=every, max_norm=CLIP
        )
    for step, batch in enumerate(_batches(dataset, window, batch_size, seed, steps)):
        share = float(active(batch.features).float().mean())
        for name, trial in trials.items():
            torch.manual_seed(seed * steps + step)  # of dropout: the same whatever is compared
            trial.step(batch.features, partial(task.mean, batch.targets), share)
            healths[name].observe(torch.tensor(trial.record.loss[-1]))
        tell("updates", step + 1, steps)
    held_out = _held_out(dataset, window)
    done = []
    for name, trial in trials.items():
        healths[name].close()
        losses = _losses(trial, task, held_out, active)
        history = tuple(healths[name].history) or (healths[name].measure(),)
        done.append(Probed(name, history[-1], history, trial.record, losses))
    return done


def advice(probed: Sequence[Probed]) -> str:
    """One sentence: which treatment lives, and what another one loses."""
    verdicts = {each.treatment: each.health.verdict for each in probed}
    own = next((each for each in probed if each.treatment == "default"), None)
    best = max(probed, key=lambda each: _least_worth(each.health))
    lost = [
        f"{each.treatment} leaves {_least_worth(each.health):.2f} of {_weakest(each.health)}"
        for each in probed
        if each.health.verdict == "fail" and each.health.worth
    ]
    if own is not None and verdicts["default"] != "fail":
        kept = f"{_least_worth(own.health):.2f} of {_weakest(own.health)}, its weakest block"
        others = f" ({'; '.join(lost)})" if lost else ""
        return f"Keep the pipeline's treatment: the units keep R2 {kept}{others}."
    if best.health.verdict != "fail":
        return (
            f"Train with {best.treatment}: it keeps R2 {_least_worth(best.health):.2f} of its "
            f"weakest block, and the pipeline's own treatment does not live."
        )
    return (
        "No treatment here lives on this dataset: `featurekit audit` names the features that "
        "drown the others."
    )


def to_json(dataset: Dataset, probed: Sequence[Probed]) -> str:
    """One JSON object: the health, the losses by phase and the zeros of each treatment, advice."""
    treatments = {
        each.treatment: json.loads(each.health.to_json())
        | {"losses": each.losses, "zeros": [round(share, 6) for share in each.record.zeros]}
        for each in probed
    }
    document = {
        "dataset": str(dataset.path),
        "treatments": treatments,
        "advice": advice(probed),
    }
    return json.dumps(document)


class _Task:
    """The loss of a dataset's targets: squared error of what is standardised by train, or BCE."""

    def __init__(self, dataset: Dataset) -> None:
        self.signs = [target.kind == "forward_sign" for target in dataset.targets]
        loader = dataset.loader(split="train", window=1, batch_size=4096, seed=0)
        known = next(iter(loader)).targets.double()
        self.center = known.mean(0).float()
        self.spread = known.std(0, correction=0).float().clamp(min=1e-12)

    def mean(self, targets_BK: Tensor, out_BK: Tensor) -> Tensor:
        """The mean loss of windows."""
        return self.loss(out_BK, targets_BK).mean()

    def loss(self, out_BK: Tensor, targets_BK: Tensor) -> Tensor:
        """The loss of each window [B], the mean over targets."""
        each = [
            F.binary_cross_entropy_with_logits(out_BK[:, k], targets_BK[:, k], reduction="none")
            if sign
            else (out_BK[:, k] - (targets_BK[:, k] - self.center[k]) / self.spread[k]) ** 2
            for k, sign in enumerate(self.signs)
        ]
        return torch.stack(each).mean(0)


def _active(dataset: Dataset) -> Callable[[Tensor], Tensor]:
    """Tells which windows [B, T, F] end active."""
    rows = active_rows(dataset)
    if rows is None:
        return lambda x: torch.ones(len(x), dtype=torch.bool)
    return lambda x: torch.from_numpy(rows(x[:, -1].numpy()))


def _batches(
    dataset: Dataset, window: int, batch_size: int, seed: int, steps: int
) -> Iterator[_Known]:
    """So many batches of whole windows, over as many epochs as it takes."""
    loader = dataset.loader(split="train", window=window, batch_size=batch_size, seed=seed)
    given = 0
    while given < steps:
        before = given
        for batch in loader:
            known = _known(batch)
            if len(known.features) > 1:
                yield known
                given += 1
            if given == steps:
                return
        if given == before:
            raise DataError(
                Problem(
                    f"train has no windows of {window} rows whose features are all known",
                    where=str(dataset.path),
                    fix=f"featurekit audit {dataset.path}",
                )
            )


@dataclass(frozen=True, slots=True)
class _Known:
    features: Tensor
    targets: Tensor


def _known(batch: Batch) -> _Known:
    whole = batch.features.isfinite().all(-1).all(-1) & batch.targets.isfinite().all(-1)
    return _Known(batch.features[whole], batch.targets[whole])


def _held_out(dataset: Dataset, window: int) -> _Known:
    """Windows of validation in a fixed order, mixed; of train where validation has none."""
    split = "validation" if dataset.windows("validation", window) else "train"
    loader = dataset.loader(split=split, window=window, batch_size=HELD_OUT, seed=1, shuffle=True)
    return _known(next(iter(loader)))


def _losses(
    trial: Trial, task: _Task, held_out: _Known, active: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    out = torch.from_numpy(trial.predict(held_out.features))
    loss_B = task.loss(out, held_out.targets).numpy()
    ends = active(held_out.features).numpy()
    phases = {"flat": loss_B[~ends], "active": loss_B[ends]}
    return {name: float(np.mean(each)) for name, each in phases.items() if len(each)}


def _weakest(health: Health) -> str:
    return min(health.worth, key=lambda block: health.worth[block]) if health.worth else "the rows"


def _least_worth(health: Health) -> float:
    return min(health.worth.values()) if health.worth else float("nan")
