"""What decides the numbers of a training; a checkpoint goes on only with the same."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Literal

from featurekit.errors import ConfigError, Problem

Precision = Literal["float32", "bf16"]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `train`, which says what each is.

    Raises:
        ConfigError: when one is out of range.

    Example:
        >>> options = Options(epochs=2, learning_rate=1e-3, warmup=0.1)
        >>> [round(options.rate(step, steps=100), 6) for step in (0, 9, 54, 99)]
        [0.0001, 0.001, 0.000517, 0.0]
    """

    epochs: int = 5
    window: int = 20
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    clip: float = 0.5
    patience: int | None = None
    d_model: int = 128
    dropout: float = 0.1
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        ranges = [
            ("epochs", self.epochs >= 1, "1 or more"),
            ("learning_rate", self.learning_rate > 0 and isfinite(self.learning_rate), "above 0"),
            ("schedule", self.schedule in ("cosine", "constant"), "cosine | constant"),
            ("warmup", 0 <= self.warmup < 1, "a share of the steps, 0 to 1"),
            ("clip", self.clip > 0, "above 0; inf does not clip"),
            ("patience", self.patience is None or self.patience >= 1, "1 or more, or None"),
            ("d_model", self.d_model >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout < 1, "a share, 0 to 1"),
            ("precision", self.precision in ("float32", "bf16"), "float32 | bf16"),
        ]
        problems = [
            Problem(
                f"{name} is out of range",
                expected=expected,
                got=repr(getattr(self, name)),
                fix=f"{name}={Options.__dataclass_fields__[name].default!r}",
            )
            for name, fits, expected in ranges
            if not fits
        ]
        if problems:
            raise ConfigError(*problems)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step of `steps`: a line up, then half a cosine towards 0."""
        rising = int(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + cos(pi * (step - rising) / (steps - rising))) / 2
