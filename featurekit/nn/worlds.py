"""A simulated trading stream whose blocks live on different scales.

70 market features within [-2, 2], 35 indicators from 1e-4 to 100, and 24 position features that are
0 while flat and reach 1e4.

Axes: n windows, T bars, k features of one block or F of all. Left open by the text and chosen here:
columns are ordered market, indicator, position; coefficients are uniform in their ranges; noise is
normal; windows are independent and start from the stationary distribution; market and indicators
are of one distribution, flat or active; and what `positions` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F4 = NDArray[np.float32]

T = 20
HISTORY = 480  # bars before the window in which a held position may have opened
INSIDE = 0.35  # share of the main world's positions that open inside the window
MARKET, FACTORS = 70, 10
INDICATORS = {"rsi": 8, "tiny": 8, "atr": 4, "oscillator": 10, "unused": 3, "extreme": 2}
POSITION = (
    "side", "size", "entry_price", "unrealized_pnl", "realized_pnl", "max_favorable_excursion",
    "max_adverse_excursion", "bars_held", "minutes_held", "notional", "margin", "stop_distance",
    "target_distance", "risk_reward", "unrealized_pnl_scaled", "move_scaled", "drawdown",
    "bars_held_scaled", "open_positions", "swap", "commission", "leverage", "equity_change",
    "active_flag",
)  # fmt: skip
NAMES = (
    *(f"market.f{k:02d}" for k in range(MARKET)),
    *(f"indicator.{kind}_{k:02d}" for kind, n in INDICATORS.items() for k in range(n)),
    *(f"position.{name}" for name in POSITION),
)


@dataclass(frozen=True)
class World:
    """Windows of one world: `flat` without a position, `active` with one at the last bar.

    The position of an active window may open inside it: `position.active_flag` tells which bars.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    flat: F4  # [n, T, F]
    active: F4  # [n, T, F]


@dataclass(frozen=True)
class Windows:
    """Windows of a stream, and what is to be learned from the last bar of each."""

    x: F4  # [n, T, F]
    value: F4  # [n]: half of its deviation is noise
    action: NDArray[np.int64]  # [n]: 0 sell, 1 hold, 2 buy; a twentieth is drawn at random
    active: NDArray[np.bool_]  # [n]


@dataclass(frozen=True)
class Structure:
    """What all splits and both worlds of a seed share."""

    loading: F4
    rho_factor: F4
    rho_market: F4
    rho_indicator: F4

    @staticmethod
    def of(seed: int) -> Structure:
        """Loadings of unit variance and coefficients, uniform in the ranges of each kind."""
        rng = np.random.default_rng(seed)
        loading = rng.standard_normal((FACTORS, MARKET))
        loading /= np.sqrt((loading**2).sum(axis=0))
        return Structure(
            loading.astype(np.float32),
            rng.uniform(0.7, 0.98, FACTORS).astype(np.float32),
            rng.uniform(0.5, 0.95, MARKET).astype(np.float32),
            rng.uniform(0.6, 0.97, sum(INDICATORS.values())).astype(np.float32),
        )


def world(
    kind: Literal["main", "report"], *, windows: int, seed: int, split: str = "train"
) -> World:
    """As many flat windows as active ones.

    `report` is calmer than `main` (no indicator between 0 and 100, ATRs around 0) and holds its
    positions from before the window. The split changes the draws, never the structure; both
    worlds of a seed and split are made of the same draws, so they differ in nothing else.
    """
    if kind not in ("main", "report"):
        raise ValueError(f"a world is main or report, not {kind!r}")
    structure, calm = Structure.of(seed), kind == "report"
    rng = np.random.default_rng([seed, *split.encode()])
    flat, active = (np.zeros((windows, T, len(NAMES)), np.float32) for _ in range(2))
    for x_nTF in (flat, active):
        x_nTF[..., :MARKET] = market(rng, structure, windows)
        x_nTF[..., MARKET : -len(POSITION)] = indicators(rng, structure, windows, calm=calm)
    active[..., -len(POSITION) :] = positions(rng, windows, inside=0.0 if calm else INSIDE)
    return World(NAMES, tuple(name.split(".")[0] for name in NAMES), flat, active)


def stream(
    rng: np.random.Generator, structure: Structure, active: NDArray[np.bool_], *, calm: bool
) -> Windows:
    """Windows in order, with a position where `active` says so, and their targets."""
    n = len(active)
    x_nTF = np.zeros((n, T, len(NAMES)), np.float32)
    x_nTF[..., :MARKET] = market(rng, structure, n)
    x_nTF[..., MARKET : -len(POSITION)] = indicators(rng, structure, n, calm=calm)
    inside = 0.0 if calm else INSIDE
    x_nTF[active, :, -len(POSITION) :] = positions(rng, int(active.sum()), inside=inside)
    signal = targets(x_nTF, calm=calm)
    value = signal + np.float32(0.5) * rng.standard_normal(n, np.float32)
    action = 1 + (signal > 0.5).astype(np.int64) - (signal < -0.5)
    random = rng.random(n) < 0.05
    return Windows(x_nTF, value, np.where(random, rng.integers(0, 3, n), action), active)


