"""Probe batches: fixed windows, flat only and active only, on which an encoder is measured.

Axes: n windows, T rows of a window, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from featurekit.conditions import DEFAULT_SLICES, Conditions
from featurekit.document import read_yaml
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.dataset import Dataset

    Rows = NDArray[np.float32]

WINDOWS = {"flat": 16, "active": 48}  # more of them cost more than they tell
FEWEST = 8  # windows that are active throughout, or those that end active are taken
LOOKED_AT = 4_096  # windows of train, evenly spread
SIDE = "position.side"
ACTIVE = "active"

Phase = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Probes:
    """Windows [n, T, F] in natural units: flat throughout, and active throughout; None if unknown.

    Where nothing tells one from the other, all are called active.

    Example:
        >>> Probes(None, torch.zeros(4, 20, 129))
        Probes(flat=None, active=4 windows)
    """

    flat: Tensor | None
    active: Tensor | None

    def __repr__(self) -> str:
        told = ("None" if each is None else f"{len(each)} windows" for each in self.phases.values())
        return "Probes(flat={}, active={})".format(*told)

    @property
    def phases(self) -> dict[str, Tensor | None]:
        """Both, by their names."""
        return {"flat": self.flat, "active": self.active}

    @staticmethod
    def from_dataset(dataset: Dataset, window: int = 20) -> Probes:
        """Windows of train, by the slice `active`, or the first slice that the dataset has.

        Raises:
            ConfigError: when train has no window of this length.
        """
        starts = dataset.starts("train", window, targets=False)
        if not len(starts):
            raise ConfigError(
                Problem(
                    f"train has no window of {window} rows",
                    where=str(dataset.path),
                    fix="a shorter window",
                )
            )
        starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), LOOKED_AT)).astype(int)]
        rows = dataset.take((starts[:, None] + np.arange(window)).ravel())
        x = torch.from_numpy(rows.reshape(len(starts), window, -1))
        x = x[x.isfinite().all(-1).all(-1)]
        active = active_rows(dataset)
        if active is None:
            return Probes(None, _some(x, WINDOWS["active"]))
        held = torch.from_numpy(active(x.reshape(-1, x.shape[-1]).numpy())).reshape(x.shape[:2])
        flat, active_ = x[~held.any(1)], _held(x, held)
        return Probes(_some(flat, WINDOWS["flat"]), _some(active_, WINDOWS["active"]))


def active_rows(dataset: Dataset) -> Callable[[Rows], NDArray[np.bool_]] | None:
    """Tells which rows [n, F] are active: in the slice `active`, or in the dataset's first one.

    None where the dataset has no slices.
    """
    document, _ = read_yaml(dataset.manifest.pipeline, f"the pipeline of {dataset.path}")
    slices = document.get("slices") if isinstance(document, dict) else None
    if slices is None:
        slices = DEFAULT_SLICES if SIDE in dataset.names else {}
    if not slices:
        return None
    name = ACTIVE if ACTIVE in slices else next(iter(slices))
    conditions = Conditions({name: slices[name]}, dataset.names)
    return lambda rows: conditions.of(rows) > 0


def phase_of(names: Sequence[str]) -> Phase | None:
    """Tells of rows [..., F] whether a position is held, from `position.side`; None without it."""
    if SIDE not in names:
        return None
    at = list(names).index(SIDE)
    return lambda x: x[..., at] != 0


class Collector:
    """Takes the first windows of either kind out of the batches that pass by.

    Example:
        >>> collector = Collector(lambda x: x[..., 0] != 0, {"flat": 2, "active": 2})
        >>> collector.see(torch.zeros(3, 20, 5))
        >>> collector.full, collector.probes
        (False, Probes(flat=2 windows, active=None))
    """

    def __init__(self, phase: Phase | None, windows: Mapping[str, int] = WINDOWS) -> None:
        self.phase, self.windows = phase, windows
        self._kept: dict[str, list[Tensor]] = {"flat": [], "active": []}

    @property
    def full(self) -> bool:
        """Whether there are enough windows of either kind."""
        wanted = ("flat", "active") if self.phase else ("active",)
        return all(self._count(name) >= self.windows[name] for name in wanted)

    @property
    def probes(self) -> Probes:
        """What there is so far."""
        flat, active = (
            torch.cat(kept)[: self.windows[name]] if kept else None
            for name, kept in self._kept.items()
        )
        return Probes(flat, active)

    def see(self, x_nTF: Tensor) -> None:
        """Looks at a batch of windows; those of another length than the first are left out."""
        x = x_nTF.detach()
        held = self.phase(x) if self.phase else torch.ones(x.shape[:2], dtype=torch.bool)
        found = {"flat": ~held.any(1), "active": held.all(1)}
        first = next((kept[0] for kept in self._kept.values() if kept), x)
        for name, chosen in found.items():
            missing = self.windows[name] - self._count(name)
            if missing > 0 and bool(chosen.any()) and x.shape[1:] == first.shape[1:]:
                self._kept[name].append(x[chosen][:missing].float().clone())

    def _count(self, name: str) -> int:
        return sum(map(len, self._kept[name]))


def _held(x: Tensor, held: Tensor) -> Tensor:
    throughout = held.all(1)
    return x[throughout] if int(throughout.sum()) >= FEWEST else x[held[:, -1]]


def _some(x: Tensor, n: int) -> Tensor | None:
    if not len(x):
        return None
    return x[torch.linspace(0, len(x) - 1, min(len(x), n)).long()].clone()
