"""GradientHealth in the loops of Lightning and Stable-Baselines3, on simulated windows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from featurekit.errors import ConfigError, MissingExtraError
from featurekit.nn import TemporalEncoder
from featurekit.nn.encoder import encoder_of

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [*(f"market.x{k}" for k in range(7)), "position.side"]


def windows(n: int = 64) -> torch.Tensor:
    x = torch.randn(n, 10, 8, generator=torch.Generator().manual_seed(0))
    x[..., 7] = (torch.arange(n) % 2).float()[:, None]
    return x


def encoder() -> TemporalEncoder:
    return TemporalEncoder(8, 16, prelude="running", features=NAMES, max_window=10)


@pytest.mark.filterwarnings("ignore")  # Lightning's own: loggers, workers, deprecated parts
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    from featurekit.integrations.lightning import HealthCallback

    class Model(lightning.LightningModule):  # type: ignore[misc]  # untyped without the extra
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder()

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return self.encoder(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    class Logger(lightning.loggers.CSVLogger):  # type: ignore[misc]  # as above
        seen: list[tuple[int, set[str]]] = []  # noqa: RUF012  # one test

        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            self.seen.append((step or 0, set(metrics)))

    callback = HealthCallback(every=4)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        gradient_clip_val=0.5,
        logger=Logger(tmp_path),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.TensorDataset(windows())
    trainer.fit(Model(), torch.utils.data.DataLoader(data, batch_size=16))
    assert [each.step for each in callback.health.history] == [4, 8]
    assert callback.health.report.values["norm_over_clip"] is not None
    logged = [step for step, names in Logger.seen if "health/dormant_active" in names]
    assert logged == [4, 8]


@pytest.mark.filterwarnings("ignore")  # of gymnasium and SB3
def test_stable_baselines3() -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra sb3")
    gymnasium = pytest.importorskip("gymnasium", reason="needs the extra sb3")
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    from featurekit.integrations.health_sb3 import HealthCallback

    class Extractor(BaseFeaturesExtractor):  # type: ignore[misc]  # untyped without the extra
        def __init__(self, space: Any) -> None:  # noqa: ANN401  # a gymnasium space
            super().__init__(space, 16)
            self.encoder = encoder()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x)

    class World(gymnasium.Env):  # type: ignore[misc]  # as above
        observation_space = gymnasium.spaces.Box(-10, 10, (10, 8))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, **_: object) -> tuple[Any, dict[str, object]]:
            self.at = 0
            return windows()[0].numpy(), {}

        def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, object]]:
            self.at += 1
            return windows()[self.at].numpy(), float(action), self.at == 60, False, {}

    model = sb3.PPO(
        "MlpPolicy",
        World(),
        n_steps=64,
        batch_size=16,
        n_epochs=2,
        seed=0,
        policy_kwargs={"features_extractor_class": Extractor},
    )
    # Rollouts go through the encoder before it has learnt any statistics: PPO acts in eval.
    encoder_of(model.policy).prelude.follow(windows())
    callback = HealthCallback(every=8)
    model.learn(192, callback=callback)
    assert [each.step for each in callback.health.history] == [8, 16, 24]
    values = callback.health.report.values
    assert values["zeros_active"] is not None
    assert values["zeros_flat"] is not None
    assert values["norm_over_clip"] is not None


@pytest.mark.parametrize(
    ("module", "hidden", "extra"),
    [("lightning", "lightning.pytorch", "lightning"), ("health_sb3", "stable_baselines3", "sb3")],
)
def test_a_missing_extra_is_named(
    module: str, hidden: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith(hidden)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    monkeypatch.delitem(sys.modules, f"featurekit.integrations.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"featurekit\[{extra}\]"):
        __import__(f"featurekit.integrations.{module}")


def test_a_module_without_an_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no TemporalEncoder"):
        encoder_of(torch.nn.Linear(1, 1))
