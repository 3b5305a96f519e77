"""The contract: limits, expectations and waivers, of a file, of a pipeline, or inferred."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

import featurekit as fk
from featurekit.audit import check_names
from featurekit.cli import main
from featurekit.contract import (
    AuditSpec,
    Bounds,
    ContractFile,
    Expect,
    Waiver,
    read_contract,
    rounded_down,
    rounded_up,
)
from featurekit.errors import ConfigError
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec
from tests.test_audit import NAMES, N, clean, frame

if TYPE_CHECKING:
    from featurekit.audit import AuditReport
    from tests.test_audit import Rows

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "pipelines" / "eurusd_demo.yaml"


def contract(text: str, path: Path) -> AuditSpec:
    path.write_text(text, encoding="utf-8")
    return read_contract(path)[0]


@pytest.fixture
def rows() -> Rows:
    """Clean rows of market, position and indicator."""
    return clean()


def judged(rows: Rows, text: str, path: Path, **options: Any) -> AuditReport:  # noqa: ANN401
    return fk.audit(frame(rows), spec=contract(text, path / "contract.yaml"), **options)


def of(report: AuditReport) -> set[tuple[str, str]]:
    return {(f.metric, f.of) for f in report.findings}


# --- limits --------------------------------------------------------------------------------------

ZEROS = 3_300  # of 6,000: a share of 0.55, beyond 0.5 and within 0.95


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("{}", {"market.f5": "warn", "indicator.f0": "warn"}),
        ("{zeros: {warn: never}}", {}),
        ("{zeros: {warn: 0.54}}", {"market.f5": "warn", "indicator.f0": "warn"}),
        ("{zeros: {warn: 0.56}}", {}),
        ("{zeros: {fail: 0.5}}", {"market.f5": "fail", "indicator.f0": "fail"}),
        ("{zeros: {warn: never, blocks: {market: {warn: 0.3}}}}", {"market.f5": "warn"}),
        (
            "{zeros: {blocks: {market: {fail: 0.3}}, features: {market.f5: {fail: never}}}}",
            {"market.f5": "warn", "indicator.f0": "warn"},
        ),
        ("{zeros: {warn: never, features: {indicator.f0: {fail: 0.1}}}}", {"indicator.f0": "fail"}),
    ],
)
def test_features_override_blocks_and_blocks_the_whole(
    limits: str, expected: dict[str, str], rows: Rows, tmp_path: Path
) -> None:
    rows[:ZEROS, 5] = rows[:ZEROS, 16] = 0.0
    report = judged(rows, f"limits: {limits}", tmp_path)
    assert {f.feature: f.severity for f in report.findings if f.metric == "zeros"} == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("{}", {("block share", "block position"): "warn"}),
        ("{block share: {blocks: {position: {warn: never}}}}", {}),
        ("{block share: {blocks: {position: {fail: 4}}}}",
         {("block share", "block position"): "fail"}),
        ("{block share: {blocks: {market: {warn: 1.01}}, warn: never}}",
         {("block share", "block market"): "warn"}),
    ],
)  # fmt: skip
def test_limits_of_blocks(
    limits: str, expected: dict[tuple[str, str], str], rows: Rows, tmp_path: Path
) -> None:
    rows[:, 8:16] *= 0.4  # a share of 7.4% of a third of the features: 4.5 times less
    report = judged(rows, f"limits: {limits}", tmp_path)
    found = {(f.metric, f.of): f.severity for f in report.findings if f.metric == "block share"}
    assert found == expected


@pytest.mark.parametrize("metric", ["missing column", "new column"])
@pytest.mark.parametrize("severity", ["warn", "fail"])
def test_limits_of_columns_that_only_one_side_has(
    metric: str, severity: str, rows: Rows, tmp_path: Path
) -> None:
    sides = [frame(rows), frame(rows).drop("market.f3")]
    other = "warn" if severity == "fail" else "fail"
    now, then = sides if metric == "new column" else sides[::-1]
    known = contract(f"limits: {{{metric}: {{{other}: never, {severity}: 0}}}}", tmp_path / "a")
    (found,) = fk.audit(now, against=then, spec=known).findings
    assert (found.metric, found.feature, found.severity) == (metric, "market.f3", severity)
    none = contract(f"limits: {{{metric}: {{fail: never, warn: never}}}}", tmp_path / "b")
    assert fk.audit(now, against=then, spec=none).findings == ()


def test_a_share_may_be_limited_below_what_few_features_have_by_nature(rows: Rows) -> None:
    few = rows[:, :4] * [1.7, 1.0, 1.0, 1.0]  # 2.89 of 5.89 of the squared norm
    assert fk.audit(few).verdict == "pass"
    spec = AuditSpec(limits={"norm share": Bounds(fail=0.4)})
    assert of(fk.audit(few, spec=spec)) == {("norm share", "x0")}


# --- expectations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "broken", "value"),
    [
        ("scale: [0.9, 1.1]", "scale: [1.1, 2]", 1.0),
        ("median: [-0.1, 0.1]", "median: [-2, -1]", 0.0),
        ("range: [-4, 4]", "range: [-4, 3]", 3.77),
        ("range: [-4, 4]", "range: [-3, 4]", -3.77),
        ('zeros: "<0.02"', 'zeros: "<0.01"', 0.01),
        ('nan: "<0.001"', 'nan: "< 1e-9"', 1 / N),
        ('tail: "<1.1"', 'tail: "<0.9"', 1.0),
        ("constant: false", "constant: true", 3.77),
        ("scale: []", "scale: [5, 6]", 1.0),
    ],
)
def test_what_is_expected_of_a_feature(
    kept: str, broken: str, value: float, rows: Rows, tmp_path: Path
) -> None:
    what = kept.split(":")[0]
    rows[np.argsort(np.abs(rows[:, 5]))[:60], 5] = 0.0
    rows[np.argsort(np.abs(rows[:, 5]))[2_000], 5] = np.nan
    allowed = "limits: {non-finite: {fail: never}}\n"
    report = judged(rows, f"{allowed}expect: {{market.f5: {{{kept}}}}}", tmp_path)
    assert report.findings == ()
    report = judged(rows, f"{allowed}expect: {{market.f5: {{{broken}}}}}", tmp_path)
    (found,) = report.findings
    assert (found.metric, found.feature, found.severity) == (
        f"expected {what}",
        "market.f5",
        "fail",
    )
    assert found.value == pytest.approx(value, abs=0.02)
    (column,) = (c for c in report.columns if c["contract"])
    assert column["contract"]["broken"] == [what]


def test_a_feature_overrides_its_block(rows: Rows, tmp_path: Path) -> None:
    text = "expect: {market: {scale: [5, 6], constant: true, sparse: true}, market.f5: %s}"
    report = judged(rows, text % "{scale: [0.5, 2], constant: false}", tmp_path)
    market = set(NAMES[:8])
    assert of(report) == {
        (f"expected {what}", name) for what in ("scale", "constant") for name in market
    } - {("expected scale", "market.f5"), ("expected constant", "market.f5")}
    rows[:ZEROS, 4] = rows[:ZEROS, 5] = 0.0
    report = judged(rows, text % "{sparse: false, scale: [], constant: false}", tmp_path)
    assert {f.feature for f in report.findings if f.metric == "zeros"} == {"market.f5"}


@pytest.mark.parametrize(
    ("excuse", "value", "metrics"),
    [("sparse", 0.0, {"zeros", "near-constant"}), ("constant", 0.0, {"dead"})],
)
def test_what_a_column_may_be_is_no_finding(
    excuse: str, value: float, metrics: set[str], rows: Rows, tmp_path: Path
) -> None:
    rows[: N if excuse == "constant" else int(0.97 * N), 5] = value
    assert metrics <= {f.metric for f in fk.audit(frame(rows)).findings}
    report = judged(rows, f"expect: {{market.f5: {{{excuse}: true}}}}", tmp_path)
    assert not metrics & {f.metric for f in report.findings}


def test_of_no_values_any_range_is_broken(rows: Rows, tmp_path: Path) -> None:
    rows[:, 5] = np.nan
    report = judged(rows, "expect: {market.f5: {median: [-9, 9], range: [-9, 9]}}", tmp_path)
    assert {("expected median", "market.f5"), ("expected range", "market.f5")} <= of(report)


# --- the fix of a finding is a contract ----------------------------------------------------------

HOSTILE = [
    "plain.x",
    "a: b",
    "q'uo\"te",
    "{x}",
    "true",
    "[red]",
    "two\nlines",
    "\u00e9\U0001f600",
    "1",
    "x" * 2_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:10])
def test_every_line_of_a_contract_parses_and_silences(name: str, tmp_path: Path) -> None:
    rows = clean()[:1_000, :8]
    rows[:, 0] = 0.0
    table = pl.DataFrame(rows, schema=[name, *(f"z.{k}" for k in range(7))])
    n = len(table)
    changed = {
        "dead": rows[:, 0],
        "zeros": np.where(np.arange(n) < 0.97 * n, 0.0, rows[:, 1]),
        "near-constant": np.where(np.arange(n) < 0.97 * n, 1.5, rows[:, 1]),
        "pile-up": np.minimum(rows[:, 1], 1.0),
        "expected scale": rows[:, 1],
        "expected tail": rows[:, 1],
        "expected range": rows[:, 1],
        "expected median": rows[:, 1] * 0.0 + np.nan,
        "expected constant": rows[:, 1],
        "expected nan": np.where(np.arange(n) < 9, np.nan, rows[:, 1]),
    }
    broken = {
        "expected scale": {"scale": (1e6, 1e7)},
        "expected tail": {"tail": "<0.5"},
        "expected range": {"range": (-0.1, 0.1)},
        "expected median": {"median": (5.0, 6.0)},
        "expected constant": {"constant": True},
        "expected nan": {"nan": "<1e-9"},
    }
    if name != HOSTILE[0]:
        changed = {each: changed[each] for each in ("dead", "pile-up", "expected scale")}
    for metric, values in changed.items():
        one = table.with_columns(pl.Series(name, values))
        spec = AuditSpec(expect={name: Expect(**broken[metric])} if metric in broken else {})  # type: ignore[arg-type]
        (found,) = (f for f in fk.audit(one, spec=spec).findings if f.metric == metric)
        line = found.fix[found.fix.index("audit: ") :]
        again = fk.audit(one, spec=contract(line, tmp_path / "contract.yaml"))
        assert (metric, found.feature) not in {(f.metric, f.feature) for f in again.findings}


def test_what_a_scaling_cannot_mend_is_known_by_its_line(rows: Rows, tmp_path: Path) -> None:
    rows[:, 5] = np.where(np.abs(rows[:, 5]) < 1.0, 0.0, rows[:, 5] ** 21)
    rows[:, 9] *= np.linspace(0.05, 3.0, N)
    options = {"scaling": Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(kind="standard"))}
    report = fk.audit(frame(rows), **options)
    lines = [f.fix[f.fix.index("audit: ") :] for f in report.findings if "audit: " in f.fix]
    assert len(lines) > 1
    for line in lines:
        found = next(f for f in report.findings if f.fix.endswith(line))
        again = judged(rows, line, tmp_path, **options)
        assert (found.metric, found.feature) not in {(f.metric, f.feature) for f in again.findings}


# --- inferred ------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


@pytest.mark.parametrize("slack", [0.0, 0.5])
def test_the_inferred_contract_is_kept_by_its_rows_and_broken_by_others(
    slack: float, rows: Rows, tmp_path: Path
) -> None:
    rows[:, 3] = 7.0
    rows[:5_000, 4] = 0.0
    rows[:, 6] = rows[:, 6] * 1e6 + 3e7
    rows[:, 7] = np.sinh(2.0 * rows[:, 7]) * 1e-9
    rows[5, 8] = np.nan
    rows[:, 9] = np.nan
    frame(rows).write_parquet(tmp_path / "rows.parquet")
    done = run(tmp_path / "rows.parquet", "--infer", "--slack", slack)
    assert done.exit_code == 0, done.output
    (tmp_path / "contract.yaml").write_text(done.stdout)
    spec, _ = read_contract(tmp_path / "contract.yaml")
    assert set(spec.expect) == {*NAMES} - {"position.f1"}
    assert spec.expect["market.f3"] == Expect(constant=True)

    def broken(table: Rows) -> set[tuple[str, str]]:
        findings = fk.audit(frame(table), spec=spec).findings
        return {(f.metric, f.feature) for f in findings if f.metric.startswith("expected")}

    assert broken(rows) == set()
    other = rows.copy()
    other[:, 0] *= 2.0  # within a slack of 0.5 a scale may be 1.5 times as large
    other[:, 3] = np.arange(N)
    other[3_000:, 10] = 0.0
    other[:99, 11] = np.inf
    other[:, 12] = rows[:, 12] ** 5
    found = broken(other)
    assert found >= {
        ("expected scale", "market.f0"),
        ("expected constant", "market.f3"),
        ("expected zeros", "position.f2"),
        ("expected nan", "position.f3"),
        ("expected tail", "position.f4"),
    }
    assert {feature for _, feature in found} == {
        "market.f0", "market.f3", "position.f2", "position.f3", "position.f4"
    }  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1234, 123456.0, 3e38, 1e-45, -7.77777])
def test_rounding_keeps_the_value_inside(value: float) -> None:
    low, high = rounded_down(value), rounded_up(value)
    assert low <= value <= high
    assert high - low <= 0.011 * abs(value)
    assert float(f"{low:.3g}") == low


# --- waivers -------------------------------------------------------------------------------------

WAIVER = "{metric: dead, feature: market.f5, reason: known, until: 1970-09-09}"  # day 252 of 1970


def waived(rows: Rows, text: str, tmp_path: Path, *, timed: bool = True) -> AuditReport:
    """Rows of 6,000 hours from 1970 on: the last is 23:00 on 1970-09-07."""
    spec = contract(f"waivers: [{text}]", tmp_path / "waivers.yaml")
    return fk.audit(frame(rows, timed=timed), spec=spec)


@pytest.mark.parametrize(
    ("until", "passes"),
    [("1970-09-07", True), ("1970-09-06", False), ("1970-09-08", True), ("2099-01-01", True)],
)
def test_a_waiver_ends_with_the_last_row(
    until: str, passes: bool, rows: Rows, tmp_path: Path
) -> None:
    rows[:, 5] = 1.0
    text = WAIVER.replace("1970-09-09", until)
    report = waived(rows, text, tmp_path)
    assert (("dead", "market.f5") in of(report)) != passes
    assert [(w.finding.metric, w.reason, w.until) for w in report.waived] == (
        [("dead", "known", until)] if passes else []
    )
    assert report.counts["waived"] == passes
    assert report.notes == (
        () if passes else (f"the waiver of dead of market.f5 ended on {until}",)
    )


def test_a_waiver_is_of_one_metric_and_place(rows: Rows, tmp_path: Path) -> None:
    rows[:, 5] = rows[:, 9] = 1.0
    report = waived(rows, WAIVER, tmp_path)
    assert ("dead", "position.f1") in of(report)
    by_block = waived(rows, WAIVER.replace("feature: market.f5", "block: position"), tmp_path)
    assert {w.finding.feature for w in by_block.waived} == {"position.f1"}
    both = waived(rows, WAIVER.replace("feature: market.f5, ", ""), tmp_path)
    assert {w.finding.feature for w in both.waived} == {"market.f5", "position.f1"}


def test_a_waiver_that_waives_nothing_is_noted(rows: Rows, tmp_path: Path) -> None:
    (note,) = waived(rows, WAIVER, tmp_path).notes
    assert note == "the waiver of dead of market.f5 waives nothing: delete it"


def test_without_a_time_no_waiver_applies(rows: Rows, tmp_path: Path) -> None:
    rows[:, 5] = 1.0
    report = waived(rows, WAIVER, tmp_path, timed=False)
    assert ("dead", "market.f5") in of(report)
    assert report.waived == ()
    assert "not applied" in report.notes[0]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("waivers: [{metric: dead, until: 2026-01-01}]", "'reason' is missing"),
        ("waivers: [{metric: dead, reason: known}]", "'until' is missing"),
        ("waivers: [{metric: dead, reason: ' ', until: 2026-01-01}]", "a waiver has a reason"),
        ("waivers: [{metric: dead, reason: x, until: soon}]", "a waiver ends on a day"),
        ("expect: {x: {scale: [2, 1]}}", "scale is a range"),
        ("expect: {x: {range: [1]}}", "range is a range"),
        ("expect: {x: {median: [.nan, 1]}}", "median is a range"),
        ("expect: {x: {zeros: 0.2}}", "wrong kind"),
        ("expect: {x: {zeros: '>0.2'}}", "zeros is a bound"),
        ("expect: {x: {tail: '<1.2.3'}}", "tail is a bound"),
        ("expect: {x: {nan: '<'}}", "nan is a bound"),
        ("limits: {zeros: {warn: soon}}", "wrong kind"),
        ("limits: {zeros: {wran: 1}}", "unknown key 'wran'"),
        ("fail_on: sometimes", "wrong kind"),
        ("limit: {}", "unknown key 'limit'"),
        ("audit: 3", "a section is a mapping"),
        ("audit: [1, 2]", "a section is a mapping"),
        ("- a list", "not a mapping"),
        ("a: b: c", "not YAML"),
        ("", "not a mapping"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"contract\.yaml") as told:
        contract(text, tmp_path / "contract.yaml")
    assert said in str(told.value)


def test_unknown_names_are_refused_all_at_once(rows: Rows, tmp_path: Path) -> None:
    text = """
