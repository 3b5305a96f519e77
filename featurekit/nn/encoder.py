"""TemporalEncoder: windows in natural units to vectors, scaled in the model itself.

Axes: B windows, T rows of a window, F features, D width of the model.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from featurekit.errors import ConfigError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from featurekit.dataset import Dataset
    from featurekit.scaling import Scaling

Prelude = Literal["fitted", "running", "none"]
Squash = Literal["asinh", "none"]
MAX_WINDOW = 512
FORMAT = "1"


class Window(Protocol):
    """A batch, as far as the encoder needs one."""

    features: Tensor
    names: Sequence[str]


class TemporalEncoder(nn.Module):
    """Windows [B, T, F] in natural units to vectors [B, D].

    prelude -> asinh -> layer_norm -> temporal_projection -> relu -> dropout -> pooling. The
    prelude brings every feature to one scale, from statistics that are part of the model: training
    and inference cannot disagree. `F.layer_norm` alone does not do that (one feature of size A
    leaves the others 11.4/A of their scale); it bounds what is left.

    Args:
        n_features: F.
        d_model: D.
        prelude: `fitted` needs a scaling; `running` keeps running statistics while it trains;
            `none` is the original report's fix, and warns.
        squash: `asinh` after the prelude, or `none`; a fitted scaling says it of each feature.
        scaling: The scaling fitted on train, for `fitted`.
        features: Names of the features in order; batches are checked against them.
        dropout: After the activation.
        max_window: The longest T.

    Raises:
        ConfigError: when `fitted` has no scaling, or the scaling is of other features.

    Example:
        >>> encoder = TemporalEncoder(5, 16, prelude="running")
        >>> encoder(torch.randn(3, 20, 5)).shape
        torch.Size([3, 16])
    """

    center: Tensor
    scale: Tensor
    squashed: Tensor
    seen: Tensor

    def __init__(
        self,
        n_features: int,
        d_model: int = 128,
        *,
        prelude: Prelude = "fitted",
        squash: Squash = "asinh",
        scaling: Scaling | None = None,
        features: Sequence[str] = (),
        dropout: float = 0.1,
        max_window: int = MAX_WINDOW,
    ) -> None:
        super().__init__()
        _check(n_features, prelude, squash, scaling, features)
        self.prelude, self.squash = prelude, squash
        self.features = tuple(features or (scaling.names if scaling is not None else ()))
        self.config: dict[str, Any] = {
            "n_features": n_features,
            "d_model": d_model,
            "prelude": prelude,
            "squash": squash,
            "dropout": dropout,
            "max_window": max_window,
        }
        center, scale = torch.zeros(n_features), torch.ones(n_features)
        squashed = torch.full((n_features,), squash == "asinh")
        if prelude == "fitted" and scaling is not None:
            center, scale = (
                torch.from_numpy(x.astype(np.float32)) for x in (scaling.center, scaling.scale)
            )
            squashed = torch.from_numpy(scaling.squash.copy())
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        self.register_buffer("squashed", squashed)
        self.register_buffer("seen", torch.zeros(()))
        self.temporal_projection = nn.Linear(n_features, d_model)
        self.dropout = nn.Dropout(dropout)
        self.pooling = AttentionPooling(d_model, max_window)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        d_model: int = 128,
        *,
        prelude: Prelude = "fitted",
        squash: Squash = "asinh",
        dropout: float = 0.1,
    ) -> TemporalEncoder:
        """An encoder for the features of a dataset, with the scaling that was fitted on it."""
        return cls(
            len(dataset.names),
            d_model,
            prelude=prelude,
            squash=squash,
            scaling=dataset.scaling if prelude == "fitted" else None,
            features=dataset.names,
            dropout=dropout,
        )

    def forward(self, x: Tensor | Window, mask_BT: Tensor | None = None) -> Tensor:
        """Vectors [B, D] of windows [B, T, F]; `mask_BT` is false on rows that do not count.

        Raises:
            ConfigError: when the batch has other features, or another order of them.
        """
        x_BTF = self._rows(x)
        h_BTD = F.relu(self.temporal_projection(self.treat(x_BTF)))
        pooled: Tensor = self.pooling(self.dropout(h_BTD), mask_BT)
        return pooled

    def treat(self, x_BTF: Tensor) -> Tensor:
        """What the projection sees: scaled, squashed, and normalised within each row.

        It has no parameters and its input needs no gradient, so none is recorded.
        """
        with torch.no_grad():
            if self.prelude == "running" and self.training:
                self._follow(x_BTF)
            if self.prelude != "none":
                x_BTF = (x_BTF - self.center) / self.scale
            if self.prelude == "fitted":
                x_BTF = torch.where(self.squashed, torch.asinh(x_BTF), x_BTF)
            elif self.squash == "asinh":
                x_BTF = torch.asinh(x_BTF)
            return F.layer_norm(x_BTF, x_BTF.shape[-1:])

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes weights, statistics, names and options as one safetensors file."""
        head = {
            "format": FORMAT,
            "config": json.dumps(self.config),
            "features": json.dumps(self.features),
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, str(path), metadata=head | metadata)

    @classmethod
    def load(cls, path: str | Path) -> TemporalEncoder:
        """Reads what `save` wrote.

        Raises:
            DatasetError: when the file is missing or is no encoder.
        """
        try:
            with safe_open(str(path), "pt") as file:
                head = file.metadata() or {}
                if head.get("format") != FORMAT:
                    raise ValueError(f"format {head.get('format')}, not {FORMAT}")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            config, features = json.loads(head["config"]), json.loads(head["features"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it was told when the encoder was made
                made = cls(**config | {"prelude": "none"}, features=features)
            made.prelude = config["prelude"]
            made.config = config
            own = {key: t for key, t in tensors.items() if not key.startswith("head.")}
            made.load_state_dict(own)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise DatasetError(
                Problem(
                    "this is no saved encoder",
                    where=str(path),
                    expected="what encoder.save(path) wrote",
                    got=str(error)[:200],
                    fix="encoder.save(path)",
                )
            ) from error
        return made.eval()

    def _rows(self, x: Tensor | Window) -> Tensor:
        if isinstance(x, Tensor):
            return x
        if self.features and tuple(x.names) != self.features:
            pairs = zip(self.features, x.names, strict=False)
            at = next(
                (k for k, (a, b) in enumerate(pairs) if a != b),
                min(len(self.features), len(x.names)),
            )
            raise ConfigError(
                Problem(
                    "the batch has other features than the encoder",
                    where=f"feature {at + 1}",
                    expected=_at(self.features, at),
                    got=_at(x.names, at),
                    fix="TemporalEncoder.from_dataset(dataset)",
                )
            )
        return x.features

    def _follow(self, x_BTF: Tensor) -> None:
        """Moves the running mean and deviation by a batch (Chan, Golub, LeVeque 1983)."""
        rows = x_BTF.reshape(-1, x_BTF.shape[-1]).float()
        n, seen = float(len(rows)), float(self.seen)
        total = seen + n
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        step = mean - self.center
        merged = (seen * self.scale**2 if seen else 0.0) + n * variance + step**2 * seen * n / total
        self.center += step * n / total
        deviation = torch.sqrt(merged / total)
        self.scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        self.seen.fill_(min(total, 1e7))


class AttentionPooling(nn.Module):
    """Vectors [B, T, D] to one [B, D]: a weighted mean over T whose weights are learned."""

    def __init__(self, d_model: int, max_window: int, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_model, hidden)
        self.score = nn.Linear(hidden, 1)
        # Of each step back from the last row, so that windows of any length share it.
        self.step = nn.Parameter(torch.zeros(max_window))

    def forward(self, h_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """The pooled vectors [B, D]."""
        t = h_BTD.shape[1]
        score_BT = self.score(torch.tanh(self.hidden(h_BTD))).squeeze(-1) + self.step[:t].flip(0)
        if mask_BT is not None:
            score_BT = score_BT.masked_fill(~mask_BT, -torch.inf)
        return (torch.softmax(score_BT, dim=1).unsqueeze(-1) * h_BTD).sum(dim=1)


def _at(names: Sequence[str], at: int) -> str:
    return f"{names[at] if at < len(names) else 'the end'}, of {len(names)}"


def _check(
    n_features: int, prelude: str, squash: str, scaling: Scaling | None, features: Sequence[str]
) -> None:
    problems = []
    if prelude not in ("fitted", "running", "none"):
        problems.append(
            Problem(
                "there is no such prelude",
                expected="fitted | running | none",
                got=repr(prelude),
                fix='prelude="fitted"',
            )
        )
    if squash not in ("asinh", "none"):
        problems.append(
            Problem(
                "there is no such squash",
                expected="asinh | none",
                got=repr(squash),
                fix='squash="asinh"',
            )
        )
    if prelude == "fitted" and scaling is None:
        problems.append(
            Problem(
                "a fitted prelude needs the statistics it was fitted with",
                expected="scaling=dataset.scaling",
                got="no scaling",
                fix="TemporalEncoder.from_dataset(dataset)",
            )
        )
    if scaling is not None and len(scaling.names) != n_features:
        problems.append(
            Problem(
                "the scaling is of another width",
                expected=str(n_features),
                got=str(len(scaling.names)),
                fix="TemporalEncoder.from_dataset(dataset)",
            )
        )
    if scaling is not None and features and tuple(features) != scaling.names:
        problems.append(
            Problem(
                "the scaling is of other features, or of another order",
                expected=", ".join(features[:5]),
                got=", ".join(scaling.names[:5]),
                fix="TemporalEncoder.from_dataset(dataset)",
            )
        )
    if problems:
        raise ConfigError(*problems)
    if prelude == "none":
        warnings.warn(
            "prelude='none': layer_norm bounds a row but does not bring its features to one scale; "
            "one feature of size A leaves the others a deviation of 11.4/A. "
            "Fix: TemporalEncoder.from_dataset(dataset)",
            stacklevel=3,
        )
