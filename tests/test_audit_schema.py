"""What audit.json holds is what its schema says, of a dataset, of a file and of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest

import featurekit as fk
from featurekit.audit.limits import LIMITS
from featurekit.audit.report import VERSION

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "schemas" / "audit.schema.json").read_text(encoding="utf-8")
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    table = np.random.default_rng(0).normal(size=(3000, 4)) * [1.0, 1e4, 1.0, 1.0]
    table[:, 3] = 0.0
    return pl.DataFrame(table, schema=["a.x", "a.y", "b.x", "b.y"])


@pytest.mark.parametrize("case", ["frame", "compared", "dataset"])
def test_audit_json_keeps_its_schema(case: str, rows: pl.DataFrame, tmp_path: Path) -> None:
    if case == "dataset":
        pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
        report = pipeline.build(out=tmp_path / "eurusd").audit
    else:
        report = fk.audit(rows, against=rows.drop("b.y") if case == "compared" else None)
    document = json.loads(report.to_json())
    jsonschema.validate(document, SCHEMA)
    assert [check["metric"] for check in document["checks"]] == list(LIMITS)


def test_the_schema_is_of_this_version_and_refuses_others(rows: pl.DataFrame) -> None:
    assert SCHEMA["properties"]["version"] == {"const": VERSION}
    document = json.loads(fk.audit(rows).to_json())
    for key, value in (("version", 1), ("verdict", "ok"), ("more", 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | {key: value}, SCHEMA)
