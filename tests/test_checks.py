"""check: planted leaks are named with their horizon, and the 129 raise no alarm."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import featurekit as fk
from featurekit.block import block
from featurekit.checks import PROOFS, Checks
from featurekit.checks.evidence import future_share
from featurekit.cli import main
from featurekit.errors import ConfigError, DataError
from featurekit.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = 3_600_000_000_000


def simulated(rows: int = 3_000, symbols: tuple[str, ...] = ("A", "B"), seed: int = 0) -> Any:  # noqa: ANN401
    """Random walks by the hour, weekends left out."""
    hours = np.arange(420_000, 420_000 + 2 * rows)
    hours = hours[(hours // 24 + 3) % 7 < 5][:rows]
    frames = []
    for k, symbol in enumerate(symbols):
        rng = np.random.default_rng([seed, k])
        close = np.exp(rng.normal(0, 2e-3, rows).cumsum())
        start = close * np.exp(rng.normal(0, 3e-4, rows))
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * rows,
                    "time": pl.Series(hours * HOUR).cast(pl.Datetime("ns", "UTC")),
                    "open": start,
                    "high": np.maximum(start, close) * (1 + rng.random(rows) / 1e3),
                    "low": np.minimum(start, close) * (1 - rng.random(rows) / 1e3),
                    "close": close,
                    "volume": rng.lognormal(5, 1, rows),
                }
            )
        )
    return pl.concat(frames)


# --- five planted leaks ---------------------------------------------------------------------------


@block(unit="ratio", scale=(-10, 10))
def leaky(own: fk.Col, close: fk.Col) -> dict[str, fk.Col]:
    """A column that the user computed, as it is and against the close's own mean."""
    return {"own": own, "smooth": own.mean(3), "clean": (close / close.lag(1)).log()}


def centred(bars: pl.DataFrame) -> pl.DataFrame:
    mean = pl.col("close").rolling_mean(9, center=True, min_samples=1).over("symbol")
    return bars.with_columns(own=pl.col("close") / mean - 1)


def global_z(bars: pl.DataFrame) -> pl.DataFrame:
    r = (pl.col("close") / pl.col("close").shift(1)).log().fill_null(0.0)
    z = ((r - r.mean()) / r.std()).over("symbol")
    return bars.with_columns(own=z)


def back_filled(bars: pl.DataFrame) -> pl.DataFrame:
    """The day's range, known when the day is over, filled backwards over the day."""
    last = pl.col("time").dt.hour() == 23
    value = pl.when(last).then((pl.col("close") / pl.col("close").shift(24) - 1).over("symbol"))
    return bars.with_columns(own=value).with_columns(
        pl.col("own").backward_fill().over("symbol").fill_null(0.0)
    )


def higher_at_open(bars: pl.DataFrame) -> pl.DataFrame:
    """The close of the bar of 4 hours, joined at the time that this bar opens."""
    higher = bars.group_by_dynamic("time", every="4h", group_by="symbol").agg(
        pl.col("close").last().alias("close_4h")
    )
    joined = bars.join_asof(higher, on="time", by="symbol", check_sortedness=False)
    return joined.with_columns(own=pl.col("close_4h") / pl.col("open") - 1).drop("close_4h")


def label(bars: pl.DataFrame) -> pl.DataFrame:
    ahead = (pl.col("close").shift(-5) / pl.col("close")).log().over("symbol")
    return bars.with_columns(own=ahead.fill_null(0.0))


def honest(bars: pl.DataFrame) -> pl.DataFrame:
    """As useful as these, of past rows only, with some noise that no price explains."""
    mean = pl.col("close").rolling_mean(9, min_samples=1).over("symbol")
    noise = (pl.col("time").hash(7) % 1000) / 1e6
    return bars.with_columns(own=pl.col("close") / mean - 1 + noise)


