"""The pipeline file: what it says, what it refuses, and the table it makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.block import block
from featurekit.canonical import BARS
from featurekit.errors import ConfigError, DataError
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from featurekit.column import Col

ROOT = Path(__file__).parents[1]
HOUR = 3_600_000_000_000


def bars(rows: int, symbol: str = "X", seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.exp(rng.normal(0, 1e-3, rows).cumsum())
    return pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "time": pl.Series(np.arange(rows) * HOUR).cast(pl.Datetime("ns", "UTC")),
            "open": close,
            "high": close * 1.001,
            "low": close * 0.999,
            "close": close * (1 + rng.uniform(-5e-4, 5e-4, rows)),
            "volume": rng.integers(0, 100, rows).astype(float),
        }
    )


durations = st.sampled_from(["5m", "1h", "4d", "1d12h"])
names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
blocks = st.sampled_from(["market", "indicator", "position"])
multipliers = st.floats(0.1, 1e5)
bar_sources = st.fixed_dictionaries(
    {"path": st.text(min_size=1, max_size=9), "bar": durations},
    optional={
        "stamp": st.sampled_from(["open", "close"]),
        "symbol": names,
        "columns": st.dictionaries(st.sampled_from(BARS), names, max_size=2),
    },
)
accounts = st.fixed_dictionaries(
    {},
    optional={
        "cash": st.floats(1, 1e9),
        "multiplier": multipliers | st.dictionaries(names, multipliers, min_size=1, max_size=2),
        "scope": st.sampled_from(["symbol", "portfolio"]),
    },
)
all_splits = [
    {"train": 0.6, "validation": 0.2, "test": 0.2},
    {"validation": "2017-09-01", "test": "2017-11-01", "embargo": 3},
]
all_targets = st.sampled_from([{"forward_return": 5}, {"forward_sign": 1}])
documents = st.fixed_dictionaries(
    {
        "name": st.text(min_size=1, max_size=12),
        "blocks": st.lists(blocks, min_size=1, max_size=3, unique=True),
    },
    optional={
        "bars": bar_sources,
        "fills": st.fixed_dictionaries({"path": st.text(min_size=1, max_size=9)}),
        "account": accounts,
        "targets": st.dictionaries(names, all_targets, max_size=2),
        "segments": st.fixed_dictionaries({"max_gap": durations, "reset": st.booleans()}),
        "splits": st.sampled_from(all_splits),
        "slices": st.dictionaries(names, st.just("1 = 1"), max_size=2),
        "warmup": st.sampled_from(["memory", "lookback"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(documents)
def test_yaml_and_python_say_the_same(document: dict[str, object]) -> None:
    pipeline = Pipeline(**document)
    again = Pipeline.from_yaml(pipeline.to_yaml())
    assert again == pipeline
    assert again.fingerprint == pipeline.fingerprint
    assert again.columns == pipeline.columns


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_the_shipped_pipelines_make_the_129_columns(path: Path) -> None:
    pipeline = Pipeline.from_yaml(path)
    counts = [f.block for f in pipeline.features]
    assert [counts.count(b) for b in ("market", "position", "indicator")] == [48, 27, 54]
    assert all(f.unit and f.doc and f.scale for f in pipeline.features)
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


GOOD = "name: x\nblocks:\n  - market: {}\n"
BOMB = "a: &a0 [x]\n" + "".join(
    f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "blocs: 3\n", ["unknown key 'blocs'", "line 4", "Fix: blocks:"]),
        (GOOD + "width: 129\n", ["129 columns", "48: market 48", "line 4", "Fix: width: 48"]),
        (GOOD + "  - market: {}\n", ["two blocks are named 'market'", "line 4", "as: market_2"]),
        (GOOD + "  - marke: {}\n", ["there is no block 'marke'", "line 4"]),
        (GOOD + "  - indicator: {n: 3}\n", ["no option 'n'"]),
        (GOOD + "account: {cash: ten}\n", ["wrong kind", "line 4", "a number", "'ten'"]),
        (GOOD + "account: {cash: -1}\n", ["out of range", "above 0"]),
        (GOOD + "bars: {path: a, bar: 1x}\n", ["no duration", "1h"]),
        (GOOD + "bars: {path: a}\n", ["length of a bar", "Fix: bar: 1h"]),
        (GOOD + "bars: {bar: 1h}\n", ["from one place"]),
        (GOOD + "bars: {sample: eurusd}\n", ["no such sample", "line 4, key bars.sample"]),
        (GOOD + "targets: {t: {forward_return: 0}}\n", ["looks ahead"]),
        (GOOD + "splits: {train: 0.9, validation: 0.2, test: 0.2}\n", ["add up to 1"]),
        (GOOD + "splits: {validation: soon, test: 2017-01-01}\n", ["no date"]),
        (GOOD + "scaling: {kind: standrad}\n", ["scaling", "standard"]),
        (GOOD + "warmup: none\n", ["memory | lookback"]),
        (GOOD + "use: [no_such_module]\n", ["cannot import 'no_such_module'"]),
        (GOOD + "name: y\n", ["stands twice", "line 4"]),
        ("name: x\n blocks: [\n", ["not YAML", "line 2"]),
        ("- a\n- b\n", ["not a mapping"]),
        ("name: x\nblocks: []\n", ["needs a block"]),
        ("blocks:\n  - market: {}\n", ["'name' is missing"]),
        ("name: x\nblocks: !!python/object/apply:os.system ['true']\n", ["not YAML"]),
        (GOOD + "splits: {validation: 2024-13-45, test: 2024-12-01}\n", ["no date", "line 4"]),
        (GOOD + "splits: {validation: !!timestamp 2024-13-45}\n", ["not YAML", "line 4"]),
        (GOOD + "account: &a {cash: *a}\n", ["not YAML"]),
        ("name: &a [*a]\n", ["not YAML"]),
        ("name: " + "[" * 5000 + "\n", ["not YAML", "without end"]),
        (BOMB, ["more than 100000 keys"]),
        (GOOD + f"account: {{cash: {'9' * 400}}}\n", ["wrong kind", "line 4", "a number"]),
        (GOOD + f"account: {{cash: {'9' * 5000}}}\n", ["not YAML", "line 4", "digits"]),
        (GOOD + "blocks_: 3\n", ["Fix: blocks:"]),
        (GOOD + "  - indicator: [1]\n", ["options of a block", "line 4", "- indicator: {}"]),
        (GOOD + "  - indicator: foo\n", ["options of a block", "'foo'"]),
        (GOOD + "  - indicator: 5\n", ["options of a block", "got:      5"]),
        (GOOD + "  - indicator: {1: 5}\n", ["options of a block", "{1: 5}"]),
        (GOOD + "bars: {path: a, bar: 200000d}\n", ["bar: this is no duration", "36500d"]),
        (GOOD + f"bars: {{path: a, bar: {'9' * 5000}d}}\n", ["no duration", "Fix: bar: 1h"]),
        (GOOD + "bars: {path: a, bar: 0h}\n", ["no duration", "above 0"]),
        (GOOD + "segments: {max_gap: 0d}\n", ["no duration", "Fix: max_gap: 1h"]),
        (GOOD + f"splits: {{embargo: {10**12}}}\n", ["out of range", "0 to 1000000000"]),
        (GOOD + f"windows: {{max: {10**18}}}\n", ["out of range", "1 to 1000000000"]),
        (GOOD + f"targets: {{t: {{forward_sign: {10**10}}}}}\n", ["looks ahead", "line 4"]),
        (GOOD + "splits: {validation: '1000-01-01', test: '1001-01-01'}\n", ["1700 to 2149"]),
        (
            GOOD + "splits: {validation: 2018-01-01, test: 2017-01-01}\n",
            ["test starts before validation", "line 4", "2018-01-01", "2017-01-01"],
        ),
        (
            GOOD + "bars: {path: a, bar: 1h,\n  timezone: Europe/Helsinky}\n",
            ["timezone: there is no such", "line 5", "Fix: timezone: Europe/Helsinki"],
        ),
        (
            GOOD + "bars: {path: a, bar: 1h, exchange_timezone: Mars/Base}\n",
            ["exchange_timezone: there is no such", "line 4", "Fix: exchange_timezone: UTC"],
        ),
        (GOOD + "fills: {path: a, timezone: ''}\n", ["no such time zone", "fills.timezone"]),
        (
            GOOD + "bars: {path: a, bar: 1h, columns: {clsoe: bid}}\n",
            ["nothing reads", "line 4", "Fix: columns: {close: bid}"],
        ),
        (
            GOOD + "fills: {path: a, columns: {qty: amount}}\n",
            ["nothing reads", "fills.columns.qty", "quantity"],
        ),
        (
            GOOD + "scaling: {blocks: {markt: {kind: robust}}}\n",
            ["scaling names one of the blocks", "line 4", "Fix: market: {kind: robust}"],
        ),
        (
            GOOD + "scaling: {features: {market.gapp: {kind: robust}}}\n",
            ["scaling names one of the features", "Fix: market.gap: {kind: robust}"],
        ),
        (GOOD + "use: [os, no_such]\n", ["cannot import 'no_such'", "line 4, key use.1", "Fix: "]),
        ("name: x\nblocks: 3\n", ["expected: a list\n", "Fix: blocks: ["]),
        (GOOD + "account: 3\n", ["a section is a mapping", "line 4", "Fix: account: {cash: ...}"]),
    ],
)
def test_a_mistake_is_told_with_its_line_and_its_fix(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline.from_yaml(text)
    for part in expected:
        assert part in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline.from_yaml("nam: x\nblocks: 3\nwarmup: no\n")
    assert len(caught.value.problems) >= 4


@pytest.mark.parametrize("name", ["no/such.yaml", "a\0b", "tests", "pipelines/eurusd_demo.yml"])
def test_a_missing_file_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the pipeline file") as told:
        Pipeline.from_yaml(name)
    assert "Fix: pipelines/eurusd_demo.yaml" in str(told.value)


def test_a_file_is_not_its_own_fix(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="in UTF-8") as told:
        Pipeline.from_yaml(tmp_path / "p.yaml")
    assert f"Fix: {tmp_path}" not in str(told.value)


@pytest.mark.parametrize("given", [None, 3, {"name": "x"}, b"name: x"])
def test_a_pipeline_is_read_from_a_path_or_text(given: object) -> None:
    with pytest.raises(ConfigError, match="from a file or from text"):
        Pipeline.from_yaml(given)  # type: ignore[arg-type]  # the mistake under test


def test_numbers_of_any_length_are_told() -> None:
    with pytest.raises(ConfigError) as told:
        Pipeline(name="x", blocks=["market"], width=10**5000, account={"cash": 10**5000})
    assert [problem.got for problem in told.value.problems] == ["int", "int"]


def test_a_block_reads_columns_that_are_declared_for_it(tmp_path: Path) -> None:
    del tmp_path
    Pipeline(
        name="x", blocks=["spread_read"], bars={"path": "a", "bar": "1h", "columns": {"bid": "b"}}
    )


@block(name="spread_read")
def spread_read(bid: Col) -> dict[str, Col]:
    """Reads a column of the user's own."""
    return {"bid": bid}


