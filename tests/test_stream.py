"""A stream of bars: bit for bit the table of all of them, wherever it was saved and resumed."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit.errors import ConfigError, DataError

from .test_rebuild import HOUR, SYMBOLS, Desk, bars_of, fills_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ROWS = 420
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "portfolio": {"account": {"scope": "portfolio", "cash": 50_000}},
    "this": {"account": {"fill_at_close": "this", "multiplier": 10}},
    "restarts": {"segments": {"max_gap": "1d", "reset": True}},
    "zone": {"bars": {"path": "x.csv", "bar": "1h", "timezone": "UTC",
                      "exchange_timezone": "America/New_York"}},
}  # fmt: skip


def pipeline_of(kind: str = "plain") -> fk.Pipeline:
    document = {
        "name": "live",
        "bars": {"path": "x.csv", "bar": "1h", "timezone": "UTC"},
        "blocks": [{"market": {}}, {"position": {}}, {"indicator": {}}],
        **KINDS[kind],
    }
    return fk.Pipeline.from_yaml(yaml.safe_dump(document, sort_keys=False))


def history(symbols: tuple[str, ...] = SYMBOLS, rows: int = ROWS) -> tuple[pl.DataFrame, Any]:
    """Simulated bars, with hours that some symbols lack, and the fills up to their last close."""
    frames, fills = [], []
    for k, symbol in enumerate(symbols):
        frame = bars_of(symbol, rows).filter(pl.int_range(pl.len()) % (17 + k) != 5)
        frames.append(frame)
        fills.append(fills_of(symbol).filter(pl.col("time") < frame["time"][-1]))
    return pl.concat(frames), pl.concat(fills).sort("time", maintain_order=True)


def updates(
    bars: pl.DataFrame, fills: pl.DataFrame, since: int = 0
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The bars of each hour, with the fills since the hour before."""
    last = None
    for now in bars.partition_by("time", maintain_order=False, include_key=True):
        close = now["time"][0] + pl.Series([HOUR]).cast(pl.Duration("ns"))[0]
        seen = pl.col("time") <= close
        seen = seen if last is None else seen & (pl.col("time") > last)
        last = close
        yield now, fills.filter(seen)


def streamed(
    stream: fk.Stream, hours: Iterator[tuple[pl.DataFrame, pl.DataFrame]]
) -> dict[str, list[NDArray[np.float32]]]:
    rows: dict[str, list[NDArray[np.float32]]] = {symbol: [] for symbol in stream.symbols}
    for bars, fills in hours:
        x = stream.update(bars, fills)
        present = set(bars["symbol"].to_list())
        for at, symbol in enumerate(stream.symbols):
            if symbol in present:
                rows[symbol].append(x[at])
            else:
                assert np.isnan(x[at]).all()
    return rows


def numbers(bars: pl.DataFrame) -> dict[str, Any]:
    """The only bar of a frame as `push` takes it."""
    names = ("open", "high", "low", "close", "volume")
    return {"time": int(bars["time"].dt.epoch("ns")[0]), **{n: bars[n][0] for n in names}}


def ordered(bars: pl.DataFrame, fills: pl.DataFrame) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    return list(updates(bars.sort("time", "symbol"), fills))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_the_table_a_bar_at_a_time(kind: str) -> None:
    pipeline = pipeline_of(kind)
    bars, fills = history()
    table = pipeline.transform(bars, fills)
    rows = streamed(fk.Stream(pipeline, SYMBOLS), iter(ordered(bars, fills)))
    for symbol in SYMBOLS:
        expected = table.filter(symbol=symbol).select(pipeline.columns).to_numpy()
        np.testing.assert_array_equal(np.stack(rows[symbol]), expected)


@pytest.mark.parametrize("kind", ["plain", "portfolio", "restarts"])
def test_a_resumed_stream_goes_on_as_if_it_had_never_ended(kind: str) -> None:
    pipeline = pipeline_of(kind)
    hours = ordered(*history(rows=150))
    whole = streamed(fk.Stream(pipeline, SYMBOLS), iter(hours))
    stream, rows = fk.Stream(pipeline, SYMBOLS), {symbol: [] for symbol in SYMBOLS}
    source = iter(hours)
    for count in (1, 1, 40, 3, 200):
        for symbol, more in streamed(stream, islice(source, count)).items():
            rows[symbol] += more
        state = stream.state()
        assert state == stream.state()
        stream = fk.Stream.resume(pipeline_of(kind), state)
        assert stream.state() == state
    for symbol in SYMBOLS:
        assert np.array_equal(np.stack(rows[symbol]), np.stack(whole[symbol]), equal_nan=True)
    assert len(state) < 150_000 * len(SYMBOLS)


