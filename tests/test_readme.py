"""What the README says is so: its Python runs, its picture is current, its commands are there."""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

import featurekit as fk
from featurekit.block import Block
from featurekit.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def script(name: str) -> Any:  # noqa: ANN401  # a module
    """One of the scripts that draw the pictures."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_five_lines_make_vectors_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(PYTHON[0], names)  # noqa: S102  # the README's own lines
    assert len([line for line in PYTHON[0].splitlines() if line and "import" not in line]) == 4
    z, batch = names["z"], names["batch"]
    assert tuple(z.shape) == (len(batch.features), 128)  # type: ignore[attr-defined,arg-type]


def test_a_block_in_five_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readme_blocks.py").write_text(PYTHON[1])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("readme_blocks")
    assert isinstance(module.spread, Block)
    fk.testing.check_block(module.spread)
    sys.modules.pop("readme_blocks")


def test_the_loop_measures_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (loop,) = (block for block in PYTHON if "GradientHealth" in block)
    exec(PYTHON[0] + loop, names)  # noqa: S102  # the README's own lines
    report = names["health"].report  # type: ignore[attr-defined]  # a GradientHealth
    assert report.verdict in ("pass", "warn")
    assert set(report.worth) == {"market", "position", "indicator"}
    assert (tmp_path / "health.svg").is_file()


def test_the_stream_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    fk.Pipeline.from_yaml("pipelines/eurusd_demo.yaml").build(out="build/eurusd")
    (lines,) = (block for block in PYTHON if "fk.Monitor" in block)
    stamp = datetime(2018, 1, 1, 23, tzinfo=timezone.utc)
    prices = {"open": 1.2005, "high": 1.2013, "low": 1.2001, "close": 1.2010, "volume": 1204.0}
    names = {"fk": fk, "bars": pl.DataFrame({"symbol": "EURUSD", "time": stamp, **prices})}
    exec(lines, {**names, "fills": None})  # noqa: S102  # the README's own lines


def test_blocks_on_higher_bars(tmp_path: Path) -> None:
    (lines,) = (block for block in YAML if "timeframe" in block)
    document = yaml.safe_load((ROOT / "pipelines" / "eurusd_demo.yaml").read_text())
    document = {**document, **yaml.safe_load(lines)}
    del document["width"]
    names = fk.Pipeline(**document).columns
    assert "indicator_4h.rsi_14" in names


def test_the_agent_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3", reason="agents need the extra sb3")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    (agent,) = (block for block in PYTHON if "TradingEnv" in block)
    exec(PYTHON[0] + agent.replace("2048", "64"), {})  # noqa: S102  # the README's own lines
    assert fk.nn.TemporalEncoder.load(tmp_path / "agent.safetensors").config["dropout"] == 0.0


def test_the_curves_are_those_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="agents need the extra sb3")
    module = script("ppo")
    module.draw(tmp_path / "ppo.svg")
    assert (tmp_path / "ppo.svg").read_text() == (ROOT / "docs" / "ppo.svg").read_text()


def test_the_contract_is_one_that_the_demo_can_be_held_to(tmp_path: Path) -> None:
    (text,) = (block for block in YAML if block.startswith("audit:"))
    (tmp_path / "contract.yaml").write_text(text)
    dataset = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml").build(tmp_path / "d")
    done = CliRunner().invoke(
        main, ["audit", str(dataset.path), "--contract", str(tmp_path / "contract.yaml")]
    )
    assert done.exit_code == 0, done.output
    assert "waived until 2018-01-31: market.kurtosis_50" in done.output


def test_the_hooks_run_commands_that_there_are() -> None:
    entries = re.findall(r"(?:run|entry): (featurekit audit .+)", README)
    assert len(entries) == 2
    known = {option for each in main.get_command(None, "audit").params for option in each.opts}  # type: ignore[arg-type,union-attr]
    for entry in entries:
        assert {word for word in entry.split() if word.startswith("--")} <= known


def test_the_picture_is_current(tmp_path: Path) -> None:
    module = script("picture")
    module.draw(module.audited(), tmp_path / "audit.svg")
    assert (tmp_path / "audit.svg").read_text() == (ROOT / "docs" / "audit.svg").read_text()


def test_every_command_is_in_the_table() -> None:
    named = re.findall(r"^\| `featurekit (\w+)", README, re.MULTILINE)
    assert named == main.list_commands(None)  # type: ignore[arg-type]
    for name in named:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w/.]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).is_file()
