"""Sources: the same bars from any file, times in UTC whatever the clock, no cell lost silently."""

from __future__ import annotations

import gzip
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from featurekit.errors import ConfigError, DataError
from featurekit.sources import read_bars, read_fills

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = 3600
START = 1_704_067_200  # 2024-01-01 in UTC, s


def texts(**columns: list[str]) -> pl.DataFrame:
    """Four bars as text cells, a column of them changed."""
    cells = {
        "symbol": ["X"] * 4,
        "time": [f"2024-01-01T0{k}:00:00Z" for k in range(4)],
        "open": ["1.5"] * 4,
        "high": ["2"] * 4,
        "low": ["1"] * 4,
        "close": ["1.25"] * 4,
        "volume": ["10", "20", "30", "40"],
    }
    return pl.DataFrame(cells | columns)


def typed() -> pl.DataFrame:
    time = pl.col("time").str.to_datetime(time_unit="ns", time_zone="UTC")
    return texts().with_columns(time, pl.exclude("symbol", "time").cast(pl.Float64))


def epochs(frame: pl.DataFrame) -> list[int]:
    return frame["time"].dt.epoch("s").to_list()


def csv(path: Path, frame: pl.DataFrame) -> Path:
    frame.write_csv(path / "bars.csv")
    return path / "bars.csv"


def in_directory(path: Path) -> Path:
    (path / "many").mkdir()
    typed().head(2).write_parquet(path / "many" / "a.parquet")
    typed().tail(2).write_parquet(path / "many" / "b.parquet")
    return path / "many"


def as_pattern(path: Path) -> Path:
    return in_directory(path) / "*.parquet"


def as_gzip(path: Path) -> Path:
    (path / "bars.csv.gz").write_bytes(gzip.compress(csv(path, texts()).read_bytes()))
    return path / "bars.csv.gz"


def as_parquet(path: Path) -> Path:
    typed().write_parquet(path / "bars.parquet")
    return path / "bars.parquet"


def as_arrow(path: Path) -> Path:
    typed().write_ipc(path / "bars.arrow")
    return path / "bars.arrow"


def named_as_a_pattern(path: Path) -> Path:
    return csv(path, texts()).rename(path / "bars[1].csv")


def parquet_named_as_a_pattern(path: Path) -> Path:
    return as_parquet(path).rename(path / "bars?.parquet")


def arrow_named_as_a_pattern(path: Path) -> Path:
    return as_arrow(path).rename(path / "bars*.arrow")


@pytest.mark.parametrize(
    "write",
    [
        as_gzip,
        as_parquet,
        as_arrow,
        in_directory,
        as_pattern,
        named_as_a_pattern,
        parquet_named_as_a_pattern,
        arrow_named_as_a_pattern,
    ],
)
def test_every_format_gives_the_same_bars(write: Callable[[Path], Path], tmp_path: Path) -> None:
    expected = read_bars(csv(tmp_path, texts()))
    assert_frame_equal(expected, typed())
    assert_frame_equal(read_bars(write(tmp_path)), expected)


@pytest.mark.parametrize("name", ["time", "ts", "timestamp", "Date", "DATETIME"])
def test_time_goes_by_several_names(name: str, tmp_path: Path) -> None:
    frame = texts().rename({"time": name, "close": "Close", "symbol": "SYMBOL"})
    assert_frame_equal(read_bars(csv(tmp_path, frame)), typed())


