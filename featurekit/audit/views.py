"""Views of a profile: as it is in natural units, and as the model's input treatment leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featurekit.profile import Profile
    from featurekit.scaling import Scaling

F8 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class View:
    """Mean, standard deviation and robust scale (IQR/1.349) of each feature, on some rows."""

    mean: F8
    std: F8
    robust: F8

    @property
    def square(self) -> F8:
        """Mean square."""
        total: F8 = self.mean**2 + self.std**2
        return total


def natural_view(profile: Profile) -> View:
    """The profile in natural units, exact but for the quantiles."""
    spread = (profile.quantile(0.75) - profile.quantile(0.25)) / 1.349
    return View(profile.mean, profile.std, np.nan_to_num(spread))


def model_view(profile: Profile, scaling: Scaling) -> View:
    """The profile after the fitted scaling and asinh, before the row-wise layer_norm.

    It is computed on the histogram, whose bins are 1/16 wide; their middles are moved so that mean
    and standard deviation are exact before the squash.
    """
    values, weights = profile.bins()
    count = np.maximum(profile.count, 1)[:, None]
    share = weights / count
    middle = (share * values).sum(axis=1, keepdims=True)
    spread = np.sqrt((share * (values - middle) ** 2).sum(axis=1, keepdims=True))
    stretch = np.where(spread > 0, profile.std[:, None] / np.where(spread > 0, spread, 1.0), 0.0)
    moved = profile.mean[:, None] + (values - middle) * stretch
    scaled = (moved - scaling.center[:, None]) / scaling.scale[:, None]
    treated = np.where(scaling.squash[:, None], np.arcsinh(scaled), scaled)
    # A bin that nothing is in says nothing, however large its value.
    treated = np.where(weights > 0, treated, 0.0)
    mean = (share * treated).sum(axis=1)
    std = np.sqrt((share * (treated - mean[:, None]) ** 2).sum(axis=1))
    reached = np.cumsum(share, axis=1)
    rows = np.arange(len(mean))
    quartiles = [
        treated[rows, (reached < q).sum(axis=1).clip(0, values.size - 1)] for q in (0.25, 0.75)
    ]
    return View(mean, std, (quartiles[1] - quartiles[0]) / 1.349)
