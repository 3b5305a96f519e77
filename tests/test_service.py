"""What a server answers: the rows of the table, once, however bars are sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from featurekit.block import block
from featurekit.errors import ConfigError, DataError, FeaturekitError
from featurekit.nn import TemporalEncoder
from featurekit.serve.messages import Message, RefusedError, nanoseconds, refusal, time_text
from featurekit.serve.service import Service
from featurekit.stream import Stream

from .test_rebuild import HOUR, SYMBOLS, Desk, bars_of, fills_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.column import Col

MORE = 30
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "portfolio": {"account": {"scope": "portfolio", "cash": 50_000}},
    "restarts": {"segments": {"max_gap": "1d", "reset": True}},
}


class Live:
    """A dataset, what came after it, and the rows that a build of all of it has."""

    def __init__(self, desk: Desk) -> None:
        self.dataset = desk.build().dataset
        self.names = self.dataset.names
        before = {symbol: bars.height for symbol, bars in desk.bars.items()}
        desk.bars = {symbol: bars_of(symbol, n + MORE) for symbol, n in before.items()}
        grown = desk.build("grown").dataset
        later = pl.concat(bars.tail(MORE) for bars in desk.bars.values())
        self.bars = later.sort("time", "symbol")
        first, last = self.bars["time"].min(), self.bars["time"].max()
        fills = pl.concat(map(fills_of, SYMBOLS)).sort("time", maintain_order=True)
        closes = pl.col("time") - pl.duration(hours=1)
        self.fills = fills.filter((pl.col("time") > first) & (closes <= last))
        table = grown.to_polars()
        self.rows = {
            symbol: table.filter(symbol=symbol).tail(MORE).select(self.names).to_numpy()
            for symbol in SYMBOLS
        }
        self.table = table


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(Desk(tmp_path_factory.mktemp("live"), **KINDS[request.param]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(Desk(tmp_path_factory.mktemp("plain")))


def bars_json(frame: pl.DataFrame) -> list[dict[str, Any]]:
    stamps = frame["time"].dt.epoch("ns").to_list()
    return [
        {**bar, "time": time_text(stamp)}
        for bar, stamp in zip(frame.to_dicts(), stamps, strict=True)
    ]


def fills_json(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {**fill, "time": stamp}
        for fill, stamp in zip(frame.to_dicts(), frame["time"].dt.epoch("ns"), strict=True)
    ]


def message(**parts: Any) -> Message:  # noqa: ANN401  # JSON
    return Message.model_validate_json(json.dumps(parts))


def hours(live: Live) -> list[dict[str, Any]]:
    """The bars of each hour with the fills that came before they closed."""
    found: list[dict[str, Any]] = []
    last = 0
    for now in live.bars.partition_by("time", maintain_order=True):
        close = int(now["time"].dt.epoch("ns")[0]) + HOUR
        stamps = pl.col("time").dt.epoch("ns")
        seen = live.fills.filter((stamps <= close) & (stamps > last))
        last = close
        one: dict[str, Any] = {"bars": bars_json(now)}
        if seen.height:
            one |= {"fills": fills_json(seen), "id": f"hour {close}"}
        found.append(one)
    return found


def answered(service: Service, messages: list[dict[str, Any]]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {symbol: [] for symbol in service.stream.symbols}
    for one in messages:
        for row in service.take(message(**one)).answer["rows"]:
            rows[row["symbol"]].append(row["features"])
    return rows


def as_sent(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row by way of JSON."""
    text = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    return np.array(orjson.loads(text), np.float32)


def test_rows_are_those_of_the_table(live: Live) -> None:
    rows = answered(Service(live.dataset), hours(live))
    for symbol in SYMBOLS:
        np.testing.assert_array_equal(np.stack(rows[symbol]), live.rows[symbol])
        np.testing.assert_array_equal(as_sent(rows[symbol][-1]), live.rows[symbol][-1])


def test_a_service_goes_on_from_its_snapshot_and_its_records(live: Live) -> None:
    first = Service(live.dataset)
    messages = hours(live)
    for one in messages[:8]:
        first.take(message(**one))
    snapshot = first.snapshot()
    records = [first.take(message(**one)).record for one in messages[8:20]]
    again = Service.restore(snapshot, live.dataset)
    text = b"[" + b",".join(record for record in records if record) + b"]"
    assert again.again(text) == sum(len(one["bars"]) for one in messages[8:20])
    assert again.stream.state() == first.stream.state()
    assert [_without_flags(each) for each in again.symbols()] == [
        _without_flags(each) for each in first.symbols()
    ]
    assert again.snapshot() == first.snapshot()
    rows = answered(again, messages[19:])  # the last one again, and what comes after it
    for symbol in SYMBOLS:
        expected = live.rows[symbol][len(live.rows[symbol]) - len(rows[symbol]) :]
        np.testing.assert_array_equal(np.stack(rows[symbol]), expected)