def test_columns_and_symbol_can_be_declared(tmp_path: Path) -> None:
    path = csv(tmp_path, texts().rename({"close": "bid", "volume": "ticks"}).drop("symbol"))
    bars = read_bars(path, symbol="X", columns={"close": "bid", "volume": "ticks"})
    assert_frame_equal(bars, typed())


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ([str(START + k * HOUR) for k in range(4)], {"time_format": "epoch_s"}),
        ([str((START + k * HOUR) * 10**3) for k in range(4)], {"time_format": "epoch_ms"}),
        ([str((START + k * HOUR) * 10**6) for k in range(4)], {"time_format": "epoch_us"}),
        ([str((START + k * HOUR) * 10**9) for k in range(4)], {"time_format": "epoch_ns"}),
        (
            [f"01.01.2024 0{k}:00" for k in range(4)],
            {"time_format": "%d.%m.%Y %H:%M", "timezone": "UTC"},
        ),
        ([f"2024-01-01 0{k}:00:00" for k in range(4)], {"timezone": "UTC"}),
        ([f"2024-01-01T0{k + 2}:00:00+02:00" for k in range(4)], {}),
        ([f"2023-12-31T{19 + k}:00:00-05:00" for k in range(4)], {}),
        ([f"2024-01-01 0{k + 2}:00:00" for k in range(4)], {"timezone": "Europe/Helsinki"}),
        ([f"2024-01-01T0{k + 2}:00:00+0200" for k in range(4)], {}),
        ([f"2024-01-01 0{k + 2}:00 +02" for k in range(4)], {}),
        ([f"2024-01-01T0{k + 2}:00:00+02:00" for k in range(4)], {"timezone": "Asia/Tokyo"}),
        (
            [f"01/01/2024 0{k + 2}:00+0200" for k in range(4)],
            {"time_format": "%d/%m/%Y %H:%M%z", "timezone": "Asia/Tokyo"},
        ),
        (
            [f"2024-01-01 0{k + 2}:00:00 +02:00" for k in range(4)],
            {"time_format": "%Y-%m-%d %H:%M:%S %:z"},
        ),
        (
            [f"2024-01-01 0{k + 2}:00:00+02" for k in range(4)],
            {"time_format": "%F %T%#z", "timezone": "Asia/Tokyo"},
        ),
        ([f"2024.01.01 0{k}:00" for k in range(4)], {"timezone": "UTC"}),
    ],
)
def test_times_become_utc(cells: list[str], options: dict[str, Any], tmp_path: Path) -> None:
    bars = read_bars(csv(tmp_path, texts(time=cells)), **options)
    assert epochs(bars) == [START + k * HOUR for k in range(4)]