LEAKS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "centred window": (centred, "4 bars ahead"),
    "global z-score": (global_z, "to the end of the data"),
    "back-fill": (back_filled, "bars ahead"),
    "higher timeframe at open time": (higher_at_open, "3 bars ahead"),
    "label in features": (label, "5 bars ahead"),
}


def made_of(prepare: Callable[[pl.DataFrame], pl.DataFrame]) -> tuple[fk.Pipeline, pl.DataFrame]:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    return pipeline, prepare(simulated(2_200))


def of(checks: Checks, proof: str) -> dict[str, Any]:
    return {finding.column: finding for finding in checks[proof].findings}


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_proved_with_its_recipe(name: str) -> None:
    prepare, horizon = LEAKS[name]
    pipeline, bars = made_of(prepare)
    checks = fk.check(pipeline, bars, prepare=prepare, only=["causality", "evidence"])
    found = of(checks, "causality")
    assert not checks.passed
    assert set(found) == {"own", "leaky.own", "leaky.smooth"}
    for column in found.values():
        assert horizon in column.what, column.what
        assert column.severity == "fail"
        assert column.symbol in ("A", "B")
    assert found["leaky.own"].block == "leaky"
    assert "own" in found["own"].fix


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_shows_without_its_recipe(name: str) -> None:
    prepare, _ = LEAKS[name]
    pipeline, bars = made_of(prepare)
    checks = fk.check(pipeline, bars, only=["causality", "evidence"])
    assert checks["causality"].verdict == "pass"  # the column is data: nothing moves it
    finding = of(checks, "evidence")["own"]
    assert finding.severity == "fail", finding


# --- more of them, harder to see ------------------------------------------------------------------

MANY = ("A", "B", "C", "D", "E")


def each(expression: pl.Expr) -> pl.Expr:
    return expression.over("symbol").fill_null(0.0)


def ahead(bars: int) -> pl.Expr:
    return each((pl.col("close").shift(-bars) / pl.col("close")).log())


def only_where(condition: pl.Expr, bars: int = 1) -> Any:  # noqa: ANN401  # a function
    return lambda frame: frame.with_columns(own=pl.when(condition).then(ahead(bars)).otherwise(0.0))


def looked_up(bars: pl.DataFrame) -> pl.DataFrame:
    """A table of labels, made once: no change of the bars moves it."""
    table = simulated(4_000, MANY).with_columns(own=ahead(5)).select("symbol", "time", "own")
    return bars.join(table, on=["symbol", "time"], how="left", maintain_order="left")


def back_filled_start(bars: pl.DataFrame) -> pl.DataFrame:
    mean = pl.col("close").rolling_mean(20).backward_fill().over("symbol")
    return bars.with_columns(own=pl.col("close") / mean - 1)


def wide_tomorrow(bars: pl.DataFrame) -> pl.DataFrame:
    wide = each(pl.col("high").shift(-1) / pl.col("low").shift(-1)) > 1.006
    return bars.with_columns(own=wide.cast(pl.Float64))


def over_the_weekend(bars: pl.DataFrame) -> pl.DataFrame:
    gap = pl.col("time").shift(-1).over("symbol") - pl.col("time") > pl.duration(hours=24)
    step = each((pl.col("open").shift(-1) / pl.col("close")).log())
    return bars.with_columns(own=pl.when(gap).then(step).otherwise(0.0).fill_null(0.0))


def of_the_day(bars: pl.DataFrame) -> pl.DataFrame:
    top = pl.col("high").max().over("symbol", pl.col("time").dt.date())
    return bars.with_columns(own=pl.col("close") / top)


HARDER: dict[str, Any] = {
    "a table of labels": looked_up,
    "one symbol of five": only_where(pl.col("symbol") == "B"),
    "one row in 200": only_where(pl.col("time").hash(3) % 200 == 0),
    "the first rows": back_filled_start,
    "a flag of tomorrow's range": wide_tomorrow,
    "the last bar before a weekend": over_the_weekend,
    "the day's maximum": of_the_day,
}


