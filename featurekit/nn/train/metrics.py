"""Losses and scores of a dataset's targets, added up over batches and ranks, by phase.

Axes: B windows, K targets, P phases, the first of which is all windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention

from featurekit.conditions import DEFAULT_SLICES, Conditions
from featurekit.document import read_yaml

if TYPE_CHECKING:
    from torch import Tensor

    from featurekit.dataset import Dataset
    from featurekit.dataset.batch import Batch

ALL = "all"
CHUNK = 65_536  # rows whose targets are read at a time


@dataclass(frozen=True, slots=True)
class Metrics:
    """Windows, their mean loss, and a score for each target.

    A score is R2 against the mean of train for a return, and for a sign the accuracy less that of
    the more frequent class; 0 is to know nothing.
    """

    windows: int
    loss: float
    scores: dict[str, float]


class Targets:
    """The targets of a dataset: returns are standardised by those of train's windows."""

    def __init__(self, dataset: Dataset, window: int) -> None:
        self.names = [target.name for target in dataset.targets]
        self._is_sign = torch.tensor([t.kind == "forward_sign" for t in dataset.targets])
        starts = range(0, dataset.rows, CHUNK)
        known = [dataset.read(at, min(at + CHUNK, dataset.rows)).targets for at in starts]
        last = dataset.starts("train", window) + window - 1
        values = torch.from_numpy(np.concatenate(known)[last]).double()
        spread = values.std(0, correction=0).float()
        self._mean = values.mean(0).float()
        self._spread = torch.where(spread > 0, spread, torch.ones_like(spread))

    def to(self, device: str) -> Targets:
        """The same, with its tensors on a device."""
        self._is_sign, self._mean, self._spread = (
            tensor.to(device) for tensor in (self._is_sign, self._mean, self._spread)
        )
        return self

    def losses(self, predicted_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Squared errors of standardised returns, cross-entropies of signs, `[B, K]`."""
        signs = F.binary_cross_entropy_with_logits(predicted_BK, target_BK, reduction="none")
        returns = (predicted_BK - (target_BK - self._mean) / self._spread) ** 2
        return torch.where(self._is_sign, signs, returns)

    def sums(self, predicted_BK: Tensor, target_BK: Tensor, phase_BP: Tensor) -> Tensor:
        """What `metrics` is made of, `[P, K, 6]`: it adds up over batches."""
        target = target_BK.double()
        back = predicted_BK.double() * self._spread + self._mean
        up = target_BK > 0.5
        parts = (
            torch.ones_like(target),
            self.losses(predicted_BK, target_BK).double(),
            (target - back) ** 2,
            (target - self._mean) ** 2,
            ((predicted_BK > 0) == up).double(),
            up.double(),
        )
        return torch.einsum("bp,bks->pks", phase_BP.double(), torch.stack(parts, -1))

    def metrics(self, sums_PK6: Tensor, phases: list[str]) -> dict[str, Metrics]:
        """The metrics of each phase that has windows."""
        found = {}
        for phase, of_phase in zip(phases, sums_PK6.tolist(), strict=True):
            windows = int(of_phase[0][0])
            if not windows:
                continue
            scores = {}
            for name, sign, (n, _, rest, total, right, ups) in zip(
                self.names, self._is_sign.tolist(), of_phase, strict=True
            ):
                explained = 1 - rest / total if total > 0 else 0.0
                scores[name] = right / n - max(ups / n, 1 - ups / n) if sign else explained
            loss = sum(each[1] for each in of_phase) / windows / len(self.names)
            found[phase] = Metrics(windows, loss, scores)
        return found


class Phases:
    """The slices of the dataset's pipeline, by which windows are told apart by their last row."""

    def __init__(self, dataset: Dataset) -> None:
        text, where = dataset.manifest.pipeline, f"the pipeline of {dataset.path}"
        slices = read_yaml(text, where)[0].get("slices") if text else None
        if slices is None:
            slices = DEFAULT_SLICES if "position.side" in dataset.names else {}
        self.names = [ALL, *slices]
        self._conditions = Conditions(slices, dataset.names, where)

    def of(self, batch: Batch) -> Tensor:
        """Which windows are of which phase, `[B, P]`, on the batch's device."""
        rows = batch.features[:, -1].float().cpu().numpy()
        bits = np.arange(len(self.names) - 1)
        code = self._conditions.of(rows)[:, None] >> bits & 1
        member = np.concatenate([np.ones((len(rows), 1), bool), code.astype(bool)], axis=1)
        return torch.from_numpy(member).to(batch.features.device)
