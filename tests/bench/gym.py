"""Steps a second of the trading environment, its 27 columns of the account live.

    python tests/bench/gym.py [STEPS]

Episodes of 1,000 bars of the bundled EURUSD hours, resets included, observations of 20 rows of 129
features. Three policies: one that holds its position, one that acts at random, and one that turns
its position round at every bar. Beside them: the ledger, the engine and the copy of an observation
alone, each called once a bar as the environment does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import featurekit as fk
from featurekit.integrations.broker import Broker, Terms
from featurekit.integrations.gym import TradingEnv
from featurekit.integrations.market import Market

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
LEAST = 20_000
ROOT = Path(__file__).parents[2]


def steps(env: TradingEnv, actions: list[int]) -> Callable[[], None]:
    def run() -> None:
        env.reset(seed=0)
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return run


def parts(market: Market, n: int) -> dict[str, Callable[[], None]]:
    tape = market.tapes["EURUSD"]
    broker = Broker("EURUSD", 100_000.0, Terms(), 0)
    rows = np.zeros((n + 20, 129), np.float32)

    def ledger() -> None:
        account = market.new_account("EURUSD")
        bar, held = (1.1, 1.1, 1.1, 1.1), 0.0
        for k in range(n):
            wanted = 0.09 if k % 2 else -0.09
            for fill in broker.trade(bar, (k, k + 1), held, wanted):
                account.fill(fill)
            held = account.close_bar()[0]

    def engine() -> None:
        state = market.program.new_state()
        inputs, out = np.empty((tape.inputs.shape[1], 1)), np.empty((1, 27), np.float32)
        for k in range(n):
            inputs[:, 0] = tape.inputs[k % 6000]
            market.program.run_rows(state, inputs, out)

    def copy() -> None:
        for k in range(n):
            rows[k : k + 20].copy()

    return {"ledger, a fill a bar": ledger, "engine, 27 columns": engine, "copy": copy}


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
        market = Market(pipeline.build(Path(directory) / "eurusd"))
        env = TradingEnv(market, fee_bps=0.2, spread_bps=0.5)
        runs = {
            "holds": steps(env, [2] * n),
            "acts at random": steps(env, rng.integers(0, 3, n).tolist()),
            "turns round at every bar": steps(env, [0, 2] * (n // 2)),
        }
        alone = parts(market, n)
        best: dict[str, float] = dict.fromkeys([*runs, *alone], float("inf"))
        for _ in range(ROUNDS):
            for what, run in (runs | alone).items():
                started = time.thread_time()
                run()
                best[what] = min(best[what], time.thread_time() - started)
    print(f"{n:,} steps of the environment, CPU time of one thread, best of {ROUNDS}")
    for what in runs:
        print(f"  {what:<26} {n / best[what]:>9,.0f} steps/s (at least {LEAST:,})")
    for what in alone:
        print(f"  {what:<26} {best[what] / n * 1e6:>9.1f} us a bar, alone")


if __name__ == "__main__":
    main()
