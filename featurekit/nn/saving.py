"""Encoders as files: safetensors to go on with, ONNX to serve."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from featurekit.errors import DatasetError, FeaturekitError, MissingExtraError, Problem
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from featurekit.nn.encoder import TemporalEncoder

    Encoder = TypeVar("Encoder", bound=TemporalEncoder)

FORMAT = "2"


def write_encoder(encoder: TemporalEncoder, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Writes weights, statistics, names and options as one safetensors file."""
    head = {
        "format": FORMAT,
        "config": json.dumps(encoder.config),
        "features": json.dumps(encoder.features),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, str(path), metadata=head | dict(metadata))


def read_encoder(kind: type[Encoder], path: str | Path) -> Encoder:
    """Reads what `write_encoder` wrote, or a training that holds an encoder and a `head`.

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
        made = _unfitted(kind, config, features)
        made.load_state_dict({k: t for k, t in tensors.items() if not k.startswith("head.")})
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
        FeaturekitError,
    ) as error:
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


def _unfitted(kind: type[Encoder], config: Mapping[str, object], features: list[str]) -> Encoder:
    """An encoder whose statistics are still to be loaded."""
    width = int(str(config["n_features"]))
    names = tuple(features) or tuple(f"x{k}" for k in range(width))
    empty = Scaling(names, np.zeros(width), np.ones(width), np.zeros(width, np.int8))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="prelude='none'")  # told when it was made
        return kind(
            **config,  # type: ignore[arg-type]  # as it was made
            features=features,
            scaling=empty if config["prelude"] == "fitted" else None,
        )


def to_onnx(encoder: TemporalEncoder, path: str | Path, window: int) -> None:
    """Writes the encoder in eval as ONNX: `features` [B, window, F] to `z` [B, D], any B.

    Raises:
        MissingExtraError: when onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401  # the exporter's own message names no extra
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            Problem(
                "an encoder is exported with onnx and onnxscript",
                where="encoder.to_onnx(path)",
                expected="the extra 'onnx'",
                got=str(error),
                fix='pip install "featurekit[onnx]"',
            )
        ) from error
    training = encoder.training
    example = torch.zeros(2, window, int(encoder.config["n_features"]))
    encoder.eval()
    try:
        # The exporter tells its progress, and warns of its own parts that will be renamed.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                encoder,
                (example,),
                str(path),
                input_names=["features"],
                output_names=["z"],
                dynamic_shapes={"x": {0: torch.export.Dim("B")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        encoder.train(training)