@pytest.mark.parametrize("name", HARDER)
def test_a_leak_that_is_harder_to_see_is_found(name: str) -> None:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    bars = simulated(4_000, MANY)
    checks = fk.check(pipeline, bars, prepare=HARDER[name], only=["causality", "evidence"])
    assert not checks.passed
    assert "own" in {finding.column for finding in checks.findings if finding.severity == "fail"}


def test_a_price_that_is_made_anew_is_proved_too() -> None:
    pipeline = fk.Pipeline(name="market", blocks=["market"])
    smooth = pl.col("close").rolling_mean(5, center=True, min_samples=1).over("symbol")
    checks = fk.check(
        pipeline,
        simulated(),
        prepare=lambda bars: bars.with_columns(close=smooth),
        only=["causality"],
    )
    assert "market.ret_1" in of(checks, "causality")


def matrix_product(bars: pl.DataFrame) -> pl.DataFrame:
    """A frozen network: its last bits depend on how many rows there are."""
    rng = np.random.default_rng(0)
    x = bars.select("open", "high", "low", "close").to_numpy()
    return bars.with_columns(own=pl.Series(np.tanh(x @ rng.normal(size=(4, 16))) @ np.ones(16)))


def takes_no_holes(bars: pl.DataFrame) -> pl.DataFrame:
    if bars["close"].is_nan().any():
        raise ValueError("Input contains NaN")
    return honest(bars)


CAUSAL: dict[str, Any] = {
    "matrix product": matrix_product,
    "no holes taken": takes_no_holes,
    "hour": lambda bars: bars.with_columns(own=pl.col("time").dt.hour().cast(pl.Float64)),
    "counter": lambda bars: bars.with_columns(own=pl.int_range(pl.len()).over("symbol") * 1.0),
    "mean of all before": lambda bars: bars.with_columns(
        own=pl.col("close")
        / (pl.col("close").cum_sum() / (pl.int_range(pl.len()) + 1)).over("symbol")
    ),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_odd_columns_of_the_past_fail_nothing(name: str) -> None:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    bars = simulated(2_200)
    checks = fk.check(pipeline, bars, prepare=CAUSAL[name], only=["causality", "evidence"])
    assert checks.passed
    assert all("last bits" in finding.what for finding in checks.findings)


def test_prepare_may_read_what_else_a_file_has() -> None:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    bars = simulated(2_200).with_columns(funding=pl.col("volume").sqrt())
    for lead, passed in ((0, True), (-2, False)):
        checks = fk.check(
            pipeline,
            bars,
            prepare=lambda b, k=lead: b.with_columns(own=each(pl.col("funding").shift(k))),
            only=["causality"],
        )
        assert checks.passed is passed


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda bars: sys.exit(0), "prepare must give the same bars"),
        (lambda bars: bars.with_columns(own=pl.Series(np.random.default_rng().random(len(bars)))),
         "other values of own each time"),
        (lambda bars: bars.with_columns(own=pl.lit("text")), "no column 'own' of numbers"),
        (lambda bars: bars, "no column 'own' of numbers"),
    ],
)  # fmt: skip
def test_a_recipe_that_proves_nothing_is_refused(prepare: Any, message: str) -> None:  # noqa: ANN401
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    with pytest.raises(DataError, match=message):
        fk.check(pipeline, simulated(600), prepare=prepare, only=["causality"])


def test_evidence_that_could_not_be_looked_for_is_told() -> None:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    few = simulated(400).with_columns(own=ahead(5))
    (finding,) = fk.check(pipeline, few, only=["evidence"]).findings
    assert finding.severity == "warn"
    assert "not looked at" in finding.what
    holed = simulated(2_200).with_columns(own=ahead(5))
    gone = pl.int_range(pl.len()) % 40 == 7
    holed = holed.with_columns(close=pl.when(gone).then(None).otherwise("close"))
    assert not fk.check(pipeline, holed, only=["evidence"]).passed
    below = holed.with_columns(pl.col("open", "high", "low", "close") - 5.0)
    assert not fk.check(pipeline, below, only=["evidence"]).passed
    with pytest.raises(DataError, match="no column 'own' of numbers"):
        fk.check(pipeline, few.with_columns(own=pl.lit("x")), only=["evidence"])