limits: {zeroes: {warn: 1}, zeros: {blocks: {markt: {warn: 1}}, features: {market.f99: {warn: 1}}}}
expect: {indicator.f77: {sparse: true}}
waivers:
- {metric: deaf, feature: a.b, block: c, reason: x, until: 2026-01-01}
"""
    with pytest.raises(ConfigError) as told:
        judged(rows, text, tmp_path)
    assert {problem.got for problem in told.value.problems} == {
        "zeroes", "markt", "market.f99", "indicator.f77", "deaf", "a.b", "c"
    }  # fmt: skip


def test_a_waiver_of_an_expectation_is_known() -> None:
    for what in ("scale", "median", "range", "zeros", "nan", "tail", "constant"):
        check_names(AuditSpec(waivers=(Waiver(f"expected {what}", "x", "2026-01-01"),)), [])


# --- of a pipeline -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's dataset, with an `audit:` of its own."""
    path = tmp_path_factory.mktemp("demo") / "demo.yaml"
    section = (
        "audit:\n  fail_on: warn\n  expect: {market.gap: {scale: [1, 2]}}\n"
        "  waivers: [{metric: tail index, reason: weekends, until: 2030-01-01}]\n"
    )
    path.write_text(DEMO.read_text(encoding="utf-8") + section, encoding="utf-8")
    fk.Pipeline.from_yaml(path).build(out=path.parent / "eurusd")
    return path.parent


