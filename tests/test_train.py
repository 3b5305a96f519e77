"""Training the encoder on a dataset: it learns, repeats, goes on, and is shared by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

import featurekit as fk
from featurekit.cells import Cells
from featurekit.dataset import DatasetWriter, Target
from featurekit.errors import ConfigError, DataError, FeaturekitError, MissingExtraError
from featurekit.feature import Feature
from featurekit.nn.train import Training, save, train
from featurekit.nn.train.checkpoint import read_checkpoint
from featurekit.nn.train.command import main
from featurekit.nn.train.options import Options
from featurekit.nn.train.run import Run
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOUR = 3_600_000_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are small: threads cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def written(root: Path, rows: np.ndarray, targets: np.ndarray, **facts: Any) -> fk.Dataset:  # noqa: ANN401  # passed on
    """A dataset of one symbol's hours; its last feature is the side of a position."""
    n, width = rows.shape
    names = [*(f"a.x{k}" for k in range(width - 1)), "position.side"]
    features = [Feature(name, name.split(".")[0], "-", None, "x", 0, 0) for name in names]
    root.mkdir(exist_ok=True)
    Cells.of_table(rows, names).save(root / "profile")
    with DatasetWriter(
        root / "d",
        fingerprint="x",
        features=features,
        targets=[Target("r", "forward_return", 1), Target("up", "forward_sign", 1)],
        plan=[("X", n)],
        max_gap=10 * HOUR,
    ) as writer:
        writer.write("X", np.arange(n) * HOUR, rows, targets)
        cuts = (n * 2 // 3 * HOUR, n * 5 // 6 * HOUR)
        defaults: dict[str, Any] = {"cuts": cuts, "embargo": 0, "window_max": 32}
        if "scaling" not in facts:
            # Of enough rows in a position, however few there are to train on.
            profile = Profile.of(simulated(6000)[0], names)
            defaults["scaling"] = Scaling.fit(profile, ScalingSpec()).to_json()
        return writer.commit(
            name="d",
            pipeline="name: d",
            fingerprints={},
            versions={},
            files={"profile": root / "profile"},
            **{**defaults, **facts},
        )


def simulated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose target is a sum of features on scales from 1e-4 to 1e4, and of the position."""
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(n, 12))
    side = np.sign(np.sin(np.arange(n) / 7)) * (np.arange(n) % 90 < 40)
    rows = np.column_stack([unit * np.tile([1e-4, 1.0, 50.0, 1e4], 3), side]).astype(np.float32)
    # A difference: layer_norm takes the mean of a row away, and a sum with it.
    target = unit[:, :4] @ [1.0, -1.0, 1.0, -1.0] + 0.3 * rng.normal(size=n)
    return rows, np.column_stack([target, target > 0]).astype(np.float32)


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> fk.Dataset:
    return written(tmp_path_factory.mktemp("train"), *simulated(6000))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> fk.Dataset:
    return written(tmp_path_factory.mktemp("small"), *simulated(900))


OPTIONS: dict[str, Any] = {
    "epochs": 3,
    "window": 4,
    "batch_size": 64,
    "d_model": 32,
    "learning_rate": 3e-3,
}


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {**training.encoder.state_dict(), **training.head.state_dict()}


def same(one: Training, other: Training) -> None:
    """To the last bit."""
    assert one.epochs == other.epochs
    assert one.metrics == other.metrics
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=0, msg=name)


def test_it_learns_what_is_there(learnable: fk.Dataset) -> None:
    training = train(learnable, **OPTIONS)
    first, best = training.epochs[0], training.epochs[training.best - 1]
    assert best.validation_loss < first.validation_loss
    assert best.scores["r"] > 0.5
    assert best.scores["up"] > 0.2
    assert all(epoch.gradient_zeros < 0.05 for epoch in training.epochs)


def test_it_repeats_and_is_saved(small: fk.Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = train(small, **OPTIONS)
    assert torch.equal(before, torch.get_rng_state())  # the caller's are left alone
    torch.rand(7)
    two = train(small, **OPTIONS)
    same(one, two)
    assert weights(train(small, **OPTIONS, seed=1))["weight"].ne(weights(one)["weight"]).any()
    save(one, tmp_path / "e.safetensors")
    encoder = fk.nn.TemporalEncoder.load(tmp_path / "e.safetensors")
    batch = next(iter(small.loader(window=4, batch_size=8)))
    torch.testing.assert_close(encoder(batch), two.encoder(batch), rtol=0, atol=0)


class GoneError(Exception):
    """Stands for a machine that goes away."""


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Makes trainings end after the checkpoint of a step; with None, no longer."""
    original = Run.save

    def at(step: int | None) -> None:
        def saved(self: Run, path: Path) -> None:
            original(self, path)
            if self.step == step:
                raise GoneError

        monkeypatch.setattr(Run, "save", saved)

    return at


@pytest.mark.parametrize("step", [1, 7, 10, 13, 20, 29])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_goes_on_as_if_it_had_not_been_interrupted(
    step: int,
    precision: str,
    small: fk.Dataset,
    tmp_path: Path,
    interrupted_at: Callable[[int | None], None],
) -> None:
    options: dict[str, Any] = OPTIONS | {"precision": precision, "dropout": 0.3}
    assert len(small.loader(window=4, batch_size=64)) == 10
    expected = train(small, **options)
    where: dict[str, Any] = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 1}
    interrupted_at(step)
    with pytest.raises(GoneError):
        train(small, **options, **where)
    interrupted_at(None)
    torch.rand(3)  # another process has drawn other numbers
    same(train(small, **options, **where, resume=True), expected)
    same(train(small, **options, **where, resume=True), expected)  # of one that is over, too


