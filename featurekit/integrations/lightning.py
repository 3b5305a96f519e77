"""Lightning: GradientHealth as a callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurekit.integrations.extras import missing
from featurekit.nn.encoder import encoder_of
from featurekit.nn.health import GradientHealth

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing("lightning", "lightning", error) from error

if TYPE_CHECKING:
    from torch import nn


class HealthCallback(Callback):  # type: ignore[misc]  # untyped without the extra
    """Measures the encoder of a module while it trains, and logs it to the trainer's loggers.

    Args:
        options: Those of `GradientHealth`; `max_norm` is the trainer's `gradient_clip_val` if it
            is not given.

    Attributes:
        health: The `GradientHealth`, from the start of the training on.
    """

    health: GradientHealth

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # those of GradientHealth
        self.options, self._logged = options, 0

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:  # noqa: ANN401  # as Lightning
        """Hooks the first encoder of the module.

        Raises:
            ConfigError: when there is none.
        """
        self.options.setdefault("max_norm", trainer.gradient_clip_val)
        self.health = GradientHealth(encoder_of(pl_module), trainer.optimizers[0], **self.options)

    def on_train_batch_end(
        self,
        trainer: Any,  # noqa: ANN401  # as Lightning
        pl_module: nn.Module,
        outputs: Any,  # noqa: ANN401  # what training_step returned
        *_: object,
    ) -> None:
        """Notes the loss, and logs what was measured."""
        del pl_module
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self.health.observe(loss)
        for measured in self.health.history[self._logged :]:
            scalars = {f"health/{name}": value for name, value in measured.scalars().items()}
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=measured.step)
        self._logged = len(self.health.history)

    def on_train_end(self, *_: object) -> None:
        """Removes the hooks; `health` keeps what was measured."""
        self.health.close()