def test_a_dataset_is_judged_by_the_contract_of_its_pipeline(built: Path) -> None:
    report = fk.audit(fk.open_dataset(built / "eurusd"))
    assert ("expected scale", "market.gap") in of(report)
    assert {waiver.finding.metric for waiver in report.waived} == {"tail index"}
    assert report.fail_on == "warn"
    assert run(built / "eurusd").exit_code == 1


def test_a_contract_overrides_that_of_the_pipeline(built: Path, tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("fail_on: fail")
    done = run(built / "eurusd", "--contract", tmp_path / "none.yaml", "--json")
    assert done.exit_code == 0, done.output
    assert "expected scale" not in done.stdout
    for pipeline, code in ((built / "demo.yaml", 1), (DEMO, 0)):
        assert run(built / "eurusd", "--contract", pipeline).exit_code == code


def test_the_contract_decides_no_number(built: Path) -> None:
    one, other = fk.Pipeline.from_yaml(DEMO), fk.Pipeline.from_yaml(built / "demo.yaml")
    assert one.fingerprint == other.fingerprint
    assert one.audit != other.audit
    assert fk.Pipeline.from_yaml(other.to_yaml()) == other
    assert fk.Pipeline.from_yaml(other.to_yaml()).audit == other.audit


def test_at_a_build_unknown_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    section = "audit: {expect: {market.gpa: {sparse: true}}, limits: {zeroes: {warn: 1}}}\n"
    path.write_text(DEMO.read_text(encoding="utf-8") + section, encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        fk.Pipeline.from_yaml(path).build(out=tmp_path / "out")
    assert {problem.got for problem in told.value.problems} == {"market.gpa", "zeroes"}
    assert not (tmp_path / "out").exists()


def test_the_slices_of_a_contract_are_those_of_a_file(rows: Rows, tmp_path: Path) -> None:
    rows[rows[:, 0] > 0.0, 20] = 0.7
    frame(rows).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "c.yaml").write_text("slices: {up: '\"market.f0\" > 0'}")
    done = run(tmp_path / "rows.parquet", "--contract", tmp_path / "c.yaml")
    assert "dead in slice" in done.stdout
    assert "in slice up" in done.stdout


@pytest.mark.parametrize("text", ["audit: {}", "audit:", "fail_on: fail", "blocks: []", "{}"])
def test_a_contract_that_says_nothing_is_the_default(text: str, tmp_path: Path) -> None:
    assert contract(text, tmp_path / "contract.yaml") == ContractFile()


def test_a_contract_has_no_other_slices_than_its_dataset(tmp_path: Path) -> None:
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    pipeline.build(out=tmp_path / "d")
    (tmp_path / "c.yaml").write_text("slices: {long: '\"position.side\" > 0'}\n")
    done = CliRunner().invoke(
        main, ["audit", str(tmp_path / "d"), "--contract", str(tmp_path / "c.yaml")]
    )
    assert done.exit_code == 2
    assert "those that it was built with" in done.stderr