@pytest.mark.parametrize("kind", ["plain", "zone", "restarts"])
def test_numbers_give_what_a_frame_gives(kind: str) -> None:
    pipeline = pipeline_of(kind)
    bars, fills = history(("EUR",))
    table = pipeline.transform(bars, fills).select(pipeline.columns).to_numpy()
    stream = fk.Stream(pipeline, ["EUR"])
    for k, (now, new) in enumerate(ordered(bars, fills)):
        if new.height:
            stream.fill(new)
        np.testing.assert_array_equal(stream.push("EUR", **numbers(now)), table[k])


def test_a_history_at_once_is_the_same_as_bar_by_bar() -> None:
    pipeline = pipeline_of()
    bars, fills = history()
    hours = ordered(bars, fills)
    slow, quick = fk.Stream(pipeline, SYMBOLS), fk.Stream(pipeline, SYMBOLS)
    streamed(slow, iter(hours[:300]))
    end = hours[299][0]["time"][0]
    quick.warm(bars.filter(pl.col("time") <= end), pl.concat(new for _, new in hours[:300]))
    for now, new in hours[300:]:
        np.testing.assert_array_equal(slow.update(now, new), quick.update(now, new))
    with pytest.raises(DataError, match="the stream has begun"):
        quick.warm(bars)


@pytest.mark.parametrize("kind", ["plain", "portfolio"])
def test_a_dataset_is_gone_on_from(kind: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, **KINDS[kind])
    dataset = desk.build().dataset
    stream = fk.Stream.from_dataset(dataset)
    assert stream.symbols == dataset.symbols
    before = {symbol: bars.height for symbol, bars in desk.bars.items()}
    desk.bars = {symbol: bars_of(symbol, n + 30) for symbol, n in before.items()}
    grown = desk.build().dataset
    new = pl.concat(bars.tail(30) for bars in desk.bars.values())
    closed = new["time"].min()
    assert closed is not None
    fills = pl.concat(
        fills_of(symbol).filter(pl.col("time") >= closed).head(200) for symbol in SYMBOLS
    ).sort("time", maintain_order=True)
    rows = streamed(stream, iter(ordered(new, fills)))
    table = grown.to_polars()
    for symbol in SYMBOLS:
        expected = table.filter(symbol=symbol).tail(30).select(grown.names).to_numpy()
        np.testing.assert_array_equal(np.stack(rows[symbol]), expected)
    assert dataset.scaling is not None
    last = fk.Stream.from_dataset(grown, ["EUR"])
    more = bars_of("EUR", BARS_AFTER).tail(1)
    natural = fk.Stream.from_dataset(grown, ["EUR"]).update(more)
    scaled = last.update(more, scaled=True)
    np.testing.assert_array_equal(scaled, grown.scaling.apply(natural))  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["plain", "restarts"])
def test_a_symbol_is_ready_where_a_dataset_has_rows(kind: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, **KINDS[kind])
    cut = pl.int_range(pl.len()).is_between(600, 660)
    desk.bars = {symbol: frame.filter(~cut) for symbol, frame in desk.bars.items()}
    dataset = desk.build().dataset
    stream = fk.Stream(fk.Pipeline.from_yaml(dataset.manifest.pipeline), SYMBOLS)
    found = []
    for hour, _ in ordered(pl.concat(desk.bars.values()), fills_of("EUR").clear()):
        stream.update(hour)
        ready = {s for s, is_so in zip(stream.symbols, stream.ready, strict=True) if is_so}
        found.append(hour.filter(pl.col("symbol").is_in(ready)).select("symbol", "time"))
    rows = dataset.to_polars().select(pl.col("symbol").cast(pl.String), "time").rows()
    assert set(pl.concat(found).rows()) == set(rows)
    assert len(rows) < stream.closes.size * desk.bars["EUR"].height - 200
    np.testing.assert_array_equal(fk.Stream.from_dataset(dataset).ready, stream.ready)
    resumed = fk.Stream.resume(stream.pipeline, stream.state())
    np.testing.assert_array_equal(resumed.ready, stream.ready)


BARS_AFTER = 1_431


