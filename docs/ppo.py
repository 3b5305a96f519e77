"""Trains PPO on the bundled EURUSD hours, with raw input and with the default treatment.

    python docs/ppo.py train    # docs/ppo.json: twenty minutes on one core
    python docs/ppo.py draw     # docs/ppo.svg, from the log, and its numbers

PPO with the defaults of stable-baselines3, an encoder of width 128 without dropout, windows of 20
rows of 129 features, episodes of 1,000 bars of the train split, three seeds. The agent is short,
flat or long with ten times its equity, and pays half a basis point of spread.

`raw` gives the projection natural units, `layer_norm` only normalises them within each row, and
`default` is the fitted scaling, asinh and layer_norm. The policy's own two layers are tanh, as is
the default of stable-baselines3, or ReLU.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from stable_baselines3 import PPO
from torch import nn

import featurekit as fk
from featurekit.integrations.gym import TradingEnv
from featurekit.integrations.market import Market
from featurekit.integrations.sb3 import GradientZerosCallback, encoder_of, policy_kwargs
from featurekit.nn import plot
from featurekit.nn.treatments import COMPARED, treated

ROOT = Path(__file__).parents[1]
LOG, PICTURE = ROOT / "docs" / "ppo.json", ROOT / "docs" / "ppo.svg"
STEPS, SEEDS = 30_720, (0, 1, 2)
POLICIES = {"tanh": nn.Tanh, "relu": nn.ReLU}
NAMES = {"tanh": "tanh", "relu": "ReLU"}
TRADING: dict[str, Any] = {"levels": (-10.0, 0.0, 10.0), "spread_bps": 0.5}
DORMANT = 0.025  # of the mean activation, as in ReDo (Sokar et al. 2023)

Run = dict[str, Any]


class Log(GradientZerosCallback):
    """Adds the share of units that rest on the rollout's rows in a position."""

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        windows = self.locals["rollout_buffer"].observations[:, 0]
        held = torch.from_numpy(windows[windows[:, -1, self._active] != 0])
        with torch.no_grad():
            h_D = torch.relu(encoder_of(self.model).project(held)[:, -1]).mean(0)
        self.log[-1]["dormant_active"] = float((h_D <= DORMANT * h_D.mean()).float().mean())


def train() -> None:
    """Trains under every treatment, policy and seed, and writes the log after each."""
    torch.set_num_threads(1)  # small matrices, and the same sums on every machine
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as directory:
        pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
        market = Market(pipeline.build(Path(directory) / "eurusd"))
        for seed, policy, treatment in itertools.product(SEEDS, POLICIES, COMPARED):
            runs.append(one_run(market, policy, treatment, seed))
            sys.stderr.write(f"{policy} {treatment} seed {seed}: {runs[-1]['seconds']} s\n")
            lines = ",\n".join(json.dumps(run) for run in runs)
            LOG.write_text(f'{{"steps": {STEPS}, "runs": [\n{lines}\n]}}\n')


def one_run(market: Market, policy: str, treatment: str, seed: int) -> Run:
    """Trains one agent on train, and lets it trade all of validation once."""
    torch.manual_seed(seed)
    assert market.dataset.scaling is not None  # noqa: S101  # the demo has one
    encoder = treated(treatment, market.dataset.scaling, dropout=0.0)
    callback = Log(active=market.dataset.names.index("position.side"))
    kwargs = policy_kwargs(encoder, activation_fn=POLICIES[policy])
    model = PPO("MlpPolicy", TradingEnv(market, **TRADING), seed=seed, policy_kwargs=kwargs)
    started = time.perf_counter()
    model.learn(STEPS, callback=callback)
    seconds = time.perf_counter() - started
    held_out = TradingEnv(market, split="validation", episode=None, **TRADING)
    return {
        "policy": policy,
        "treatment": treatment,
        "seed": seed,
        "seconds": round(seconds, 1),
        "validation_growth": _short(growth(model, held_out)),
        "log": {name: [_short(entry[name]) for entry in callback.log] for name in callback.log[0]},
    }


def growth(model: PPO, env: TradingEnv) -> float:
    """Percent of equity over an episode, by the most probable action at each bar."""
    observation, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(int(action))
        total, over = total + reward, terminated or truncated
    return total


def draw(path: Path = PICTURE) -> None:
    """Draws the means over seeds of what was logged."""
    runs = json.loads(LOG.read_text())["runs"]
    panels = []
    for policy in POLICIES:
        panels += [
            plot.Panel(
                f"gradient zeros, before clipping, {NAMES[policy]} policy",
                _lines(runs, policy, "gradient_zeros"),
                bounds=(0.0, 1.0),
            ),
            plot.Panel(
                f"loss of the critic, {NAMES[policy]} policy",
                _lines(runs, policy, "value_loss"),
                log=True,
            ),
        ]
    plot.draw(panels, path, "means of three seeds; simulated trading of real EURUSD hours")


def table() -> str:
    """The last fifth of each training, as means over seeds; validation by seed."""
    runs = json.loads(LOG.read_text())["runs"]
    names = ("gradient_zeros", "dormant_active", "value_loss", "explained_variance")
    lines = [f"{'':16}" + "".join(f"{name:>20}" for name in names) + "   growth on validation, %"]
    for policy, treatment in itertools.product(POLICIES, COMPARED):
        chosen = [r for r in runs if (r["policy"], r["treatment"]) == (policy, treatment)]
        means = [fmean(fmean(r["log"][name][-3:]) for r in chosen) for name in names]
        lines.append(
            f"{policy} {treatment:<11}"
            + "".join(f"{mean:>20.3g}" for mean in means)
            + "".join(f"{r['validation_growth']:>8.1f}" for r in chosen)
        )
    return "\n".join(lines)


def _lines(runs: list[Run], policy: str, name: str) -> dict[str, plot.Line]:
    lines = {}
    for treatment in COMPARED:
        logs = [r["log"] for r in runs if (r["policy"], r["treatment"]) == (policy, treatment)]
        means = [fmean(each) for each in zip(*(log[name] for log in logs), strict=True)]
        lines[treatment] = logs[0]["steps"], means
    return lines


def _short(value: float) -> float:
    return float(f"{value:.6g}")


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        train()
    draw()
    sys.stdout.write(table() + "\n")
