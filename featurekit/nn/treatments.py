"""Input treatments to compare: the default and the plausible ones that fail.

Axes: B windows, T rows of a window, F features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.errors import ConfigError, Problem
from featurekit.nn.encoder import TemporalEncoder
from featurekit.scaling import SQUASHES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from featurekit.nn.encoder import Window
    from featurekit.scaling import Scaling, Squash


@dataclass(frozen=True, slots=True)
class Treatment:
    """What becomes of the input: the options of an encoder, and what it is called in words.

    `squash` in place of the scaling's own, where one is given.
    """

    words: str
    prelude: str = "fitted"
    squash: Squash | None = None
    norm: str = "row"
    raw: bool = False


TREATMENTS = {
    "raw": Treatment("natural units as they are", "none", "none", raw=True),
    "layer_norm": Treatment("layer_norm alone", "none", "none"),
    "default": Treatment("the fitted scaling and its squash, then layer_norm"),
    "asinh": Treatment("asinh, then layer_norm", "none", "asinh"),
    "running": Treatment("running z-score, asinh, layer_norm", "running", "asinh"),
    "linear": Treatment("the fitted scaling without a squash, layer_norm", squash="none"),
    "clip": Treatment("the fitted scaling, smooth clip, layer_norm", squash="clip"),
    "block": Treatment("the default, and layer_norm of each block", norm="block"),
}
COMPARED = ("raw", "layer_norm", "default")


class UntreatedEncoder(TemporalEncoder):
    """An encoder that sees natural units: what a model without any treatment does."""

    def treat(self, x: Tensor | Window, mask_BT: Tensor | None = None) -> Tensor:
        """The windows as they are, float32."""
        del mask_BT
        return self._rows(x).float()


def treated(name: str, scaling: Scaling, d_model: int = 128, **options: Any) -> TemporalEncoder:  # noqa: ANN401  # those of TemporalEncoder
    """An encoder under one of `TREATMENTS`, from the weights that torch's seed gives.

    Raises:
        ConfigError: when there is no such treatment, or the blocks of `block` are too small.
    """
    check_treatments([name])
    treatment = TREATMENTS[name]
    if treatment.prelude == "fitted":
        options["scaling"] = scaling
        if treatment.squash is not None:
            code = SQUASHES.index(treatment.squash)
            squash = np.full(len(scaling.names), code, np.int8)
            options["scaling"] = replace(scaling, squash=squash)
    kind = UntreatedEncoder if treatment.raw else TemporalEncoder
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="prelude='none'")  # it is what is being shown
        return kind(
            len(scaling.names),
            d_model,
            prelude=treatment.prelude,  # type: ignore[arg-type]  # one of those there are
            squash=treatment.squash or "asinh",
            norm=treatment.norm,  # type: ignore[arg-type]  # as above
            features=scaling.names,
            **options,
        )


def check_treatments(names: Sequence[str]) -> None:
    """Compares names with those there are.

    Raises:
        ConfigError: when one of them is not.
    """
    unknown = [name for name in names if name not in TREATMENTS]
    if unknown:
        raise ConfigError(
            Problem(
                "there is no such input treatment",
                expected=", ".join(TREATMENTS),
                got=", ".join(unknown),
                fix=f"--inputs {','.join(COMPARED)}",
            )
        )