def _without_flags(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "flags"}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15
)
@given(data=st.data())
def test_however_bars_are_cut_and_repeated(plain: Live, data: st.DataObject) -> None:
    service = Service(plain.dataset)
    bars = [{"bars": one["bars"]} for one in hours(plain)]
    whole = answered(Service(plain.dataset), bars)
    rest = [bar for one in bars for bar in one["bars"]]
    sent: list[dict[str, Any]] = []
    rows: dict[str, dict[str, Any]] = {symbol: {} for symbol in SYMBOLS}
    while rest:
        count = data.draw(st.integers(1, 25))
        again = data.draw(st.integers(0, min(20, len(sent))))
        part = sent[len(sent) - again :] + rest[:count]
        part = data.draw(st.permutations(part))
        sent, rest = sent + rest[:count], rest[count:]
        answer = service.take(message(bars=part)).answer
        for bar, row in zip(part, answer["rows"], strict=True):
            assert (row["symbol"], row["time"]) == (bar["symbol"], bar["time"])
            before = rows[row["symbol"]].setdefault(row["time"], row["features"])
            np.testing.assert_array_equal(before, row["features"])
    for symbol in SYMBOLS:
        found = [rows[symbol][time] for time in sorted(rows[symbol])]
        np.testing.assert_array_equal(np.stack(found), np.stack(whole[symbol]))


def test_the_encoder_is_given_the_windows_of_the_dataset(plain: Live) -> None:
    torch.manual_seed(0)
    encoder = TemporalEncoder.from_dataset(plain.dataset, 16).eval()
    service = Service(plain.dataset, encoder=encoder, window=8)
    newest = service.last("EUR", "encoder")["encoding"]
    batch = plain.dataset.latest(8)
    with torch.inference_mode():
        at = [plain.dataset.symbols[code] for code in batch.symbol.tolist()].index("EUR")
        np.testing.assert_array_equal(newest, encoder(batch.features[at : at + 1])[0].numpy())
    rows = plain.table.filter(symbol="EUR").tail(MORE + 8).select(plain.names).to_numpy()
    found = []
    for one in hours(plain):
        row = next(
            row
            for row in service.take(message(**one, output="encoder")).answer["rows"]
            if row["symbol"] == "EUR"
        )
        assert "features" not in row
        found.append(row["encoding"])
    for k, vector in enumerate(found):
        window = torch.from_numpy(rows[k + 1 : k + 9].copy())
        with torch.inference_mode():
            np.testing.assert_array_equal(vector, encoder(window[None])[0].numpy())


def test_no_window_lies_across_a_gap(tmp_path_factory: pytest.TempPathFactory) -> None:
    desk = Desk(tmp_path_factory.mktemp("gap"), segments={"max_gap": "1d"})
    dataset = desk.build().dataset
    encoder = TemporalEncoder.from_dataset(dataset, 8)
    service = Service(dataset, encoder=encoder, window=4)
    later = bars_json(bars_of("EUR", 1_400 + 60).tail(60))
    found = [
        service.take(message(bars=[bar], output="encoder")).answer["rows"][0]["encoding"]
        for bar in later
    ]
    times = [nanoseconds(bar["time"], "") for bar in later]
    gaps = [k for k in range(1, 60) if times[k] - times[k - 1] > 24 * HOUR]
    assert len(gaps) == 1
    expected = [None] * 3
    assert found[gaps[0] : gaps[0] + 3] == expected
    assert all(vector is not None for vector in found[: gaps[0]] + found[gaps[0] + 3 :])


