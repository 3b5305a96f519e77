"""TemporalEncoder: windows in natural units to vectors, scaled in the model itself.

Axes: B windows, T rows of a window, F features, D width of the model.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import Tensor, nn

from featurekit.errors import ConfigError, Problem
from featurekit.nn.layers import AttentionPooling, TransformerLayer
from featurekit.nn.options import ACTIVATIONS, Activation, Norm, check_options, untreated
from featurekit.nn.prelude import Kind, Prelude, check_names
from featurekit.nn.saving import FORMAT, read_encoder, to_onnx, write_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from featurekit.dataset import Dataset
    from featurekit.scaling import Scaling, Squash

__all__ = ["FORMAT", "TemporalEncoder", "Window", "encoder_of"]

MAX_WINDOW = 512
SIDE = 2  # the side channel's columns: mean and log rms of a row


class Window(Protocol):
    """A batch, as far as the encoder needs one."""

    features: Tensor
    names: Sequence[str]


class TemporalEncoder(nn.Module):
    """Windows [B, T, F] in natural units to vectors [B, D].

    prelude -> squash -> layer_norm -> temporal_projection -> activation -> dropout -> position ->
    transformer layers, if any -> attention pooling. The prelude brings every feature to one scale,
    from statistics that are part of the model: training and inference cannot disagree.
    `F.layer_norm` alone does not do that (one feature of size A leaves the others 11.4/A of their
    scale); it bounds what is left.

    Args:
        n_features: F.
        d_model: D.
        prelude: `fitted` needs a scaling; `running` keeps running statistics while it trains;
            `none` leaves features as they are, and warns.
        squash: After the prelude: `asinh`, `clip` (smooth, within 3) or `none`; a fitted scaling
            says it of each feature.
        scaling: The scaling fitted on train, for `fitted`.
        features: Names of the features in order; batches are checked against them.
        norm: What `layer_norm` is taken over: the `row`, or each `block` of it first and then the
            row. Blocks of fewer than 8 features and unscaled ones are refused: of two features
            only the sign of their difference is left.
        side_channel: Mean and log rms of each row, which layer_norm takes away, as two more inputs
            of the projection.
        activation: `relu`, `gelu` or `silu`.
        dropout: After the activation, and in transformer layers.
        layers: Number of transformer layers.
        heads: Of each of them; a divisor of D.
        max_window: The longest T.

    Raises:
        ConfigError: when an option is none of these, `fitted` has no scaling, or the scaling is of
            other features.

    Example:
        >>> encoder = TemporalEncoder(5, 16, prelude="running")
        >>> encoder(torch.randn(3, 20, 5)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        n_features: int,
        d_model: int = 128,
        *,
        prelude: Kind = "fitted",
        squash: Squash = "asinh",
        scaling: Scaling | None = None,
        features: Sequence[str] = (),
        norm: Norm = "row",
        side_channel: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.1,
        layers: int = 0,
        heads: int = 4,
        max_window: int = MAX_WINDOW,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "n_features": n_features,
            "d_model": d_model,
            "prelude": prelude,
            "squash": squash,
            "norm": norm,
            "side_channel": side_channel,
            "activation": activation,
            "dropout": dropout,
            "layers": layers,
            "heads": heads,
            "max_window": max_window,
        }
        self.features = tuple(features or (scaling.names if scaling is not None else ()))
        self._blocks = check_options(self.config, scaling, self.features)
        if prelude == "none":
            warnings.warn(untreated(), stacklevel=2)
        self.prelude = Prelude(n_features, prelude, squash, scaling, self.features)
        inputs = n_features + (SIDE if side_channel else 0)
        self.temporal_projection = nn.Linear(inputs, d_model)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        # The last row of a window is the last one here, so that windows of any length share it.
        self.position = nn.Parameter(0.02 * torch.randn(max_window, d_model))
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, heads, dropout) for _ in range(layers)
        )
        self.pooling = AttentionPooling(d_model, max_window)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        d_model: int = 128,
        *,
        prelude: Kind = "fitted",
        squash: Squash = "asinh",
        **options: Any,  # noqa: ANN401  # those of TemporalEncoder
    ) -> TemporalEncoder:
        """An encoder for the features of a dataset, with the scaling that was fitted on its train.

        With `prelude="none"` it warns with what the audit measures of the dataset's rows so.

        Raises:
            ConfigError: as TemporalEncoder.
        """
        options |= {"prelude": prelude, "squash": squash, "features": dataset.names}
        if prelude == "fitted":
            options["scaling"] = dataset.scaling
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="prelude='none'")
            encoder = cls(len(dataset.names), d_model, **options)
        if prelude == "none":
            warnings.warn(untreated(dataset, squash), stacklevel=2)
        return encoder

    def forward(self, x: Tensor | Window, mask_BT: Tensor | None = None) -> Tensor:
        """Vectors [B, D] of windows [B, T, F]; `mask_BT` is false on rows that do not count.

        A window of which no row counts becomes 0.

        Raises:
            ConfigError: when the batch has other features, another order of them, or longer
                windows than `max_window`.
        """
        h_BTD = self.project(x, mask_BT)
        h_BTD = self.dropout(self.activation(h_BTD))
        h_BTD = h_BTD + self.position[len(self.position) - h_BTD.shape[1] :]
        for layer in self.layers:
            h_BTD = layer(h_BTD, mask_BT)
        pooled: Tensor = self.pooling(h_BTD, mask_BT)
        return pooled

    def project(self, x: Tensor | Window, mask_BT: Tensor | None = None) -> Tensor:
        """What temporal_projection makes of windows: [B, T, D] before the activation."""
        treated_BTF = self.treat(x, mask_BT).to(self.temporal_projection.weight.dtype)
        projected: Tensor = self.temporal_projection(treated_BTF)
        return projected

    def treat(self, x: Tensor | Window, mask_BT: Tensor | None = None) -> Tensor:
        """What the projection sees: scaled, squashed, and normalised within each row, float32.

        It has no parameters and its input needs no gradient, so none is recorded.
        """
        x_BTF = self._rows(x)
        with torch.set_grad_enabled(x_BTF.requires_grad and torch.is_grad_enabled()):
            scaled = self.prelude(x_BTF, mask_BT)
            if mask_BT is not None:  # what does not count may be a hole, and 0 times NaN is NaN
                scaled = scaled.masked_fill(~mask_BT.unsqueeze(-1), 0.0)
            treated = scaled
            if self._blocks:
                parts = treated.split(list(self._blocks), dim=-1)
                treated = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], -1)
            treated = F.layer_norm(treated, treated.shape[-1:])
            if self.config["side_channel"]:
                treated = torch.cat([treated, _side(scaled)], dim=-1)
            return treated

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes weights, statistics, names and options as one safetensors file."""
        write_encoder(self, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> TemporalEncoder:
        """Reads what `save` wrote, in eval.

        Raises:
            DatasetError: when the file is missing or is no encoder.
        """
        return read_encoder(cls, path)

    def to_onnx(self, path: str | Path, window: int = 20) -> None:
        """Writes the encoder for onnxruntime: `features` [B, T, F] in natural units to `z` [B, D].

        B may be any number when it is run, T is the window. Needs the extra `onnx`.

        Raises:
            MissingExtraError: when onnx or onnxscript is not installed.
        """
        to_onnx(self, path, window)

    def _rows(self, x: Tensor | Window) -> Tensor:
        if not isinstance(x, Tensor):
            if self.features:
                check_names(self.features, x.names, "the batch is")
            x = x.features
        if x.shape[-1] != self.config["n_features"] or x.shape[1] > self.config["max_window"]:
            raise ConfigError(
                Problem(
                    "the windows are not of the encoder's shape",
                    expected=f"[B, at most {self.config['max_window']}, "
                    f"{self.config['n_features']}]",
                    got=str(list(x.shape)),
                    fix="TemporalEncoder.from_dataset(dataset, max_window=...)",
                )
            )
        return x


def encoder_of(module: nn.Module) -> TemporalEncoder:
    """The first encoder within a module.

    Raises:
        ConfigError: when there is none.

    Example:
        >>> inner = TemporalEncoder(5, 16, prelude="running")
        >>> encoder_of(torch.nn.Sequential(inner, torch.nn.Linear(16, 1))) is inner
        True
    """
    for each in module.modules():
        if isinstance(each, TemporalEncoder):
            return each
    raise ConfigError(
        Problem(
            "there is no TemporalEncoder in this module",
            where=type(module).__name__,
            fix="self.encoder = TemporalEncoder.from_dataset(dataset)",
        )
    )


def _side(x_BTF: Tensor) -> Tensor:
    """Mean and log rms of each row, [B, T, 2]."""
    square = (x_BTF**2).mean(-1, keepdim=True)
    return torch.cat([x_BTF.mean(-1, keepdim=True), 0.5 * torch.log(square + 1e-12)], dim=-1)
