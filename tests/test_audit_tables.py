"""Tables from files and from Python: exit codes, what machines read, and input that is hostile."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import featurekit as fk
from featurekit.audit import audit_subject
from featurekit.audit.outputs import to_github, to_junit
from featurekit.audit.table import read_table, table_subject
from featurekit.audit.text import render, render_feature
from featurekit.cli import main
from featurekit.errors import DataError
from tests.test_audit import NAMES, clean, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.test_audit import Rows

ROOT = Path(__file__).parents[1]


def run(*arguments: object, width: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["audit", *map(str, arguments)])


def write(table: pl.DataFrame | np.ndarray, path: Path) -> Path:
    if isinstance(table, pl.DataFrame):
        writers = {
            ".parquet": table.write_parquet,
            ".csv": table.write_csv,
            ".arrow": table.write_ipc,
            ".ipc": table.write_ipc,
            ".feather": table.write_ipc,
        }
        writers[path.suffix](path)
    else:
        (np.savez if path.suffix == ".npz" else np.save)(path, table)
    return path


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314  # written by the test


def planted(kind: str) -> Rows:
    """Rows that pass, that warn and that fail."""
    rows = clean()[:1_500]
    if kind == "warn":
        rows[:900, 20] = 0.0
    elif kind == "fail":
        rows[:, 5] *= 100.0
    return rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pass.parquet, warn.parquet and fail.parquet."""
    path = tmp_path_factory.mktemp("files")
    for kind in ("pass", "warn", "fail"):
        write(frame(planted(kind)), path / f"{kind}.parquet")
    return path


# --- verdicts and exit codes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [".parquet", ".csv", ".arrow", ".ipc", ".feather", ".npy", ".npz"]
)
def test_a_file_of_any_kind_is_judged(suffix: str, tmp_path: Path) -> None:
    rows = planted("fail").astype(np.float32)
    table = rows if suffix.startswith(".np") else frame(rows)
    done = run(write(table, tmp_path / f"table{suffix}"), "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["verdict"]) == (1, "fail")
    assert document["subject"]["rows"] == 1_500
    assert document["subject"]["digest"] == fk.audit(rows).digest


@pytest.mark.parametrize("form", [[], ["--json"], ["--github"], ["--feature", "market.f5"]])
@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("pass", [], 0),
        ("pass", ["--fail-on", "warn"], 0),
        ("warn", [], 0),
        ("warn", ["--fail-on", "fail"], 0),
        ("warn", ["--fail-on", "warn"], 1),
        ("fail", [], 1),
        ("fail", ["--fail-on", "warn"], 1),
    ],
)
def test_exit_codes(form: list[str], kind: str, options: list[str], code: int, files: Path) -> None:
    done = run(files / f"{kind}.parquet", *form, *options)
    assert done.exit_code == code, done.output
    assert done.stderr == ""


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, None], object), allow_pickle=True)


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "missing.parquet": lambda _: None,
    "directory": lambda path: path.mkdir(),
    "empty.csv": lambda path: path.write_bytes(b""),
    "header.csv": lambda path: path.write_text("a,b\n"),
    "text.csv": lambda path: path.write_text("a,b\nx,y\n"),
    "binary.csv": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "garbage.parquet": lambda path: path.write_bytes(b"nothing of the kind"),
    "cut.parquet": lambda path: (write(frame(clean()[:99]), path), cut(path)),
    "cut.arrow": lambda path: (write(frame(clean()[:99]), path), cut(path)),
    "cut.npy": lambda path: (write(clean()[:99], path), cut(path)),
    "cut.npz": lambda path: (write(clean()[:99], path), cut(path)),
    "empty.npy": lambda path: path.write_bytes(b""),
    "garbage.npz": lambda path: path.write_bytes(b"PK\x03\x04 nothing of the kind"),
    "pickle.npy": _pickled,
    "two.npz": lambda path: np.savez(path, a=clean()[:9], b=clean()[:9]),
    "none.npz": lambda path: np.savez(path),
    "flat.npy": lambda path: np.save(path, clean()[:, 0]),
    "deep.npy": lambda path: np.save(path, clean()[:9, :, None]),
    "scalar.npy": lambda path: np.save(path, np.array(1.0)),
    "norows.npy": lambda path: np.save(path, clean()[:0]),
    "nocolumns.npy": lambda path: np.save(path, clean()[:9, :0]),
    "complex.npy": lambda path: np.save(path, clean()[:9].astype(complex)),
    "text.npy": lambda path: np.save(path, np.array([["a", "b"]])),
    "structured.npy": lambda path: np.save(path, np.zeros(9, [("a", "f8"), ("b", "f8")])),
    "norows.parquet": lambda path: write(frame(clean()[:0]), path),
    "text.parquet": lambda path: write(pl.DataFrame({"a": ["x"]}), path),
    "keys.parquet": lambda path: write(pl.DataFrame({"symbol": [1], "time": [2.0]}), path),
    "notes.txt": lambda path: path.write_text("1,2\n"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_judged_exits_with_2_and_a_message(name: str, tmp_path: Path) -> None:
    UNREADABLE[name](tmp_path / name)
    done = run(tmp_path / name)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("featurekit: ")
    assert name in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--feature", "market.f55"], "--feature market.f5"),
        (["--contract", "missing.yaml"], "missing.yaml"),
        (["--against", "missing.parquet"], "missing.parquet"),
        (["--html", "no/such/directory/x.html"], "x.html"),
        (["--junit", "no/such/directory/x.xml"], "x.xml"),
        (["--fail-on", "never"], "never"),
        (["--slack", "-1"], "-1"),
    ],
)
def test_options_that_cannot_be_meant_exit_with_2(
    options: list[str], said: str, files: Path
) -> None:
    done = run(files / "pass.parquet", *options)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert run().exit_code == 2