def bar(at: int, symbol: str = "EUR", **values: float) -> pl.DataFrame:
    frame = bars_of(symbol, at + 1).tail(1)
    return frame.with_columns(pl.lit(value).alias(name) for name, value in values.items())


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (lambda: bar(5), "a bar of EUR is not after the last one"),
        (lambda: bar(3), "a bar of EUR is not after the last one"),
        (lambda: pl.concat([bar(6), bar(6)]), "each time once"),
        (lambda: pl.concat([bar(6), bar(7)]), "an update has two bars of EUR"),
        (lambda: bar(6, close=float("nan")), "close: finite"),
        (lambda: bar(6, high=0.1), "low <= high"),
        (lambda: bar(6, volume=-1.0), "volume: >= 0"),
        (lambda: bar(6, symbol="JPY"), "the stream has no such symbol"),
        (lambda: bar(6).drop("close"), "bars have no column 'close'"),
        (lambda: bar(6).with_columns(pl.col("time").dt.replace_time_zone(None)), "time: is time"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(bars: Any, message: str) -> None:  # noqa: ANN401  # a function
    stream = fk.Stream(pipeline_of(), ["EUR", "AUD"])
    for at in range(6):
        stream.update(bar(at))
    state = stream.state()
    with pytest.raises(DataError, match=message) as caught:
        stream.update(bars())
    assert "Fix: " in str(caught.value)
    assert stream.state() == state
    assert np.isfinite(stream.update(bar(6))[0, 0])


def test_late_bars_can_be_left_out() -> None:
    one, other = (fk.Stream(pipeline_of(), ["EUR"], late=late) for late in ("skip", "error"))
    for at in (0, 1, 2, 1, 2, 3):
        x = one.update(bar(at))
    assert one.skipped == {"EUR": 2}
    for at in range(4):
        y = other.update(bar(at))
    np.testing.assert_array_equal(x, y)
    assert np.isnan(one.update(bar(2))).all()
    early = numbers(bar(2))
    with pytest.raises(DataError, match="is not after the last one"):
        other.push("EUR", **early)
    assert np.isnan(one.push("EUR", **early)).all()


def test_a_bar_of_a_portfolio_that_others_have_passed_is_late() -> None:
    stream = fk.Stream(pipeline_of("portfolio"), ["AUD", "EUR"])
    stream.update(pl.concat([bar(0, "AUD"), bar(0)]))
    stream.update(bar(1, "AUD"))
    state = stream.state()
    with pytest.raises(DataError, match="a bar of EUR is not after the last one"):
        stream.update(bar(1))  # the row of AUD would have seen it
    assert stream.state() == state
    assert np.isfinite(stream.update(bar(2))[1, 0])


def test_a_fill_that_came_too_late_is_refused_and_changes_nothing() -> None:
    stream = fk.Stream(pipeline_of(), ["AUD", "EUR"])
    for at in range(6):
        stream.update(pl.concat([bar(at, "AUD"), bar(at)]))
    late = fills_of("EUR").head(1).with_columns(time=bar(2)["time"][0])
    good = fills_of("AUD").head(1).with_columns(time=bar(6)["time"][0])
    state = stream.state()
    with pytest.raises(DataError, match="a fill came after the bar that had to show it"):
        stream.update(pl.concat([bar(6, "AUD"), bar(6)]), pl.concat([good, late]).sort("time"))
    assert stream.state() == state
    stream.update(pl.concat([bar(6, "AUD"), bar(6)]), good)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda state: fk.Stream.resume(pipeline_of("this"), state), "of another pipeline"),
        (lambda state: fk.Stream.resume(pipeline_of(), state[:-9]), "no state of a stream"),
        (lambda state: fk.Stream.resume(pipeline_of(), b"x" * 20), "no state of a stream"),
        (lambda state: fk.Stream.resume(pipeline_of(), b""), "no state of a stream"),
        (lambda state: fk.Stream(pipeline_of(), []), "one symbol or more"),
        (lambda state: fk.Stream(pipeline_of(), ["A", "A"]), "one symbol or more"),
        (lambda state: fk.Stream(pipeline_of(), ["A"], late="never"), "policy for late bars"),
        (lambda state: fk.Stream(pipeline_of(), ["EUR"]).update(bar(0), scaled=True), "no scaling"),
    ],
)  # fmt: skip
def test_mistakes_are_told(make: Any, message: str) -> None:  # noqa: ANN401  # a function
    stream = fk.Stream(pipeline_of(), ["EUR"])
    stream.update(bar(0))
    with pytest.raises(ConfigError, match=message):
        make(stream.state())


def test_a_state_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fk.Stream(pipeline_of(), ["EUR"]).state()
    monkeypatch.setattr(
        "featurekit.stream.state.versions",
        lambda: {"featurekit": "9", "numba": "9", "numpy": "9", "polars": "9"},
    )
    with pytest.raises(ConfigError, match="another version of featurekit"):
        fk.Stream.resume(pipeline_of(), state)