@pytest.mark.parametrize("seed", range(8))
def test_an_honest_column_raises_no_alarm(seed: int) -> None:
    pipeline = fk.Pipeline(name="leaky", blocks=["leaky"])
    raw = simulated(2_200, seed=seed)
    bars = honest(raw)
    proofs = ["causality", "evidence", "memory", "holes"]
    assert fk.check(pipeline, bars, only=proofs).findings == ()
    assert fk.check(pipeline, raw, prepare=honest, only=proofs).findings == ()


def test_columns_without_leaks_leave_the_future_unsaid() -> None:
    """Noise, random walks of their own and smooth or jumping functions of past prices."""
    rng = np.random.default_rng(5)
    bars = simulated(2_000, ("A",), 9)
    prices = bars.select("open", "high", "low", "close").to_numpy()
    close = prices[:, 3]
    past = {
        "noise": rng.normal(size=2_000),
        "walk": rng.normal(size=2_000).cumsum(),
        "close": close,
        "mean": pl.Series(close).rolling_mean(50).to_numpy(),
        "deviation": pl.Series(np.log(close)).diff().rolling_std(20).to_numpy(),
        "sign": np.sign(np.diff(np.log(close), prepend=0.0)),
        "steps": np.repeat(rng.normal(size=84), 24)[:2_000],
        "forward fill": np.repeat(close[::24], 24)[:2_000],
        "range": pl.Series(prices[:, 1] - prices[:, 2]).rolling_max(30).to_numpy(),
    }
    shares = {name: future_share(x, prices)[0] for name, x in past.items()}
    assert max(shares.values()) < 0.05, shares


# --- no false alarm -------------------------------------------------------------------------------


def test_the_129_of_the_demo_pass_every_proof(tmp_path: Path) -> None:
    pipeline = fk.Pipeline.from_yaml("pipelines/eurusd_demo.yaml")
    data = ingest(pipeline, tmp_path, on_bad="fail", tell=lambda *_: None)
    steps = []
    checks = fk.check(pipeline, data.bars, data.fills, tell=lambda *step: steps.append(step))
    assert [(proof.name, proof.verdict) for proof in checks.proofs] == [
        *((name, "pass") for name in PROOFS[:-1]),
        ("redundancy", "warn"),
    ]
    assert {name for name, _, _ in steps} >= set(PROOFS) - {"evidence"}
    memory = checks["memory"].columns
    assert memory["market.ret_5"] == {"computed": 5, "measured": 5}
    assert 0 < memory["indicator.rsi_14"]["measured"] <= memory["indicator.rsi_14"]["computed"]
    unmeasured = {name for name, told in memory.items() if told["measured"] is None}
    assert len(unmeasured) < 10  # the first fill comes before these are warm
    assert {name.split(".")[0] for name in unmeasured} == {"position"}
    kinds = {kind for told in checks["holes"].columns.values() for kind in told.values()}
    assert kinds == {"untouched", "recovers"}
    # What is redundant in the 129, by hand: returns of 2 bars are the sum of two of 1 bar, the
    # Chande momentum is 2 RSI - 100, the histogram of MACD and the oscillator of Aroon differences.
    assert {finding.column for finding in checks.findings} >= {
        "market.ret_1_lag_1",
        "indicator.cmo_14",
        "indicator.macd_hist",
        "indicator.aroonosc_14",
    }
    assert json.loads(checks.to_json())["passed"] is True