ALL = Pipeline(name="all", blocks=["market", "position", "indicator"])


def test_transform_gives_symbol_time_and_the_columns_in_order() -> None:
    frame = pl.concat([bars(400), bars(300, "Y", 1)])
    table = ALL.transform(frame)
    assert table.columns == ["symbol", "time", *ALL.columns]
    assert table.height == 700
    assert set(table.dtypes[2:]) == {pl.Float32}
    exact = ALL.transform(frame, dtype="float64")
    for name in ALL.columns:
        np.testing.assert_array_equal(table[name].to_numpy(), exact[name].to_numpy().astype("f4"))


def test_a_column_starts_at_its_lookback() -> None:
    table = ALL.transform(bars(400), dtype="float64")
    for feature in ALL.features:
        defined = np.flatnonzero(~np.isnan(table[feature.name].to_numpy()))
        assert defined[0] == feature.lookback, feature.name
        assert len(defined) == 400 - feature.lookback, feature.name


def test_symbols_do_not_touch_each_other() -> None:
    alone = ALL.transform(bars(300, "Y", 1))
    both = ALL.transform(pl.concat([bars(400), bars(300, "Y", 1)]))
    assert both.filter(symbol="Y").equals(alone, null_equal=True)


def test_a_hole_is_forgotten_with_its_window() -> None:
    frame = bars(1500)
    holed = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 700).then(None).otherwise(pl.col("close")).alias("close")
    )
    whole, got = ALL.transform(frame, dtype="float64"), ALL.transform(holed, dtype="float64")
    memory = {f.name: f.memory for f in ALL.features}
    for name in ALL.columns:
        a, b = whole[name].to_numpy(), got[name].to_numpy()
        np.testing.assert_array_equal(a[:700], b[:700])
        assert not np.isnan(b[700 + memory[name] + 1 :]).any(), name


