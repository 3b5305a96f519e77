"""Replay: a feed that is right is the same; of any other the first difference is named."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import featurekit as fk
from featurekit.build import build
from featurekit.cli import main
from featurekit.errors import DataError
from featurekit.ingest import ingest
from featurekit.replay import replay

from .test_rebuild import bars_of

if TYPE_CHECKING:
    from pathlib import Path

FROM, TO = 4_000, 4_120  # bars of the sample that are live


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401  # dataset, bars, feed
    folder = tmp_path_factory.mktemp("replay")
    pipeline = fk.Pipeline.from_yaml("pipelines/eurusd_demo.yaml")
    dataset = pipeline.build(folder / "eurusd")
    (folder / "scratch").mkdir()
    data = ingest(pipeline, folder / "scratch", on_bad="fail", tell=lambda *_: None)
    bars, fills = data.bars, data.fills
    assert fills is not None
    return dataset, bars, fills, feed_of(pipeline, bars, fills)


def feed_of(pipeline: fk.Pipeline, bars: pl.DataFrame, fills: pl.DataFrame) -> pl.DataFrame:
    """Rows that a stream gave, bar by bar, as a user keeps them."""
    stream = fk.Stream(pipeline, ["EURUSD"])
    since = fills["time"] < bars["time"][FROM]
    stream.warm(bars[:FROM], fills.filter(since))
    later, kept = fills.filter(~since), []
    for at in range(FROM, TO):
        close = bars["time"][at] + timedelta(hours=1)
        stream.fill(later.filter(pl.col("time") < close))
        later = later.filter(pl.col("time") >= close)
        bar = bars[at : at + 1]
        row = stream.update(bar)
        kept.append(
            bar.select("symbol", "time").with_columns(
                pl.Series(name, row[:, k]) for k, name in enumerate(pipeline.columns)
            )
        )
    return pl.concat(kept)


def changed(feed: pl.DataFrame, row: int, feature: str, value: float) -> pl.DataFrame:
    new = feed[feature].to_numpy().copy()
    new[row] = value
    return feed.with_columns(pl.Series(feature, new))


def test_a_feed_of_a_stream_is_the_same(demo: Any) -> None:  # noqa: ANN401
    dataset, _, _, feed = demo
    found = replay(dataset, feed)
    assert (found.same, found.rows, found.features) == (True, TO - FROM, 129)
    assert replay(dataset, feed.sample(fraction=1.0, shuffle=True, seed=3)).same


@pytest.mark.parametrize("ulps", [1, -3, 1000])
def test_the_first_difference_is_named(demo: Any, ulps: int) -> None:  # noqa: ANN401
    dataset, _, _, feed = demo
    name = "indicator.rsi_14"
    bits = feed[name].to_numpy()[70:71].copy().view(np.int32) + ulps
    feed = changed(feed, 90, "market.ret_1", 0.5)
    feed = changed(feed, 70, name, float(bits.view(np.float32)[0]))
    found = replay(dataset, feed)
    assert found.first is not None
    assert (found.first.feature, found.first.block) == (name, "indicator")
    assert found.first.time == f"{feed['time'][70]:%Y-%m-%dT%H:%M:%SZ}"
    assert found.first.ulps == abs(ulps)
    assert found.differing == {"market.ret_1": 1, name: 1}
    assert found.differing_rows == 2


@pytest.mark.parametrize(("value", "live"), [(float("nan"), None), (float("inf"), None)])
def test_a_hole_is_a_difference(demo: Any, value: float, live: None) -> None:  # noqa: ANN401
    dataset, _, _, feed = demo
    found = replay(dataset, changed(feed, 5, "market.ret_1", value))
    assert found.first is not None
    assert (found.first.feature, found.first.live, found.first.ulps) == ("market.ret_1", live, None)


def test_rows_without_a_bar_and_bars_without_a_row_are_named(demo: Any) -> None:  # noqa: ANN401
    dataset, bars, _, feed = demo
    other = feed[10:11].with_columns(pl.col("time").dt.offset_by("7m"))
    found = replay(dataset, pl.concat([feed[:30], feed[33:], other]))
    assert (found.same, found.missing, found.unknown) == (False, 3, 1)
    assert f"{bars['time'][FROM + 30]:%Y-%m-%dT%H:%M:%SZ}" in found.first_missing
    assert ":07:00Z" in found.first_unknown


def test_a_stream_that_was_not_warm_or_lacked_fills_is_told_so(demo: Any) -> None:  # noqa: ANN401
    dataset, bars, fills, _ = demo
    pipeline = fk.Pipeline.from_yaml(dataset.manifest.pipeline)
    stream = fk.Stream(pipeline, ["EURUSD"])
    rows = [stream.update(bars[at : at + 1])[0] for at in range(FROM, FROM + 40)]
    cold = (
        bars[FROM : FROM + 40]
        .select("symbol", "time")
        .with_columns(
            pl.Series(name, np.array(rows)[:, k]) for k, name in enumerate(pipeline.columns)
        )
    )
    assert "did not know the bars before" in replay(dataset, cold).why
    silent = feed_of(pipeline, bars, fills.filter(pl.col("time") < bars["time"][FROM]))
    assert "had not seen the same fills" in replay(dataset, silent).why


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda f: f.drop("market.ret_1", "symbol"), "lacks 2 columns"),
        (lambda f: f.with_columns(pl.col("market.ret_1").cast(pl.Float64)), "are float32"),
        (lambda f: f.with_columns(time=pl.lit("soon")), "no times"),
        (lambda f: f[:0], "no rows"),
        (lambda f: pl.concat([f, f[3:4]]), "two rows of one bar"),
        (
            lambda f: f.with_columns(time=pl.when(pl.int_range(pl.len()) != 4).then("time")),
            "no symbol, or no time",
        ),
        (lambda f: f.with_columns(time=pl.lit(datetime(3000, 1, 1))), "no symbol, or no time"),
    ],
)
def test_a_feed_that_cannot_be_compared_is_refused(demo: Any, spoil: Any, what: str) -> None:  # noqa: ANN401
    dataset, _, _, feed = demo
    with pytest.raises(DataError, match=what):
        replay(dataset, spoil(feed))


def test_a_dataset_with_bars_set_aside_is_replayed_and_checked(tmp_path: Path) -> None:
    frames = [bars_of(symbol, 1_000) for symbol in ("AUD", "EUR")]
    high = pl.when(pl.int_range(pl.len()) == 500).then(0.001).otherwise("high")
    pl.concat([frames[0].with_columns(high=high), frames[1]]).write_parquet(
        tmp_path / "bars.parquet"
    )
    (tmp_path / "p.yaml").write_text(
        f"name: aside\nbars: {{path: {tmp_path / 'bars.parquet'}, bar: 1h, timezone: UTC}}\n"
        "blocks: [market: {}]\n"
    )
    pipeline = fk.Pipeline.from_yaml(tmp_path / "p.yaml")
    dataset = build(pipeline, out=tmp_path / "out", on_bad="quarantine").dataset
    rows = dataset.to_polars().select(pl.col("symbol").cast(pl.String), "time", *dataset.names)
    rows.filter(symbol="AUD").write_parquet(tmp_path / "feed.parquet")
    run = CliRunner().invoke
    done = run(main, ["replay", str(dataset.path), str(tmp_path / "feed.parquet")])
    assert done.exit_code == 0, done.output
    assert "of 1 of 2 symbols" in done.stdout
    arguments = ["check", str(tmp_path / "p.yaml"), "--only", "causality"]
    assert run(main, arguments).exit_code == 2
    assert run(main, [*arguments, "--on-bad", "quarantine"]).exit_code == 0


def test_the_command_says_it_in_words_and_in_json(demo: Any, tmp_path: Path) -> None:  # noqa: ANN401
    dataset, _, _, feed = demo
    feed.write_parquet(tmp_path / "feed.parquet")
    changed(feed, 70, "indicator.rsi_14", 12.0).write_parquet(tmp_path / "wrong.parquet")
    run = CliRunner().invoke
    done = run(main, ["replay", str(dataset.path), str(tmp_path / "feed.parquet")])
    assert (done.exit_code, done.stdout.split()[0]) == (0, "same")
    wrong = [str(dataset.path), str(tmp_path / "wrong.parquet")]
    done = run(main, ["replay", *wrong])
    assert done.exit_code == 1
    assert "indicator.rsi_14 at EURUSD" in done.stdout
    told = json.loads(run(main, ["replay", *wrong, "--json"]).stdout)
    assert (told["same"], told["first"]["feature"]) == (False, "indicator.rsi_14")
    assert told["first"]["live"] == 12.0
    done = run(main, ["replay", str(dataset.path), os.devnull])
    assert done.exit_code == 2
    assert "the feed cannot be read" in done.stderr


def test_other_files_may_stand_in_for_the_pipelines(demo: Any, tmp_path: Path) -> None:  # noqa: ANN401
    dataset, bars, fills, feed = demo
    text = (tmp_path / "bars.csv", tmp_path / "fills.csv")
    stamp = pl.col("time").dt.strftime("%d.%m.%Y %H:%M:%S%.3f")
    bars.drop("symbol").with_columns(stamp).write_csv(text[0])
    fills.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(text[1])
    assert replay(dataset, feed, bars=text[0], fills=text[1]).same
    bars.drop("symbol")[: FROM + 20].with_columns(stamp).write_csv(text[0])
    assert replay(dataset, feed, bars=text[0]).unknown == TO - FROM - 20
