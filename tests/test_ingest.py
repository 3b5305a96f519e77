"""Ingest: no bar looks ahead, few bars are set aside, and fills belong to bars."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pytest

from featurekit.errors import DataError
from featurekit.ingest import Ingested, ingest
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
UTC = pl.Datetime("ns", "UTC")


def bars(hours: list[float], symbol: str = "X", close: list[float] | None = None) -> pl.DataFrame:
    """Bars at these hours; a close of its own makes the bar reach there."""
    closes = close or [1.0] * len(hours)
    return pl.DataFrame(
        {
            "symbol": symbol,
            "time": [START + timedelta(hours=hour) for hour in hours],
            "open": 1.0,
            "high": [max(1.0, each) for each in closes],
            "low": [min(1.0, each) for each in closes],
            "close": closes,
            "volume": 5.0,
        }
    ).with_columns(pl.col("time").cast(UTC))


def fills(*rows: tuple[float, str | None, str]) -> pl.DataFrame:
    """Fills at hours, of symbols, of sides."""
    return pl.DataFrame(
        {
            "time": [START + timedelta(hours=hour) for hour, _, _ in rows],
            "symbol": [symbol for _, symbol, _ in rows],
            "side": [side for _, _, side in rows],
            "quantity": 1.0,
            "price": 1.0,
            "fee": 0.0,
        },
        schema_overrides={"time": UTC, "symbol": pl.String},
    )


def read(
    directory: Path,
    frame: pl.DataFrame,
    traded: pl.DataFrame | None = None,
    on_bad: Literal["fail", "quarantine"] = "fail",
    **changes: Any,  # noqa: ANN401  # keys of the pipeline
) -> Ingested:
    """What is read of these frames; `changes` are of the sections bars and account."""
    frame.write_parquet(directory / "bars.parquet")
    document: dict[str, Any] = {
        "name": "x",
        "bars": {
            "path": str(directory / "bars.parquet"),
            "bar": "1h",
            **changes.get("bars", {}),
        },
        "account": changes.get("account", {}),
        "blocks": ["market", "position"],
    }
    if traded is not None:
        traded.write_csv(directory / "fills.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
        document["fills"] = {"path": str(directory / "fills.csv")}
    scratch = directory / "scratch"
    scratch.mkdir()
    return ingest(Pipeline(**document), scratch, on_bad=on_bad, tell=lambda what, done, rows: None)


def refused(*arguments: Any, **changes: Any) -> str:  # noqa: ANN401  # passed on
    with pytest.raises(DataError) as told:
        read(*arguments, **changes)
    return str(told.value)


# --- spacing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "bar", "step"),
    [
        ([0, 1, 2], "4h", "1h"),
        ([0, 0.25, 0.5], "1h", "15m"),
        ([0, 24, 48], "7d", "1d"),
        ([0, 22, 48], "1d", "22h"),
    ],
)
def test_bars_longer_than_their_spacing_look_ahead(
    hours: list[float], bar: str, step: str, tmp_path: Path
) -> None:
    frame = pl.concat([bars([0, 500]), bars(hours, "Y")])
    text = refused(tmp_path, frame, bars={"bar": bar})
    for part in ("bars of Y", f"bar: {bar}", f"{step} after 2024-01-01", f"Fix: bar: {step}"):
        assert part in text
    assert "of X" not in text


@pytest.mark.parametrize(
    ("hours", "section"),
    [
        ([0, 1, 5], {"bar": "1h"}),
        ([0, 24, 47, 71], {"bar": "1d"}),  # a day of 23 hours, in spring
        ([0, 1, 2], {"bar": "4h", "stamp": "close"}),  # closes are what they are stamped
        ([0], {"bar": "4h"}),
    ],
)
def test_bars_as_long_as_their_spacing_are_read(
    hours: list[float], section: dict[str, str], tmp_path: Path
) -> None:
    assert read(tmp_path, bars(hours), bars=section).bars.height == len(hours)


# --- quarantine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "aside", "reason"),
    [
        ([0, 1, 900, 3, 4, 5], [2], "times increase"),  # a future time, once
        ([0, 1, 900, 901, 4, 5, 6, 7], [2, 3], "times increase"),
        ([5, 6, 7, 3, 8, 9], [3], "times increase"),
        ([900, 1, 2, 3], [0], "times increase"),
        ([0, 1, 1, 2, 2, 2], [2, 4, 5], "each time once"),
        ([*range(300), *[7] * 1500, *range(300, 600)], [*range(300, 1800)], "times increase"),
    ],
)
def test_as_few_bars_as_can_be_are_set_aside(
    hours: list[float], aside: list[int], reason: str, tmp_path: Path
) -> None:
    data = read(tmp_path, bars(hours), on_bad="quarantine")
    found = data.quarantined["bars.parquet"]
    assert found["row"].to_list() == aside
    assert found["reason"].unique().to_list() == [f"time: {reason}"]
    assert data.bars.height == len(hours) - len(aside)
    assert len(list((tmp_path / "scratch").iterdir())) == 1  # what is mapped, and no round before


def test_a_symbol_that_loses_all_its_bars_is_no_harm(tmp_path: Path) -> None:
    late = bars([0, 1, 1], "Z")
    frame = pl.concat([bars([0, 1, 2]), bars([0, 1], "Y").with_columns(close=-1.0), late])
    data = read(tmp_path, frame, on_bad="quarantine")
    assert data.bars["symbol"].unique(maintain_order=True).to_list() == ["X", "Z"]
    assert data.quarantined["bars.parquet"]["row"].sort().to_list() == [3, 4, 7]


JUMPS = "name: mine\ncolumns: {close: {kind: number}}\njump: {log_return: 0.7, severity: fail}\n"


def test_a_spike_is_set_aside_and_a_new_level_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(JUMPS.replace("{close", "{symbol: {kind: text}, close"))
    section = {"schema": str(tmp_path / "mine.yaml")}
    (tmp_path / "a").mkdir()
    spike = bars([*range(6)], close=[1.0, 1.0, 9.0, 1.0, 1.0, 1.0])
    data = read(tmp_path / "a", spike, on_bad="quarantine", bars=section)
    assert data.quarantined["bars.parquet"]["row"].to_list() == [2]
    level = bars([*range(40)], close=[1.0] * 20 + [9.0] * 20)
    assert "no jump" in refused(tmp_path, level, on_bad="quarantine", bars=section)


def test_bars_that_are_all_bad_are_refused(tmp_path: Path) -> None:
    frame = bars([0, 1]).with_columns(volume=-1.0)
    assert "every bar breaks the schema" in refused(tmp_path, frame, on_bad="quarantine")


@pytest.mark.parametrize("on_bad", ["fail", "quarantine"])
def test_an_input_may_be_named_row(on_bad: Literal["fail", "quarantine"], tmp_path: Path) -> None:
    frame = bars([0, 1, 1] if on_bad == "quarantine" else [0, 1]).with_columns(row=pl.lit(7.0))
    traded = fills((0.5, "X", "buy")).with_columns(row=pl.lit(1))
    data = read(tmp_path, frame, traded, on_bad)
    assert data.bars["row"].to_list() == [7.0, 7.0]


# --- fills -------------------------------------------------------------------------------------


def test_a_fill_within_the_first_bar_is_within_the_bars(tmp_path: Path) -> None:
    section = {"stamp": "close"}
    for hour in (0.0, 0.5):
        directory = tmp_path / str(hour)
        directory.mkdir()
        data = read(directory, bars([1, 2, 3]), fills((hour, "X", "buy")), bars=section)
        assert data.fills is not None
        assert data.fills.height == 1
    text = refused(tmp_path, bars([2, 3]), fills((0.5, "X", "buy")), bars=section)
    assert "before its first bar" in text
    assert "2024-01-01 01:00:00" in text


def test_a_deposit_needs_bars_of_its_symbol(tmp_path: Path) -> None:
    rows = (0.5, "X", "buy"), (1.0, "Y", "deposit")
    (tmp_path / "a").mkdir()
    text = refused(tmp_path / "a", bars([0, 1, 2]), fills(*rows))
    assert "1 fills are of the symbol 'Y', which has no bars" in text
    data = read(tmp_path, bars([0, 1, 2]), fills(*rows), account={"scope": "portfolio"})
    assert data.fills is not None


def test_a_file_with_no_fill_is_an_account_that_never_trades(tmp_path: Path) -> None:
    data = read(tmp_path, bars([0, 1]), fills())
    assert data.fills is not None
    assert data.fills.is_empty()
    assert any("never trades" in note for note in data.notes)
