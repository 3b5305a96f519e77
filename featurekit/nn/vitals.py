"""Vital signs of a projection: what its gradient, its units and their outputs tell, as numbers.

Axes: N rows, F inputs of the projection, D its units, K features of one block.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from featurekit.nn.prelude import asinh

DORMANT = 0.025  # of the mean unit's activity (Sokar et al. 2023)
SAME = 0.9999  # absolute cosine of two columns that are one
RIDGE = 0.01  # of the rows, on the diagonal
NOISE = 0.05  # of the rms of the outputs, that information has to survive


class Zeros(NamedTuple):
    """Shares of a weight gradient [D, F] that are exactly 0.

    `structural` is that of inputs that were 0 on all rows, whatever the model; `dead` of units
    whose whole row is 0, and `scattered` the rest, both outside of the structural columns.
    """

    total: float
    structural: float
    dead: float
    scattered: float


def zeros(gradient_DF: Tensor, x_NF: Tensor | None = None) -> Zeros:
    """Where a gradient is exactly 0; without the inputs `structural` counts no column.

    Example:
        >>> zeros(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        Zeros(total=0.75, structural=0.5, dead=0.25, scattered=0.0)
    """
    none = gradient_DF == 0
    still = torch.zeros_like(none[0]) if x_NF is None else (x_NF == 0).all(0)
    live = none[:, ~still]
    dead = live.all(1)
    counts = none.sum(), still.sum() * len(none), dead.sum() * live.shape[1], live.sum()
    total, structural, rows, rest = (float(each) / none.numel() for each in counts)
    return Zeros(total, structural, rows, rest - rows)


def dormant(h_ND: Tensor) -> float:
    """Share of units whose mean absolute output is at most 2.5% of the mean unit's (ReDo).

    Example:
        >>> dormant(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        0.5
    """
    activity_D = h_ND.abs().mean(0)
    return float((activity_D <= DORMANT * activity_D.mean()).float().mean())


def effective_rank(h_ND: Tensor) -> float:
    """Exp of the entropy of the normalised singular values, over D: 1 is all directions alike.

    Example:
        >>> round(effective_rank(torch.eye(4)), 3)
        1.0
    """
    h = h_ND.double()
    singular = torch.linalg.eigvalsh(h.T @ h).clamp(min=0).sqrt()
    if not singular.sum() > 0:
        return 0.0
    share = singular[singular > 0] / singular.sum()
    return float(torch.exp(-(share * share.log()).sum())) / h.shape[1]


def duplicates(gradient_DF: Tensor) -> float:
    """Share of the columns that are not 0 whose direction another column has as well.

    Example:
        >>> duplicates(torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, -1.0]]))
        0.6666666865348816
    """
    live = gradient_DF[:, (gradient_DF != 0).any(0)]
    unit = live / live.norm(dim=0).clamp(min=1e-38)
    alike = (unit.T @ unit).abs() > SAME
    return float((alike.sum(0) > 1).float().mean()) if live.shape[1] else 0.0


def block_shares(gradient_DF: Tensor, blocks: dict[str, list[int]]) -> dict[str, float]:
    """Share of each block's inputs in the sum of squares of a gradient.

    Example:
        >>> block_shares(torch.tensor([[1.0, 3.0]]), {"a": [0], "b": [1]})
        {'a': 0.10000000149011612, 'b': 0.8999999761581421}
    """
    square_F = (gradient_DF**2).sum(0)
    total = square_F.sum().clamp(min=1e-38)
    return {name: float(square_F[columns].sum() / total) for name, columns in blocks.items()}


def questions(x_NF: Tensor) -> Tensor:
    """Features as `block_worth` asks for them: standardised, then asinh; NaN where one is constant.

    So that R2 is not that of a few extreme rows.
    """
    x = x_NF.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    known = deviation > 1e-6 * x.abs().mean(0)
    y = asinh(((x - mean) / deviation.clamp(min=1e-300)).float())
    return torch.where(known, y, torch.nan)


def block_worth(h_ND: Tensor, y_NF: Tensor, blocks: dict[str, list[int]]) -> dict[str, float]:
    """What is left of each block in the outputs: held-out ridge R2 of its features, in the mean.

    Outputs get noise of 5% of their rms. Every other row is held out. Features that are constant on
    these rows are not asked for, and a block of nothing else is not told.

    Args:
        h_ND: The outputs.
        y_NF: What `questions` made of the features of the same rows.
        blocks: Places of the features of each block.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> worth = block_worth(x[:, :1], questions(x), {"seen": [0], "unseen": [1]})
        >>> worth["seen"] > 0.9, worth["unseen"] < 0.1
        (True, True)
    """
    rms = h_ND.double().square().mean().sqrt().to(h_ND.dtype)
    h = h_ND + NOISE * rms * _noise(*h_ND.shape).to(h_ND.device)
    fit, held = slice(0, None, 2), slice(1, None, 2)
    h = (h - h[fit].mean(0)) / h[fit].std(0, correction=0).clamp(min=1e-30)
    known = ~y_NF[0].isnan()
    y = y_NF[:, known] - y_NF[fit, known].mean(0)
    gram = (h[fit].T @ h[fit]).double()
    gram.diagonal().add_(RIDGE * len(h[fit]))
    weights = torch.linalg.solve(gram, (h[fit].T @ y[fit]).double()).float()
    rest = (y[held] - h[held] @ weights).square().sum(0)
    r2 = torch.full_like(y_NF[0], torch.nan)
    r2[known] = 1.0 - rest / y[held].square().sum(0).clamp(min=1e-30)
    answered = r2.isfinite().tolist()
    return {
        name: float(r2[places].mean())
        for name, columns in blocks.items()
        if (places := [k for k in columns if answered[k]])
    }


@lru_cache(maxsize=4)
def _noise(rows: int, width: int) -> Tensor:
    return torch.randn((rows, width), generator=torch.Generator().manual_seed(0))


def blocks_of(names: tuple[str, ...], inputs: int) -> dict[str, list[int]]:
    """Places of each block's features, named `block.feature`; inputs beyond them are `side`.

    Example:
        >>> blocks_of(("a.x", "b.y", "a.z"), 4)
        {'a': [0, 2], 'b': [1], 'side': [3]}
    """
    found: dict[str, list[int]] = {}
    for k in range(inputs):
        block = names[k].split(".")[0] if k < len(names) else "side" if names else "all"
        found.setdefault(block, []).append(k)
    return found
