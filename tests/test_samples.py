"""The bundled samples are what they say: real bars, a strategy's fills, their licences."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import featurekit as fk
from featurekit.errors import ConfigError
from featurekit.samples import SAMPLES, sample
from featurekit.sources import read_bars, read_fills

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]
READ = ("symbol", "columns", "timezone", "time_format")
PRICES = ["open", "high", "low", "close"]


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bars_of(name: str) -> pl.DataFrame:
    known: dict[str, Any] = sample(name)
    return read_bars(known["path"], **{key: known[key] for key in READ if key in known})


def fills() -> pl.DataFrame:
    return read_fills(sample("eurusd_h1_fills")["path"])


def test_the_strategy_makes_the_committed_fills_byte_for_byte() -> None:
    strategy = script(ROOT / "pipelines" / "sma_crossover.py")
    made = strategy.to_csv(strategy.simulate(strategy.demo_bars()))
    assert made == Path(sample("eurusd_h1_fills")["path"]).read_text()


def test_fills_lie_inside_their_bars() -> None:
    filled = fills().filter(pl.col("quantity") > 0)
    inside = filled.join_asof(bars_of("eurusd_h1").sort("time"), on="time", by="symbol")
    inside = inside.select(pl.col("price").is_between("low", "high"))
    assert inside.height > 300
    assert inside["price"].all()


@pytest.mark.parametrize("name", ["eurusd_h1", "us_stocks_d1"])
def test_bars_hold_to_their_schema(name: str) -> None:
    violations = fk.validate(bars_of(name), "schemas/bars.yaml")
    assert violations.filter(pl.col("severity") == "fail").is_empty()


def test_fills_hold_to_their_schema() -> None:
    assert fk.validate(fills(), "schemas/fills.yaml").is_empty()


@pytest.mark.parametrize("name", ["eurusd_h1", "us_stocks_d1"])
def test_bars_are_those_of_the_real_data(name: str, shared_data: Path) -> None:
    theirs = pl.read_parquet(shared_data / "bars" / f"{name}.parquet")
    mine = bars_of(name)
    assert mine.height == theirs.height
    theirs = theirs.sort("symbol", "ts")
    assert_frame_equal(mine.select(PRICES), theirs.select(pl.col(PRICES).cast(pl.Float64)))
    assert mine["volume"].to_list() == theirs["volume"].cast(pl.Float64).to_list()


def test_every_sample_of_others_keeps_its_licence() -> None:
    here = Path(sample("eurusd_h1")["path"]).parent
    for name in set(SAMPLES) - {"eurusd_h1_fills"}:
        assert (here / f"LICENSE-{name}.txt").read_text().strip()


def test_an_unknown_sample_is_told() -> None:
    with pytest.raises(ConfigError, match=r"eurusd_h1 \| us_stocks_d1") as told:
        sample("eurusd")
    assert "eurusd" in str(told.value)


def test_the_table_of_features_is_current() -> None:
    made = script(ROOT / "schemas" / "make_features.py").features_yaml()
    assert made == (ROOT / "schemas" / "features.yaml").read_text()
