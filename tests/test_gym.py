"""The trading environment: its account is the pipeline's, bit for bit, and new at each reset."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

import featurekit as fk
from featurekit.errors import ConfigError, DataError, FeaturekitError
from featurekit.integrations.broker import Broker, Terms
from featurekit.integrations.market import Market
from featurekit.ledger import AccountReplay, Ledger, LiveAccount
from featurekit.ledger.frames import account_fills

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurekit.integrations.gym import TradingEnv

gymnasium = pytest.importorskip("gymnasium", reason="the environment needs the extra sb3")

HOUR = 3_600_000_000_000
TRADING = {"fee_bps": 0.3, "spread_bps": 1.0, "levels": (-2.0, -1.0, 0.0, 1.0, 2.0)}


def simulated_bars(symbol: str, rows: int, seed: int) -> pl.DataFrame:
    """Hours of a random walk, with a gap of ten days in the middle."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(rng.normal(0, 4e-3, rows).cumsum())
    opened = np.roll(close, 1) * np.exp(rng.normal(0, 1e-3, rows))
    spread = np.abs(rng.normal(0, 2e-3, (2, rows)))
    hours = np.arange(rows) + np.where(np.arange(rows) < rows // 2, 0, 240)
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "time": pl.Series(hours * HOUR).cast(pl.Datetime("ns", "UTC")),
            "open": opened,
            "high": np.maximum(opened, close) * (1 + spread[0]),
            "low": np.minimum(opened, close) * (1 - spread[1]),
            "close": close,
            "volume": rng.lognormal(5, 1, rows),
        }
    )


def built(root: Path, **document: Any) -> tuple[Market, pl.DataFrame]:  # noqa: ANN401  # keys of YAML
    """The market of a dataset of two symbols, and its bars."""
    bars = pl.concat([simulated_bars("A", 900, 0), simulated_bars("B", 700, 1)])
    bars.write_parquet(root / "bars.parquet")
    pipeline = fk.Pipeline(
        **{
            "name": "simulated",
            "bars": {"path": str(root / "bars.parquet"), "bar": "1h", "timezone": "UTC"},
            "blocks": [{"market": {}}, {"position": {}}],
            "account": {"multiplier": {"A": 1, "B": 10}, "leverage": 5},
            "segments": {"max_gap": "4d"},
            "warmup": "lookback",
            **document,
        }
    )
    return Market(pipeline.build(root / "dataset")), bars


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return built(tmp_path_factory.mktemp("gym"))[0]


def env_of(market: Market, **options: Any) -> TradingEnv:  # noqa: ANN401  # of the environment
    from featurekit.integrations.gym import TradingEnv

    return TradingEnv(market, **{**TRADING, "window": 8, "episode": 150, **options})


