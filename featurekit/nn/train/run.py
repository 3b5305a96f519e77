"""One training: what changes from step to step, on one process or as one of several."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from featurekit.errors import DataError, Problem
from featurekit.nn.encoder import TemporalEncoder
from featurekit.nn.train.checkpoint import (
    check_same,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    under,
    write_checkpoint,
)
from featurekit.nn.train.metrics import Metrics, Phases, Targets
from featurekit.splitmix import mix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from featurekit.dataset import Dataset
    from featurekit.dataset.batch import Batch
    from featurekit.dataset.loader import Loader
    from featurekit.nn.train.options import Options


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: mean losses, gradient zeros, and on validation a score for each target.

    `gradient_zeros` is the share of exact zeros in `temporal_projection.weight.grad`, before
    clipping, over the epoch. `scores` are of all of validation, `phases` of each of its phases.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    gradient_zeros: float
    scores: dict[str, float]
    phases: dict[str, Metrics]


class Predictor(nn.Module):
    """An encoder and a linear head: windows `[B, T, F]` to predictions `[B, K]`."""

    def __init__(self, encoder: TemporalEncoder, n_targets: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config["d_model"], n_targets)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Predictions, standardised for returns and logits for signs."""
        predicted_BK: Tensor = self.head(self.encoder(x_BTF))
        return predicted_BK