def test_dates_are_midnight(tmp_path: Path) -> None:
    days = texts(time=[f"2024-01-0{k + 1}" for k in range(4)]).with_columns(
        pl.col("time").str.to_date(), pl.exclude("symbol", "time").cast(pl.Float64)
    )
    days.write_parquet(tmp_path / "bars.parquet")
    bars = read_bars(tmp_path / "bars.parquet", timezone="UTC")
    assert epochs(bars) == [START + k * 24 * HOUR for k in range(4)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_dates_of_a_csv_are_midnight_of_their_zone(zone: str, tmp_path: Path) -> None:
    path = csv(tmp_path, texts(time=[f"2024-01-0{k + 1}" for k in range(4)]))
    shift = 0 if zone == "UTC" else 5 * HOUR
    assert epochs(read_bars(path, timezone=zone)) == [
        START + shift + k * 24 * HOUR for k in range(4)
    ]


def test_an_hour_that_comes_twice_is_the_first(tmp_path: Path) -> None:
    cells = [f"2024-10-27 0{k}:30:00" for k in (1, 2, 4, 5)]  # 3:00 to 4:00 comes twice
    bars = read_bars(csv(tmp_path, texts(time=cells)), timezone="Europe/Helsinki")
    first = texts(time=["2024-10-27 03:30:00", *cells[1:]])
    assert epochs(read_bars(csv(tmp_path, first), timezone="Europe/Helsinki"))[0] == 1729989000
    assert [b - a for a, b in zip(epochs(bars), epochs(bars)[1:], strict=False)] == [
        HOUR,
        3 * HOUR,
        HOUR,
    ]


def test_an_hour_that_there_is_not_is_refused(tmp_path: Path) -> None:
    cells = [f"2024-03-31 0{k}:30:00" for k in (1, 2, 3, 4)]  # 3:00 to 4:00 is left out
    with pytest.raises(DataError, match="row 2") as told:
        read_bars(csv(tmp_path, texts(time=cells)), timezone="Europe/Helsinki")
    assert "2024-03-31 03:30:00" in str(told.value)


NAIVE = [f"2024-01-01 0{k}:00:00" for k in range(4)]


@pytest.mark.parametrize(
    ("frame", "options", "expected"),
    [
        (texts(time=NAIVE), {}, ["no time zone", "Fix: timezone: UTC"]),
        (texts(time=NAIVE), {"timezone": "Mars/Base"}, ["no such time zone", "Mars/Base"]),
        (texts(time=NAIVE), {"time_format": "%H", "timezone": "UTC"}, ["time_format", "%H: "]),
        (texts(close=["1", "2", "x", "y"]), {}, ["close: is a number", "2 rows", "row 2", "x"]),
        (texts(symbol=["X", "", "X", "X"]), {}, ["symbol", "row 1, empty"]),
        (texts().rename({"close": "clsoe"}), {}, ["no column 'close'", "{close: clsoe}"]),
        (texts(Close=["1"] * 4), {}, ["two columns could be 'close'", "close, Close"]),
        (texts(ts=["1"] * 4), {}, ["two columns could be 'time'"]),
        (texts(), {"columns": {"close": "bid"}}, ["does not have", "bid"]),
        (texts().drop("symbol"), {}, ["no column 'symbol'", "symbol: EURUSD"]),
        (texts().clear(), {}, ["has no rows"]),
        (texts(time=[f"2024-01-0{k + 1}" for k in range(4)]), {}, ["no time zone"]),
        (texts(time=["01/02/2024"] * 4), {}, ["is not known", 'time_format: "%d/%m/%Y"']),
        (
            texts(time=["01/31/2024 09:30:00"] * 4),
            {"timezone": "UTC"},
            ["'01/31/2024 09:30:00'", 'Fix: time_format: "%m/%d/%Y %H:%M:%S%.f"'],
        ),
        (texts(time=["20240131"] * 4), {}, ['Fix: time_format: "%Y%m%d"']),
        (texts(time=["1704067200"] * 4), {}, ["their unit is not declared"]),
        (
            texts(time=["2024-01-01", "3000-01-01", "2024-01-02", "1500-01-01"]),
            {"timezone": "UTC"},
            ["is a time from 1700 to 2149", "row 1, ", "3000-01-01", "row 3, "],
        ),
        (
            texts(time=["01.01.2024", "01.01.3000", "+3000-01-01", "01.01.1500"]),
            {"timezone": "UTC", "time_format": "%d.%m.%Y"},
            ["does not hold in 3 rows", "row 1, 01.01.3000", "row 2, ", "row 3, "],
        ),
        (
            texts(time=["2024-01-01", "+3000-01-01", "30000-01-01", "20245-01-01"]),
            {"timezone": "UTC"},
            ["does not hold in 3 rows", "row 1, +3000-01-01", "row 2, ", "row 3, "],
        ),
        (
            texts(time=["1704067200000"] * 4),
            {"time_format": "epoch_s"},
            ["row 0, ", "1704067200000"],
        ),
        (
            texts(volume=["", "1", "", "2"], close=["1", "1,5", "1", "1"]),
            {},
            ["1,5", "row 0 is line 2"],
        ),
    ],
)
def test_what_cannot_be_meant_is_told(
    frame: pl.DataFrame, options: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises((DataError, ConfigError)) as told:
        read_bars(csv(tmp_path, frame), **options)
    for part in expected:
        assert part in str(told.value)


def test_numbers_as_times_need_their_unit(tmp_path: Path) -> None:
    frame = typed().with_columns(pl.col("time").dt.epoch("s"))
    frame.write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(DataError, match="epoch_ms"):
        read_bars(tmp_path / "bars.parquet")
    assert_frame_equal(read_bars(tmp_path / "bars.parquet", time_format="epoch_s"), typed())


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("close", pl.Series([date(2024, 1, 1)] * 4)),
        ("close", pl.Series([timedelta(hours=1)] * 4)),
        ("close", pl.Series([True] * 4)),
        ("close", pl.Series([{"a": 1.0}] * 4)),
        ("close", pl.Series(["1"] * 4, dtype=pl.Categorical)),
        ("close", pl.Series([[1.0]] * 4)),
        ("close", pl.Series([b"1"] * 4)),
        ("symbol", pl.Series([1.5] * 4)),
        ("time", pl.Series([True] * 4)),
        ("time", pl.Series([time(1)] * 4)),
    ],
    ids=lambda x: x if isinstance(x, str) else str(x.dtype),
)
def test_a_column_of_another_type_is_refused(
    column: str, values: pl.Series, tmp_path: Path
) -> None:
    typed().with_columns(values.alias(column)).write_ipc(tmp_path / "bars.arrow")
    with pytest.raises(DataError, match=f"column of '{column}' does not hold") as told:
        read_bars(tmp_path / "bars.arrow", time_format="epoch_s")
    assert str(values.dtype) in str(told.value)


