"""The audit: every metric finds what is planted, and nothing in clean rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import featurekit as fk
from featurekit.audit import audit_profiles
from featurekit.audit.limits import LIMITS, SCALED
from featurekit.cells import ProfileGrid
from featurekit.cli import main
from featurekit.errors import DataError
from featurekit.scaling import Scaling, ScalingSpec, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.audit import AuditReport

    Rows = NDArray[np.float64]

NAMES = [f"{block}.f{k}" for block in ("market", "position", "indicator") for k in range(8)]
N = 4000


class Named:
    def __init__(self, name: str) -> None:
        self.name, self.block = name, name.split(".")[0]


def clean() -> Rows:
    return np.random.default_rng(0).normal(size=(N, len(NAMES)))


def judged(rows: Rows, spec: ScalingSpec | None = None, active: slice | None = None) -> AuditReport:
    """The audit of these train rows; `active` are the rows of the slice of that name."""
    grid = ProfileGrid(NAMES, ["train"], ["active"])
    codes = np.zeros(len(rows), np.int64)
    codes[active or slice(0, None, 2)] = 1
    grid.update(rows.astype(np.float32), np.zeros(len(rows), np.int64), codes)
    cells = grid.profiles()
    whole = fk.Profile.of(rows, NAMES)
    scaling = None if spec is None else Scaling.fit(whole, spec)
    features = [Named(name) for name in NAMES]
    return audit_profiles(cells, features, scaling, source="x", slices=["active"])


def planted(change: Callable[[Rows], object]) -> Rows:
    rows = clean()
    change(rows)
    return rows


def put(column: int, value: float, rows: slice = slice(None)) -> Callable[[Rows], None]:
    def change(table: Rows) -> None:
        table[rows, column] = value

    return change


def scale(columns: slice | int, factor: float) -> Callable[[Rows], None]:
    def change(table: Rows) -> None:
        table[:, columns] *= factor

    return change


AS_IT_IS = ScalingSpec(kind="none", squash="none")
PLANTED: dict[str, tuple[Callable[[Rows], object], ScalingSpec | None, str, str, str]] = {
    "non-finite": (put(3, np.nan, slice(7, 8)), None, "fail", "market.f3", ""),
    "dead": (put(9, 4.0), None, "fail", "position.f1", ""),
    "dead block": (lambda t: t.__setitem__((slice(None), slice(8, 16)), 0), None, "warn", "", ""),
    "zeros": (put(20, 0.0, slice(0, int(0.97 * N))), None, "fail", "indicator.f4", ""),
    "norm share": (scale(5, 100.0), None, "fail", "market.f5", ""),
    "norm lift": (scale(5, 100.0), None, "warn", "market.f5", ""),
    "centred share": (scale(5, 100.0), None, "fail", "market.f5", ""),
    "row share": (scale(5, 100.0), None, "fail", "market.f5", ""),
    "effective features": (scale(5, 100.0), None, "fail", "", ""),
    "scale outlier": (scale(17, 1e-3), None, "fail", "indicator.f1", ""),
    "block share": (scale(slice(8, 16), 0.05), None, "fail", "", ""),
    "weakest block": (scale(slice(8, 16), 0.05), AS_IT_IS, "fail", "", ""),
    "dominance": (scale(5, 100.0), AS_IT_IS, "fail", "market.f5", ""),
    "starved features": (scale(slice(0, 3), 1e-3), AS_IT_IS, "fail", "", ""),
    "offset": (lambda t: t.__iadd__(3.0), AS_IT_IS, "fail", "", ""),
}


@pytest.mark.parametrize("metric", PLANTED)
def test_what_is_planted_is_found(metric: str) -> None:
    change, spec, severity, feature, slice_ = PLANTED[metric]
    found = [f for f in judged(planted(change), spec).findings if f.metric == metric]
    first = next(f for f in found if f.slice == slice_)
    assert (first.severity, first.feature) == (severity, feature)
    beyond = first.value < first.limit if LIMITS[metric].low else first.value > first.limit
    assert beyond
    assert first.margin >= 1
    assert first.why
    assert first.fix
    assert first.command == "featurekit audit x"


def test_a_slice_of_few_rows_is_no_pass() -> None:
    report = judged(clean(), ScalingSpec(), active=slice(0, 999))
    (found,) = (f for f in report.findings if f.metric == "unrepresentative")
    assert (found.severity, found.slice, found.value) == ("warn", "active", 999.0)
    assert not judged(clean(), ScalingSpec(), active=slice(0, 1000)).findings


def test_every_metric_is_planted_somewhere() -> None:
    assert {*PLANTED, "unrepresentative"} == set(LIMITS)


@pytest.mark.parametrize("spec", [None, ScalingSpec(), AS_IT_IS], ids=["bare", "scaled", "as is"])
def test_clean_rows_pass(spec: ScalingSpec | None) -> None:
    report = judged(clean(), spec)
    assert (report.verdict, report.findings, report.repaired) == ("pass", (), ())
    assert report.effective == pytest.approx(len(NAMES), rel=0.01)


def test_shares_are_worked_by_hand() -> None:
    # Mean squares 1 and 9 in each of two columns: shares of 5% and 45%, effective 2.44.
    rows = np.tile([[1.0, 1.0, 3.0, 3.0], [-1.0, -1.0, -3.0, -3.0]], (100, 1))
    report = fk.audit(rows)
    assert report.effective == pytest.approx(1 / (2 * 0.05**2 + 2 * 0.45**2))
    # log10 of rms against the median feature, that of 2 columns of 1 and 2 of 1000: half of 3.
    rows = np.tile([[1.0, 1.0, 1e3, 1.0, 1.0]], (100, 1)) * np.array([[1.0], [-1.0]] * 50)
    (outlier,) = (f for f in fk.audit(rows).findings if f.metric == "scale outlier")
    assert (outlier.feature, outlier.severity) == ("x2", "fail")
    assert outlier.value == pytest.approx(3.0)


def test_the_scaling_repairs_and_is_named() -> None:
    rows = planted(scale(5, 1e4))
    bare, scaled = judged(rows), judged(rows, ScalingSpec())
    assert bare.verdict == "fail"
    assert bare.findings[0].fix == SCALED
    assert scaled.verdict == "pass"
    repaired = {(f.metric, f.feature) for f in scaled.repaired}
    assert {(m, "market.f5") for m in ("norm share", "row share", "scale outlier")} <= repaired
    assert {f.repaired_by for f in scaled.repaired} == {"scaling, fitted on train, asinh"}


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        ("none", "scaling: {features: {market.f5: {kind: standard}}}"),
        ("standard", "scaling: {features: {market.f5: {kind: robust}}}"),
    ],
)
def test_the_fix_of_a_scaled_table_is_for_the_one_feature(kind: str, fix: str) -> None:
    rows = clean()
    rows[:, 5] = np.where(rows[:, 5] > 2.5, 1e5, rows[:, 5] * 1e-2)
    treatment = Treatment(kind=kind, squash="none")  # type: ignore[arg-type]
    report = judged(rows, ScalingSpec(features={"market.f5": treatment}))
    assert fix in {f.fix for f in report.findings if f.feature == "market.f5"}


def test_zeros_are_judged_where_a_feature_lives() -> None:
    rows = planted(put(8, 0.0, slice(0, 3000)))  # alive in 1,000 active rows only
    assert "zeros" in {f.metric for f in judged(rows).findings}
    rows_in = judged(rows, active=slice(3000, None))
    assert "zeros" not in {f.metric for f in rows_in.findings}
    rows_out = judged(rows, active=slice(0, 3000))
    assert "zeros" not in {f.metric for f in rows_out.findings}


@pytest.mark.parametrize("width", [1, 2, 4])
def test_of_few_features_each_may_have_a_large_share(width: int) -> None:
    assert fk.audit(clean()[:, :width]).verdict == "pass"


def test_the_worst_comes_first() -> None:
    report = judged(planted(lambda t: (scale(5, 100.0)(t), put(9, 4.0)(t))))
    order = {"fail": 0, "warn": 1}
    keys = [(order[f.severity], -f.margin) for f in report.findings]
    assert len(keys) > 3
    assert keys == sorted(keys)


def test_json_is_the_same_bytes_twice_and_holds_no_infinity() -> None:
    rows = planted(scale(slice(8, 16), 0.0))
    one, two = judged(rows).to_json(), judged(rows.copy()).to_json()
    assert one == two
    document = json.loads(one, parse_constant=lambda name: pytest.fail(name))
    assert document["version"] == 1
    assert document["verdict"] in ("warn", "fail")


def test_no_rows_are_no_pass() -> None:
    with pytest.raises(DataError, match="no rows"):
        fk.audit(clean()[:0])


def write(rows: Rows, path: Path) -> str:
    frame = pl.DataFrame(rows, schema=NAMES)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".arrow":
        frame.write_ipc(path)
    else:
        frame.write_parquet(path)
    return str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow"])
@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        (lambda t: t, [], 0),
        (scale(5, 100.0), [], 1),
        (put(20, 0.0, slice(0, N * 3 // 5)), [], 0),
        (put(20, 0.0, slice(0, N * 3 // 5)), ["--fail-on", "warn"], 1),
    ],
    ids=["clean", "fail", "warn", "fail on warn"],
)
def test_a_file_is_judged_by_its_exit_code(
    suffix: str, change: Callable[[Rows], object], options: list[str], code: int, tmp_path: Path
) -> None:
    path = write(planted(change), tmp_path / f"table{suffix}")
    done = CliRunner().invoke(main, ["audit", path, *options])
    assert done.exit_code == code, done.output
    assert "scale audit" in done.output
    done = CliRunner().invoke(main, ["audit", path, "--json", *options])
    assert json.loads(done.stdout)["rows"] == N


@pytest.mark.parametrize("what", ["missing.parquet", "empty.csv", "garbage.parquet", "notes.txt"])
def test_what_cannot_be_judged_exits_with_2(what: str, tmp_path: Path) -> None:
    path = tmp_path / what
    if not what.startswith("missing"):
        path.write_bytes(b"" if what.startswith("empty") else b"nothing of the kind")
    done = CliRunner().invoke(main, ["audit", str(path)])
    assert done.exit_code == 2, done.output
    assert "featurekit:" in done.stderr
