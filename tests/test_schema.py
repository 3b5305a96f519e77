"""Schemas: every violation is listed with its row, whatever the pieces; clean frames have none."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandera.errors
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import featurekit as fk
from featurekit import schema
from featurekit.errors import ConfigError, DataError
from featurekit.schema import load_schema
from featurekit.violations import refuse

if TYPE_CHECKING:
    from pathlib import Path

BARS, FILLS = "schemas/bars.yaml", "schemas/fills.yaml"
START = datetime(2024, 1, 1)
UTC = pl.Datetime("ns", "UTC")


def bars(**changed: Any) -> pl.DataFrame:  # noqa: ANN401  # any value of a cell
    """Twelve bars of two symbols; `changed` puts a value in row 3 (of X) of a column."""
    rows = [
        {
            "symbol": symbol,
            "time": START + timedelta(hours=k),
            "open": 1.0,
            "high": 1.2,
            "low": 0.9,
            "close": 1.1,
            "volume": 5.0,
        }
        for symbol in ("X", "Y")
        for k in range(6)
    ]
    rows[3] |= changed
    return pl.DataFrame(rows, orient="row").with_columns(pl.col("time").cast(UTC))


def fills(**changed: Any) -> pl.DataFrame:  # noqa: ANN401  # any value of a cell
    rows: list[dict[str, Any]] = [
        {
            "time": START + timedelta(hours=k),
            "symbol": "X",
            "side": "buy",
            "quantity": 1.0,
            "price": 1.0,
            "fee": 0.1,
        }
        for k in range(4)
    ]
    rows[2] |= changed
    return pl.DataFrame(rows, orient="row").with_columns(pl.col("time").cast(UTC))


PLANTED = {
    "null": ({"close": None}, [("not null", "close")]),
    "nan": ({"volume": float("nan")}, [("finite", "volume")]),
    "a close that is none": ({"close": float("nan")}, [("finite", "close")]),
    "a low that is none": ({"low": float("nan")}, [("finite", "low")]),
    "an infinite close": ({"close": float("inf")}, [("finite", "close")]),
    "infinity": ({"volume": float("inf")}, [("finite", "volume")]),
    "zero": ({"low": 0.0}, [("> 0", "low")]),
    "negative": ({"low": -1.0}, [("> 0", "low")]),
    "negative volume": ({"volume": -1.0}, [(">= 0", "volume")]),
    "high below low": (
        {"high": 0.8},
        [("low <= high", "high"), ("open inside", "open"), ("close inside", "close")],
    ),
    "open outside": ({"open": 1.3}, [("open inside", "open")]),
    "close outside": ({"close": 0.5}, [("close inside", "close"), ("no jump", "close")]),
    "duplicate": ({"time": START + timedelta(hours=2)}, [("each time once", "time")]),
    "backwards": ({"time": START + timedelta(hours=1)}, [("times increase", "time")]),
    "no symbol": ({"symbol": None}, [("not null", "symbol")]),
}


@pytest.mark.parametrize("case", PLANTED)
@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
def test_what_is_planted_is_listed_once(
    case: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, expected = PLANTED[case]
    monkeypatch.setattr(schema, "PIECE", piece)
    found = fk.validate(bars(**changed), BARS)
    at_row_3 = found.filter(pl.col("row") == 3)
    assert sorted(at_row_3.select("check", "column").rows()) == sorted(expected)
    assert found.columns == list(schema.VIOLATIONS)
    assert set(found["row"]) <= {3, 4}  # the row after a bad time or close is judged by it
    monkeypatch.setattr(schema, "PIECE", 10**6)
    assert_frame_equal(found, fk.validate(bars(**changed), BARS), check_row_order=False)


def test_a_violation_says_where_and_what() -> None:
    (row,) = fk.validate(bars(volume=-2.0), BARS).rows(named=True)
    assert (row["symbol"], row["row"], row["value"], row["severity"]) == ("X", 3, "-2.0", "fail")
    assert row["time"].replace(tzinfo=None) == START + timedelta(hours=3)


def test_an_input_named_row_is_no_row_of_the_file() -> None:
    found = fk.validate(bars(volume=-2.0).with_columns(row=pl.lit(77)), BARS)
    assert found["row"].to_list() == [3]


def test_a_jump_is_worth_a_look_only() -> None:
    found = fk.validate(bars(open=9.0, high=9.0, close=9.0), BARS)
    assert found.select("check", "severity", "row").rows() == [
        ("no jump", "warn", 3),
        ("no jump", "warn", 4),
    ]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (bars().drop("close"), [("column is there", "close")]),
        (bars().with_columns(pl.col("open").cast(pl.String)), [("is number", "open")]),
        (bars().with_columns(pl.col("time").dt.replace_time_zone(None)), [("is time", "time")]),
        (bars().select("symbol", "time"), [("column is there", c) for c in bars().columns[2:]]),
    ],
)
def test_columns_are_listed_too(frame: pl.DataFrame, expected: list[tuple[str, str]]) -> None:
    assert fk.validate(frame, BARS).select("check", "column").rows() == expected


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"side": "bye"}, "one of buy, sell, deposit, withdraw"),
        ({"quantity": -1.0}, ">= 0"),
        ({"price": None}, "buys and sells have a price"),
        ({"symbol": None}, "buys and sells have a symbol"),
        ({"time": START}, "times in order"),
        ({"fee": None}, "not null"),
    ],
)
def test_fills_are_judged(changed: dict[str, Any], check: str) -> None:
    found = fk.validate(fills(**changed), FILLS)
    assert found.select("check", "row").rows() == [(check, 2)]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"quantity": 0.0, "price": None},
        {"side": "deposit", "price": None, "symbol": None},
    ],
    ids=["a fill", "an order update", "a deposit"],
)
def test_fills_that_hold_have_no_violation(changed: dict[str, Any]) -> None:
    assert fk.validate(fills(**changed), FILLS).is_empty()


def test_clean_bars_have_no_violation() -> None:
    assert fk.validate(bars(), BARS).is_empty()
    assert fk.validate(bars().clear(), BARS).is_empty()


def test_refusing_tells_all_checks_and_the_first_rows() -> None:
    frame = bars(volume=-1.0).with_columns(low=pl.lit(-1.0))
    with pytest.raises(DataError) as told:
        refuse(fk.validate(frame, BARS), "bars.csv", "the fix")
    text = str(told.value)
    for part in ("12 rows", "and 7 more", "volume: >= 0", "row 3", "bars.csv", "Fix: the fix"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\ncolums: {}\n", ["line 2", "colums", "columns"]),
        ("name: x\ncolumns:\n  a: {kind: numbr}\n", ["line 3", "text | time | number", "numbr"]),
        ("columns: {}\n", ["name"]),
        (
            "name: x\ncolumns: {time: {kind: time}}\nincreasing: {time: tine, by: symbol}\n",
            ["increasing.time", "line 3", "Fix: time: time", "increasing.by"],
        ),
        ("name: x\nordered: time\n", ["not declared", "line 2", "columns: {time: {kind: time}}"]),
        ("name: caf\udce9\n", ["UTF-8"]),
    ],
)
def test_a_schema_has_a_closed_grammar(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as told:
        load_schema(tmp_path / "mine.yaml")
    for part in expected:
        assert part in str(told.value)


def test_a_missing_schema_is_told() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_schema("schemas/brs.yaml")


def test_pandera_agrees() -> None:
    made = load_schema(BARS).to_pandera()
    assert made.validate(bars()).equals(bars())
    with pytest.raises(pandera.errors.SchemaErrors) as told:
        made.validate(bars(low=-1.0, volume=-1.0), lazy=True)
    assert set(told.value.failure_cases["column"].to_list()) == {"low", "volume"}