def targets(x_nTF: F4, *, calm: bool) -> F4:
    """What the last bars say, without noise: all three blocks are needed.

    0.6 m1 + 0.45 rsi + 0.45 tiny, and of a position 0.6 tanh(z/6) - 0.4 (held - 200)/150
    + 0.4 (stop distance - 255)/140 + 0.4 side m2. Left open by the text, chosen here: the weights
    of the four market features and of the 10-bar mean of a fifth in m1, of the two in m2, all of
    about unit variance together.
    """
    last = x_nTF[:, -1]
    at = {name: last[:, k] for k, name in enumerate(NAMES)}
    m1 = last[:, :4] @ np.array([0.6, -0.5, 0.4, -0.3], np.float32)
    m1 = m1 + np.float32(0.7) * x_nTF[:, -10:, 4].mean(axis=1)
    m2 = (last[:, 5] + last[:, 6]) / np.float32(np.sqrt(2))
    rsi = at["indicator.rsi_00"] if calm else (at["indicator.rsi_00"] - 50) / 18
    signal = 0.6 * m1 + 0.45 * rsi + 0.45 * 1e4 * at["indicator.tiny_00"]
    held = 0.6 * np.tanh(8 * at["position.move_scaled"] / 6)
    held -= 0.4 * (at["position.bars_held"] - 200) / 150
    held += 0.4 * (at["position.stop_distance"] - 255) / 140
    held += 0.4 * at["position.side"] * m2
    said: F4 = (signal + at["position.active_flag"] * held).astype(np.float32)
    return said


def ar1(rng: np.random.Generator, rho_k: F4, windows: int) -> F4:
    """AR(1) of unit variance, [n, T, k]; each window starts from the stationary distribution."""
    x_nTk = rng.standard_normal((windows, T, len(rho_k)), np.float32)
    fresh_k = np.sqrt(1 - rho_k**2)
    for t in range(1, T):
        x_nTk[:, t] = rho_k * x_nTk[:, t - 1] + fresh_k * x_nTk[:, t]
    return x_nTk


def market(rng: np.random.Generator, structure: Structure, windows: int) -> F4:
    """Common factors and a part of one's own, clipped to [-2, 2]."""
    common = ar1(rng, structure.rho_factor, windows) @ structure.loading
    own = ar1(rng, structure.rho_market, windows)
    mixed: F4 = np.clip(np.float32(0.6) * common + np.float32(0.8) * own, -2, 2)
    return mixed


def indicators(rng: np.random.Generator, structure: Structure, windows: int, *, calm: bool) -> F4:
    """Latents z, each kind in its unit; the calm world has no 0-100 range and no level of 20."""
    z_nTk = ar1(rng, structure.rho_indicator, windows)
    rsi, tiny, atr, _, unused, extreme = np.split(
        z_nTk, np.cumsum(list(INDICATORS.values()))[:-1], axis=-1
    )  # views: written in place
    if not calm:
        rsi[:] = np.clip(50 + 18 * rsi, 0, 100)
    tiny *= 1e-4
    atr[:] = np.exp(0.3 * atr) - 1 if calm else 20 * np.exp(0.3 * atr)
    unused[:] = 0
    extreme[:] = extreme > 2.33
    return z_nTk


def positions(rng: np.random.Generator, windows: int, *, inside: float) -> F4:
    """The account's state, [n, T, 24], in currency, price and bars; 0 before the position opens.

    Left open by the text, chosen here:
    - One position a window. What an order or the account fixes (side, size, entry price, realized
      pnl, levels, drawdown, risk-reward, positions, leverage, the factors of the excursions) is
      drawn once a window; z's walk and the noise of the equity change are drawn at every bar.
    - z starts at 6 t(4) on the window's first bar and walks from there, also where the position
      opens later: the text ties neither the level nor its spread to the age.
    - "lognormal(s)" is exp(N(0, s)).
    - The opening bar counts 1, so a held position is 1 + T to HISTORY + T old at the last bar,
      and one that opens inside 1 to T; ages are uniform. Bars before it opens are all zeros.
    - Levels, excursions and swap carry the signs of the formulas; distances may be negative.
    """

    def uniform(low: float, high: float) -> NDArray[np.float64]:
        return rng.uniform(low, high, (windows, 1))

    def lognormal(sigma: float) -> NDArray[np.float64]:
        return rng.lognormal(0, sigma, (windows, 1))

    opened = np.where(
        rng.random((windows, 1)) < inside,
        rng.integers(0, T, (windows, 1)),
        -rng.integers(1, HISTORY + 1, (windows, 1)),
    )
    held = 1 + np.arange(T) - opened
    side = rng.choice([-1.0, 1.0], (windows, 1))
    size, price = lognormal(0.7), 18_000 * lognormal(0.15)
    walk = rng.normal(0, 1.2, (windows, T)).cumsum(axis=1)
    z = 6 * rng.standard_t(4, (windows, 1)) + walk - walk[:, :1]
    pnl = 60 * size * z
    notional = size * price / 2
    state = {
        "side": side,
        "size": size,
        "entry_price": price,
        "unrealized_pnl": pnl,
        "realized_pnl": 800 * rng.standard_t(4, (windows, 1)),
        "max_favorable_excursion": np.abs(pnl) * uniform(0.8, 2),
        "max_adverse_excursion": -np.abs(pnl) * uniform(0.2, 1.5),
        "bars_held": held,
        "minutes_held": 15 * held,
        "notional": notional,
        "margin": notional / 10,
        "stop_distance": uniform(10, 500) - z,
        "target_distance": uniform(10, 1000) - z,
        "risk_reward": uniform(0.5, 5),
        "unrealized_pnl_scaled": pnl / 1e5,
        "move_scaled": z / 8,
        "drawdown": np.abs(rng.normal(0, 600, (windows, 1))),
        "bars_held_scaled": held / 500,
        "open_positions": rng.integers(1, 4, (windows, 1)),
        "swap": -0.08 * held * size,
        "commission": 7 * size,
        "leverage": uniform(1, 30),
        "equity_change": pnl + rng.normal(0, 300, (windows, T)),
        "active_flag": 1.0,
    }
    x_nTk = np.empty((windows, T, len(POSITION)), np.float32)
    for k, name in enumerate(POSITION):
        x_nTk[..., k] = state[name]
    x_nTk[held < 1] = 0
    return x_nTk