@pytest.mark.parametrize(
    ("file", "zone", "bar"),
    [("fx_h1", "Europe/Helsinki", "1h"), ("crypto_m5", "UTC", "5m"), ("us_equity_d1", "UTC", "1d")],
)
def test_the_129_raise_no_alarm_on_real_markets(
    shared_data: Path, tmp_path: Path, file: str, zone: str, bar: str
) -> None:
    bars = {
        "path": str(shared_data / "bars" / f"{file}.parquet"),
        "columns": {"time": "ts"},
        "stamp": "open",
        "bar": bar,
        "timezone": zone,
    }
    pipeline = fk.Pipeline(name=file, bars=bars, blocks=["market", "position", "indicator"])
    data = ingest(pipeline, tmp_path, on_bad="quarantine", tell=lambda *_: None)
    only = [name for name in PROOFS if name not in ("parity", "redundancy")]
    checks = fk.check(pipeline, data.bars, only=only)
    assert [finding for finding in checks.findings if finding.severity == "fail"] == []


def test_higher_timeframes_fills_portfolios_and_restarts_pass(tmp_path: Path) -> None:
    bars = simulated(2_600)
    at = bars.gather_every(41)[2:]
    fills = pl.DataFrame(
        {
            "time": at["time"].dt.offset_by("20m"),
            "symbol": at["symbol"],
            "side": [("buy", "sell")[k % 2] for k in range(at.height)],
            "quantity": [1.0 + k % 3 for k in range(at.height)],
            "price": at["close"],
            "fee": [0.01] * at.height,
        }
    ).sort("time")
    pipeline = fk.Pipeline(
        name="many",
        bars={"path": "unread.parquet", "stamp": "open", "bar": "1h", "timezone": "UTC"},
        blocks=[{"market": {"timeframe": "4h"}}, "position", {"indicator": {"as": "fast"}}],
        account={"scope": "portfolio", "cash": 1e5},
        targets={"next": {"forward_return": 5}},
        segments={"max_gap": "1d", "reset": False},
        splits={"validation": 0.2, "test": 0.2, "embargo": 7},
    )
    checks = fk.check(pipeline, bars, fills)
    assert [f for f in checks.findings if f.severity == "fail"] == []


# --- planted faults -------------------------------------------------------------------------------


@block(unit="ratio", scale=(-10, 10))
def forgetful(close: fk.Col) -> dict[str, fk.Col]:
    """A mean that says that it forgets sooner than it does."""
    return {
        "ema": (close / close.ema(50, seed="first")).log().named(memory=20),
        "mean": close / close.mean(9),
    }


def test_a_memory_that_is_declared_too_short_is_measured() -> None:
    checks = fk.check(
        fk.Pipeline(name="f", blocks=["forgetful"]), simulated(1_500), only=["memory"]
    )
    (finding,) = checks["memory"].findings
    assert (finding.column, finding.block) == ("forgetful.ema", "forgetful")
    assert "after 20 rows" in finding.expected
    measured = checks["memory"].columns["forgetful.ema"]["measured"]
    assert 200 < measured < 500
    assert finding.fix == f".named(memory={measured + 1})"


@block(unit="ratio", scale=(-1e9, 1e9))
def poisoned(close: fk.Col) -> dict[str, fk.Col]:
    """One sum that never forgets a hole, one that counts what it missed as nothing, one sound."""
    steps = close.diff(1)
    lost = (~close.defined()).cumsum(fk.Col.of(0.0))
    return {
        "lost": fk.where(lost > 0.0, fk.Col.of(float("nan")), close).named(memory=5),
        "total": steps.fill(0.0).cumsum(fk.Col.of(0.0)).named(memory=5),
        "mean": close.mean(5),
    }


def test_a_column_that_stays_a_hole_and_one_that_is_silently_wrong_are_told_apart() -> None:
    bars = simulated(900, ("A",))
    checks = fk.check(fk.Pipeline(name="p", blocks=["poisoned"]), bars, only=["holes"])
    found = {(f.column, f.what.split(" after ")[0].split(" ", 1)[1]) for f in checks.findings}
    assert ("poisoned.lost", "stays NaN") in found
    assert ("poisoned.total", "is wrong") in found
    assert not [f for f in checks.findings if f.column == "poisoned.mean"]
    assert checks["holes"].columns["poisoned.mean"]["close"] == "recovers"