class Run:
    """A training of a dataset's targets with Adam; its ranks share each batch.

    What happens at a step follows from the options, the step and the rank alone, dropout included:
    a training that goes on from a checkpoint is the training that was never interrupted.
    """

    def __init__(self, dataset: Dataset, options: Options, device: str) -> None:
        self.dataset, self.options, self.device = dataset, options, torch.device(device)
        shared = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if shared else 0
        self.world_size = dist.get_world_size() if shared else 1
        self.loader = self._loader("train")
        self.held_out = self._loader("validation", shuffle=False)
        self.steps = options.epochs * len(self.loader)
        self.targets = Targets(dataset, options.window).to(device)
        self.phases = Phases(dataset)
        torch.manual_seed(options.seed)
        encoder = TemporalEncoder.from_dataset(dataset, options.d_model, dropout=options.dropout)
        self.model = Predictor(encoder, len(dataset.targets)).to(device)
        self._parallel = nn.parallel.DistributedDataParallel(self.model) if shared else self.model
        self._parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self._parameters, lr=options.learning_rate)
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, zeros, steps

    @property
    def step(self) -> int:
        """Steps done, over all epochs."""
        return self.loader.epoch * len(self.loader) + self.loader.step

    @property
    def best_epoch(self) -> int:
        """The epoch with the least loss on validation, from 1 on; 0 before the first."""
        return min(self.epochs, key=lambda each: each.validation_loss).epoch if self.epochs else 0

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or `patience` of them brought nothing."""
        patience = self.options.patience
        waited = len(self.epochs) - self.best_epoch
        return len(self.epochs) >= self.options.epochs or (
            patience is not None and waited >= patience
        )

    def train_on(self, batch: Batch) -> dict[str, float | Tensor]:
        """One step of the optimizer; what it was, as numbers that may still be on the device.

        Raises:
            DataError: when the loss is not finite.
        """
        at = self.step - 1  # the loader counts this batch as delivered
        torch.manual_seed(mix(mix(mix(self.options.seed) ^ at) ^ self.rank))
        rate = self.options.rate(at, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        # A rank's part of the mean over all ranks' windows: DistributedDataParallel takes the mean
        # over ranks, whose parts of a last batch differ in length.
        first = at % len(self.loader) * self.loader.batch_size
        windows = min(self.loader.batch_size, self.loader.windows - first)
        losses_BK = self.targets.losses(self._predict(batch), batch.targets)
        loss = losses_BK.sum() * (self.world_size / windows / losses_BK.shape[1])
        if not torch.isfinite(loss):
            raise DataError(_hole(self.dataset, batch))
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        gradient = self.model.encoder.temporal_projection.weight.grad
        assert gradient is not None  # noqa: S101  # backward() has just run
        zeros = (gradient == 0).double().mean()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.options.clip)
        self.optimizer.step()
        self._sums += torch.stack([loss.detach().double(), zeros, torch.ones_like(zeros)])
        return {
            "train/loss": loss.detach(),
            "train/gradient_zeros": zeros,
            "train/gradient_norm": norm,
            "train/learning_rate": rate,
        }

    def end_epoch(self) -> Epoch:
        """Scores validation, and keeps the weights if they are the best so far."""
        loss, zeros, steps = self._total(self._sums).tolist()
        phases = self.evaluate(self.held_out)
        everything = phases.pop("all")
        epoch = Epoch(
            len(self.epochs) + 1,
            loss / steps,
            everything.loss,
            zeros / steps,
            everything.scores,
            phases,
        )
        self.epochs.append(epoch)
        if self.best_epoch == epoch.epoch:
            self.best = {key: tensor.clone() for key, tensor in self.model.state_dict().items()}
        self._sums.zero_()
        return epoch

    def evaluate(self, batches: Loader) -> dict[str, Metrics]:
        """Metrics of a split's windows: of `all`, and of each phase that has any."""
        self.model.eval()
        shape = (len(self.phases.names), len(self.targets.names), 6)
        sums = torch.zeros(shape, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for batch in batches:
                predicted_BK = self._predict(batch, self.model)
                sums += self.targets.sums(predicted_BK, batch.targets, self.phases.of(batch))
        return self.targets.metrics(self._total(sums), self.phases.names)

    def evaluate_all(self) -> dict[str, dict[str, Metrics]]:
        """Metrics of each split that has windows, by the weights of the best epoch."""
        self.model.load_state_dict(self.best)
        return {
            split: self.evaluate(self._loader(split, shuffle=False))
            for split in ("train", "validation", "test")
            if self.dataset.windows(split, self.options.window)
        }

    def save(self, path: Path) -> None:
        """Writes a checkpoint, from the first rank."""
        sums = self._total(self._sums) / self.world_size
        if self.rank:
            return
        tensors = {"sums": sums}
        for prefix, part in (
            ("model.", self.model.state_dict()),
            ("best.", self.best),
            ("optimizer.", optimizer_tensors(self.optimizer)),
        ):
            tensors |= {prefix + name: tensor for name, tensor in part.items()}
        facts = {
            "training": self._identity(),
            "loader": self.loader.state_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        write_checkpoint(path, tensors, facts)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint, on every rank.

        Raises:
            ConfigError: when it is of other options or data.
            DatasetError: when it is missing or damaged.
        """
        tensors, facts = read_checkpoint(path)
        check_same(facts["training"], self._identity(), path)
        self.loader.load_state_dict(facts["loader"])
        self.epochs = [
            Epoch(**{**epoch, "phases": {k: Metrics(**m) for k, m in epoch["phases"].items()}})
            for epoch in facts["epochs"]
        ]
        self.model.load_state_dict(under(tensors, "model."))
        self.best = {k: tensor.to(self.device) for k, tensor in under(tensors, "best.").items()}
        restore_optimizer(self.optimizer, under(tensors, "optimizer."))
        self._sums.copy_(tensors["sums"])

    def _identity(self) -> Mapping[str, Any]:
        """What a training that goes on has to be of."""
        return {
            **asdict(self.options),
            "features": list(self.dataset.names),
            "targets": self.targets.names,
            "processes": self.world_size,
        }

    def _loader(self, split: str, *, shuffle: bool | None = None) -> Loader:
        return self.dataset.loader(
            split=split,
            window=self.options.window,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            rank=self.rank,
            world_size=self.world_size,
            device=str(self.device),
            shuffle=shuffle,
        )

    def _predict(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        half = self.options.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            predicted_BK: Tensor = (model or self._parallel)(batch.features)
        return predicted_BK.float()

    def _total(self, sums: Tensor) -> Tensor:
        """The sum over ranks."""
        total = sums.clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total


def _hole(dataset: Dataset, batch: Batch) -> Problem:
    bad = ~torch.isfinite(batch.features).all(dim=0).all(dim=0)
    names = [name for name, each in zip(dataset.names, bad.tolist(), strict=True) if each]
    return Problem(
        "the loss is not finite",
        where=str(dataset.path),
        got="NaN or infinity in " + ", ".join(names[:10]) if names else "finite features",
        fix=f"featurekit audit {dataset.path}",
    )
