"""A gymnasium environment over a dataset: its rows, and the account that the agent's orders make.

Axes: T rows of a window, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.dataset import open_dataset
from featurekit.errors import ConfigError, Problem
from featurekit.integrations.broker import Terms, check_levels
from featurekit.integrations.episode import Episode
from featurekit.integrations.extras import missing
from featurekit.integrations.market import Market
from featurekit.ledger.fill import timestamp

try:
    import gymnasium
    from gymnasium.spaces import Box, Discrete
except ImportError as error:
    raise missing("sb3", "gymnasium", error) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from featurekit.dataset import Dataset

LIMITS = np.finfo(np.float32)


class TradingEnv(gymnasium.Env["NDArray[np.float32]", "np.int64"]):
    """One symbol's bars, traded by an agent; observations `[T, F]` float32 in natural units.

    An observation holds the dataset's rows up to a bar's close. The columns that read the account
    are not the dataset's: they are computed at every bar, by the pipeline's own engine, from the
    account of this episode, and are bit for bit what `Pipeline.transform(bars, env.fills())` gives.

    An action chooses one of `levels`, the position as a multiple of equity. Where it is not the
    level that is held, an order is filled at the next bar's open. The reward is the growth of
    equity in percent, `100 ln(equity after / equity before)`, fees and spread included. An episode
    is truncated after its bars, and terminated when equity falls to 1% of the starting cash.

    Args:
        dataset: A dataset, its directory, or a `Market` that environments share.
        split: train, validation or test; no observation holds rows of another one.
        window: T.
        levels: What an action chooses: multiples of equity, negative for short.
        episode: Bars of an episode, from a random row; None for whole stretches of the split.
        fee_bps: Commission of a fill, in basis points of its notional.
        spread_bps: Between bid and ask, in basis points of the price.
        lot: The smallest step of a quantity, in units.
        stop: Loss at which a position is closed, as a share of its opening price; None for none.
        target: Gain at which it is closed, likewise.
        render_mode: None, or `ansi` for a line of text.

    Raises:
        ConfigError: when an option is out of range, or the dataset has no column of an account.
        DataError: when the pipeline's bars are no longer those that the dataset was built from.
        MissingExtraError: on import, when gymnasium is not installed.

    Example:
        >>> import tempfile, featurekit as fk
        >>> pipeline = fk.Pipeline(name="own", bars={"sample": "eurusd_h1"}, blocks=["position"])
        >>> env = TradingEnv(pipeline.build(tempfile.mkdtemp()), window=5, episode=100)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(2)
        >>> observation.shape, info["quantity"] > 0, float(observation[-1, 0])
        ((5, 27), True, 1.0)
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # gymnasium's

    def __init__(
        self,
        dataset: Dataset | Market | str | Path,
        *,
        split: str = "train",
        window: int = 20,
        levels: Sequence[float] = (-1.0, 0.0, 1.0),
        episode: int | None = 1_000,
        fee_bps: float = 0.0,
        spread_bps: float = 0.0,
        lot: float = 0.01,
        stop: float | None = None,
        target: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(dataset, str | Path):
            dataset = open_dataset(dataset)
        self.market = dataset if isinstance(dataset, Market) else Market(dataset)
        self.dataset, self.window, self.episode = self.market.dataset, window, episode
        self.levels, self.terms = tuple(levels), Terms(fee_bps, spread_bps, lot, stop, target)
        check_levels(self.levels, self.market.pipeline.account.leverage)
        _check_options(window, episode, render_mode)
        self.render_mode = render_mode
        self.action_space = Discrete(len(self.levels))
        # The limits of float32, and not infinity: an infinite value is no observation.
        shape = (window, len(self.dataset.names))
        self.observation_space = Box(LIMITS.min, LIMITS.max, shape, np.float32)
        self._runs = self.dataset.runs(split, targets=False)
        rows = self._runs.stop - self._runs.first
        starts = np.maximum(rows - window, 0)  # rows that leave a window before and a step after
        if not starts.any():
            raise ConfigError(
                Problem(
                    f"{split} has no stretch of rows that holds a window and a step",
                    where=str(self.dataset.path),
                    expected=f"{window + 1} rows without a gap",
                    got=f"at most {rows.max(initial=0)}",
                    fix="a shorter window, or splits: with other shares",
                )
            )
        self._starts = np.minimum(starts, 1) if episode is None else starts
        self._now: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new account, at a random row of the split.

        Args:
            seed: Of the rows to come.
            options: `{"row": 4000}` names the dataset's row that the first window ends with.

        Raises:
            ConfigError: when no episode can start from the row.
        """
        super().reset(seed=seed)
        row = (options or {}).get("row")
        run, row = self._random_start() if row is None else self._start_at(row)
        left = int(self._runs.stop[run]) - 1 - row
        self._now = Episode(
            self.market,
            self.dataset.symbols[int(self._runs.symbol[run])],
            row,
            left if self.episode is None else min(self.episode, left),
            self.window,
            self.terms,
        )
        return self._now.observation(), self._info(self._now)

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """The next bar, after the order that the action gives.

        Raises:
            ConfigError: when there is no such action, or the episode is over.
        """
        now = self._episode()
        if now.ruined or not now.left or not 0 <= action < len(self.levels):
            raise self._misused(action)
        growth = now.step(self.levels[action])
        return now.observation(), growth, now.ruined, not now.left, self._info(now)

    def fills(self) -> pl.DataFrame:
        """What the episode has traded, as a canonical frame of fills."""
        return self._episode().fills()

    def render(self) -> str | None:
        """With `ansi`: the bar's close in UTC, the position in units, equity in its currency."""
        if self.render_mode is None:
            return None
        now = self._episode()
        return f"{timestamp(now.time)}  position {now.quantity:+.6g}  equity {now.equity:,.2f}\n"

    def _episode(self) -> Episode:
        if self._now is None:
            raise ConfigError(
                Problem("the environment has no episode yet", got="no reset", fix="env.reset()")
            )
        return self._now

    def _random_start(self) -> tuple[int, int]:
        """A run, and the row of it that the first window ends with."""
        at = int(self.np_random.integers(self._starts.sum()))
        run = int(np.searchsorted(self._starts.cumsum(), at, side="right"))
        row = int(self._runs.first[run]) + self.window - 1
        return run, row + at - int(self._starts[:run].sum())

    def _start_at(self, row: int) -> tuple[int, int]:
        firsts, stops = self._runs.first + self.window - 1, self._runs.stop - 1
        fits = np.flatnonzero((firsts <= row) & (row < stops))
        if not fits.size:
            raise ConfigError(
                Problem(
                    "no episode can start from this row",
                    where="reset(options={'row': ...})",
                    expected="a row of the split with a window up to it and a bar after it, such "
                    f"as {firsts[self._starts > 0][0]}",
                    got=repr(row),
                    fix=f"options={{'row': {firsts[self._starts > 0][0]}}}",
                )
            )
        return int(fits[0]), int(row)

    def _misused(self, action: object) -> ConfigError:
        now = self._episode()
        if now.ruined or not now.left:
            return ConfigError(
                Problem(
                    "the episode is over",
                    expected="a reset after terminated or truncated",
                    got="another step",
                    fix="observation, info = env.reset()",
                )
            )
        return ConfigError(
            Problem(
                "there is no such action",
                expected=f"0 to {len(self.levels) - 1}, places in levels={self.levels}",
                got=repr(action),
                fix="action = env.action_space.sample()",
            )
        )

    def _info(self, now: Episode) -> dict[str, Any]:
        return {
            "equity": now.equity,
            "quantity": now.quantity,
            "time": now.time,
            "row": now.row,
        }


def _check_options(window: int, episode: int | None, render_mode: str | None) -> None:
    problems = [
        Problem(
            f"{name} is out of range",
            expected="a whole number of 1 or more" + (", or None" if name == "episode" else ""),
            got=repr(value),
            fix=f"{name}={default}",
        )
        for name, value, default in (("window", window, 20), ("episode", episode, 1_000))
        if not (isinstance(value, int) and value >= 1) and not (name == "episode" and value is None)
    ]
    if render_mode not in (None, "ansi"):
        problems.append(
            Problem(
                "there is no such render mode",
                expected="None | 'ansi'",
                got=repr(render_mode),
                fix='render_mode="ansi"',
            )
        )
    if problems:
        raise ConfigError(*problems)


gymnasium.register(id="featurekit/Trading-v0", entry_point=f"{__name__}:TradingEnv")