@block(unit="ratio", scale=(-10, 10))
def repeated(open: fk.Col, high: fk.Col, low: fk.Col, close: fk.Col) -> dict[str, fk.Col]:
    """Columns that say the same in other words."""
    a, b, c = (close / open).log(), (high / low).log(), (high / close).log()
    return {
        "a": a,
        "b": b,
        "c": c,
        "a_again": a * 1.0,
        "minus_a": 0.001 - 2.0 * a,
        "sum": a + 0.5 * b - c,
        "one": close * 0.0 + 1.0,
        "own": (close / close.lag(3)).log(),
    }


def test_columns_that_say_nothing_new_are_named_with_what_they_repeat() -> None:
    checks = fk.check(
        fk.Pipeline(name="r", blocks=["repeated"]), simulated(900), only=["redundancy"]
    )
    said = {f.column.split(".")[1]: f.what for f in checks.findings}
    assert set(said) == {"a_again", "minus_a", "sum", "one"}
    assert "is repeated.a," in said["a_again"]
    assert "is minus repeated.a," in said["minus_a"]
    assert all(f"repeated.{name}" in said["sum"] for name in "abc")
    assert "constant" in said["one"]
    assert checks.passed


def test_a_stream_that_differs_is_named_at_its_first_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = simulated(1_000, ("A",))
    right = fk.Stream.update

    def wrong(self: fk.Stream, bars: pl.DataFrame, *more: Any, **options: Any) -> Any:  # noqa: ANN401
        rows = right(self, bars, *more, **options)
        if bars["time"][0] >= at:
            rows[0, 2] = np.nextafter(rows[0, 2], np.float32(9))
        return rows

    at = bars["time"][612]
    monkeypatch.setattr(fk.Stream, "update", wrong)
    checks = fk.check(fk.Pipeline(name="s", blocks=["market"]), bars, only=["parity"])
    (finding,) = checks["parity"].findings
    assert finding.what.startswith("stream, resumed now and then gives market.")
    assert finding.time == f"{at:%Y-%m-%dT%H:%M:%SZ}"


def test_windows_that_reach_over_a_cut_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fk.Dataset.starts
    monkeypatch.setattr(
        fk.Dataset,
        "starts",
        lambda self, split, window, **options: right(self, split, window, **options) + 3,
    )
    pipeline = fk.Pipeline(
        name="w",
        bars={"path": "unread.parquet", "bar": "1h", "timezone": "UTC"},
        blocks=["market"],
        targets={"next": {"forward_return": 2}},
    )
    checks = fk.check(pipeline, simulated(1_500), only=["splits"])
    said = {finding.what for finding in checks["splits"].findings}
    assert "a window of train has a target in the next split" in said


def test_a_scaling_that_saw_more_than_train_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from featurekit.scaling import Scaling

    right = Scaling.fit
    seen: list[Any] = []

    def leaking(profile: Any, *more: Any, **options: Any) -> Any:  # noqa: ANN401
        seen.append(profile)
        moved = profile.moments.copy()
        moved[0] += len(seen)
        return right(type(profile)(*[moved if k == "moments" else getattr(profile, k) for k in (
            "names", "rows", "whole_rows", "counts", "extremes", "moments", "share", "histogram"
        )]), *more, **options)  # fmt: skip

    monkeypatch.setattr(Scaling, "fit", leaking)
    pipeline = fk.Pipeline(
        name="w",
        bars={"path": "unread.parquet", "bar": "1h", "timezone": "UTC"},
        blocks=["market"],
        scaling={"kind": "standard"},
    )
    checks = fk.check(pipeline, simulated(1_500), only=["splits"])
    assert "the scaling changes" in checks["splits"].findings[0].what


