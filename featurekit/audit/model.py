"""The model view: what predicted a failed training, on rows as the encoder's input leaves them.

A model learns nothing from a feature that the rest drowns at its projection. These statistics told
failing from learning encoders before the first step of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurekit.audit.views import F4, F8, finite_rows, layer_norm, moments
from featurekit.splitmix import STEP, mix_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNITS = 512  # random hidden units whose firing is looked at
BIASED = 4  # features: of fewer, what a unit does is its bias
FIRING_ROWS = 4_096  # rows that they are looked at on
SPECTRUM_ROWS = 8_192  # that a spectrum and correlations are taken of
SPECTRUM_FEATURES = 1_024  # of more, a spectrum costs more than it tells
STARVED = 0.1  # of the rms of the rows: a smaller deviation gets no say


@dataclass(frozen=True, slots=True)
class ModelView:
    """Rows as the first layer gets them, and the statistics of them.

    `shares` and `centred` [F] are of the mean square and of the variance; `weakest` and `largest`
    name the block and the feature that `weakest_block` and `dominance` are of. None where it
    cannot be said.
    """

    rows: int
    shares: F8
    centred: F8
    row_share: F8
    weakest_block: float | None
    weakest: str
    dominance: float
    largest: int
    starved: float
    offset: float
    entropy_rank: float | None
    dead_units: float | None
    squash: float


def model_view(treated: F4, blocks: NDArray[np.str_], *, norm: bool) -> ModelView | None:
    """The model view of rows [n, F] after scaling and squash; `norm` if layer_norm follows.

    A block that is constant on these rows, as positions are while flat, is not judged. None when
    no row is without a hole, or nothing varies.
    """
    before = finite_rows(treated)
    if not len(before):
        return None
    after = layer_norm(before) if norm else before
    mean, std = moments(after)
    _, std_before = moments(before)
    alive = np.isin(blocks, np.unique(blocks[std_before > 0.0]))
    variance, square = np.where(alive, std**2, 0.0), np.where(alive, mean**2 + std**2, 0.0)
    total = float(variance.sum())
    if not total > 0.0:
        return None
    named = np.unique(blocks[alive])
    by_block = [float(variance[blocks == block].sum()) / total for block in named]
    weakest = int(np.argmin(by_block))
    shares = square / square.sum()
    root = np.sqrt(square.sum() / alive.sum())
    offset = np.where(alive, mean, 0.0)
    moved = std_before > 0.0
    return ModelView(
        rows=len(after),
        shares=shares,
        centred=variance / total,
        row_share=_row_share(after),
        weakest_block=by_block[weakest] if len(named) > 1 else None,
        weakest=str(named[weakest]),
        dominance=float(shares.max()),
        largest=int(shares.argmax()),
        starved=float((std[alive] < STARVED * root).mean()),
        offset=float(np.sqrt((offset**2).sum() / total)),
        entropy_rank=_entropy_rank(after),
        dead_units=_dead_units(after) if after.shape[1] >= BIASED else None,
        # How many times smaller layer_norm makes the spread of the feature in the middle.
        squash=float(np.median(std_before[moved] / np.maximum(std[moved], 1e-30))) if norm else 1.0,
    )


def _row_share(rows: F4) -> F8:
    square = rows.astype(np.float64) ** 2
    total = square.sum(axis=1, keepdims=True)
    share: F8 = np.divide(square, total, out=np.zeros_like(square), where=total > 0).mean(axis=0)
    return share


def _entropy_rank(rows: F4) -> float | None:
    """Exp of the entropy of the normalised singular values: as many directions as are in use.

    None of fewer rows than four a feature, which span too little to tell.
    """
    width = rows.shape[1]
    if len(rows) < 4 * width or width > SPECTRUM_FEATURES:
        return None
    some = rows[:SPECTRUM_ROWS]
    wide = some.astype(np.float64) / max(float(np.abs(some).max()), 1e-300)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(wide.T @ wide), 0.0))
    share = singular[singular > 0.0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _dead_units(rows: F4) -> float:
    """Share of random Linear + ReLU units that fire on fewer than 1% of the rows."""
    some = rows[:FIRING_ROWS]
    width = rows.shape[1]
    bits = mix_all(np.arange(UNITS * (width + 1), dtype=np.uint64) * np.uint64(STEP))
    # torch's default: uniform within 1/sqrt(F), weights and bias alike.
    uniform = (bits.astype(np.float64) / 2.0**63 - 1.0) / np.sqrt(width)
    weights = uniform.reshape(UNITS, width + 1).astype(np.float32)
    largest = np.float32(max(float(np.abs(some).max()), 1.0))  # so that 1e38 does not overflow
    fires = (some / largest) @ weights[:, :width].T + weights[:, width] / largest > 0.0
    return float((fires.mean(axis=0) < 0.01).mean())
