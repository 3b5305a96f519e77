"""Training the encoder on a dataset: it learns, it repeats, it is saved, and mistakes are told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import featurekit as fk
from featurekit.cells import Cells
from featurekit.dataset import DatasetWriter, Target
from featurekit.errors import ConfigError
from featurekit.feature import Feature
from featurekit.nn.train import save, train
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3_600_000_000_000


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> fk.Dataset:
    """Simulated rows whose target is a sum of features on scales from 1e-4 to 1e4."""
    rng = np.random.default_rng(1)
    n, scales = 6000, np.tile([1e-4, 1.0, 50.0, 1e4], 3)
    unit = rng.normal(size=(n, 12))
    rows = (unit * scales).astype(np.float32)
    # A difference: layer_norm takes the mean of a row away, and a sum with it.
    target = unit[:, :4] @ [1.0, -1.0, 1.0, -1.0] + 0.3 * rng.normal(size=n)
    targets = np.column_stack([target, target > 0]).astype(np.float32)
    features = [Feature(f"a.x{k}", "a", "-", None, "x", 0, 0) for k in range(12)]
    directory = tmp_path_factory.mktemp("train")
    profile = Profile.of(rows, [f.name for f in features])
    Cells.of_table(rows, [f.name for f in features]).save(directory / "profile")
    with DatasetWriter(
        directory / "d",
        fingerprint="x",
        features=features,
        targets=[Target("r", "forward_return", 1), Target("up", "forward_sign", 1)],
        plan=[("X", n)],
        max_gap=10 * HOUR,
    ) as writer:
        writer.write("X", np.arange(n) * HOUR, rows, targets)
        return writer.commit(
            name="d",
            pipeline="",
            fingerprints={},
            cuts=(4000 * HOUR, 5000 * HOUR),
            embargo=0,
            window_max=32,
            scaling=Scaling.fit(profile, ScalingSpec()).to_json(),
            versions={},
            files={"profile": directory / "profile"},
        )


OPTIONS = {"epochs": 4, "window": 4, "batch_size": 64, "d_model": 32, "learning_rate": 3e-3}


def test_it_learns_what_is_there(learnable: fk.Dataset) -> None:
    training = train(learnable, **OPTIONS)
    first, best = training.epochs[0], training.epochs[training.best - 1]
    assert best.validation_loss < first.validation_loss
    assert best.scores["r"] > 0.5
    assert best.scores["up"] > 0.2
    assert all(epoch.gradient_zeros < 0.05 for epoch in training.epochs)


def test_it_repeats_and_is_saved(learnable: fk.Dataset, tmp_path: Path) -> None:
    one, two = train(learnable, **OPTIONS), train(learnable, **OPTIONS)
    assert one.epochs == two.epochs
    save(one, tmp_path / "e.safetensors")
    encoder = fk.nn.TemporalEncoder.load(tmp_path / "e.safetensors")
    batch = next(iter(learnable.loader(window=4, batch_size=8)))
    torch.testing.assert_close(encoder(batch), two.encoder(batch), rtol=0, atol=0)


def test_a_dataset_without_targets_is_refused(learnable: fk.Dataset) -> None:
    class Bare:
        targets = ()
        path = learnable.path

    with pytest.raises(ConfigError, match="no targets"):
        train(Bare())  # type: ignore[arg-type]  # the mistake under test


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "featurekit.nn.train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_trains_and_saves(learnable: fk.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    done = run(learnable.path, "--epochs", 1, "--window", 4, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["epoch"] == 1
    assert fk.nn.TemporalEncoder.load(out).features == learnable.names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "no such directory"),
        (["{dataset}", "--window", 500], "window"),
        (["{dataset}", "--out", "no/such/e.safetensors"], "no such directory"),
    ],
)
def test_mistakes_are_told(arguments: list[object], message: str, learnable: fk.Dataset) -> None:
    done = run(*(str(a).format(dataset=learnable.path) for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
