"""Stable-Baselines3: GradientHealth as a callback."""

from __future__ import annotations

from typing import Any

from featurekit.integrations.extras import missing
from featurekit.nn.encoder import encoder_of
from featurekit.nn.health import GradientHealth

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise missing("sb3", "stable_baselines3", error) from error


class HealthCallback(BaseCallback):
    """Measures the encoder in a policy at every so many of its updates, and records it.

    The probes are the first flat and active windows of the updates, the gradients those before
    the algorithm clips them. `model.learn(..., callback=HealthCallback(every=100))`.

    Args:
        options: Those of `GradientHealth`; `max_norm` is the algorithm's if it is not given.

    Attributes:
        health: The `GradientHealth`, from the start of the training on.

    Raises:
        ConfigError: when the training starts and the policy has no `TemporalEncoder`.
    """

    health: GradientHealth

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # those of GradientHealth
        super().__init__()
        self.options, self._recorded = options, 0

    def _on_training_start(self) -> None:
        policy = self.model.policy
        self.options.setdefault("max_norm", getattr(self.model, "max_grad_norm", None))
        self.health = GradientHealth(encoder_of(policy), policy.optimizer, **self.options)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # The updates of the rollout before: SB3 writes its record out after the next one.
        if len(self.health.history) > self._recorded:
            self._recorded = len(self.health.history)
            for name, value in self.health.report.scalars().items():
                self.logger.record(f"health/{name}", value)

    def _on_training_end(self) -> None:
        self.health.close()
