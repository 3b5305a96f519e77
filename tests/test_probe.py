"""The probe on a dataset and the replay of a gradient death: who lives, who is blind, who dies."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from featurekit.cells import Cells
from featurekit.cli import main
from featurekit.dataset import DatasetWriter, Target
from featurekit.errors import ConfigError
from featurekit.feature import Feature
from featurekit.nn.probe import advice, probe
from featurekit.nn.probe_text import kept, plot_replays, render_replays
from featurekit.nn.reproduce import Promises, Replay, activity, means, reproduce
from featurekit.nn.treatments import TREATMENTS, UntreatedEncoder, treated
from featurekit.nn.worlds import NAMES as STREAM
from featurekit.nn.worlds import Structure, stream
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from pathlib import Path

    import featurekit as fk

HOUR = 3_600_000_000_000
NAMES = [
    *(f"market.x{k}" for k in range(8)),
    "position.side",
    *(f"position.x{k}" for k in range(7)),
]
PIPELINE = "name: simulated\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> fk.Dataset:
    """Simulated rows: a target of the market's, and positions of 1e4 for stretches of 50 rows."""
    rng = np.random.default_rng(0)
    n = 4000
    rows = rng.normal(size=(n, 16)) * np.repeat([1e-4, 1e4], 8)
    rows[:, 8] = np.repeat(rng.choice([-1.0, 0.0, 1.0], n // 50), 50)
    rows[rows[:, 8] == 0, 8:] = 0.0
    rows = rows.astype(np.float32)
    target = 1e4 * rows[:, 0] - 1e4 * rows[:, 1] + 0.3 * rng.normal(size=n)
    targets = np.column_stack([target, target > 0]).astype(np.float32)
    directory = tmp_path_factory.mktemp("probe")
    cells = Cells.of_table(rows, NAMES)
    cells.save(directory / "profile")
    with DatasetWriter(
        directory / "d",
        fingerprint="x",
        features=[Feature(name, name.split(".")[0], "-", None, "x", 0, 0) for name in NAMES],
        targets=[Target("r", "forward_return", 1), Target("up", "forward_sign", 1)],
        plan=[("X", n)],
        max_gap=10 * HOUR,
    ) as writer:
        writer.write("X", np.arange(n) * HOUR, rows, targets)
        return writer.commit(
            name="d",
            pipeline=PIPELINE,
            fingerprints={},
            cuts=(3000 * HOUR, 3500 * HOUR),
            embargo=0,
            window_max=32,
            scaling=Scaling.fit(Profile.of(rows, NAMES), ScalingSpec()).to_json(),
            versions={},
            files={"profile": directory / "profile"},
        )


def test_the_pipelines_own_treatment_is_told_from_those_that_are_blind(
    dataset: fk.Dataset,
) -> None:
    probed = {each.treatment: each for each in probe(dataset, steps=120, window=8)}
    assert list(probed) == ["raw", "layer_norm", "default"]
    assert probed["raw"].health.verdict == probed["layer_norm"].health.verdict == "fail"
    assert probed["default"].health.worth["market"] > 0.5
    assert probed["layer_norm"].health.worth["market"] < 0.1
    default, blind = (probed[name].losses for name in ("default", "layer_norm"))
    assert default["active"] < 0.9 * blind["active"]
    assert set(default) == {"flat", "active"}
    told = advice(list(probed.values()))
    assert told.startswith("Keep the pipeline's treatment")
    assert "layer_norm leaves" in told
    worse = replace(probed["default"], health=probed["raw"].health)
    assert advice([worse]).startswith("No treatment here lives")
    other = replace(probed["default"], treatment="clip")
    assert advice([worse, other]).startswith("Train with clip")


def test_the_command_prints_draws_and_repeats(dataset: fk.Dataset, tmp_path: Path) -> None:
    options = ["--steps", "16", "--window", "8", "--inputs", "running,default"]
    one, two = (
        CliRunner().invoke(main, ["probe", str(dataset.path), *options, "--json"]) for _ in range(2)
    )
    assert one.exit_code == 0, one.output
    assert one.stdout == two.stdout
    document = json.loads(one.stdout)
    assert set(document["treatments"]) == {"running", "default"}
    assert {"verdict", "values", "worth", "losses"} <= document["treatments"]["default"].keys()
    drawing = tmp_path / "probe.svg"
    done = CliRunner().invoke(
        main, ["probe", str(dataset.path), *options, "--plot", str(drawing)], env={"COLUMNS": "80"}
    )
    assert done.exit_code == 0, done.output
    assert "information of market, R2" in done.output
    assert document["advice"] in " ".join(done.output.split())
    assert "running" in drawing.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "no such directory"),
        (["{dataset}", "--inputs", "raw,whitening"], "whitening"),
        (["{dataset}", "--window", "500"], "window"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, dataset: fk.Dataset) -> None:
    given = [each.format(dataset=dataset.path) for each in arguments]
    done = CliRunner().invoke(main, ["probe", *given])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_dataset_without_targets_is_refused(dataset: fk.Dataset) -> None:
    class Bare:
        targets = ()
        path = dataset.path

    with pytest.raises(ConfigError, match="has none"):
        probe(Bare())  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("name", TREATMENTS)
def test_every_treatment_makes_an_encoder(name: str) -> None:
    rows = stream(np.random.default_rng(0), Structure.of(0), np.arange(200) % 2 > 0, calm=True).x
    profile = Profile.of(rows.reshape(-1, len(STREAM)), STREAM)
    squash = np.ones(len(STREAM), np.int8)
    scaling = Scaling(STREAM, profile.mean, np.maximum(profile.std, 1e-6), squash)
    encoder = treated(name, scaling, 8, max_window=20)
    seen = encoder.treat(torch.from_numpy(rows))
    if isinstance(encoder, UntreatedEncoder):
        torch.testing.assert_close(seen, torch.from_numpy(rows))
    else:
        torch.testing.assert_close(seen.mean(-1), torch.zeros(200, 20), rtol=0, atol=1e-4)
    assert encoder(torch.from_numpy(rows)).shape == (200, 8)


# --- the replay -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replays() -> list[Replay]:
    return reproduce(seeds=[0])


def test_raw_dies_with_activity(replays: list[Replay]) -> None:
    raw = means(replays)["raw"]
    assert raw.zeros_before < 0.25
    assert raw.zeros_after > 0.5
    assert raw.corr_activity > 0.5
    assert raw.onset_peak > 100
    assert raw.r2_active < 0.3


def test_layer_norm_alone_repairs_the_loss_and_learns_little(replays: list[Replay]) -> None:
    alone = means(replays)["layer_norm"]
    assert alone.onset_peak < 5
    assert alone.zeros_before < 0.05
    assert alone.zeros_after > 0.25
    assert alone.dormant_active > 0.25
    assert alone.r2_active < 0.3


def test_the_default_keeps_every_promise(replays: list[Replay]) -> None:
    assert all(kept(means(replays)).values())


def test_the_replay_is_told_and_drawn(replays: list[Replay], tmp_path: Path) -> None:
    console = Console(record=True, width=80)
    render_replays(replays, console)
    told = " ".join(console.export_text().split())
    assert "simulated" in told
    assert "the default treatment keeps all promises" in told
    assert "nothing is left of market and indicator" in told
    plot_replays(replays, tmp_path / "replay.svg")
    assert "positions open" in (tmp_path / "replay.svg").read_text()


def test_a_broken_promise_is_named() -> None:
    fine = Promises(0.0, 0.0, 0.0, 0.0, 0.8, 0.5, 1.5)
    assert all(kept({"default": fine}).values())
    blind = {"default": fine, "layer_norm": replace(fine, r2_active=0.4)}
    assert [name for name, held in kept(blind).items() if not held] == ["r2_active"]
    follows = kept({"default": replace(fine, corr_activity=-0.3)})
    assert [name for name, held in follows.items() if not held] == ["corr_activity"]


def test_the_command_prints_the_means_of_each_treatment(
    replays: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurekit.nn.reproduce.reproduce", lambda names, tell: replays)
    done = CliRunner().invoke(main, ["probe", "--reproduce", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == ["treatments"]
    assert list(found["treatments"]) == ["raw", "layer_norm", "default"]
    assert set(found["treatments"]["default"]) == {
        "zeros_before",
        "zeros_after",
        "corr_activity",
        "dormant_active",
        "r2_active",
        "pooling_cv",
        "onset_peak",
    }


def test_the_replay_repeats_bit_by_bit() -> None:
    one, two = (reproduce(["default"], seeds=[1], updates=20) for _ in range(2))
    assert one == two


def test_activity_is_that_of_the_report() -> None:
    shares = [activity(step, 1500) for step in range(1500)]
    assert (shares[0], shares[599], shares[900], shares[-1]) == (0.02, 0.02, 1.0, 1.0)
    assert shares == sorted(shares)