# --- what machines read --------------------------------------------------------------------------


def test_json_is_of_the_content_and_not_of_its_place(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files / "fail.parquet"
    first = run(path, "--json").stdout
    copied = tmp_path / "fail.parquet"
    copied.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for other in (path, copied, "fail.parquet", "./fail.parquet"):
        assert run(other, "--json").stdout == first
    assert str(tmp_path) not in first
    assert str(files) not in first
    document = json.loads(first, parse_constant=lambda name: pytest.fail(name))
    assert {f["command"].split(" --")[0] for f in document["findings"]} == {"featurekit audit FILE"}


def test_a_command_of_a_finding_shows_it(files: Path) -> None:
    path = files / "fail.parquet"
    report = audit_subject(table_subject(read_table(path), source=str(path), kind="file"))
    command = next(f.command for f in report.findings if f.feature)
    done = run(*command.split()[2:])
    assert done.exit_code == 1
    assert "norm share" in done.stdout


def test_junit_fails_where_the_gate_would(files: Path, tmp_path: Path) -> None:
    done = run(files / "fail.parquet", "--junit", tmp_path / "audit.xml")
    assert done.exit_code == 1
    suite = parsed((tmp_path / "audit.xml").read_text(encoding="utf-8"))
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["all features", *NAMES]
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == {"all features", "market.f5"}
    assert (suite.get("tests"), suite.get("failures")) == ("25", "2")
    message = cases["market.f5"].find("failure")
    assert message is not None
    assert "norm share" in (message.text or "")


def test_junit_has_what_only_the_reference_has() -> None:
    rows = frame(clean())
    report = fk.audit(rows.drop("market.f3"), against=rows)
    suite = parsed(to_junit(report, "fail"))
    (failed,) = (case for case in suite if case.find("failure") is not None)
    assert failed.get("name") == "market.f3"
    assert (suite.get("tests"), suite.get("failures")) == ("25", "1")


def test_github_has_a_line_a_finding(files: Path) -> None:
    report = fk.audit(pl.read_parquet(files / "fail.parquet"))
    lines = run(files / "fail.parquet", "--github").stdout.splitlines()
    told = [line for line in lines if line.startswith("::")]
    kinds = [line.split(" ")[0] for line in told]
    counts = report.counts
    assert kinds.count("::error") == counts["fail"] > 0
    assert kinds.count("::warning") == counts["warn"]
    assert kinds[-1] == "::notice"


def test_a_page_is_written(files: Path, tmp_path: Path) -> None:
    done = run(files / "fail.parquet", "--html", tmp_path / "report.html")
    assert done.exit_code == 1
    assert "market.f5" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_redacted_page_tells_no_single_row(tmp_path: Path) -> None:
    rows = clean()
    rows[:, 5] += 1_000.0
    rows[0, 5], rows[1, 5] = 1_731.625, 212.375
    path = write(frame(rows), tmp_path / "rows.parquet")
    pages = []
    for options in ([], ["--redact"]):
        assert run(path, "--html", tmp_path / "page.html", *options).exit_code == 1
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "212.375" not in pages[1]
    assert "1731.625" not in pages[1]


def test_the_self_test_passes_from_the_command_line() -> None:
    done = run("--selftest")
    assert done.exit_code == 0, done.output
    assert "each found and nothing else" in done.stdout


# --- hostile tables ------------------------------------------------------------------------------

ROWS = clean()[:1_500, :4]


def with_a(values: Any) -> pl.DataFrame:  # noqa: ANN401  # any column
    table = pl.DataFrame(ROWS, schema=["a", "b", "c", "d"])
    return table.with_columns(values if isinstance(values, pl.Expr) else pl.Series("a", values))


TABLES: dict[str, tuple[pl.DataFrame | np.ndarray, str, set[str]]] = {
    "a column of nan": (with_a(pl.lit(math.nan).alias("a")), "fail", {"non-finite", "dead"}),
    "a column of inf": (with_a(pl.lit(-math.inf).alias("a")), "fail", {"non-finite", "dead"}),
    "a column of null": (with_a(pl.lit(None).alias("a")), "fail", {"non-finite", "dead"}),
    "a constant": (with_a(pl.lit(0.1).alias("a")), "fail", {"dead"}),
    "one inf": (
        with_a(np.where(np.arange(1_500) == 7, np.inf, ROWS[:, 0])),
        "fail",
        {"non-finite"},
    ),
    "all nan": (np.full((50, 3), np.nan), "fail", {"non-finite", "dead block"}),
    "all inf": (np.full((50, 3), np.inf), "fail", {"non-finite", "dead block"}),
    "constant": (np.full((50, 3), 2.0), "warn", {"dead block"}),
    "zeros": (np.zeros((50, 3)), "fail", {"dead block"}),
    "one row": (np.ones((1, 3)), "warn", {"dead block"}),
    "two rows": (np.array([[1.0, -1.0], [-1.0, 1.0]]), "warn", {"unrepresentative"}),
    "subnormal": (ROWS * 1e-41, "warn", {"dead at initialisation"}),
    "1e38": (ROWS * 5e37, "pass", set()),
    "1e300": (ROWS * 1e300, "fail", {"overflow"}),
    "float16": (ROWS.astype(np.float16), "pass", set()),
    "big endian": (ROWS.astype(">f8"), "pass", set()),
    "whole numbers": (np.round(100 * ROWS).astype(np.int64), "pass", set()),
    "uint64": (with_a(np.full(1_500, 2**64 - 1, np.uint64)), "fail", {"dead"}),
    "truth": (with_a(ROWS[:, 0] > 0.0), "pass", set()),
    "decimals": (with_a(pl.col("a").cast(pl.Decimal(18, 6))), "pass", set()),
    "text": (with_a(pl.lit("x").alias("a")), "pass", set()),
    "lists": (with_a(pl.concat_list("a", "b").alias("a")), "pass", set()),
    "dates": (with_a(pl.lit("2026-01-01").str.to_date().alias("a")), "pass", set()),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("through", ["python", "command line"])
def test_hostile_values_are_judged(name: str, through: str, tmp_path: Path) -> None:
    table, verdict, metrics = TABLES[name]
    if through == "python":
        document = json.loads(fk.audit(table).to_json())
    else:
        suffix = ".parquet" if isinstance(table, pl.DataFrame) else ".npy"
        path = write(table, tmp_path / f"table{suffix}")
        done = run(path, "--json")
        assert done.exit_code == (verdict == "fail")
        assert run(path).exit_code == done.exit_code
        document = json.loads(done.stdout, parse_constant=lambda each: pytest.fail(each))
    found = {finding["metric"] for finding in document["findings"]}
    assert document["verdict"] == verdict, found
    assert found >= metrics
    assert metrics or not found
    left = name in ("text", "lists", "dates")
    assert any("'a'" in note for note in document["notes"]) == left


@pytest.mark.parametrize("name", TABLES)
def test_hostile_values_are_judged_in_slices_and_against_others(name: str) -> None:
    table, verdict, _ = TABLES[name]
    first = "b" if isinstance(table, pl.DataFrame) else "x0"
    slices = {"up": f'"{first}" > 0', "none": f'"{first}" > 1e300'}
    report = fk.audit(table, slices=slices, against=table)
    assert verdict in (report.verdict, "pass", "warn")
    new = {"scale change", "median shift", "shape drift", "shape distance", "new column"}
    assert not new & {f.metric for f in report.findings}


CURIOUS = [
    "it's", 'a "quote"', "<script>alert(1)</script>", "[red]", "[/red]", "\U0001f680", "two\nlines",
    "", "x" * 2_000, "a.b.c", "%s {} \\", "\x1b[31m", "all features", "--help", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("name", CURIOUS, ids=lambda name: ascii(name)[:12])
def test_curious_names_are_told_as_they_are(name: str, tmp_path: Path) -> None:
    table = with_a(1e4 * ROWS[:, 0]).rename({"a": name})
    path = write(table, tmp_path / "table.parquet")
    report = fk.audit(table, source=str(path))
    told = name or "(no name)"
    assert {f.feature for f in report.findings if f.metric == "norm share"} == {told}
    assert json.loads(report.to_json())["features"][0]["name"] == told
    done = run(path, "--feature", told)
    assert (done.exit_code, run(path).exit_code) == (1, 1)
    for text in (done.stdout, run(path).stdout):
        assert "\x1b" not in text
        assert "Traceback" not in text
    suite = parsed(to_junit(report, "fail"))
    assert suite.get("failures") == "2"
    for line in to_github(report):
        assert line.startswith("::")
        assert "\n" not in line
    report.to_html(tmp_path / "report.html")
    assert "<script>alert(1)" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_symbol_and_time_are_no_features() -> None:
    table = with_a(ROWS[:, 0]).with_columns(symbol=pl.lit(1e9), time=pl.int_range(1_500))
    report = fk.audit(table)
    assert [column["name"] for column in report.columns] == ["a", "b", "c", "d"]
    assert (report.verdict, report.symbols, report.notes) == ("pass", 1, ())


@pytest.mark.parametrize("kind", [pl.Date, pl.Datetime("ms"), pl.Datetime("ns", "UTC")])
def test_a_time_of_any_kind_is_a_span(kind: Any) -> None:  # noqa: ANN401  # a polars type
    days = pl.Series("time", np.arange(1_500)).cast(pl.Date).cast(kind)
    assert fk.audit(with_a(ROWS[:, 0]).with_columns(days)).span == (
        "1970-01-01T00:00:00",
        "1974-02-08T00:00:00",
    )


def test_two_columns_of_one_name_are_both_judged(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    lines = ["x,x", *(f"{a},{1e4 * b}" for a, b in ROWS[:, :2].tolist())]
    path.write_text("\n".join(lines))
    document = json.loads(run(path, "--json").stdout)
    assert len({column["name"] for column in document["features"]}) == 2
    assert document["subject"]["features"] == 2


def test_of_other_kinds_an_array_is_refused() -> None:
    for array in (np.array(1.0), ROWS[:, 0], ROWS[:, :, None], ROWS.astype(object)):
        with pytest.raises(DataError, match="no column of numbers"):
            fk.audit(array)


def test_a_wide_table_takes_seconds_and_little_memory() -> None:
    # Twice what its histograms take, of 64 KB a feature, and what Python and its libraries do.
    code = (
        "import numpy as np, featurekit as fk, resource\n"
        "rows = np.random.default_rng(0).normal(size=(2000, 5000)).astype('f4')\n"
        "rows[:, 7] *= 1e4\n"
        "report = fk.audit(rows)\n"
        "assert {f.feature for f in report.findings if f.feature} == {'x7'}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - started < 60.0
    assert int(done.stdout) < 2.5e6


# --- the terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", ["pass", "warn", "fail"])
def test_the_terminal_is_as_wide_as_it_is(width: int, kind: str) -> None:
    report = fk.audit(frame(planted(kind)), slices={"up": '"market.f0" > -1'})
    written = io.StringIO()
    console = Console(width=width, file=written)
    render(report, console)
    render_feature(report, report.columns[5], console)
    text = written.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert kind.upper() in text.splitlines()[0]