def bar(live: Live, at: int = 0, **values: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    return {**bars_json(live.bars.filter(symbol="EUR"))[at], **values}


FILL = {"time": "2030-01-01T00:00:00Z", "symbol": "EUR", "side": "buy", "quantity": 1.0,
        "price": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "status", "what"),
    [
        (lambda live: {"bars": [bar(live, symbol="GBP")]}, 404, "no such symbol"),
        (lambda live: {"fills": [{**FILL, "symbol": "GBP"}], "id": "x"}, 404, "no such symbol"),
        (lambda live: {"bars": [bar(live, time="2001-01-01T00:00:00Z")]}, 409, "not after the"),
        (lambda live: {"bars": [bar(live), bar(live, close=bar(live)["open"])]}, 409, "another"),
        (lambda live: {"fills": [FILL]}, 422, "fills without an id"),
        (lambda live: {"bars": [bar(live, 1), bar(live, 2, high=0.1)]}, None, "high"),
        (lambda live: {"bars": [bar(live, 1), bar(live, 2, volume=-1)]}, None, "volume"),
        (lambda live: {"bars": [bar(live, 1), bar(live, 2, low=0)]}, None, "low"),
        (lambda live: {"bars": [bar(live), bar(live, 1, time="soon")]}, None, "this is no time"),
        (lambda live: {"bars": [bar(live, time="2024-01-01T00:00:00")]}, None, "this is no time"),
        (lambda live: {"bars": [bar(live, time=2**70)]}, None, "this is no time"),
        (lambda live: {"bars": [bar(live, time=10**30)], "id": "x"}, None, "this is no time"),
        (lambda live: {"fills": [{**FILL, "time": 10**30}], "id": "x"}, None, "this is no time"),
        (lambda live: {"fills": [{**FILL, "symbol": None, "side": "deposit"}], "id": "x"}, None,
         "every symbol has its own account"),
        (lambda live: {"bars": [bar(live, 1)], "fills": [{**FILL, "price": None}], "id": "x"},
         None, "price"),
        (lambda live: {"bars": [bar(live, 1)], "fills": [{**FILL, "quantity": -1.0}], "id": "x"},
         None, "quantity"),
        (lambda live: {"fills": [{**FILL, "time": "1999-01-01T00:00:00Z"}], "id": "x"}, None,
         "after the bar that had to show it|no bar"),
        (lambda live: {"fills": [{**FILL, "time": "x"}], "id": "x"}, None, "this is no time"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(plain: Live, make: Any, status: int, what: str) -> None:  # noqa: ANN401  # a function
    service = Service(plain.dataset)
    service.take(message(bars=[bar(plain)]))
    before = service.snapshot()
    with pytest.raises(DataError, match=what) as caught:
        service.take(message(**make(plain)))
    assert getattr(caught.value, "status", None) == status
    assert all(problem["fix"] for problem in refusal(caught.value)["problems"])
    assert service.snapshot() == before
    assert service.take(message(bars=[bar(plain, 1)])).record is not None


def test_a_message_sent_again_is_taken_once(plain: Live) -> None:
    service = Service(plain.dataset)
    one = next(one for one in hours(plain) if "fills" in one)
    first = service.take(message(**one))
    before = service.snapshot()
    again = service.take(message(**one))
    assert again.record is None
    assert service.snapshot() == before
    for row, repeated in zip(first.answer["rows"], again.answer["rows"], strict=True):
        assert repeated["repeated"]
        np.testing.assert_array_equal(row["features"], repeated["features"])
    other = {**one, "fills": one["fills"][:-1]}
    with pytest.raises(RefusedError, match="another message had this id"):
        service.take(message(**other))
    assert Service.restore(before, plain.dataset).take(message(**one)).record is None


def test_fills_alone_are_seen_by_the_next_bar(plain: Live) -> None:
    together, apart = Service(plain.dataset), Service(plain.dataset)
    for one in hours(plain):
        expected = together.take(message(**one)).answer["rows"]
        if "fills" in one:
            apart.take(message(fills=one["fills"], id=one["id"]))
        found = apart.take(message(bars=one["bars"])).answer["rows"]
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a["features"], b["features"])


def test_scaled_rows_are_what_the_model_was_trained_on(plain: Live) -> None:
    service = Service(plain.dataset)
    assert plain.dataset.scaling is not None
    natural = service.last("EUR")["features"]
    scaled = service.last("EUR", scaled=True)["features"]
    np.testing.assert_array_equal(scaled, plain.dataset.scaling.apply(natural[None])[0])


def test_what_there_is_none_of_is_told(plain: Live) -> None:
    service = Service(plain.dataset)
    with pytest.raises(ConfigError, match="there is no encoder"):
        service.take(message(bars=[bar(plain)], output="encoder"))
    with pytest.raises(RefusedError, match="no such symbol"):
        service.last("GBP")
    with pytest.raises(ConfigError, match="of other features"):
        Service(plain.dataset, encoder=TemporalEncoder(5, 4, prelude="running"))
    encoder = TemporalEncoder.from_dataset(plain.dataset, 4, max_window=8)
    with pytest.raises(ConfigError, match="longer than the encoder takes"):
        Service(plain.dataset, encoder=encoder, window=9)


def test_a_bar_of_a_portfolio_that_others_have_passed_is_late(live: Live) -> None:
    service = Service(live.dataset)
    first, second = hours(live)[0]["bars"][:2]
    assert service.take(message(bars=[first])).record is not None
    if live.dataset.manifest.pipeline.count("portfolio"):
        with pytest.raises(RefusedError, match="not after the last one") as refused:
            service.take(message(bars=[second]))
        assert refused.value.status == 409
    else:
        assert service.take(message(bars=[second])).record is not None


def test_a_schema_of_the_desk_is_kept(tmp_path: Path) -> None:
    (tmp_path / "bars.yaml").write_text(BARS_WITH_A_SPREAD)
    desk = Desk(tmp_path / "desk", blocks=[{"market": {}}, {"wide": {}}])
    desk.document["bars"]["schema"] = str(tmp_path / "bars.yaml")
    desk.bars = {
        symbol: bars.with_columns(spread=0.1 * pl.col("volume").sqrt())
        for symbol, bars in desk.bars.items()
    }
    later = {symbol: bars.tail(20) for symbol, bars in desk.bars.items()}
    desk.bars = {symbol: bars.head(bars.height - 20) for symbol, bars in desk.bars.items()}
    dataset = desk.build().dataset
    service, stream = Service(dataset), Stream.from_dataset(dataset)
    sent = pl.concat(later.values()).sort("time", "symbol")
    expected = [
        row for hour in sent.partition_by("time") for row in stream.update(hour) if row[0] == row[0]
    ]
    part = bars_json(sent)
    part[4] |= {"spread": None}  # which the schema allows
    found = service.take(message(bars=part))
    rows = [row["features"] for row in found.answer["rows"]]
    assert np.isnan(rows[4][-1])
    np.testing.assert_array_equal(np.stack(rows)[:4], np.stack(expected)[:4])
    again = Service(dataset)
    again.again(b"[" + (found.record or b"") + b"]")
    assert again.snapshot() == service.snapshot()
    first = bars_json(sent)[0] | {"time": LATER}
    for spread, what in ((-1.0, "spread"), ("wide", "no number"), (True, "no number")):
        with pytest.raises(DataError, match=what):
            service.take(message(bars=[first, {**first, "time": LATER + HOUR, "spread": spread}]))
    del first["spread"]
    with pytest.raises(DataError, match="no column 'spread'"):
        service.take(message(bars=[first]))


def test_what_blocks_read_besides_is_asked_of_every_bar(tmp_path: Path) -> None:
    desk = Desk(tmp_path, blocks=[{"market": {}}, {"wide": {}}])
    desk.bars = {
        symbol: bars.with_columns(spread=0.1 * pl.col("volume").sqrt())
        for symbol, bars in desk.bars.items()
    }
    service = Service(desk.build().dataset)
    first = bars_json(desk.bars["EUR"].tail(1))[0] | {"time": LATER}
    for second, what in (
        ({"spread": "1"}, "no number"),
        ({"spread": 1e999}, "spread"),
    ):
        with pytest.raises((DataError, ValidationError), match=what):
            service.take(message(bars=[first, {**first, "time": LATER + HOUR, **second}]))
    lacking = {**first, "time": LATER + HOUR}
    del lacking["spread"]
    with pytest.raises(DataError, match="no column 'spread'"):
        service.take(message(bars=[first, lacking]))
    hole = {**first, "time": LATER + HOUR, "spread": None}  # as in a table
    one, other = (
        row["features"][-1] for row in service.take(message(bars=[first, hole])).answer["rows"]
    )
    assert one == np.float32(first["spread"])
    assert np.isnan(other)


@block(unit="price")
def wide(spread: Col) -> dict[str, Col]:
    """The spread as it is."""
    return {"spread": spread}


BARS_WITH_A_SPREAD = """
name: bars
columns:
  symbol: {kind: text}
  time: {kind: time}
  open: {kind: number, above: 0}
  high: {kind: number, above: 0}
  low: {kind: number, above: 0}
  close: {kind: number, above: 0}
  volume: {kind: number, at_least: 0}
  spread: {kind: number, at_least: 0, nullable: true}
"""


@pytest.mark.parametrize("damage", [lambda s: s[:-9], lambda s: b"x" * 40, lambda s: b""])
def test_another_snapshot_is_told(plain: Live, damage: Any) -> None:  # noqa: ANN401  # a function
    snapshot = Service(plain.dataset).snapshot()
    with pytest.raises(ConfigError, match="no snapshot of a service"):
        Service.restore(damage(snapshot), plain.dataset)


def test_flags_are_told_and_warm_up_rows_are_not_watched(
    plain: Live, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = Service(plain.dataset)
    high = {"open": 900.0, "high": 900.0, "low": 900.0, "close": 900.0}
    flags = service.take(message(bars=[bar(plain, **high)])).answer["flags"]
    assert any(flag["kind"] in ("out of range", "unit change") for flag in flags)
    assert service.flags
    desk = Desk(tmp_path_factory.mktemp("warm"), **KINDS["restarts"])
    fresh = Service(desk.build().dataset)
    later = bar(plain, time="2030-01-01T00:00:00Z", **high)
    row = fresh.take(message(bars=[later])).answer
    assert not row["rows"][0]["ready"]
    assert row["flags"] == []


PRICE = st.one_of(
    st.floats(0.5, 2.0), st.floats(), st.sampled_from([0, -1, 1, 1e308, 5e-324, None, "1", True])
)
TIME = st.one_of(
    st.integers(0, 40).map(lambda k: LATER + k * HOUR),
    st.integers(),
    st.sampled_from(["2030-01-01T00:00:00Z", "2030-02-30T00:00:00Z", "x", None, 1.5]),
)
NAME = st.sampled_from([*SYMBOLS, "GBP", "", "../../x", "\0", "E" * 300, 5, None])
EXTRA = st.dictionaries(
    st.sampled_from(["scaled", "symbol ", "self", "at", "bid", "time_", "Z"]), PRICE, max_size=2
)
LATER = 1_900_000_000_000_000_000 // HOUR * HOUR
BAR = st.builds(
    lambda extra, **known: {**extra, **known}, extra=EXTRA, symbol=NAME, time=TIME, open=PRICE,
    high=st.one_of(st.just(9.0), PRICE), low=st.one_of(st.just(0.1), PRICE), close=PRICE,
    volume=PRICE,
)  # fmt: skip
SANE = st.builds(
    lambda symbol, k, close: {"symbol": symbol, "time": LATER + k * HOUR, "open": 1.0,
                              "high": 9.0, "low": 0.1, "close": close, "volume": 1.0},
    symbol=st.sampled_from(SYMBOLS), k=st.integers(0, 40), close=st.floats(0.5, 2.0),
)  # fmt: skip
TRADE = st.fixed_dictionaries(
    {"time": TIME, "symbol": NAME, "quantity": PRICE, "price": PRICE,
     "side": st.sampled_from(["buy", "sell", "deposit", "withdraw", "hold"])},
    optional={"fee": PRICE, "stop": PRICE, "trade_id": NAME, "realized_pnl": PRICE},
)  # fmt: skip
NONSENSE = st.fixed_dictionaries(
    {"bars": st.lists(st.one_of(BAR, SANE), max_size=4)},
    optional={"fills": st.lists(TRADE, max_size=3), "id": NAME, "scaled": st.booleans()},
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(messages=st.lists(NONSENSE, max_size=12))
def test_nonsense_is_refused_and_what_was_taken_is_taken_again(
    live: Live, messages: list[dict[str, Any]]
) -> None:
    service = Service(live.dataset)
    begin, records, rows = service.snapshot(), [], 0
    for one in messages:
        before = service.snapshot()
        try:
            taken = service.take(Message.model_validate_json(json.dumps(one)))
        except (ValidationError, FeaturekitError):
            assert service.snapshot() == before
            continue
        rows += len(taken.answer["rows"])
        orjson.dumps(taken.answer, option=orjson.OPT_SERIALIZE_NUMPY)
        if taken.record is not None:
            records.append(taken.record)
    again = Service.restore(begin, live.dataset)
    assert again.again(b"[" + b",".join(records) + b"]") <= rows
    assert again.snapshot() == service.snapshot()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T02:00:00.5+02:00", 500_000_000),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
        ("1970-01-01t00:00:01z", 1_000_000_000),
    ],
)
def test_times_to_the_nanosecond(text: str, expected: int) -> None:
    assert nanoseconds(text, "") == expected
    assert nanoseconds(time_text(expected), "") == expected