def test_segments_can_restart_the_features() -> None:
    frame = bars(300)
    later = frame.with_columns(pl.col("time") + pl.duration(days=100, time_unit="ns"))
    pipeline = Pipeline(name="x", blocks=["market"], segments={"max_gap": "4d", "reset": True})
    table = pipeline.transform(pl.concat([frame, later]))
    assert table["market.ret_100"].is_nan().to_list() == 2 * ([True] * 100 + [False] * 200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("close"), "no column 'close'"),
        (lambda f: f.drop("symbol"), "no column symbol"),
        (lambda f: f.with_columns(close=pl.lit("a")), "no column 'close' of numbers"),
        (lambda f: f.reverse(), "times do not increase"),
        (lambda f: pl.concat([f, f]), "times do not increase"),
        (lambda f: f.with_columns(pl.col("time").dt.replace_time_zone(None)), "not in UTC"),
        (lambda f: pl.concat([f, f.with_columns(symbol=pl.lit("Y")), f]), "lie apart"),
        (lambda f: f.with_columns(symbol=pl.lit(None, pl.String)), "5 bars have no symbol"),
        (lambda f: f.with_columns(time=pl.lit(None, f.schema["time"])), "5 bars have no time"),
        (lambda f: f.lazy(), "bars are no frame"),
        (lambda f: None, "bars are no frame"),
        (lambda f: f.to_dict(), "bars are no frame"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(change: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ALL.transform(change(bars(5)))  # type: ignore[operator]  # a lambda


@pytest.mark.parametrize("fills", [bars(2).lazy(), [], {}, "fills.csv"])
def test_fills_that_are_no_frame_are_refused(fills: object) -> None:
    with pytest.raises(DataError, match="fills are no frame"):
        ALL.transform(bars(5), fills)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_frames_make_tiny_tables(rows: int) -> None:
    table = ALL.transform(bars(rows))
    assert table.shape == (rows, 131)
