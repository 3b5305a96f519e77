"""The encoder in stable-baselines3: a features extractor, and what its training does to gradients.

Axes: B observations of a batch, T rows of a window, F features, D width of the encoder.
"""

from __future__ import annotations

import copy
import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from featurekit.errors import ConfigError, DatasetError, Problem
from featurekit.integrations.extras import missing
from featurekit.integrations.zeros import GradientZeros
from featurekit.nn.encoder import encoder_of as encoder_in

try:
    from gymnasium.spaces import Box
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise missing("sb3", "stable_baselines3", error) from error

if TYPE_CHECKING:
    from pathlib import Path

    import gymnasium
    from stable_baselines3.common.base_class import BaseAlgorithm
    from torch import Tensor

    from featurekit.nn import TemporalEncoder


class EncoderExtractor(BaseFeaturesExtractor):
    """Observations `[B, T, F]` in natural units to the encoder's vectors `[B, D]`.

    The encoder is copied: a policy trains one of its own, which `encoder_of(model)` gives.
    `policy_kwargs(encoder)` is all that an algorithm has to know.

    Raises:
        ConfigError: when the observations are not windows of the encoder's features.
        MissingExtraError: on import, when stable-baselines3 is not installed.

    Example:
        >>> from featurekit.nn import TemporalEncoder
        >>> encoder = TemporalEncoder(5, 16, prelude="running")
        >>> EncoderExtractor(Box(-9.0, 9.0, (20, 5)), encoder).features_dim
        16
    """

    def __init__(self, observation_space: gymnasium.Space[Any], encoder: TemporalEncoder) -> None:
        n_features, d_model = encoder.config["n_features"], encoder.config["d_model"]
        shape = observation_space.shape if isinstance(observation_space, Box) else None
        if shape is None or len(shape) != 2 or shape[1] != n_features:
            raise ConfigError(
                Problem(
                    "the observations are not windows of the encoder's features",
                    expected=f"a Box of shape (T, {n_features})",
                    got=str(observation_space if shape is None else shape),
                    fix="TemporalEncoder.from_dataset(env.dataset)",
                )
            )
        super().__init__(observation_space, features_dim=d_model)
        self.encoder = copy.deepcopy(encoder)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """The encoder's vectors `[B, D]`."""
        z_BD: Tensor = self.encoder(x_BTF)
        return z_BD


def policy_kwargs(encoder: TemporalEncoder, **others: object) -> dict[str, Any]:
    """`policy_kwargs` of an algorithm whose policy reads windows through an encoder.

    Without orthogonal initialisation, which would overwrite the weights of an encoder that was
    trained before. Use an encoder with `dropout=0`: PPO compares the probabilities of two passes,
    and dropout alone makes them differ.

    Example:
        >>> from featurekit.nn import TemporalEncoder
        >>> list(policy_kwargs(TemporalEncoder(5, 16, prelude="running"), net_arch=[64]))
        ['features_extractor_class', 'features_extractor_kwargs', 'ortho_init', 'net_arch']
    """
    return {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": encoder},
        "ortho_init": False,
        **others,
    }


class GradientZerosCallback(BaseCallback):
    """Notes the share of exact zeros in the projection's gradient after each update of the policy.

    Each entry of `log` is of one rollout and of the update that it was used for: `steps` so far,
    `gradient_zeros` before clipping, `reward` (mean of a step), `active` (share of the observations
    that end in a position) and what the algorithm recorded, such as `explained_variance`.
    `train/gradient_zeros` goes to the model's logger too.

    Args:
        active: Place of the feature that is 0 while flat, such as `position.side`; None for none.
    """

    def __init__(self, active: int | None = None) -> None:
        super().__init__()
        self._active = active
        self.log: list[dict[str, float]] = []

    def _on_training_start(self) -> None:
        self._zeros = GradientZeros(encoder_of(self.model))

    def _on_rollout_start(self) -> None:
        self._note()
        self._rewards: list[float] = []

    def _on_step(self) -> bool:
        # Here and not from the buffer, which adds what the critic expects after a truncation.
        self._rewards.append(float(self.locals["rewards"].mean()))
        return True

    def _on_rollout_end(self) -> None:
        entry = {"steps": float(self.num_timesteps), "reward": fmean(self._rewards)}
        if self._active is not None:
            observations = self.locals["rollout_buffer"].observations
            entry["active"] = float((observations[..., -1, self._active] != 0).mean())
        self.log.append(entry)

    def _on_training_end(self) -> None:
        self._note()
        self._zeros.remove()

    def _note(self) -> None:
        """The update that has just ended was made on the last rollout."""
        if not self.log or "gradient_zeros" in self.log[-1]:
            return
        self.logger.record("train/gradient_zeros", self._zeros.take())
        recorded = self.logger.name_to_value.items()
        self.log[-1] |= {
            name.removeprefix("train/"): float(value)
            for name, value in recorded
            if name.startswith("train/")
        }


def encoder_of(model: BaseAlgorithm) -> TemporalEncoder:
    """The encoder that a model's policy trains.

    Raises:
        ConfigError: when its policy has none.
    """
    return encoder_in(model.policy)


def save_policy(model: BaseAlgorithm, path: str | Path) -> None:
    """Writes the weights of a model's policy as safetensors; the model's own `save` pickles.

    `load_policy` puts them back into a model that was made the same way.
    """
    tensors = {name: t.cpu().contiguous() for name, t in model.policy.state_dict().items()}
    # One tensor has many names where the actor and the critic share an extractor.
    shared: dict[int, str] = {}
    aliases = {
        name: first
        for name, tensor in tensors.items()
        if (first := shared.setdefault(tensor.data_ptr(), name)) != name and tensor.numel()
    }
    kept = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    save_file(kept, str(path), metadata={"aliases": json.dumps(aliases)})


def load_policy(model: BaseAlgorithm, path: str | Path) -> None:
    """Puts the weights that `save_policy` wrote into a model's policy.

    Raises:
        DatasetError: when the file is missing, or is of a policy of another shape.
    """
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            aliases = json.loads((file.metadata() or {})["aliases"])
        tensors |= {name: tensors[first] for name, first in aliases.items()}
        model.policy.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DatasetError(
            Problem(
                "this is no saved policy of such a model",
                where=str(path),
                expected="what save_policy(model, path) wrote, and a model made the same way",
                got=str(error)[:200],
                fix="save_policy(model, path)",
            )
        ) from error
