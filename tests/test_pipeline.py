"""The pipeline file: what it says, what it refuses, and the table it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.errors import ConfigError, DataError
from featurekit.pipeline import Pipeline

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
        "columns": st.dictionaries(names, names, max_size=2),
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


def test_a_missing_file_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot read the pipeline file"):
        Pipeline.from_yaml("no/such.yaml")


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
    ],
)
def test_frames_that_cannot_be_used_are_refused(change: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ALL.transform(change(bars(5)))  # type: ignore[operator]  # a lambda


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_frames_make_tiny_tables(rows: int) -> None:
    table = ALL.transform(bars(rows))
    assert table.shape == (rows, 131)
