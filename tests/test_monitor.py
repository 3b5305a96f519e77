"""Monitor: planted faults are named, clean rows are left alone, however the rows come."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import featurekit as fk
from featurekit.block import block
from featurekit.errors import DataError
from featurekit.monitor.expected import mean_level
from featurekit.monitor.flag import KINDS
from featurekit.monitor.watch import means
from featurekit.psi import chance_index, stability_index

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HOUR = 3_600_000_000_000
PLANTED = 200  # row of the held-out part at which a fault begins


@dataclass(frozen=True, repr=False)
class Live:
    """A dataset, and its rows after the train split as a stream would give them."""

    dataset: fk.Dataset
    symbols: list[str]
    closes: NDArray[np.int64]
    rows: NDArray[np.float32]

    def changed(self, rows: NDArray[np.float32]) -> Live:
        return Live(self.dataset, self.symbols, self.closes, rows)

    def flags(self, **options: Any) -> list[Any]:  # noqa: ANN401  # of a monitor
        return list(fk.Monitor(self.dataset, **options).watch(self.symbols, self.closes, self.rows))


def live_of(dataset: fk.Dataset, first: int = 1) -> Live:
    parts = [dataset.read(int(row[first]), int(row[3])) for row in dataset.bounds]
    names = [s for s, part in zip(dataset.symbols, parts, strict=True) for _ in part.time]
    closes = np.concatenate([part.time for part in parts]) + HOUR
    order = np.argsort(closes, kind="stable")
    rows = np.concatenate([part.features for part in parts])
    return Live(dataset, [names[k] for k in order], closes[order], rows[order])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Live:
    out = tmp_path_factory.mktemp("monitor") / "eurusd"
    return live_of(fk.Pipeline.from_yaml("pipelines/eurusd_demo.yaml").build(out))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """Three symbols of simulated hourly bars, without weekends."""
    out = tmp_path_factory.mktemp("monitor")
    rng = np.random.default_rng(1)
    hours = np.arange(420_000, 424_000)
    hours = hours[(hours // 24 + 3) % 7 < 5]
    frames = []
    for symbol in ("A", 'B"\\', "C"):
        close = np.exp(rng.normal(0, 1e-3, len(hours)).cumsum())
        frames.append(
            pl.DataFrame({"symbol": symbol, "time": hours * HOUR, "close": close})
            .with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")), open=pl.col("close"))
            .with_columns(high=pl.col("close") * 1.001, low=pl.col("close") * 0.999)
            .with_columns(volume=pl.Series(rng.lognormal(5, 1, len(hours))))
        )
    pl.concat(frames).write_parquet(out / "bars.parquet")
    bars = {"path": str(out / "bars.parquet"), "stamp": "open", "bar": "1h", "timezone": "UTC"}
    made = fk.Pipeline(name="three", bars=bars, blocks=["market", "indicator"])
    return live_of(made.build(out / "three"))


def column(live: Live, name: str) -> int:
    return live.dataset.names.index(name)


# --- clean rows -----------------------------------------------------------------------------------


def test_held_out_rows_of_the_demo_raise_few_flags(demo: Live) -> None:
    flags = demo.flags()
    flagged = {flag.time for flag in flags}
    assert len(demo.rows) > 1_500
    assert len(flagged) <= 0.005 * len(demo.rows)
    # The one severe flag is Christmas, which 2017 had but once.
    assert [(f.kind, f.to_dict()["time"]) for f in flags if f.severity == "fail"] == [
        ("stale", "2017-12-25T23:00:00Z")
    ]


def test_held_out_rows_of_real_markets_raise_few_flags(shared_data: Path, tmp_path: Path) -> None:
    """Four markets, ten years of hours: 1 bar in 1,000 at most is flagged, none out of range."""
    bars = {
        "path": str(shared_data / "bars" / "fx_h1.parquet"),
        "columns": {"time": "ts"},
        "stamp": "open",
        "bar": "1h",
        "timezone": "Europe/Helsinki",
    }
    made = fk.Pipeline(name="fx", bars=bars, blocks=["market", "indicator"])
    live = live_of(made.build(tmp_path / "fx"))
    flags = live.flags()
    assert len(live.rows) > 70_000
    assert len({(flag.symbol, flag.time) for flag in flags}) <= 0.001 * len(live.rows)
    assert {flag.kind for flag in flags} <= {"drift", "stale"}


# --- planted faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_none_is_flagged_on_its_bar(demo: Live, value: float) -> None:
    rows = demo.rows.copy()
    rows[PLANTED, column(demo, "indicator.rsi_14")] = value
    flag = next(f for f in demo.changed(rows).flags() if f.kind == "not finite")
    assert (flag.feature, flag.time, flag.severity) == (
        "indicator.rsi_14",
        demo.closes[PLANTED],
        "fail",
    )
    assert flag.to_dict()["value"] is None


@pytest.mark.parametrize(("value", "severity"), [(180.0, "warn"), (-30.0, "warn"), (1e4, "fail")])
def test_a_value_far_beyond_the_train_rows_is_flagged_on_its_bar(
    demo: Live, value: float, severity: str
) -> None:
    rows = demo.rows.copy()
    rows[PLANTED, column(demo, "indicator.rsi_14")] = value
    flag = next(f for f in demo.changed(rows).flags() if f.kind == "out of range")
    assert (flag.feature, flag.time, flag.value) == (
        "indicator.rsi_14",
        demo.closes[PLANTED],
        value,
    )
    assert flag.severity == severity
    assert " to " in flag.expected


def test_a_bar_of_which_all_is_wrong_is_one_flag(demo: Live) -> None:
    rows = demo.rows.copy()
    rows[PLANTED] = np.nan
    flags = [f for f in demo.changed(rows).flags() if f.kind == "not finite"]
    assert [(f.feature, f.value) for f in flags] == [("", 129.0)]


@pytest.mark.parametrize("factor", [100.0, 0.01, 1e5])
def test_a_price_in_another_unit_is_named_with_its_factor(demo: Live, factor: float) -> None:
    rows = demo.rows.copy()
    rows[PLANTED, column(demo, "market.ret_1")] += np.log(factor)
    flag = next(f for f in demo.changed(rows).flags() if f.kind == "unit change")
    assert (flag.feature, flag.time) == ("market.ret_1", demo.closes[PLANTED])
    assert f"{factor:g} times" in flag.expected


@pytest.mark.parametrize("factor", [1000.0, 1e-3, 10.0, 0.1])
def test_a_feature_in_another_unit_is_named_within_a_few_days(demo: Live, factor: float) -> None:
    rows, j = demo.rows.copy(), column(demo, "indicator.atr_14")
    rows[PLANTED:, j] *= factor
    flags = [f for f in demo.changed(rows).flags() if f.kind == "unit change"]
    assert {f.feature for f in flags} == {"indicator.atr_14"}
    assert (flags[0].time - demo.closes[PLANTED]) <= 14 * 24 * HOUR
    assert np.log10(flags[-1].value) == pytest.approx(np.log10(factor), abs=0.8)


def test_a_feature_that_stands_still_is_dead_once(demo: Live) -> None:
    rows, j = demo.rows.copy(), column(demo, "indicator.adx_14")
    rows[PLANTED:, j] = rows[PLANTED, j]
    flags = [f for f in demo.changed(rows).flags() if f.kind == "dead"]
    assert [f.feature for f in flags] == ["indicator.adx_14"]
    assert 0 < flags[0].time - demo.closes[PLANTED] <= 7 * 24 * HOUR


def test_a_flat_position_is_not_dead_and_one_that_stands_still_is(demo: Live) -> None:
    rows = demo.rows.copy()
    position = [k for k, name in enumerate(demo.dataset.names) if name.startswith("position.")]
    flat = demo.rows[demo.rows[:, column(demo, "position.side")] == 0.0][0]
    rows[:, position] = flat[position]
    assert not [f for f in demo.changed(rows).flags() if f.kind == "dead"]
    rows[:, column(demo, "position.side")] = 1.0
    dead = {f.feature for f in demo.changed(rows).flags() if f.kind == "dead"}
    assert "position.bars_held" in dead or "" in dead


def test_rows_of_another_shape_drift_and_the_feature_is_named(demo: Live) -> None:
    rows, j = demo.rows.copy(), column(demo, "indicator.rsi_14")
    rows[:, j] = np.clip(rows[:, j] + 25.0, 0.0, 99.0)
    flags = [f for f in demo.changed(rows).flags() if f.kind == "drift"]
    assert ("indicator.rsi_14", "fail") in {(f.feature, f.severity) for f in flags}
    assert {f.feature for f in flags if f.severity == "fail"} == {"indicator.rsi_14"}


def test_a_symbol_that_falls_silent_is_stale_and_a_weekend_is_not(three: Live) -> None:
    silent = three.closes[PLANTED]
    kept = [k for k, s in enumerate(three.symbols) if s != "C" or three.closes[k] < silent]
    monitor = fk.Monitor(three.dataset)
    assert not [f for f in three.flags() if f.kind == "stale"]
    seen = monitor.watch([three.symbols[k] for k in kept], three.closes[kept], three.rows[kept])
    flags = [f for f in seen if f.kind == "stale"]
    assert [f.symbol for f in flags] == ["C"]
    assert 3 * HOUR < flags[0].time - silent <= 80 * HOUR  # a weekend may lie between
    assert monitor.summary()["symbols"]["C"]["stale"] is True


def test_a_symbol_that_never_comes_is_stale(three: Live) -> None:
    kept = np.array([symbol != "C" for symbol in three.symbols])
    symbols = [s for s, k in zip(three.symbols, kept, strict=True) if k]
    monitor = fk.Monitor(three.dataset)
    flags = monitor.watch(symbols, three.closes[kept], three.rows[kept])
    assert [(f.kind, f.symbol) for f in flags if f.kind == "stale"] == [("stale", "C")]
    assert not fk.Monitor(three.dataset, symbols=["A", 'B"\\']).watch(
        symbols[:40], three.closes[kept][:40], three.rows[kept][:40]
    )


def test_of_a_row_in_its_warm_up_only_the_time_is_looked_at(three: Live) -> None:
    rows = three.rows.copy()
    rows[:90] = np.nan
    ready = np.arange(len(rows)) >= 90
    found = fk.Monitor(three.dataset).watch(three.symbols, three.closes, rows, ready=ready)
    assert not {flag.kind for flag in found} & {"not finite", "stale", "clock skew"}
    (first, *_) = fk.Monitor(three.dataset).watch(three.symbols, three.closes, rows)
    assert first.kind == "not finite"


def test_a_clock_that_is_put_forward_skews_nothing(tmp_path: Path) -> None:
    first, last = pl.datetime(2019, 11, 4), pl.datetime(2020, 6, 1)
    days = pl.datetime_range(first, last, "1h", time_zone="Europe/Helsinki", eager=True)
    days = days.filter(days.dt.weekday() < 6)  # it is put forward on a Sunday
    local = days.filter(days.dt.hour() % 4 == 0).cast(pl.Datetime("ns", "Europe/Helsinki"))
    rng = np.random.default_rng(2)
    close = np.exp(rng.normal(0, 1e-3, len(local)).cumsum())
    bars = pl.DataFrame({"symbol": "X", "time": local, "open": close, "close": close})
    bars = bars.with_columns(high=pl.col("close") * 1.001, low=pl.col("close") * 0.999, volume=1.0)
    bars.with_columns(pl.col("time").dt.convert_time_zone("UTC")).write_parquet(
        tmp_path / "bars.parquet"
    )
    source = {"path": str(tmp_path / "bars.parquet"), "bar": "4h", "timezone": "UTC"}
    kinds = []
    for name in ("Europe/Helsinki", "UTC"):
        made = fk.Pipeline(
            name="four", bars={**source, "exchange_timezone": name}, blocks=["market"],
            warmup="lookback", splits={"validation": "2020-03-10", "test": "2020-04-15"},
        )  # fmt: skip
        kinds.append({flag.kind for flag in live_of(made.build(tmp_path / name[:3])).flags()})
    assert "clock skew" not in kinds[0]
    assert "clock skew" in kinds[1]  # in UTC a bar that moves by an hour is another


def test_what_was_missing_in_the_train_rows_may_be_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    hours = np.arange(420_000, 422_500)
    close = np.exp(rng.normal(0, 1e-3, len(hours)).cumsum())
    bars = pl.DataFrame({"symbol": "X", "time": hours * HOUR, "open": close, "close": close})
    bars = bars.with_columns(
        pl.col("time").cast(pl.Datetime("ns", "UTC")),
        high=pl.col("close") * 1.001,
        low=pl.col("close") * 0.999,
        volume=1.0,
        funding=pl.Series(
            np.where(rng.random(len(hours)) < 0.1, np.nan, rng.normal(size=len(hours)))
        ),
    )
    bars.write_parquet(tmp_path / "bars.parquet")
    source = {"path": str(tmp_path / "bars.parquet"), "bar": "1h", "timezone": "UTC"}
    made = fk.Pipeline(name="holed", bars=source, blocks=["market", "funded"])
    live = live_of(made.build(tmp_path / "holed"))
    assert not [flag for flag in live.flags() if flag.kind == "not finite"]
    live.rows[5, column(live, "market.ret_1")] = np.nan
    live.rows[6, column(live, "funded.funding")] = np.inf
    named = [flag.feature for flag in live.flags() if flag.kind == "not finite"]
    assert named == ["market.ret_1", "funded.funding"]


@block(unit="ratio")
def funded(funding: Any) -> Any:  # noqa: ANN401  # columns
    """The rate as it is."""
    return {"funding": funding}


def test_a_clock_says_when_all_fall_silent(three: Live) -> None:
    monitor = fk.Monitor(three.dataset)
    begin = int(np.flatnonzero((three.closes // HOUR // 24 + 3) % 7 == 1)[0])  # a Tuesday
    monitor.watch(three.symbols[: begin + 3], three.closes[: begin + 3], three.rows[: begin + 3])
    last = int(three.closes[begin + 2])
    none = np.empty((0, three.rows.shape[1]), np.float32)
    assert not monitor.watch([], np.empty(0, np.int64), none, now=last + 3 * HOUR)
    flags = monitor.watch([], np.empty(0, np.int64), none, now=last + 5 * HOUR)
    assert {(f.kind, f.symbol) for f in flags} == {("stale", s) for s in three.dataset.symbols}
    assert not monitor.watch([], np.empty(0, np.int64), none, now=last + 6 * HOUR)  # told once


def test_a_close_in_the_future_or_off_the_grid_is_a_clock_that_is_wrong(three: Live) -> None:
    monitor = fk.Monitor(three.dataset)
    close = int(three.closes[0])
    flags = monitor.watch(["A"], [close], three.rows[:1], now=close - 2 * HOUR)
    assert [(f.kind, f.severity, f.value) for f in flags] == [("clock skew", "fail", 7200.0)]
    flags = monitor.watch(["A"], [close + HOUR + 7_000_000_000], three.rows[1:2])
    assert [(f.kind, f.severity, f.value) for f in flags] == [("clock skew", "warn", 7.0)]


# --- however the rows come ------------------------------------------------------------------------


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 1500), max_size=12), seed=st.integers(0, 99))
def test_the_same_rows_raise_the_same_flags_in_any_pieces(
    three: Live, cuts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = three.rows.copy()
    rows[rng.integers(0, len(rows), 30), rng.integers(0, rows.shape[1], 30)] = np.nan
    rows[rng.integers(0, len(rows), 5)] *= 1e4
    rows[300:, 7] *= 50
    live = three.changed(rows)
    whole = fk.Monitor(live.dataset)
    want = whole.watch(live.symbols, live.closes, live.rows)
    pieces, got = fk.Monitor(live.dataset), []
    for start, stop in itertools.pairwise(sorted({0, *cuts, len(rows)})):
        part = slice(start, stop)
        got += pieces.watch(live.symbols[part], live.closes[part], live.rows[part])
    assert [json.dumps(f.to_dict()) for f in got] == [json.dumps(f.to_dict()) for f in want]
    assert json.dumps(pieces.summary()) == json.dumps(whole.summary())
    assert pieces.exposition() == whole.exposition()


def test_a_row_that_is_no_new_bar_is_passed_over(three: Live) -> None:
    monitor = fk.Monitor(three.dataset)
    for _ in range(3):
        monitor.watch(three.symbols[:9], three.closes[:9], three.rows[:9])
    assert monitor.summary()["rows"] == 9


def test_a_stream_is_watched_with_the_symbols_and_closes_that_it_knows(three: Live) -> None:
    made = fk.Pipeline.from_yaml(three.dataset.manifest.pipeline)
    assert made.bars is not None
    bars = pl.read_parquet(str(made.bars.path)).filter(pl.col("time").dt.hour() < 99)
    stream, monitor = fk.Stream(made, ["A"]), fk.Monitor(three.dataset, symbols=["A"])
    stream.warm(bars.filter(pl.col("symbol") == "A")[:500])
    for row in range(500, 560):
        one = bars.filter(pl.col("symbol") == "A")[row : row + 1]
        assert not monitor.watch(stream.symbols, stream.closes, stream.update(one))
    assert monitor.summary()["rows"] == 60


# --- training batches -----------------------------------------------------------------------------


def test_batches_of_the_loader_are_clean_and_a_broken_one_is_not(demo: Live) -> None:
    monitor = fk.Monitor(demo.dataset)
    batches = list(demo.dataset.loader(split="train", window=20, batch_size=256, seed=0))
    for batch in batches:
        assert not [f for f in monitor.observe(batch) if f.kind != "drift"]
    broken = batches[0]
    j = column(demo, "indicator.rsi_14")
    broken.features[5, -1, j] = float("nan")
    broken.features[:, -1, j + 1] = 0.25
    flags = monitor.observe(broken)
    named = demo.dataset.names
    assert ("not finite", named[j]) in {(f.kind, f.feature) for f in flags}
    assert [f.feature for f in flags if f.kind == "dead"] == [named[j + 1]]
    assert next(f.time for f in flags if f.kind == "not finite") == broken.time[5]


# --- what it tells --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 64, 256])
def test_batches_in_the_order_of_time_are_clean_too(demo: Live, size: int) -> None:
    monitor = fk.Monitor(demo.dataset)
    loader = demo.dataset.loader(split="validation", window=20, batch_size=size, shuffle=False)
    flags = [flag for batch in loader for flag in monitor.observe(batch)]
    assert not [flag for flag in flags if flag.kind == "dead"]


def test_flags_are_counted_exposed_and_logged(three: Live) -> None:
    rows = three.rows.copy()
    rows[3::500, 4] = np.nan
    log = io.StringIO()
    monitor = fk.Monitor(three.dataset, log=log)
    flags = monitor.watch(three.symbols, three.closes, rows)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert lines == [flag.to_dict() for flag in flags]
    bad = len(range(3, len(rows), 500))
    summary = json.loads(json.dumps(monitor.summary()))
    assert summary["flags"]["not finite"] == bad
    assert summary["recent"]["flags"]["not finite"] == 1
    assert set(summary["flags"]) == set(KINDS)
    families = {f.name: f for f in text_string_to_metric_families(monitor.exposition())}
    counted = {(s.labels["kind"], s.labels["severity"]): s.value
               for s in families["featurekit_flags"].samples}  # fmt: skip
    assert counted["not finite", "fail"] == bad
    assert families["featurekit_rows"].samples[0].value == len(rows)
    closes = {
        s.labels["symbol"]: s.value for s in families["featurekit_last_close_seconds"].samples
    }
    assert closes == dict.fromkeys(three.dataset.symbols, three.closes[-1] / 1e9)
    assert len(families["featurekit_psi"].samples) == len(three.dataset.names)


@pytest.mark.parametrize(
    ("symbols", "closes", "width", "what"),
    [
        (["Z"], [HOUR], None, "no such symbol"),
        (["A"], [HOUR], 3, "a column for each feature"),
        (["A", "A"], [HOUR], None, "one symbol and one close"),
        (["A"], [HOUR, HOUR], None, "one symbol and one close"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    three: Live, symbols: list[str], closes: list[int], width: int | None, what: str
) -> None:
    with pytest.raises(DataError, match=what):
        fk.Monitor(three.dataset).watch(symbols, closes, three.rows[:1, :width])


# --- the index ------------------------------------------------------------------------------------


def test_the_index_is_that_of_the_textbook() -> None:
    """Siddiqi 2006, by hand: shares .5 .3 .2 against .4 .3 .3: .1 ln 1.25 + .1 ln 1.5 = .0629."""
    past, present = np.array([50, 30, 20]) * 10**6, np.array([40, 30, 30]) * 10**6
    assert stability_index(past, present) == pytest.approx(0.0629, abs=1e-4)


def test_the_quick_way_says_what_the_index_says() -> None:
    rng = np.random.default_rng(6)
    shares, sums = rng.integers(0, 500, (40, 10)), rng.integers(0, 300, (40, 12))
    sums[:3, 11], sums[3, :10] = 0, 0
    psi, level = np.empty((2, 40))
    means(sums, shares, psi, level)
    np.testing.assert_allclose(psi, stability_index(shares, sums[:, :10]), rtol=1e-9)
    np.testing.assert_array_equal(level, mean_level(sums))


def test_chance_alone_exceeds_its_index_as_often_as_is_said() -> None:
    rng = np.random.default_rng(0)
    n, m, groups = 5_000, 500, 10
    limit = chance_index(1 / n + 1 / m, groups, 0.05)
    past = rng.multinomial(n, [1 / groups] * groups, 4_000)
    present = rng.multinomial(m, [1 / groups] * groups, 4_000)
    assert np.mean(stability_index(past, present) > limit) == pytest.approx(0.05, abs=0.015)