def test_decimals_and_nothing_are_numbers(tmp_path: Path) -> None:
    frame = typed().with_columns(
        pl.col("close").cast(pl.Decimal(10, 2)), pl.lit(None).alias("volume")
    )
    frame.write_ipc(tmp_path / "bars.arrow")
    bars = read_bars(tmp_path / "bars.arrow")
    assert bars["close"].to_list() == [1.25] * 4
    assert bars["volume"].to_list() == [None] * 4


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pl.Series([START * 1000] * 4), "epoch_s"),
        (pl.Series([START + 0.5] * 4), "epoch_s"),
        (pl.Series([2**63 + 5] * 4, dtype=pl.UInt64), "epoch_ns"),
        (pl.Series([datetime(3000, 1, 1)] * 4, dtype=pl.Datetime("us")), None),
        (pl.Series([datetime(1500, 1, 1)] * 4, dtype=pl.Datetime("ms", "UTC")), None),
        (pl.Series([date(3000, 1, 1)] * 4), None),
    ],
)
def test_times_that_do_not_fit_are_refused(
    values: pl.Series, unit: str | None, tmp_path: Path
) -> None:
    typed().with_columns(values.alias("time")).write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(DataError, match="is a time from 1700 to 2149 does not hold in 4 rows"):
        read_bars(tmp_path / "bars.parquet", time_format=unit, timezone="UTC")


def test_a_header_that_has_a_name_twice_is_refused(tmp_path: Path) -> None:
    content = texts().write_csv()
    (tmp_path / "bars.csv").write_text(content.replace("open,high", "close,high", 1))
    with pytest.raises(DataError, match="two columns of the file are named 'close'"):
        read_bars(tmp_path / "bars.csv")


def test_a_declared_column_wins_over_one_of_that_name(tmp_path: Path) -> None:
    path = csv(tmp_path, texts(bid=["1.75"] * 4))
    assert read_bars(path, columns={"close": "bid"})["close"].to_list() == [1.75] * 4


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bars.csv", b"", "is empty"),
        ("bars.csv.gz", gzip.compress(texts().write_csv().encode())[:-9], "cannot be read"),
        ("bars.parquet", b"PAR1 and then nothing", "cannot be read"),
        ("bars.arrow", b"ARROW1 and then nothing", "cannot be read"),
        ("bars.xls", b"anything", "format is not known"),
    ],
)
def test_files_that_cannot_be_read_are_told(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=expected) as told:
        read_bars(tmp_path / name)
    assert name in str(told.value)


def test_a_missing_file_has_a_near_one(tmp_path: Path) -> None:
    csv(tmp_path, texts())
    with pytest.raises(DataError, match=r"bars\.csv"):
        read_bars(tmp_path / "bras.csv")
    with pytest.raises(ConfigError, match="only files"):
        read_bars("https://example.org/bars.csv")


def test_symbols_are_grouped_each_in_the_order_of_the_file(tmp_path: Path) -> None:
    mixed = texts(symbol=["Y", "X", "Y", "X"], volume=["1", "2", "3", "4"])
    bars = read_bars(csv(tmp_path, mixed))
    assert bars["symbol"].to_list() == ["X", "X", "Y", "Y"]
    assert bars["volume"].to_list() == [2.0, 4.0, 1.0, 3.0]


def test_further_numbers_are_kept_and_further_texts_left_out(tmp_path: Path) -> None:
    frame = texts(bid=["1", "2", "", "4"], note=["a", "", "", ""])
    bars = read_bars(csv(tmp_path, frame))
    assert bars.columns == [*typed().columns, "bid"]
    assert bars["bid"].to_list() == [1.0, 2.0, None, 4.0]


def test_fills_have_what_is_known_of_them(tmp_path: Path) -> None:
    text = "time,symbol,side,quantity,price,fee,stop,note\n2024-01-01T00:00:00Z,X,buy,1,2,,1.5,hi\n"
    (tmp_path / "fills.csv").write_text(text)
    fills = read_fills(tmp_path / "fills.csv")
    assert fills.columns == ["time", "symbol", "side", "quantity", "price", "fee", "stop"]
    assert fills.row(0)[1:] == ("X", "buy", 1.0, 2.0, None, 1.5)
    with pytest.raises(ConfigError, match="mt6"):
        read_fills(tmp_path / "fills.csv", "mt6")
    with pytest.raises(DataError, match=r"columns: \{quantity: qty\}"):
        read_fills(tmp_path / "fills.csv", columns={"quantiy": "qty"})


def test_a_file_with_a_header_only_is_no_fills(tmp_path: Path) -> None:
    (tmp_path / "fills.csv").write_text("time,symbol,side,quantity,price,fee\n")
    assert read_fills(tmp_path / "fills.csv").is_empty()