def played(env: TradingEnv, seed: int, **options: object) -> Iterator[tuple[Any, ...]]:
    """Row, observation and reward of each bar of an episode, under a random policy."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options=dict(options))
    yield info["row"], observation, 0.0, info
    over, action = False, 2
    while not over:
        action = int(rng.integers(len(env.levels))) if rng.random() < 0.3 else action
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        yield info["row"], observation, reward, info


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"account": {"multiplier": 3, "leverage": 2, "fill_at_close": "this"}},
        {"account": {"leverage": 2, "scope": "portfolio", "cash": 500}},
        {"segments": {"max_gap": "4d", "reset": True}},
        {"blocks": [{"position": {}}, {"market": {}}, {"position": {"as": "again"}}]},
    ],
    ids=["default", "this", "portfolio", "reset", "twice"],
)
def test_the_account_is_what_transform_makes_of_the_same_fills(
    document: dict[str, Any], tmp_path: Path
) -> None:
    market, bars = built(tmp_path, **document)
    dataset = market.dataset
    rows = dataset.to_polars().select("symbol", "time").with_row_index("row")
    traded: list[str] = []
    for seed, terms in enumerate([{}, {"stop": 0.01, "target": 0.015}, {"stop": 0.004}, {}]):
        env = env_of(market, **terms)
        episode = list(played(env, seed))
        fills = env.fills()
        traded += fills["symbol"].to_list()
        table = market.pipeline.transform(bars, fills)
        made = rows.join(table, on=["symbol", "time"], how="left", maintain_order="left")
        expected = made.sort("row").select(dataset.names).to_numpy()
        for row, observation, _, _ in episode:
            np.testing.assert_array_equal(
                observation.view(np.uint32),
                expected[row - 7 : row + 1].astype(np.float32).view(np.uint32),
                err_msg=f"seed {seed}, row {row}",
            )
    assert len(traded) > 50
    assert set(traded) == {"A", "B"}


def test_a_live_account_is_a_replay_of_its_fills(market: Market) -> None:
    env = env_of(market, stop=0.01, levels=(-1.0, -0.3, 0.0, 0.3, 1.0))
    list(played(env, 4))
    fills = env.fills()
    (symbol,) = set(fills["symbol"])
    options: dict[str, Any] = {"cash": 10_000.0, "multiplier": {"A": 1, "B": 10}, "leverage": 5}
    closes = market.tapes[symbol].closes
    replayed = AccountReplay(fills, symbol, **options).columns(closes)
    live = LiveAccount(Ledger(**options), symbol)
    waiting = account_fills(fills, symbol)
    for bar, close in enumerate(closes):
        while waiting and waiting[0].time < close:
            live.fill(waiting.pop(0))
        np.testing.assert_array_equal(live.close_bar(), replayed[:, bar])


def test_nothing_of_an_episode_is_left_after_a_reset(market: Market) -> None:
    fresh, used = env_of(market, stop=0.01), env_of(market, stop=0.01)
    list(played(used, 1))
    used.reset(seed=5)
    used.step(4)  # left in the middle, with a position
    for one, other in zip(played(fresh, 2), played(used, 2), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])
        assert one[2:] == other[2:]
    assert fresh.fills().equals(used.fills())


def test_gymnasium_finds_nothing_to_say(market: Market) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("featurekit/Trading-v0", dataset=str(market.dataset.path), window=8)
    check_env(env.unwrapped)


# It recommends 1-D observations, for its own networks; windows go to the encoder.
@pytest.mark.filterwarnings("ignore:Your observation  has an unconventional shape:UserWarning")
def test_stable_baselines_finds_nothing_to_say(market: Market) -> None:
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="its check needs the extra sb3"
    )
    checker.check_env(env_of(market))
    checker.check_env(env_of(market, episode=None, split="test"))


def test_the_reward_is_the_growth_of_equity_and_trading_costs(market: Market) -> None:
    final = {}
    for name, costs in {"free": (0.0, 0.0), "fee": (5.0, 0.0), "spread": (0.0, 10.0)}.items():
        env = env_of(market, fee_bps=costs[0], spread_bps=costs[1])
        bars = list(played(env, 3))
        growth = sum(reward for _, _, reward, _ in bars)
        final[name] = bars[-1][3]["equity"]
        assert growth == pytest.approx(100 * np.log(final[name] / 10_000))
        account = Ledger(multiplier={"A": 1, "B": 10}, leverage=5)
        fills = env.fills()
        (symbol,) = set(fills["symbol"])
        for fill in account_fills(fills, symbol):
            account.apply_fill(fill)
        held = account.position(symbol)
        at = market.tapes[symbol]
        close = at.prices[np.searchsorted(at.closes, bars[-1][3]["time"]), 3]
        unrealized = held.quantity * (close - held.average_price) * account.multiplier(symbol)
        assert final[name] == pytest.approx(account.account(symbol).balance + unrealized)
    # The fee and the spread are of the same size: half of 10 bp at each fill, and 5 bp.
    assert final["fee"] < final["free"]
    assert final["spread"] == pytest.approx(final["fee"], rel=1e-3)


def test_a_held_level_gives_no_order(market: Market) -> None:
    env = env_of(market)
    env.reset(seed=0, options={"row": 40})
    for _ in range(20):
        env.step(3)
    assert env.fills().height == 1
    env.step(2)
    assert env.fills()["side"].to_list() == ["buy", "sell"]


def test_an_order_is_filled_at_the_open_that_follows(market: Market) -> None:
    env = env_of(market, spread_bps=0.0)
    _, info = env.reset(options={"row": 40})
    tape = market.tapes["A"]
    bar = int(np.searchsorted(tape.closes, info["time"]))
    observation, _, _, _, after = env.step(4)
    fill = env.fills().row(0, named=True)
    assert fill["price"] == tape.prices[bar + 1, 0]
    assert fill["quantity"] == pytest.approx(2 * 10_000 / tape.prices[bar, 3], abs=0.01)
    assert after["quantity"] == fill["quantity"]
    held = observation[:, market.dataset.names.index("position.side")]
    assert held.tolist() == [0.0] * 7 + [1.0]


BAR = (100.0, 103.0, 97.0, 101.0)


@pytest.mark.parametrize(
    ("held", "stop", "target", "bar", "price"),
    [
        (1.0, 98.0, 0.0, BAR, 98.0),
        (1.0, 96.0, 0.0, BAR, None),
        (1.0, 0.0, 102.0, BAR, 102.0),
        (1.0, 98.0, 102.0, BAR, 98.0),
        (1.0, 101.0, 0.0, BAR, 100.0),
        (1.0, 0.0, 99.0, BAR, 100.0),
        (-1.0, 102.0, 0.0, BAR, 102.0),
        (-1.0, 104.0, 96.0, BAR, None),
        (-1.0, 0.0, 98.0, BAR, 98.0),
        (-1.0, 99.0, 0.0, BAR, 100.0),
        (-1.0, 0.0, 101.0, BAR, 100.0),
    ],
)
def test_levels_are_filled_where_the_bar_reaches_them(
    held: float, stop: float, target: float, bar: tuple[float, ...], price: float | None
) -> None:
    broker = Broker("A", 1.0, Terms(), open_delay=0)
    fills = broker.trade(bar, (0, 10), held, held, stop, target)  # type: ignore[arg-type]
    assert [fill.price for fill in fills] == ([] if price is None else [price])
    assert all(fill.quantity == 1.0 and 0 < fill.time < 10 for fill in fills)
    assert all((fill.side == "sell") == (held > 0) for fill in fills)


def test_a_ruined_account_ends_the_episode(market: Market) -> None:
    env = env_of(market, fee_bps=4_000.0, episode=None)
    env.reset(seed=0)
    for action in (0, 4, 0, 4):
        *_, reward, terminated, _, info = env.step(action)
        if terminated:
            break
    assert terminated
    assert info["equity"] == 100.0
    assert np.isfinite(reward)
    with pytest.raises(ConfigError, match="the episode is over"):
        env.step(0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_episodes_keep_to_their_split(market: Market, split: str) -> None:
    dataset = market.dataset
    env = env_of(market, split=split, episode=None)
    runs = dataset.runs(split, targets=False)
    stretches = {
        (int(first) + 7, int(stop) - 1)
        for first, stop in zip(runs.first, runs.stop, strict=True)
        if stop - first > 8
    }
    seen = set()
    for seed in range(12):
        rows = [row for row, *_ in played(env, seed)]
        assert rows == list(range(rows[0], rows[-1] + 1))
        seen.add((rows[0], rows[-1]))
    assert seen <= stretches
    assert len(seen) == min(len(stretches), len(seen))
    with pytest.raises(ConfigError, match="no episode can start from this row"):
        env.reset(options={"row": max(last for _, last in stretches)})


def test_random_rows_are_all_rows_that_have_room(market: Market) -> None:
    env = env_of(market, episode=3)
    runs = market.dataset.runs("train", targets=False)
    rows = {env.reset(seed=seed)[1]["row"] for seed in range(3000)}
    possible = [
        row
        for first, stop in zip(runs.first, runs.stop, strict=True)
        for row in range(first + 7, stop - 1)
    ]
    assert rows <= set(possible)
    assert len(rows) > 0.8 * len(possible)


def test_it_is_told_as_a_line_of_text(market: Market) -> None:
    env = env_of(market, render_mode="ansi")
    env.reset(seed=0, options={"row": 40})
    env.step(4)
    assert "position +" in env.render()
    assert env_of(market).render() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is out of range"),
        ({"episode": 0}, "episode is out of range"),
        ({"levels": (1.0,)}, "no exposures to choose among"),
        ({"levels": (0.0, 6.0)}, "no exposures to choose among"),
        ({"levels": (0.0, float("nan"))}, "no exposures to choose among"),
        ({"lot": 0.0}, "lot is out of range"),
        ({"stop": -0.1}, "stop is out of range"),
        ({"fee_bps": float("inf")}, "fee_bps is out of range"),
        ({"split": "trian"}, "no such split"),
        ({"window": 2_000}, "no stretch of rows"),
        ({"render_mode": "human"}, "no such render mode"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str, market: Market) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        env_of(market, **options)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize("action", [-1, 5])
def test_an_action_that_is_none_is_told(action: int, market: Market) -> None:
    env = env_of(market)
    with pytest.raises(ConfigError, match="no episode yet"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="no such action"):
        env.step(action)


def test_a_dataset_without_the_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column of the dataset reads the account"):
        built(tmp_path, blocks=[{"market": {}}])


def test_bars_that_are_no_longer_those_of_the_build_are_refused(tmp_path: Path) -> None:
    market, bars = built(tmp_path)
    bars.with_columns(pl.col("close") * 1.0001).write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(FeaturekitError):
        Market(market.dataset)
    bars.with_columns(pl.col("volume") + 1).write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(DataError, match="no longer those"):
        Market(market.dataset)


@pytest.mark.parametrize("library", ["gymnasium", "stable_baselines3"])
def test_a_missing_library_names_its_extra(library: str) -> None:
    module = {"gymnasium": "gym", "stable_baselines3": "sb3"}[library]
    code = f"import sys; sys.modules[{library!r}] = None; import featurekit.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'Fix: pip install "featurekit[sb3]"' in done.stderr
