"""Speed of the encoder's input treatment, and what GradientHealth costs, as ratios in one run.

    python tests/bench/encoder.py [--device cuda] [--batch 512] [--compiled]

Forward and backward of TemporalEncoder against the same encoder without prelude, squash and
layer_norm, on simulated windows of 20 rows of 129 features. One thread on a CPU. `--compiled` needs
a C++ compiler, `--device cuda` tells the share of the memory's bandwidth as well.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from functools import partial

sys.path.pop(0)  # of this directory: profile.py here is not the standard library's

from typing import TYPE_CHECKING

import numpy as np
import torch

from featurekit.nn import GradientHealth, Probes, TemporalEncoder
from featurekit.nn.probes import WINDOWS
from featurekit.nn.treatments import UntreatedEncoder
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW, FEATURES, ROUNDS = 20, 129, 15
BLOCKS = ("market",) * 48 + ("position",) * 27 + ("indicator",) * 54
NAMES = tuple("position.side" if k == 48 else f"{block}.x{k}" for k, block in enumerate(BLOCKS))
AT_MOST = {"eager": 1.5, "compiled": 1.25}
OVERHEAD, EVERY = 0.05, 100


def scaling() -> Scaling:
    rng = np.random.default_rng(0)
    ones = np.ones(FEATURES, np.int8)
    return Scaling(NAMES, rng.normal(size=FEATURES), np.logspace(-4, 4, FEATURES), ones)


def encoders(device: str) -> dict[str, TemporalEncoder]:
    torch.manual_seed(0)
    treated = TemporalEncoder(FEATURES, scaling=scaling())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = UntreatedEncoder(FEATURES, prelude="none", squash="none", features=NAMES)
    return {"treated": treated.to(device), "bare": bare.to(device)}


def windows(batch: int, device: str) -> torch.Tensor:
    x = torch.randn(batch, WINDOW, FEATURES, generator=torch.Generator().manual_seed(0))
    x = x * torch.logspace(-4, 4, FEATURES)
    x[::2, :, 48:75] = 0.0
    return x.to(device)


def step(encoder: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    encoder(x).square().mean().backward()


def best(
    runs: dict[str, Callable[[], object]], device: str, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds, the best of so many rounds, in turn; of a CPU those that this process got."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            taken[name].append(clock() - start)
    return {name: min(each) for name, each in taken.items()}


def ratio(kind: str, batch: int, device: str) -> None:
    x, made = windows(batch, device), encoders(device)
    called = {n: torch.compile(e) if kind == "compiled" else e for n, e in made.items()}
    for encoder in called.values():
        step(encoder, x)
        step(encoder, x)
    seconds = best({n: lambda e=e: step(e, x) for n, e in called.items()}, device)  # type: ignore[misc]  # e is bound
    share = seconds["treated"] / seconds["bare"]
    print(
        f"{kind:8} batch {batch:4}: {1e3 * seconds['treated']:7.2f} ms, without the treatment "
        f"{1e3 * seconds['bare']:7.2f} ms: {share:.2f} (at most {AT_MOST[kind]})"
    )
    if kind == "eager" and device == "cpu":
        treated = made["treated"]
        saved = best(
            {
                "ours": lambda: treated.treat(x),
                "torch": lambda: torch.nn.functional.layer_norm(
                    torch.asinh((x - treated.prelude.center) * treated.prelude.gain), (FEATURES,)
                ),
            },
            device,
        )
        values = x.numel()
        print(
            f"         the treatment alone: {1e9 * saved['ours'] / values:.1f} ns a value, with "
            f"torch.asinh {1e9 * saved['torch'] / values:.1f}"
        )


def overhead(batch: int) -> None:
    x = windows(batch, "cpu")
    x[1::2, :, 48] = 1.0
    many = windows(96, "cpu")
    probes = Probes(many[::2][: WINDOWS["flat"]], many[1::2][: WINDOWS["active"]])

    def trained(encoder: TemporalEncoder, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        step(encoder, x)
        optimizer.step()

    runs: dict[str, Callable[[], object]] = {}
    for name in ("step", "hooked"):
        encoder = encoders("cpu")["treated"]
        optimizer = torch.optim.Adam(encoder.parameters())
        runs[name] = partial(trained, encoder, optimizer)
        runs[name]()
    health = GradientHealth(encoder, optimizer, probes=probes, every=10**9)
    health.measure()
    seconds = best(runs, "cpu", 10 * ROUNDS) | best({"measure": health.measure}, "cpu")
    plain, hooked, measured = seconds["step"], seconds["hooked"], seconds["measure"]
    cost = (measured + EVERY * max(hooked - plain, 0.0)) / (EVERY * plain)
    print(
        f"GradientHealth, batch {batch:4}: a step {1e3 * plain:.2f} ms, hooked {1e3 * hooked:.2f}, "
        f"a measurement {1e3 * measured:.1f} ms: {cost:.1%} at one in {EVERY} steps "
        f"(at most {OVERHEAD:.0%})"
    )


def bandwidth(batch: int, device: str) -> None:
    """The input stage reads and writes each value once, if it is fused: the share of that."""
    x, encoder = windows(batch, device), encoders(device)["treated"].eval()
    fused = torch.compile(encoder.treat)
    copy = torch.empty_like(x)
    for _ in range(3):
        fused(x)
    runs = {
        "fused": lambda: fused(x),
        "eager": lambda: encoder.treat(x),
        "copy": lambda: copy.copy_(x),
    }
    seconds = best(runs, device)
    for name in ("fused", "eager"):
        print(
            f"input stage, {name}, batch {batch}: {batch / seconds[name]:,.0f} windows/s, "
            f"{seconds['copy'] / seconds[name]:.2f} of a copy of the same bytes, "
            f"{2 * x.nbytes / seconds[name] / 1e9:,.0f} GB/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = "one thread of a CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"forward and backward, windows of {WINDOW} x {FEATURES}, d_model 128, {name}")
    for batch in options.batch:
        ratio("eager", batch, options.device)
        if options.compiled:
            ratio("compiled", batch, options.device)
        if options.device == "cpu":
            overhead(batch)
        else:
            bandwidth(batch, options.device)


if __name__ == "__main__":
    main()
