"""Comparison: nothing against itself or its like, and every change where there is one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

import featurekit as fk
from featurekit.cli import main
from tests.test_audit import NAMES, N, clean, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurekit.audit import AuditReport
    from tests.test_audit import Rows

ROOT = Path(__file__).parents[1]


def compared(report: AuditReport) -> set[tuple[str, str]]:
    of_both = ("scale change", "median shift", "mismatch", "unit change", "unmatched rows")
    of_both += ("shape drift", "shape distance", "missing column", "new column")
    return {(f.metric, f.of) for f in report.findings if f.metric in of_both}


def autoregressive(seed: int, rho: float, rows: int = N) -> Rows:
    rng = np.random.default_rng(seed)
    noise, found = rng.normal(size=(rows, 20)), np.empty((rows, 20))
    found[0] = noise[0]
    for k in range(1, rows):
        found[k] = rho * found[k - 1] + math.sqrt(1.0 - rho**2) * noise[k]
    return found


@pytest.mark.parametrize("timed", [False, True])
def test_against_itself_there_is_nothing(timed: bool) -> None:
    rows = frame(clean(), timed=timed)
    assert fk.audit(rows, against=rows).findings == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_against_another_draw_there_is_nothing(seed: int, rho: float) -> None:
    one, other = autoregressive(seed, rho), autoregressive(100 + seed, rho)
    report = fk.audit(one, against=other)
    assert compared(report) == set()


def test_the_calibrated_psi_is_silent_where_the_rule_of_a_tenth_is_not() -> None:
    # Of 100 independent rows each, PSI is about (1/100 + 1/100) * 9 = 0.18 without any change.
    rng = np.random.default_rng(0)
    report = fk.audit(rng.normal(size=(100, 20)), against=rng.normal(size=(100, 20)))
    values = [column["reference"]["psi"] for column in report.columns]
    assert np.mean(np.array(values) > 0.1) > 0.5
    assert 0.1 < np.mean(values) < 0.3
    assert ("shape drift" not in {f.metric for f in report.findings}) == (
        all(c["reference"]["psi"] <= c["reference"]["critical"] for c in report.columns)
    )
    assert compared(report) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: 3.0 * x, {"scale change", "shape drift", "shape distance"}),
        (lambda x: x + 1.0, {"median shift", "shape drift", "shape distance"}),
        (lambda x: np.sign(x) * 0.6745, {"shape drift", "shape distance"}),
    ],
    ids=["scale", "median", "shape"],
)
@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_a_change_is_found_in_its_feature(
    change: Callable[[Rows], Rows], expected: set[str], rho: float
) -> None:
    one, other = autoregressive(0, rho), autoregressive(100, rho)
    one[:, 5] = change(one[:, 5])
    found = compared(fk.audit(one, against=other))
    assert {feature for _, feature in found} == {"x5"}
    assert {metric for metric, _ in found} >= expected


@pytest.mark.parametrize(("was", "now"), [(1.0, 2.0), (1.0, -2.0), (1.0, "alive"), ("alive", 1.0)])
def test_a_constant_that_changes_is_another_shape(was: object, now: object) -> None:
    sides = []
    for value in (now, was):
        rows = clean()
        if value != "alive":
            rows[:, 5] = value
        sides.append(frame(rows))
    assert ("shape drift", "market.f5") in compared(fk.audit(sides[0], against=sides[1]))


# --- rows of one symbol and time -----------------------------------------------------------------

ROWS = 1_500


def some() -> pl.DataFrame:
    return frame(clean(), timed=True).head(ROWS)


def test_one_changed_value_is_found_with_its_share() -> None:
    rows = some()
    other = rows.with_columns(
        pl.when(pl.int_range(ROWS) == 17).then(9.0).otherwise("market.f3").alias("market.f3")
    )
    (found,) = fk.audit(rows, against=other.sample(fraction=1.0, shuffle=True, seed=1)).findings
    assert (found.metric, found.feature, found.severity) == ("mismatch", "market.f3", "fail")
    assert found.value == pytest.approx(1 / ROWS)
    assert found.command == "fk.audit(frame, against=OTHER)"


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (1.0, 1.0 + 9e-6, False),  # two float32 programs
        (1.0, 1.0 + 2e-5, True),
        (0.0, 1e-30, True),
        (math.nan, math.nan, False),
        (math.nan, 1.0, True),
        (math.inf, math.inf, False),
        (math.inf, -math.inf, True),
        (math.inf, 1.0, True),
        (1e300, 1e-300, True),
        (1e-300, 1e300, True),
    ],
)
def test_which_values_are_one(before: float, after: float, differs: bool) -> None:
    rows = some()
    sides = [
        rows.with_columns(
            pl.when(pl.int_range(ROWS) == 17).then(value).otherwise("market.f3").alias("market.f3")
        )
        for value in (after, before)
    ]
    report = fk.audit(sides[0], against=sides[1])
    assert (("mismatch", "market.f3") in compared(report)) == differs


@pytest.mark.parametrize("factor", [100.0, 0.01, 1e-4])
def test_a_change_of_unit_is_named(factor: float) -> None:
    rows = some()
    report = fk.audit(rows.with_columns(pl.col("market.f3") * factor), against=rows)
    (found,) = (f for f in report.findings if f.metric == "unit change")
    assert (found.feature, found.value) == ("market.f3", pytest.approx(abs(math.log2(factor))))


def test_rows_are_joined_by_symbol_and_time() -> None:
    rows = some()
    two = pl.concat([rows, rows.with_columns(pl.col(NAMES) * -1.0, symbol=pl.lit("Y"))])
    assert compared(fk.audit(two, against=two.reverse())) == set()
    swapped = two.with_columns(symbol=pl.col("symbol").replace({"X": "Y", "Y": "X"}))
    assert ("mismatch", "market.f0") in compared(fk.audit(two, against=swapped))


def test_a_column_that_is_no_number_there_is_new_here() -> None:
    rows = some()
    other = rows.with_columns(pl.concat_list("market.f3", "market.f4").alias("market.f3"))
    assert compared(fk.audit(rows, against=other)) == {("new column", "market.f3")}


def test_dates_are_times() -> None:
    days = some().with_columns(time=pl.Series(np.arange(ROWS)).cast(pl.Date))
    times = days.with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
    report = fk.audit(days, against=times.head(ROWS - 150))
    assert compared(report) == {("unmatched rows", "all features")}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda t: t.drop("time"), "no column time"),
        (lambda t: t.with_columns(pl.col("time").dt.offset_by("100y")), "no row has the symbol"),
        (lambda t: t.with_columns(time=pl.lit(t["time"][0])), "same symbol and time"),
    ],
)
def test_why_rows_are_not_compared_is_noted(
    change: Callable[[pl.DataFrame], pl.DataFrame], note: str
) -> None:
    rows = some()
    report = fk.audit(rows, against=change(rows))
    assert report.findings == ()
    assert any(note in each for each in report.notes) == (note != "no column time")
    if note != "no column time":
        assert len(report.notes) == 1


# --- files ---------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def changed() -> pl.DataFrame:
    rows = clean(1)
    rows[:, 5] = 3.0 * rows[:, 5] + 1.0
    rows[:, 9] *= 0.4
    return frame(rows).rename({"indicator.f7": "indicator.f9"})


def test_an_audit_json_stands_for_its_rows(tmp_path: Path) -> None:
    frame(clean()).write_parquet(tmp_path / "then.parquet")
    changed().write_parquet(tmp_path / "now.parquet")
    (tmp_path / "audit.json").write_text(run(tmp_path / "then.parquet", "--json").stdout)
    rows, told = (
        json.loads(run(tmp_path / "now.parquet", "--json", "--against", tmp_path / other).stdout)
        for other in ("then.parquet", "audit.json")
    )

    def listed(document: dict[str, Any]) -> dict[tuple[str, str], float]:
        return {(f["metric"], f["feature"]): f["value"] for f in document["findings"]}

    assert listed(told).keys() == listed(rows).keys()
    assert listed(told) == pytest.approx(listed(rows), rel=1e-4)
    assert {metric for metric, _ in listed(told)} >= {
        "scale change", "median shift", "shape drift", "missing column", "new column"
    }  # fmt: skip
    assert rows["reference"] == {
        "name": "then.parquet", "new": ["indicator.f9"], "missing": ["indicator.f7"]
    }  # fmt: skip
    one, other = (
        {c["name"]: c["reference"] for c in document["features"] if c["reference"]}
        for document in (rows, told)
    )
    assert one.keys() == other.keys()
    for name, reference in one.items():
        assert other[name]["psi"] == pytest.approx(reference["psi"], rel=1e-3, abs=1e-6)


def test_a_report_stands_for_its_rows() -> None:
    now = changed()
    direct = fk.audit(now, against=frame(clean()))
    assert compared(fk.audit(now, against=fk.audit(frame(clean())))) == compared(direct)


def damaged(document: dict[str, Any], what: str) -> str:
    first = document["features"][0]
    if what == "an old version":
        document["version"] = 1
    elif what == "no features":
        del document["features"]
    elif what == "a feature without a histogram":
        del first["histogram"]
    elif what == "a histogram of text":
        first["histogram"]["edges"] = "abc"
    elif what == "edges that are too few":
        first["histogram"]["edges"] = first["histogram"]["edges"][:3]
    elif what == "a scale that is text":
        first["stats"]["scale"] = "1"
    elif what == "quantiles that are none":
        first["quantiles"] = None
    elif what == "features that are none":
        document["features"] = [1, 2]
    text = json.dumps(document)
    return {"half of it": text[: len(text) // 2], "a list": "[1]", "nothing": ""}.get(what, text)


@pytest.mark.parametrize(
    "what",
    [
        "an old version",
        "no features",
        "features that are none",
        "a feature without a histogram",
        "a histogram of text",
        "edges that are too few",
        "a scale that is text",
        "quantiles that are none",
        "half of it",
        "a list",
        "nothing",
        "missing",
    ],
)
def test_a_damaged_audit_json_exits_with_2(what: str, tmp_path: Path) -> None:
    table = frame(clean())[:200, :3]
    table.write_csv(tmp_path / "now.csv")
    if what != "missing":
        document = json.loads(fk.audit(table).to_json())
        (tmp_path / "audit.json").write_text(damaged(document, what))
    done = run(tmp_path / "now.csv", "--against", tmp_path / "audit.json")
    assert done.exit_code == 2, done.output
    assert "audit.json" in done.stderr
    assert "Traceback" not in done.output


# --- datasets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml").build(out=path / "eurusd")
    (path / "audit.json").write_text(run(path / "eurusd", "--json").stdout)
    return path


def findings(path: Path, *options: object) -> list[dict[str, Any]]:
    done = run(path, "--json", *options)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


def test_a_dataset_against_itself_is_as_it_is_alone(built: Path) -> None:
    alone = findings(built / "eurusd")
    assert alone
    for other in ("eurusd", "audit.json"):
        assert findings(built / "eurusd", "--against", built / other) == alone


def test_a_dataset_is_told_alike_wherever_it_lies(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built / "eurusd", tmp_path / "eurusd", symlinks=True)
    monkeypatch.chdir(tmp_path)
    assert run("eurusd", "--json").stdout == (built / "audit.json").read_text()
    assert (built / "audit.json").read_text() == fk.open_dataset("eurusd").audit.to_json()


def test_a_table_of_a_dataset_is_compared_with_it_row_by_row(built: Path, tmp_path: Path) -> None:
    rows = fk.open_dataset(built / "eurusd").to_polars()
    train = rows.head(3_513).with_columns(pl.col("market.ret_1") * 100.0)
    train.write_parquet(tmp_path / "served.parquet")
    done = run(tmp_path / "served.parquet", "--json", "--against", built / "eurusd")
    found = {(f["metric"], f["feature"]): f["value"] for f in json.loads(done.stdout)["findings"]}
    assert found["unit change", "market.ret_1"] == pytest.approx(math.log2(100.0))
    assert {feature for metric, feature in found if metric == "mismatch"} == {"market.ret_1"}
