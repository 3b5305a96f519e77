"""Higher bars: the same columns as of bars that polars made, visible from their close on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurekit as fk
from featurekit.block import block
from featurekit.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3_600_000_000_000
UTC = pl.Datetime("ns", "UTC")


def bars_at(hours: Any, seed: int = 0, symbol: str = "X") -> pl.DataFrame:  # noqa: ANN401  # array-like
    """Simulated hourly bars stamped at their open."""
    rng = np.random.default_rng(seed)
    n = len(hours)
    close = np.exp(rng.normal(0, 2e-3, n).cumsum())
    start = close * np.exp(rng.normal(0, 1e-3, n))
    return pl.DataFrame(
        {
            "symbol": [symbol] * n,
            "time": pl.Series(np.asarray(hours, np.int64) * HOUR).cast(UTC),
            "open": start,
            "high": np.maximum(start, close) * (1 + rng.random(n) / 1e3),
            "low": np.minimum(start, close) * (1 - rng.random(n) / 1e3),
            "close": close,
            "volume": rng.integers(1, 100, n).astype(float),
        }
    )


def pipeline(*blocks: Any, zone: str = "UTC", **more: Any) -> fk.Pipeline:  # noqa: ANN401  # as in YAML
    bars = {"path": "unread.csv", "stamp": "open", "bar": "1h", "exchange_timezone": zone}
    return fk.Pipeline(name="higher", bars=bars, blocks=list(blocks), **more)


def higher_bars(bars: pl.DataFrame, timeframe: str, zone: str) -> pl.DataFrame:
    """Bars of a timeframe by polars, stamped at their close, without the first and the unended."""
    close = pl.col("time") + pl.duration(hours=1)
    local = bars.with_columns(close.dt.convert_time_zone(zone).dt.replace_time_zone(None))
    grouped = local.group_by_dynamic(
        "time", every=timeframe, closed="right", label="right", group_by="symbol"
    ).agg(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.col("volume").sum(),
    )
    stamp = pl.col("time").dt.replace_time_zone(zone, ambiguous="latest").cast(UTC)
    return grouped.with_columns(stamp)[1:]


def expected(bars: pl.DataFrame, timeframe: str, zone: str, name: str) -> pl.DataFrame:
    """The block over the bars of polars, joined to the rows from each close on."""
    longer = fk.Pipeline(
        name="longer",
        bars={
            "path": "unread.csv",
            "stamp": "close",
            "bar": timeframe,
            "exchange_timezone": zone,
        },
        blocks=[name],
    )
    table = longer.transform(higher_bars(bars, timeframe, zone)).drop("symbol")
    close = (pl.col("time") + pl.duration(hours=1)).cast(UTC).alias("close of the bar")
    return (
        bars.select("time", close)
        .join_asof(table, left_on="close of the bar", right_on="time", strategy="backward")
        .select(table.columns[1:])
    )


def some_hours(rows: int, seed: int, share: float = 0.7) -> np.ndarray[Any, Any]:
    """Hours of which some are missing, and a week in the middle."""
    rng = np.random.default_rng(seed)
    hours = 400_003 + np.flatnonzero(rng.random(rows) < share)
    hours[len(hours) // 2 :] += 24 * 7
    return hours


@pytest.mark.parametrize("name", ["market", "indicator"])
@pytest.mark.parametrize(
    ("timeframe", "zone"),
    [
        ("2h", "UTC"),
        ("4h", "UTC"),
        ("4h", "America/New_York"),
        ("1d", "UTC"),
        ("1d", "Europe/Helsinki"),
        ("1w", "UTC"),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05])
def test_the_columns_are_those_of_bars_that_polars_made(
    name: str, timeframe: str, zone: str, share: float
) -> None:
    bars = bars_at(some_hours(6_000, 3, share))
    got = pipeline({name: {"timeframe": timeframe, "as": name}}, zone=zone).transform(bars)
    want = expected(bars, timeframe, zone, name)
    assert got.columns[2:] == want.columns
    for column in want.columns:
        np.testing.assert_array_equal(
            got[column].to_numpy(), want[column].fill_null(np.nan).to_numpy(), err_msg=column
        )
    assert timeframe == "1w" or got[f"{name}.{want.columns[0].split('.')[1]}"].drop_nans().len()


# --- the same bits however the rows come ----------------------------------------------------------


@block(unit="count", scale=(0, 1e6))
def tf_counter(close: Any, trades: Any, *, window: int = 2) -> Any:  # noqa: ANN401  # columns
    """Higher bars so far, trades in each, and the return of the last ones."""
    return {
        "bars": (fk.Col.of(1.0)).cumsum(fk.Col.of(0.0)).named(memory=10),
        "trades": trades,
        "ret": (close / close.lag(window)).log(),
    }


def mixed(**more: Any) -> fk.Pipeline:  # noqa: ANN401  # as in YAML
    return pipeline(
        "market",
        {"indicator": {"timeframe": "4h"}},
        {"market": {"timeframe": "1d"}},
        {"position": {"timeframe": "2h"}},
        "position",
        zone="Europe/Helsinki",
        account={"cash": 1000.0},
        **more,
    )


def some_fills(bars: pl.DataFrame) -> pl.DataFrame:
    at = bars.gather_every(9)[3:]
    return pl.DataFrame(
        {
            "time": at["time"].dt.offset_by("17m"),
            "symbol": at["symbol"],
            "side": ["buy", "sell"] * (at.height // 2) + ["buy"] * (at.height % 2),
            "quantity": [1.0 + (k % 3) for k in range(at.height)],
            "price": at["close"],
            "fee": [0.0] * at.height,
        }
    )


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_gives_the_bits_of_a_batch_wherever_it_is_resumed(reset: bool) -> None:
    bars = bars_at(some_hours(900, 8, 0.6))
    fills = some_fills(bars)
    made = mixed(segments={"max_gap": "9h" if reset else "4d", "reset": reset})
    want = made.transform(bars, fills).drop("symbol", "time").to_numpy()
    stream = fk.Stream(made, ["X"])
    stamps = bars["time"].dt.epoch("ns").to_list()
    due = fills["time"].dt.epoch("ns").to_numpy()
    taken = 0
    for at, stamp in enumerate(stamps):
        new = int(np.searchsorted(due, stamp + HOUR))
        stream.fill(fills[taken:new])
        taken = new
        if at % 3:
            got = stream.update(bars[at : at + 1])[0]
        else:
            bar = bars.row(at, named=True)
            named = {name: bar[name] for name in ("open", "high", "low", "close", "volume")}
            got = stream.push("X", stamp, **named)
        np.testing.assert_array_equal(got, want[at])
        if at % 37 == 5:
            stream = fk.Stream.resume(made, stream.state())


@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.02, 1.0),
    cuts=st.lists(st.integers(1, 399), max_size=6),
    timeframe=st.sampled_from(["2h", "3h", "8h", "1d", "2d", "1w"]),
)
def test_any_cut_of_the_rows_gives_the_same_bits(
    seed: int, share: float, cuts: list[int], timeframe: str
) -> None:
    bars = bars_at(some_hours(700, seed, share)[:400])
    made = pipeline({"market": {"timeframe": timeframe}}, "market")
    program, whole = made.program, made.inputs(bars, ("X", 0, bars.height), None)
    inputs = whole.read(0, bars.height)
    want = program.run(program.new_state(), inputs)
    state, parts = program.new_state(), []
    edges = sorted({0, *(cut for cut in cuts if cut < bars.height), bars.height})
    for start, stop in itertools.pairwise(edges):
        parts.append(program.run(state, inputs[:, start:stop]))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), want)
    np.testing.assert_array_equal(
        want.astype(np.float32).T, made.transform(bars).drop("symbol", "time").to_numpy()
    )


def test_a_higher_bar_is_not_visible_before_it_closed() -> None:
    """Whatever the bars after a row become, the row stays; and a bar shows on its closing row."""
    bars = bars_at(np.arange(400_000, 400_000 + 600))  # 400,000 hours is 16:00
    made = pipeline({"market": {"timeframe": "4h"}}, {"indicator": {"timeframe": "1d"}})
    whole = made.transform(bars)
    for cut in (101, 102, 103, 104, 311, 312, 335, 336, 337):
        other = bars_at(np.arange(400_000, 400_000 + 600), seed=99)
        mixed = pl.concat([bars[:cut], other[cut:]])
        assert made.transform(mixed)[:cut].equals(whole[:cut], null_equal=True)
        assert made.transform(bars[:cut]).equals(whole[:cut], null_equal=True)
    ret = whole["market_4h.ret_1"].to_numpy()
    changed = np.flatnonzero(ret[20:] != ret[19:-1]) + 20
    assert set((changed + 1) % 4) == {0}  # the rows whose close ends a period


def test_a_bar_that_is_missing_at_the_end_of_a_period_shows_it_on_the_next_row() -> None:
    hours = [*range(400_000, 400_011), *range(400_013, 400_024)]  # 11 and 12 are missing
    bars = bars_at(hours)
    ret = pipeline({"market": {"timeframe": "4h"}}).transform(bars)["market_4h.ret_1"].to_numpy()
    last = [bars["close"][7], bars["close"][10]]  # closes of the bars that end in 8 and 12
    np.testing.assert_allclose(ret[11], np.log(last[1] / last[0]), rtol=1e-6)
    assert ret[10] != ret[11]


def test_lookback_and_memory_count_rows_of_the_pipeline() -> None:
    blocks = [{"market": {"timeframe": "4h"}}, {"indicator": {"timeframe": "4h"}}]
    made = pipeline(*blocks)
    first = 400_000 - 400_000 % 24  # where a period starts: no other start takes longer
    bars = bars_at(np.arange(first, first + made.memory + 900))
    whole = made.transform(bars, dtype="float64")
    later = made.transform(bars[401:], dtype="float64")
    for feature in made.features:
        column = whole[feature.name].to_numpy()
        assert np.isnan(column[: feature.lookback]).all(), feature.name
        assert not np.isnan(column[feature.lookback :]).any(), feature.name
        apart = np.abs(later[feature.name].to_numpy() - column[401:])[feature.memory :]
        assert apart.max() <= 1e-6 * max(column[feature.lookback :].std(), 1e-12), feature.name


def test_counts_in_a_block_are_of_higher_bars_and_own_columns_say_how_they_add_up() -> None:
    bars = bars_at(np.arange(400_000, 400_040)).with_columns(
        trades=pl.Series(range(40)).cast(pl.Float64)
    )
    entry = {"tf_counter": {"timeframe": "4h", "aggregate": {"trades": "sum"}, "as": "slow"}}
    table = pipeline(entry).transform(bars)
    assert table["slow.bars"].to_list()[7:20] == [1.0] * 4 + [2.0] * 4 + [3.0] * 4 + [4.0]
    assert table["slow.trades"].to_list()[11] == sum(range(8, 12))
    assert table["slow.ret"].is_nan().to_list() == [True] * 15 + [False] * 25


# --- the grammar ----------------------------------------------------------------------------------


def test_a_pipeline_of_timeframes_survives_its_yaml() -> None:
    made = mixed()
    assert fk.Pipeline.from_yaml(made.to_yaml()) == made
    assert [f.block for f in made.features[48:50]] == ["indicator_4h", "indicator_4h"]
    assert made.features[48].doc.endswith("on bars of 4h.")


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ({"market": {"timeframe": "90m"}}, "no timeframe", "timeframe: 4h"),
        ({"market": {"timeframe": "1h"}}, "no timeframe", "timeframe: 4h"),
        ({"market": {"timeframe": "5h"}}, "no timeframe", "timeframe: 4h"),
        ({"market": {"timeframe": "36h"}}, "no timeframe", "timeframe: 4h"),
        ({"market": {"timeframe": "soon"}}, "no timeframe", "timeframe: 4h"),
        ({"market": {"timeframe": 4}}, "no timeframe", "timeframe: 4h"),
        ({"tf_counter": {"timeframe": "4h"}}, "nothing says", "aggregate: {trades: last}"),
        (
            {"tf_counter": {"timeframe": "4h", "aggregate": {"trades": "mean"}}},
            "cannot be aggregated",
            "aggregate: {trades: last}",
        ),
        (
            {"market": {"timeframe": "4h", "aggregate": {"close": "sum"}}},
            "cannot be aggregated",
            "leave aggregate: out",
        ),
        ({"market": {"timeframe": "4h", "aggregate": 3}}, "by column", "aggregate: {"),
        ({"market": {"aggregate": {}}}, "without a timeframe", "timeframe: 4h"),
    ],
)
def test_a_timeframe_that_cannot_be_says_why(entry: Any, what: str, fix: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        pipeline(entry)
    assert any(what in problem.what and fix in problem.fix for problem in caught.value.problems)
    assert "key blocks.0" in str(caught.value)


def test_a_timeframe_needs_the_length_of_a_bar() -> None:
    with pytest.raises(ConfigError, match="how long a bar is"):
        fk.Pipeline(name="none", blocks=[{"market": {"timeframe": "4h"}}])


# --- a dataset ------------------------------------------------------------------------------------


def test_an_append_gives_the_rows_of_a_whole_build(tmp_path: Path) -> None:
    bars = pl.concat([bars_at(some_hours(2_400, k), k, f"S{k}") for k in range(2)])
    path = tmp_path / "bars.parquet"
    asked = {"bars": {"path": str(path), "stamp": "open", "bar": "1h"}, "name": "higher"}
    blocks = [{"indicator": {"timeframe": "4h"}}, {"market": {"timeframe": "2h"}}, "market"]
    made = fk.Pipeline(
        **asked, blocks=blocks, warmup="lookback", windows={"max": 8}, segments={"max_gap": "9d"}
    )
    bars.group_by("symbol", maintain_order=True).head(1_300).write_parquet(path)
    made.build(tmp_path / "grown")
    bars.write_parquet(path)
    grown = made.build(tmp_path / "grown").to_polars()
    whole = made.build(tmp_path / "whole")
    assert grown.equals(whole.to_polars(), null_equal=True)
    live = fk.Stream.from_dataset(fk.open_dataset(tmp_path / "grown"))
    more = bars_at([int(bars["time"].dt.epoch("ns").max()) // HOUR + k for k in (1, 2)], 5, "S1")
    table = made.transform(pl.concat([bars, more]).sort("symbol", "time"))
    want = table.filter(pl.col("symbol") == "S1")[-2:].drop("symbol", "time").to_numpy()
    for row in range(2):
        np.testing.assert_array_equal(live.update(more[row : row + 1])[1], want[row])
