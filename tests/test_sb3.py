"""The encoder in stable-baselines3: PPO trains it end to end, its weights are saved unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import featurekit as fk
from featurekit.errors import ConfigError, DatasetError
from featurekit.integrations.market import Market

if TYPE_CHECKING:
    from featurekit.nn import TemporalEncoder

sb3 = pytest.importorskip("stable_baselines3", reason="the extractor needs the extra sb3")

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"n_steps": 128, "batch_size": 64, "n_epochs": 2, "seed": 0}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    return Market(pipeline.build(out=tmp_path_factory.mktemp("sb3") / "eurusd"))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:  # noqa: ANN401  # a generator
    """Small matrices: threads cost more than they save, and the sums are then of one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(market: Market, **options: Any) -> TemporalEncoder:  # noqa: ANN401  # passed on
    torch.manual_seed(0)
    return fk.nn.TemporalEncoder.from_dataset(market.dataset, 32, dropout=0.0, **options)


def model_of(market: Market, encoder: TemporalEncoder, **options: Any) -> Any:  # noqa: ANN401
    from featurekit.integrations.gym import TradingEnv
    from featurekit.integrations.sb3 import policy_kwargs

    env = TradingEnv(market, levels=(-10.0, 0.0, 10.0), episode=200, spread_bps=0.5)
    return sb3.PPO("MlpPolicy", env, policy_kwargs=policy_kwargs(encoder), **(SMALL | options))


def test_ppo_trains_the_encoder_end_to_end(market: Market) -> None:
    from featurekit.integrations.sb3 import GradientZerosCallback, encoder_of

    encoder = small(market)
    callback = GradientZerosCallback(active=market.dataset.names.index("position.side"))
    model = model_of(market, encoder).learn(512, callback=callback)
    weight = encoder_of(model).temporal_projection.weight
    assert not torch.equal(weight, encoder.temporal_projection.weight)
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert [entry["steps"] for entry in callback.log] == [128, 256, 384, 512]
    assert all(0 <= entry["gradient_zeros"] < 0.25 for entry in callback.log)
    assert all(0.2 < entry["active"] < 1 for entry in callback.log)
    assert all(np.isfinite(entry["reward"]) for entry in callback.log)
    # The statistics are the dataset's: nothing of the training moves them.
    assert torch.equal(encoder_of(model).prelude.center, encoder.prelude.center)


def test_training_repeats(market: Market) -> None:
    one, two = (model_of(market, small(market)).learn(128) for _ in range(2))
    for name, tensor in one.policy.state_dict().items():
        torch.testing.assert_close(tensor, two.policy.state_dict()[name], rtol=0, atol=0)


def test_an_agent_learns_what_is_there_to_learn(market: Market) -> None:
    """With bars that only rise it has to hold them: the account is all that changes hands."""
    from featurekit.integrations.gym import TradingEnv

    rising = Market(market.dataset)
    for tape in rising.tapes.values():
        tape.prices[:] = 1.1 * np.exp(1e-3 * np.arange(len(tape.prices)))[:, None]
    encoder = small(market)
    model = model_of(market, encoder, learning_rate=1e-3, gamma=0.9)
    model.set_env(model.env.__class__([lambda: TradingEnv(rising, levels=(-10.0, 0.0, 10.0))]))
    model.learn(2_048)
    env = TradingEnv(rising, levels=(-10.0, 0.0, 10.0), episode=100)
    observation, _ = env.reset(seed=0)
    actions = []
    for _ in range(100):
        action, _ = model.predict(observation, deterministic=True)
        actions.append(int(action))
        observation, *_ = env.step(int(action))
    assert np.mean(np.array(actions) == 2) > 0.9


def test_a_policy_is_saved_without_pickle(market: Market, tmp_path: Path) -> None:
    from featurekit.integrations.sb3 import encoder_of, load_policy, save_policy

    model = model_of(market, small(market)).learn(128)
    save_policy(model, tmp_path / "policy.safetensors")
    other = model_of(market, small(market))
    load_policy(other, tmp_path / "policy.safetensors")
    observation = torch.from_numpy(market.dataset.take(np.arange(20)))[None]
    for name, tensor in model.policy.state_dict().items():
        torch.testing.assert_close(tensor, other.policy.state_dict()[name], rtol=0, atol=0)
    encoder_of(other).save(tmp_path / "encoder.safetensors")
    loaded = fk.nn.TemporalEncoder.load(tmp_path / "encoder.safetensors")
    expected = encoder_of(model).eval()(observation)
    torch.testing.assert_close(loaded(observation), expected, rtol=0, atol=0)
    with pytest.raises(DatasetError, match="no saved policy"):
        load_policy(other, tmp_path / "encoder.safetensors")
    with pytest.raises(DatasetError, match="no saved policy"):
        load_policy(other, tmp_path / "missing.safetensors")


def test_weights_of_a_trained_encoder_are_kept(market: Market) -> None:
    from featurekit.integrations.sb3 import encoder_of

    encoder = small(market)
    own = encoder_of(model_of(market, encoder))
    assert own is not encoder
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], tensor, rtol=0, atol=0)


def test_mistakes_are_told(market: Market) -> None:
    from featurekit.integrations.gym import TradingEnv
    from featurekit.integrations.sb3 import encoder_of

    with pytest.raises(ConfigError, match="not windows of the encoder's features"):
        model_of(market, fk.nn.TemporalEncoder(5, 16, prelude="running"))
    with pytest.raises(ConfigError, match="no TemporalEncoder in this module"):
        encoder_of(sb3.PPO("MlpPolicy", TradingEnv(market), **SMALL))