def test_a_target_that_looks_further_than_it_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from featurekit import timeline

    right = timeline.forward
    monkeypatch.setattr(timeline, "forward", lambda c, s, kind, h: right(c, s, kind, h + 1))
    pipeline = fk.Pipeline(name="t", blocks=["market"], targets={"next": {"forward_return": 5}})
    checks = fk.check(pipeline, simulated(900), only=["causality"])
    assert of(checks, "causality")["next"].what.endswith("looks further ahead than it says")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_exits_with_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated(2_000).write_parquet("bars.parquet")
    module = (
        "import polars as pl\ndef add(bars):\n    r = pl.col('close').shift(-2).over('symbol')\n"
    )
    (tmp_path / "recipes.py").write_text(
        module + "    return bars.with_columns(own=(r / pl.col('close')).log().fill_null(0.0))\n"
        "def broken(bars):\n    return bars[:5]\n"
    )
    (tmp_path / "blocks.py").write_text(
        "from featurekit.block import block\n@block(unit='ratio', scale=(-1, 1))\n"
        "def told(own):\n    'What the user computed.'\n    return {'own': own}\n"
    )
    (tmp_path / "p.yaml").write_text(
        "name: mine\nbars: {path: bars.parquet, bar: 1h, timezone: UTC}\nuse: [blocks]\n"
        "blocks: [told: {}]\n"
    )
    run = CliRunner().invoke
    some = ["--only", "causality,evidence"]
    done = run(main, ["check", "p.yaml", *some])
    assert done.exit_code == 2
    assert "'own'" in done.stderr
    import sys

    sys.path.insert(0, str(tmp_path))
    monkeypatch.setattr(sys, "path", sys.path)
    from importlib import import_module

    import_module("recipes").add(pl.read_parquet("bars.parquet")).write_parquet("bars.parquet")
    done = run(main, ["check", "p.yaml", *some])
    assert done.exit_code == 1, done.output
    assert "own knows closes ahead" in done.stdout
    done = run(main, ["check", "p.yaml", *some, "--prepare", "recipes:add", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["passed"] is False
    assert "sees 2 bars ahead" in told["proofs"][0]["findings"][0]["what"]
    for bad in ("recipes:broken", "recipes:none", "nowhere:add", "recipes"):
        done = run(main, ["check", "p.yaml", *some, "--prepare", bad])
        assert done.exit_code == 2, bad
        assert "Fix:" in done.stderr
    done = run(main, ["check", "p.yaml", "--only", "magic"])
    assert (done.exit_code, "no such proof" in done.stderr) == (2, True)
    assert run(main, ["check", "nowhere.yaml"]).exit_code == 2


@pytest.mark.parametrize("only", [["magic"], []])
def test_a_proof_that_there_is_not_is_refused(only: list[str]) -> None:
    with pytest.raises(ConfigError, match="no such proof"):
        fk.check(fk.Pipeline(name="m", blocks=["market"]), simulated(50), only=only)


def test_no_bars_and_few_bars_are_told() -> None:
    pipeline = fk.Pipeline(name="m", blocks=["market"])
    with pytest.raises(DataError, match="no bars"):
        fk.check(pipeline, simulated(50)[:0])
    checks = fk.check(pipeline, simulated(50, ("A",)), only=["causality", "memory", "holes"])
    assert checks.passed
    assert {f.severity for f in checks.findings} == {"warn"}
    assert [f.proof for f in checks.findings] == ["memory", "holes"]
    named = {"path": "unread.parquet", "bar": "1h", "timezone": "UTC"}
    for rows in (1, 2, 3, 130):
        assert fk.check(pipeline, simulated(rows, ("A",))).passed
        built = fk.Pipeline(name="m", bars=named, blocks=["market"])
        assert fk.check(built, simulated(rows, ("A",))).passed
