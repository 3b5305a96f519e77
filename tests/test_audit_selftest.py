"""The self-test of the audit: it passes, and fails where the audit is broken in any one place."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from featurekit.audit.faults import FAULTS, HARMLESS
from featurekit.audit.limits import LIMITS
from featurekit.audit.selftest import selftest
from featurekit.cli import main

BOTH = [metric for metric, limit in LIMITS.items() if None not in (limit.warn, limit.fail)]
LOOSER = {
    "dominance": 0.9, "norm share": 0.75, "centred share": 0.75, "row share": 0.75, "offset": 3.0,
    "weakest block": 0.017, "conditioning": 1e5, "unrepresentative": 333.0, "pile-up": 0.15,
    "dead at initialisation": 0.15, "unmatched rows": 0.03,
}  # fmt: skip
BROKEN = [
    ("model.STARVED", 0.02, "starved features"),
    ("scales.TAIL_ERRORS", 0.0, "tail index"),
    ("scales.NORMAL_TAIL", 2.5, "tail weight"),
    ("scales.OUTLIER_Z", 0.0, "scale outlier"),
    ("scales.OUTLIER_Z", 10.0, "scale outlier"),
    ("joined.UNIT", 0.03, "unit change"),
    ("joined.UNIT", 0.001, "unit change"),
    ("joined.SAME", 1e-2, "mismatch"),
    ("joined.SAME", 1e-8, "mismatch"),
    ("measures.SLICE_SHARE", 0.2, "dead in slice"),
    ("measures.SLICE_SHARE", 0.001, "dead in slice"),
    ("slices._real_differences", lambda _, views: np.ones(len(views[""].scale), bool), ""),
    ("compare._beyond", lambda value, _: value, "shape drift"),
]


def blind(*metrics: str) -> bool:
    return not selftest(Console(quiet=True), metrics=metrics)


def loosened(metric: str, factor: float) -> dict[str, float | None]:
    limit = LIMITS[metric]
    factor = 1.0 / factor if limit.low else factor
    bounds = {"warn": limit.warn, "fail": limit.fail}
    return {end: None if bound is None else factor * bound for end, bound in bounds.items()}


def rows_of(told: str) -> list[tuple[str, bool]]:
    """What each line of the first table is of, and whether it was found."""
    lines = re.findall(r"^ ([a-z][-\w ]*?) +(warn|fail) .*?(yes|NO)", told, re.MULTILINE)
    return [(f"{metric} {severity}", found == "yes") for metric, severity, found in lines]


def test_the_self_test_passes() -> None:
    done = CliRunner().invoke(main, ["audit", "--selftest"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    *_, simulated, last = done.stdout.splitlines()
    assert simulated == "All rows are simulated, from fixed seeds."
    assert last == f"{len(FAULTS)} faults planted, each found and nothing else"
    assert len(rows_of(done.stdout)) == len(FAULTS)
    assert all(rows.told in done.stdout for rows in HARMLESS)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_it_notices_every_limit_that_is_three_times_looser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = {metric: replace(LIMITS[metric], **loosened(metric, 3.0)) for metric in LIMITS}
    for metric, limit in wide.items():
        monkeypatch.setitem(LIMITS, metric, limit)
    console = Console(file=StringIO(), width=80)
    assert not selftest(console)
    found = {of for of, good in rows_of(console.file.getvalue()) if good}  # type: ignore[attr-defined]
    # Of no value beyond 0 there is a limit that is looser.
    assert found == {f"{m} {end}" for m in LIMITS for end in ("warn", "fail") if _at_zero(m, end)}


def _at_zero(metric: str, end: str) -> bool:
    return getattr(LIMITS[metric], end) == 0.0


@pytest.mark.parametrize("metric", BOTH)
def test_it_notices_a_limit_that_no_longer_fails(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, metric, replace(LIMITS[metric], fail=None))
    assert blind(metric)


@pytest.mark.parametrize("metric", LOOSER)
def test_it_notices_a_limit_that_is_looser(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end = "warn" if LIMITS[metric].fail is None else "fail"
    monkeypatch.setitem(LIMITS, metric, replace(LIMITS[metric], **{end: LOOSER[metric]}))
    assert blind(metric)


@pytest.mark.parametrize(("name", "value", "metric"), BROKEN)
def test_it_notices_what_is_broken(
    name: str, value: object, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"featurekit.audit.{name}", value)
    assert blind(metric or "conditional scale")


@pytest.mark.parametrize("metric", ["zeros", "scale outlier", "new column"])
def test_it_notices_a_limit_that_is_blind(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, metric, replace(LIMITS[metric], warn=None, fail=None))
    assert blind(metric)


def test_it_notices_a_limit_that_cries_wolf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "spread ratio", replace(LIMITS["spread ratio"], warn=0.9))
    assert blind("zeros")


@pytest.mark.parametrize("severity", ["warn", "fail"])
def test_it_notices_a_limit_without_a_fault(severity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(f for f in FAULTS if (f.metric, f.severity) != ("zeros", severity))
    monkeypatch.setattr("featurekit.audit.selftest.FAULTS", kept)
    assert blind("zeros")


def test_of_metrics_that_are_whole_it_says_so() -> None:
    assert not blind("zeros", "mismatch", "starved features")