def test_a_killed_process_goes_on(small: fk.Dataset, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "run.safetensors", tmp_path / "e.safetensors"
    options = ["--epochs", 40, "--window", 4, "--batch-size", 64, "--checkpoint", checkpoint]
    options += ["--checkpoint-every", 3]
    killed = subprocess.Popen(command(small.path, *options, "--out", out), env=ENVIRONMENT)
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not out.exists()
    facts = read_checkpoint(checkpoint)[1]
    assert len(facts["epochs"]) < 40
    resumed = run(small.path, *options, "--resume", "--out", out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    expected = train(small, epochs=40, window=4, batch_size=64)
    told = json.loads(resumed.stdout)
    assert told["best"] == json.loads(json.dumps(asdict(expected.epochs[expected.best - 1])))
    found = fk.nn.TemporalEncoder.load(out).state_dict()
    for name, tensor in expected.encoder.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_is_safetensors_and_json(small: fk.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(small, **OPTIONS, checkpoint=path)
    with safe_open(str(path), "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        names = set(file.keys())
    assert facts["loader"]["epoch"] == facts["epochs"][-1]["epoch"] == 3
    assert {name.split(".")[0] for name in names} == {"model", "best", "optimizer", "sums"}
    assert [each.name for each in tmp_path.iterdir()] == ["run.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": False}, "there is a checkpoint already"),
        ({"seed": 1}, "another seed"),
        ({"epochs": 4}, "another epochs"),
        ({"precision": "bf16"}, "another precision"),
        ({"checkpoint": "missing.safetensors"}, "no checkpoint of a training"),
        ({"checkpoint": "damaged.safetensors"}, "no checkpoint of a training"),
        ({"checkpoint": "encoder.safetensors"}, "no checkpoint of a training"),
        ({"checkpoint": "no/such.safetensors"}, "no such directory"),
        ({"checkpoint": None}, "no checkpoint to go on from"),
    ],
)
def test_a_training_goes_on_with_its_own_checkpoint_only(
    options: dict[str, Any], message: str, small: fk.Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    quick = OPTIONS | {"epochs": 1}
    training = train(small, **quick, checkpoint=path)
    save(training, tmp_path / "encoder.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(path.read_bytes()[:5000])
    given = {"checkpoint": path.name, "resume": True} | options
    if given["checkpoint"] is not None:
        given["checkpoint"] = tmp_path / given["checkpoint"]
    with pytest.raises(FeaturekitError, match=message) as caught:
        train(small, **quick | given)
    assert "Fix: " in str(caught.value)


def test_a_checkpoint_of_other_data_is_refused(small: fk.Dataset, tmp_path: Path) -> None:
    rows, targets = simulated(900)
    rows[0, 0] += 1
    other = written(tmp_path / "other", rows, targets)
    train(small, **OPTIONS, checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(ConfigError, match="another data_digest"):
        train(other, **OPTIONS, checkpoint=tmp_path / "run.safetensors", resume=True)


def test_it_stops_early_at_the_best_epoch(small: fk.Dataset) -> None:
    training = train(small, **OPTIONS | {"epochs": 40, "learning_rate": 3e-2}, patience=2)
    losses = [epoch.validation_loss for epoch in training.epochs]
    assert len(losses) < 40
    assert len(losses) == training.best + 2
    assert min(losses) == losses[training.best - 1]
    assert training.metrics["validation"]["all"].loss == pytest.approx(min(losses), rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_rises_and_falls(schedule: Any) -> None:  # noqa: ANN401  # a choice
    options = Options(learning_rate=2.0, warmup=0.1, schedule=schedule)
    rates = [options.rate(step, 200) for step in range(200)]
    assert np.all(np.diff(rates[:20]) > 0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[19] == 2.0
    falls = np.diff(rates[20:])
    assert np.all(falls < 0 if schedule == "cosine" else falls == 0)
    assert rates[20] == 2.0
    assert rates[-1] == pytest.approx(0.0 if schedule == "cosine" else 2.0, abs=1e-3)
    assert Options(warmup=0.0).rate(0, 1) == Options().learning_rate


def test_metrics_are_of_each_split_and_phase(small: fk.Dataset) -> None:
    training = train(small, **OPTIONS)
    table = small.to_numpy()
    for split in ("train", "validation", "test"):
        starts = small.starts(split, 4)
        last = starts + 3
        windows = torch.from_numpy(table.features[starts[:, None] + np.arange(4)])
        with torch.no_grad():
            predicted = training.head(training.encoder(windows)).double().numpy()
        goal = table.targets[last].astype(np.float64)
        train_goal = table.targets[small.starts("train", 4) + 3].astype(np.float64)
        mean, spread = train_goal[:, 0].mean(), train_goal[:, 0].std()
        back = predicted[:, 0] * spread + mean
        active = table.features[last, -1] != 0
        metrics = training.metrics[split]
        assert list(metrics) == ["all", "active", "flat"]
        for phase, member in {"all": active | True, "active": active, "flat": ~active}.items():
            rest = ((goal[:, 0] - back) ** 2)[member].sum()
            explained = 1 - rest / ((goal[:, 0] - mean) ** 2)[member].sum()
            right = ((predicted[:, 1] > 0) == (goal[:, 1] > 0.5))[member].mean()
            share = goal[member, 1].mean()
            found = metrics[phase]
            assert found.windows == member.sum()
            assert found.scores["r"] == pytest.approx(explained, abs=1e-5)
            assert found.scores["up"] == pytest.approx(right - max(share, 1 - share), abs=1e-9)
            cross = np.logaddexp(0, predicted[:, 1]) - goal[:, 1] * predicted[:, 1]
            square = (predicted[:, 0] - (goal[:, 0] - mean) / spread) ** 2
            assert found.loss == pytest.approx(((cross + square) / 2)[member].mean(), rel=1e-5)
    assert (
        training.epochs[training.best - 1].phases["active"]
        == (training.metrics["validation"]["active"])
    )


def test_half_precision_learns_as_well(small: fk.Dataset) -> None:
    full, half = (train(small, **OPTIONS, precision=p) for p in ("float32", "bf16"))  # type: ignore[arg-type]
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(half).values())
    assert full.epochs != half.epochs
    assert half.epochs[-1].validation_loss == pytest.approx(
        full.epochs[-1].validation_loss, rel=0.02
    )


def test_health_is_measured_and_changes_nothing(learnable: fk.Dataset) -> None:
    plain = train(learnable, **OPTIONS | {"epochs": 1})
    measured = train(learnable, **OPTIONS | {"epochs": 1}, health_every=20)
    assert [health.step for health in measured.health] == [20, 40, 60]
    assert measured.health[-1].values["zeros_batch"] == 0.0
    assert measured.health[-1].values["dormant_active"] is not None
    same(plain, measured)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_scalars_go_to_tensorboard(
    small: fk.Dataset, tmp_path: Path, interrupted_at: Callable[[int | None], None]
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="scalars need the extra tensorboard",
    )
    where: dict[str, Any] = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 10}
    interrupted_at(20)
    with pytest.raises(GoneError):
        train(small, **OPTIONS, **where, tensorboard=tmp_path / "board")
    interrupted_at(None)
    training = train(small, **OPTIONS, **where, tensorboard=tmp_path / "board", resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"train/loss", "train/gradient_zeros", "train/gradient_norm", "validation/r"} <= set(
        events.Tags()["scalars"]
    )
    found = {event.step: event.value for event in events.Scalars("validation_active/loss")}
    assert found == pytest.approx(
        {10 * epoch.epoch: epoch.phases["active"].loss for epoch in training.epochs}
    )
    assert [event.step for event in events.Scalars("train/learning_rate")] == [20]


def test_missing_tensorboard_names_its_extra(
    small: fk.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"featurekit\[tensorboard\]"):
        train(small, **OPTIONS, tensorboard=tmp_path / "board")


DDP = """
import json, os, sys
import torch
import torch.distributed as dist
from featurekit.dataset import open_dataset
from featurekit.nn.train import train
from featurekit.nn.train.run import Run

path, scratch, rank, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=2)
dataset = open_dataset(path)

def told(training):
    state = {**training.encoder.state_dict(), **training.head.state_dict()}
    weights = {name: tensor.tolist() for name, tensor in state.items()}
    return {"weights": weights, "losses": [e.train_loss for e in training.epochs],
            "metrics": {s: m["all"].loss for s, m in training.metrics.items()}}

first = told(train(dataset, **options))
save = Run.save
class Interrupted(Exception): pass
def interrupt(self, path):
    save(self, path)
    if self.step == 13:
        raise Interrupted
Run.save = interrupt
where = {"checkpoint": f"{scratch}/run.safetensors", "checkpoint_every": 1}
try:
    train(dataset, **options, **where)
except Interrupted:
    pass
dist.barrier()  # the first rank writes
Run.save = save
second = told(train(dataset, **options, **where, resume=True))
with open(f"{scratch}/{rank}.json", "w") as file:  # more than a pipe takes while nobody reads it
    json.dump([first, second], file)
dist.barrier()  # none leaves while another still works
dist.destroy_process_group()
"""


def test_two_processes_train_as_one_does(small: fk.Dataset, tmp_path: Path) -> None:
    options = OPTIONS | {"dropout": 0.0, "batch_size": 62}  # 600 windows: a last batch of 39
    arguments = [str(small.path), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, *arguments, str(rank), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [each.communicate(timeout=120) for each in ranks]
    assert [each.returncode for each in ranks] == [0, 0], ended
    (first, resumed), other = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert other == [first, resumed]
    assert resumed["weights"] == first["weights"]
    alone = train(small, **options)
    for name, tensor in weights(alone).items():
        if name != "pooling.score.bias":  # softmax does not see it: its gradient is rounding
            found = torch.tensor(first["weights"][name], dtype=tensor.dtype)
            torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert first["losses"] == pytest.approx([e.train_loss for e in alone.epochs], rel=1e-4)
    assert first["metrics"] == pytest.approx(
        {split: phases["all"].loss for split, phases in alone.metrics.items()}, rel=1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is out of range"),
        ({"learning_rate": 0.0}, "learning_rate is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate is out of range"),
        ({"schedule": "step"}, "schedule is out of range"),
        ({"warmup": 1.0}, "warmup is out of range"),
        ({"clip": 0.0}, "clip is out of range"),
        ({"patience": 0}, "patience is out of range"),
        ({"dropout": 1.0}, "dropout is out of range"),
        ({"precision": "fp16"}, "precision is out of range"),
        ({"checkpoint_every": 0}, "checkpoint_every is out of range"),
        ({"window": 500}, "window"),
    ],
)
def test_options_out_of_range_are_told(
    options: dict[str, Any], message: str, small: fk.Dataset
) -> None:
    with pytest.raises(FeaturekitError, match=message) as caught:
        train(small, **OPTIONS | options)
    assert "Fix: " in str(caught.value)


def test_a_hole_in_the_rows_is_named(tmp_path: Path) -> None:
    rows, targets = simulated(900)
    clean = written(tmp_path / "clean", rows, targets).manifest.scaling
    rows[100, 3] = np.nan
    holed = written(tmp_path / "holed", rows, targets, scaling=clean)
    with pytest.raises(DataError, match=r"NaN or infinity in a\.x3"):
        train(holed, **OPTIONS)


def test_a_dataset_without_targets_is_refused(small: fk.Dataset) -> None:
    class Bare:
        targets = ()
        path = small.path

    with pytest.raises(ConfigError, match="no targets"):
        train(Bare())  # type: ignore[arg-type]  # the mistake under test


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "featurekit.nn.train", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


def test_the_command_trains_and_saves(small: fk.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    done = run(small.path, "--epochs", 1, "--window", 4, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["best"]["epoch"] == 1
    assert list(told["metrics"]["test"]) == ["all", "active", "flat"]
    assert fk.nn.TemporalEncoder.load(out).features == small.names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "no such directory"),
        (["{dataset}", "--window", 500], "window"),
        (["{dataset}", "--out", "no/such/e.safetensors"], "no such directory"),
    ],
)
def test_mistakes_are_told(arguments: list[object], message: str, small: fk.Dataset) -> None:
    done = CliRunner().invoke(main, [str(a).format(dataset=small.path) for a in arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
