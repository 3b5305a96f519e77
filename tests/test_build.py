"""The main job: real bars and fills into a dataset that is validated, audited and read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import yaml
from click.testing import CliRunner

import featurekit as fk
from featurekit.block import block
from featurekit.build import build
from featurekit.cli import main
from featurekit.errors import DataError, DatasetError, FeaturekitError
from featurekit.samples import sample
from featurekit.sources import read_bars, read_fills

if TYPE_CHECKING:
    from featurekit.column import Col

ROOT = Path(__file__).parents[1]
HOUR = 3_600_000_000_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> fk.Dataset:
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    return pipeline.build(out=tmp_path_factory.mktemp("demo") / "eurusd")


def test_the_demo_makes_what_transform_makes(demo: fk.Dataset) -> None:
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    known = sample("eurusd_h1")
    where = {key: known[key] for key in ("symbol", "timezone", "time_format")}
    bars = read_bars(known["path"], **where)
    fills = read_fills(sample("eurusd_h1_fills")["path"])
    table = pipeline.transform(bars, fills)
    rows = demo.to_polars()
    assert rows.height == bars.height - pipeline.memory
    for name in pipeline.columns:
        np.testing.assert_array_equal(
            rows[name].to_numpy(), table[name].to_numpy()[pipeline.memory :], err_msg=name
        )
    assert not np.isnan(rows.select(pipeline.columns).to_numpy()).any()


def test_the_demo_passes_its_gate_by_its_scaling(demo: fk.Dataset) -> None:
    report = demo.audit
    assert not report.breaches("fail")
    assert {finding.severity for finding in report.findings} == {"warn"}
    assert len(report.repaired) > 20
    assert {finding.metric for finding in report.repaired} >= {"norm share", "scale outlier"}
    raw = fk.audit(demo.to_polars().select(demo.names))
    assert raw.verdict == "fail"
    assert (demo.generation / "audit.json").read_text() == report.to_json()


def test_targets_are_the_forward_returns(demo: fk.Dataset) -> None:
    rows = demo.to_polars()
    known = sample("eurusd_h1")
    bars = read_bars(
        known["path"], **{key: known[key] for key in ("symbol", "timezone", "time_format")}
    )
    close = bars["close"].to_numpy()
    ahead = np.log(close[5:] / close[:-5])[-(rows.height - 5) :]
    got = rows["ret_next_5"].to_numpy()
    # A year without a gap of four days: only the last five are unknown.
    np.testing.assert_allclose(got[:-5], ahead, rtol=1e-6, atol=1e-9)
    assert np.isnan(got[-5:]).all()
    np.testing.assert_array_equal(rows["up_next_5"].to_numpy()[:-5], ahead > 0)


def test_a_build_is_the_same_twice(demo: fk.Dataset, tmp_path: Path) -> None:
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    again = pipeline.build(out=tmp_path / "again")
    assert again.manifest.data_digest == demo.manifest.data_digest
    assert again.manifest.fingerprints == demo.manifest.fingerprints
    assert again.scaling is not None
    assert demo.scaling is not None
    np.testing.assert_array_equal(again.scaling.scale, demo.scaling.scale)


def test_a_batch_is_what_the_encoder_reads(demo: fk.Dataset) -> None:
    batch = next(iter(demo.loader(split="train", window=20, batch_size=64)))
    assert batch.features.shape == (64, 20, 129)
    assert batch.targets.shape == (64, 2)
    encoder = fk.nn.TemporalEncoder.from_dataset(demo)
    assert encoder(batch).shape == (64, 128)


def mt5_fills(deals: pl.DataFrame, symbol: str, zone: str) -> pl.DataFrame:
    """MT5 deals as canonical fills: swap and commission are costs, several legs become one."""
    trades = deals.filter(pl.col("type").is_in(["buy", "sell"]))
    return trades.sort("time", "deal").select(
        pl.col("time").cast(pl.Datetime("ns")).dt.replace_time_zone(zone, ambiguous="earliest")
        .dt.convert_time_zone("UTC"),
        pl.lit(symbol).alias("symbol"),
        pl.col("type").alias("side"),
        pl.col("volume").alias("quantity"),
        "price",
        (-pl.col("commission") - pl.col("swap")).alias("fee"),
        pl.when(pl.col("direction") == "in").then(None).otherwise(pl.col("profit"))
        .alias("realized_pnl"),
    )  # fmt: skip


def test_audusd_with_its_mt5_deals(shared_data: Path, tmp_path: Path) -> None:
    zone = "Europe/Helsinki"  # the server's clock: EET with the EU's summer time
    bars = pl.read_parquet(shared_data / "bars" / "fx_h1.parquet").filter(symbol="AUDUSD")
    bars.write_parquet(tmp_path / "bars.parquet")
    deals = pl.read_parquet(shared_data / "trades" / "mt5" / "deals.parquet")
    deals = deals.filter(report="DHLAOS")
    start = deals.filter(type="balance")["profit"][0]
    last = bars["ts"].max()
    deals = deals.filter(pl.col("time") < last)
    mt5_fills(deals, "AUDUSD", zone).write_parquet(tmp_path / "fills.parquet")
    pipeline = fk.Pipeline(
        name="audusd",
        bars={
            "path": str(tmp_path / "bars.parquet"),
            "bar": "1h",
            "timezone": zone,
            "exchange_timezone": zone,
        },
        fills={"path": str(tmp_path / "fills.parquet")},
        account={"cash": start, "multiplier": 100_000, "leverage": 30},
        blocks=["market", "position", "indicator"],
        width=129,
        targets={"ret_next_5": {"forward_return": 5}},
        windows={"max": 64},
        # Trading began in 2021: the scaling has to see it.
        splits={"validation": "2022-03-01", "test": "2022-06-01", "embargo": 20},
    )
    built = build(pipeline, out=tmp_path / "audusd")
    dataset = built.dataset
    assert dataset.rows == bars.height - pipeline.memory
    rows = dataset.to_polars()
    held = rows.filter(pl.col("position.side") != 0)
    assert held.height > 1000
    assert built.audit.slices["active"] >= 1000
    # These deals carry no stops, and costs only where they close: the audit names what is dead.
    failed = {f.feature: f.metric for f in built.audit.findings if f.severity == "fail"}
    without = ("stop_distance", "target_distance", "risk_reward", "fees_held")
    assert failed == {f"position.{name}": "dead" for name in without}
    # At the last flat bar the account's growth is the report's balance.
    after = deals.sort("time", "deal")["balance"][-1]
    realized = float(
        mt5_fills(deals, "AUDUSD", zone)
        .select(pl.col("realized_pnl").fill_null(0.0) - pl.col("fee"))
        .sum()
        .item()
    )
    assert start + realized == pytest.approx(after, abs=1e-6)
    dataset.verify(full=True)


def bars_csv(path: Path, rows: int = 1500, change: dict[int, str] | None = None) -> Path:
    """Simulated hourly bars; `change` replaces whole lines by number, the header being 0."""
    rng = np.random.default_rng(3)
    close = np.exp(rng.normal(0, 1e-3, rows).cumsum())
    open_ = np.concatenate([[1.0], close[:-1]])
    lines = ["time,symbol,open,high,low,close,volume"]
    for k in range(rows):
        high, low = max(open_[k], close[k]) * 1.0005, min(open_[k], close[k]) * 0.9995
        time = np.datetime64("2020-01-01T00", "h") + k
        lines.append(f"{time}:00:00Z,X,{open_[k]:.6f},{high:.6f},{low:.6f},{close[k]:.6f},{k % 50}")
    for number, line in (change or {}).items():
        lines[number] = line
    path.write_text("\n".join(lines) + "\n")
    return path


def pipeline_file(directory: Path, **changes: object) -> Path:
    document = {
        "name": "x",
        "bars": {"path": str(directory / "bars.csv"), "bar": "1h"},
        "blocks": [{"market": {}}, {"position": {}}, {"indicator": {}}],
        "targets": {"r": {"forward_return": 5}},
        "windows": {"max": 32},
    }
    document |= changes
    path = directory / "p.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "featurekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


GOOD = "2020-01-05T04:00:00Z,X,1.0,1.1,0.9,1.0,5"  # the stamp of line 101

BAD_LINES = {
    "text in a number": (GOOD.replace("1.1", "high"), ["is a number", "row 100", "high"]),
    "nan": (GOOD.replace("1.1", "NaN"), ["high: finite", "row 100"]),
    "inf": (GOOD.replace("1.1", "inf"), ["high: finite", "row 100"]),
    "negative": (GOOD.replace("0.9", "-0.9"), ["low: > 0", "row 100", "-0.9"]),
    "zero": (GOOD.replace("0.9", "0.0"), ["low: > 0", "row 100"]),
    "high below low": (GOOD.replace("1.1", "0.8"), ["low <= high", "open inside"]),
    "duplicate time": (GOOD.replace("05T04", "05T03"), ["each time once", "row 100"]),
    "unsorted time": (GOOD.replace("05T04", "04T04"), ["times increase", "row 100"]),
    "no time": (GOOD.replace("2020-01-05T04:00:00Z", ""), ["is a time", "row 100"]),
    "not a time": (GOOD.replace("2020-01-05T04:00:00Z", "noon"), ["is a time", "noon"]),
    "negative volume": (GOOD.removesuffix("5") + "-5", ["volume: >= 0", "row 100"]),
    "no symbol": (GOOD.replace(",X,", ",,"), ["symbol", "row 100"]),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_bars_are_listed_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    line, expected = BAD_LINES[case]
    bars_csv(tmp_path / "bars.csv", change={101: line})
    out = tmp_path / "out"
    done = run("build", pipeline_file(tmp_path), "--out", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in expected:
        assert part in done.stderr, done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "case", ["nan", "zero", "high below low", "duplicate time", "unsorted time"]
)
def test_bad_bars_can_be_set_aside_with_their_reason(case: str, tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv", change={101: BAD_LINES[case][0]})
    out = tmp_path / "out"
    done = run("build", pipeline_file(tmp_path), "--out", out, "--on-bad", "quarantine", "--json")
    told = json.loads(done.stdout)
    assert told["quarantined"] == 1, done.stderr
    aside = pl.read_parquet(fk.open_dataset(out).generation / "quarantine" / "bars.parquet")
    assert aside["row"].to_list() == [100]
    assert BAD_LINES[case][1][0].split(":")[-1].strip() in aside["reason"][0]


def damage(path: Path, how: str) -> Path:
    """A file that cannot be used; returns its path."""
    bars_csv(path / "bars.csv")
    frame = pl.read_csv(path / "bars.csv")
    if how == "empty":
        (path / "bars.csv").write_bytes(b"")
    elif how == "header only":
        bars_csv(path / "bars.csv", rows=0)
    elif how == "one row":
        bars_csv(path / "bars.csv", rows=1)
    elif how == "truncated gzip":
        import gzip

        (path / "bars.csv.gz").write_bytes(gzip.compress((path / "bars.csv").read_bytes())[:-2000])
        return path / "bars.csv.gz"
    elif how == "truncated parquet":
        frame.write_parquet(path / "bars.parquet")
        content = (path / "bars.parquet").read_bytes()
        (path / "bars.parquet").write_bytes(content[: len(content) // 2])
        return path / "bars.parquet"
    elif how == "no column":
        frame.drop("close").write_csv(path / "bars.csv")
    elif how == "misspelt column":
        frame.rename({"close": "clsoe"}).write_csv(path / "bars.csv")
    elif how == "wrong dtype":
        frame.with_columns(close=pl.lit("a")).write_parquet(path / "bars.parquet")
        return path / "bars.parquet"
    elif how == "naive time":
        frame.with_columns(pl.col("time").str.replace("Z", "")).write_csv(path / "bars.csv")
    elif how == "not text":
        (path / "bars.csv").write_bytes(b"time,symbol,open\n\xff\xfe\x00,\x80,1\n")
    elif how == "missing":
        return path / "no_such.csv"
    elif how == "directory without files":
        (path / "none").mkdir()
        return path / "none"
    return path / "bars.csv"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("empty", ["the file is empty"]),
        ("header only", ["has no rows"]),
        ("one row", ["no symbol has more bars than the warm-up", "warmup: lookback"]),
        ("truncated gzip", ["cannot be read"]),
        ("truncated parquet", ["cannot be read"]),
        ("no column", ["no column 'close'"]),
        ("misspelt column", ["no column 'close'", "Fix: columns: {close: clsoe}"]),
        ("wrong dtype", ["close: is a number"]),
        ("naive time", ["no time zone", "Fix: timezone: UTC"]),
        ("not text", [""]),
        ("missing", ["no such file"]),
        ("directory without files", ["no such file"]),
    ],
)
def test_files_that_cannot_be_used_are_told(how: str, expected: list[str], tmp_path: Path) -> None:
    path = damage(tmp_path, how)
    pipeline = pipeline_file(tmp_path, bars={"path": str(path), "bar": "1h"})
    done = run("build", pipeline, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("featurekit: ")
    for part in expected:
        assert part in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("2020-01-05T04:00:00Z,Y,buy,1,1.0,0", ["symbol 'Y', which has no bars"]),
        ("2019-01-05T04:00:00Z,X,buy,1,1.0,0", ["before its first bar"]),
        ("2020-01-05T04:00:00Z,X,bye,1,1.0,0", ["one of buy, sell", "bye"]),
        ("2020-01-05T04:00:00Z,X,buy,-1,1.0,0", ["quantity: >= 0"]),
        ("2020-01-05T04:00:00Z,X,buy,1,,0", ["buys and sells have a price"]),
        ("2020-01-05T04:00:00Z,X,buy,1,x,0", ["is a number"]),
    ],
)
def test_bad_fills_are_refused(fill: str, expected: list[str], tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    (tmp_path / "fills.csv").write_text(f"time,symbol,side,quantity,price,fee\n{fill}\n")
    pipeline = pipeline_file(tmp_path, fills={"path": str(tmp_path / "fills.csv")})
    done = run("build", pipeline, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    for part in expected:
        assert part in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_prints_one_object_and_commits(tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    done = run("build", pipeline_file(tmp_path), "--out", tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    keys = "dataset rows features symbols windows quarantined verdict seconds"
    assert set(keys.split()) <= set(told)
    assert told["features"] == 129
    assert "an account that never trades" in done.stderr
    assert done.returncode == (told["verdict"] == "fail")
    dataset = fk.open_dataset(tmp_path / "out")
    assert dataset.rows == told["rows"] == 1500 - fk.Pipeline.from_yaml(tmp_path / "p.yaml").memory


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended_leaves_nothing(end: signal.Signals, tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    # The signal comes while rows are written, as one from outside would.
    (tmp_path / "ending.py").write_text(
        "import os, sys\n"
        "from featurekit.cli import main\n"
        "from featurekit.dataset import DatasetWriter\n"
        "real = DatasetWriter.write\n"
        "def write(*arguments):\n"
        f"    os.kill(os.getpid(), {int(end)})\n"
        "    real(*arguments)\n"
        "DatasetWriter.write = write\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "out"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, tmp_path / "ending.py", "build", pipeline_file(tmp_path), "--out", out],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.returncode not in (0, -end), done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert not list(scratch.iterdir())


def test_what_has_brackets_is_printed_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "[bold]a"
    directory.mkdir()
    bars_csv(directory / "bars.csv")
    lines = (directory / "bars.csv").read_text().replace(",X,", ",[red]X[/red],").splitlines()
    short = [lines[k].replace("[red]X", "[red]short") for k in (1, 2)]
    (directory / "bars.csv").write_text("\n".join([*lines, *short]))
    path = pipeline_file(directory, name="[bold]demo[/bold]")
    done = run("build", path, "--out", directory / "out")
    assert f"{directory}/out" in done.stdout, done.stderr
    assert "[red]short[/red] (2)" in done.stderr
    assert "[bold]demo[/bold]: 129 features" in run("show", path).stdout


def test_the_gate_exits_with_1_and_the_dataset_is_there(tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    raw = pipeline_file(tmp_path, scaling={"kind": "none", "squash": "none"})
    done = run("build", raw, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "FAIL" in done.stdout
    assert run("audit", tmp_path / "out").returncode == 1
    assert run("verify", tmp_path / "out", "--full").returncode == 0


@pytest.mark.parametrize("what", ["no/such/dataset", "README.md", "no_such.parquet"])
def test_an_audit_that_cannot_run_exits_with_2(what: str) -> None:
    done = run("audit", what)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_show_lists_number_name_unit_and_memory() -> None:
    done = run("show", "pipelines/trading129.yaml")
    assert done.returncode == 0
    assert "129 features" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "indicator.rsi_14" in line)
    assert row.split()[:5] == ["77", "indicator.rsi_14", "percent", "14", "216"]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, demo: fk.Dataset) -> None:
    del demo
    (tmp_path / "mine.txt").write_text("precious")
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    with pytest.raises(DatasetError, match="not a dataset"):
        pipeline.build(out=tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_several_symbols_and_one_too_short(tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    frame = pl.read_csv(tmp_path / "bars.csv", infer_schema=False)
    more = [
        frame,
        frame.with_columns(symbol=pl.lit("A")),
        frame.head(50).with_columns(symbol=pl.lit("Q")),
    ]
    # Interleaved by time, as an exchange writes them.
    pl.concat(more).sort("time", maintain_order=True).write_csv(tmp_path / "bars.csv")
    built = build(fk.Pipeline.from_yaml(pipeline_file(tmp_path)), out=tmp_path / "out")
    assert built.dataset.symbols == ("A", "X")
    assert any("Q (50)" in note for note in built.notes)
    rows = built.dataset.to_polars()
    a, x = (rows.filter(symbol=s).drop("symbol") for s in ("A", "X"))
    assert a.equals(x, null_equal=True)


def test_segments_that_restart_are_warmed_up_again(tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    frame = pl.read_csv(tmp_path / "bars.csv", try_parse_dates=True)
    later = frame.with_columns(pl.col("time") + pl.duration(days=200))
    pl.concat([frame, later]).write_parquet(tmp_path / "bars.parquet")
    path = pipeline_file(
        tmp_path,
        bars={"path": str(tmp_path / "bars.parquet"), "bar": "1h"},
        segments={"max_gap": "4d", "reset": True},
    )
    pipeline = fk.Pipeline.from_yaml(path)
    dataset = build(pipeline, out=tmp_path / "out").dataset
    assert dataset.rows == 2 * (1500 - pipeline.memory)
    assert len(dataset.manifest.segments) == 2
    assert not np.isnan(dataset.to_polars().select(dataset.names).to_numpy()).any()


def test_without_rows_for_the_scaling_the_build_says_so(tmp_path: Path) -> None:
    bars_csv(tmp_path / "bars.csv")
    path = pipeline_file(tmp_path, splits={"train": 0.1, "validation": 0.45, "test": 0.45})
    with pytest.raises(DataError, match="train split has no rows"):
        build(fk.Pipeline.from_yaml(path), out=tmp_path / "out")
    assert not (tmp_path / "out" / "CURRENT").exists()


@block(name="reads_bid")
def reads_bid(bid: Col) -> dict[str, Col]:
    """Reads a column that the bars have not."""
    return {"bid": bid}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "../../evil"}, "cannot be that of a directory"),
        ({"slices": {"a": "drop table x"}}, "is no SQL"),
        ({"slices": {"a": "nope > 1"}}, "names a column that there is not"),
        ({"slices": {"a": '"market.ret_1"'}}, "is no condition on a row"),
        ({"slices": {"a": '"market.ret_1" + 1'}}, "its values are"),
        ({"slices": {"a": 'max("market.ret_1") > 0'}}, "depends on other rows"),
        ({"slices": {"a": '"market.ret_1" > avg("market.ret_1")'}}, "depends on other rows"),
        ({"slices": {"a": "\"market.ret_1\" > 'x'"}}, "is no condition on a row"),
        ({"slices": {"a": "1 = 1"}}, "no column in it"),
        ({"account": {"multiplier": {"Y": 1.0}}}, "no multiplier for X"),
        ({"blocks": ["reads_bid"]}, "no column 'bid' of numbers"),
    ],
)
def test_what_the_pipeline_cannot_mean_writes_nothing(
    change: dict[str, object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars_csv(tmp_path / "bars.csv")
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    path = pipeline_file(tmp_path)
    document = yaml.safe_load(path.read_text()) | change
    monkeypatch.chdir(here)
    with pytest.raises(FeaturekitError, match=expected) as told:
        build(fk.Pipeline(**document))
    assert "Fix: " in str(told.value)
    assert not list(here.iterdir())
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "bars.csv", path.name}


def test_an_interrupted_command_does_not_exit_as_a_breached_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fk.Pipeline, "from_yaml", interrupted)
    done = CliRunner().invoke(main, ["build", "any.yaml"])
    assert (done.exit_code, "interrupted" in done.stderr) == (130, True)
