"""Vital signs against plain definitions, and on encoders that live, are blind or are dead."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from rich.console import Console

from featurekit.errors import ConfigError, MissingExtraError
from featurekit.nn import GradientHealth, Health, Probes, TemporalEncoder
from featurekit.nn.probes import Collector
from featurekit.nn.vital_report import LIMITS, NEEDED, ZEROS
from featurekit.nn.vitals import (
    block_shares,
    block_worth,
    dormant,
    duplicates,
    effective_rank,
    questions,
)
from featurekit.nn.vitals import zeros as zeros_of
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    *(f"market.x{k}" for k in range(8)),
    *(f"indicator.x{k}" for k in range(8)),
    "position.side",
    *(f"position.x{k}" for k in range(7)),
)


def windows(n: int, active: float, seed: int = 0) -> torch.Tensor:
    """Simulated windows on scales from 1e-4 to 1e4, of which a share is in a position."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 20, 24)) * np.repeat([1e-4, 50.0, 1e4], 8)
    x[..., 16] = rng.choice([-1.0, 1.0], (n, 1))
    x[rng.random(n) >= active, :, 16:] = 0.0
    return torch.from_numpy(x.astype(np.float32))


def scaling() -> Scaling:
    return Scaling.fit(Profile.of(windows(500, 0.5).numpy().reshape(-1, 24), NAMES), ScalingSpec())


def encoder(treatment: str = "fitted", width: int = 16) -> TemporalEncoder:
    torch.manual_seed(0)
    if treatment == "fitted":
        return TemporalEncoder(24, width, scaling=scaling(), max_window=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TemporalEncoder(
            24, width, prelude="none", squash="none", features=NAMES, max_window=20
        )


def trained(made: TemporalEncoder, steps: int = 40, **options: Any) -> GradientHealth:  # noqa: ANN401  # of GradientHealth
    optimizer = torch.optim.Adam(made.parameters(), 1e-3)
    health = GradientHealth(made, optimizer, every=20, **options)
    for step in range(steps):
        optimizer.zero_grad()
        loss = made(windows(32, 0.5, seed=step)).square().mean()
        loss.backward()
        health.observe(loss)
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1e-3)
        optimizer.step()
    return health


def test_zeros_are_split_into_columns_rows_and_the_rest() -> None:
    gradient = torch.ones(4, 5)
    gradient[:, 0] = 0  # an input that is always 0
    gradient[1] = 0  # a dead unit
    gradient[2, 3] = 0
    x = torch.ones(7, 5)
    x[:, 0] = 0
    found = zeros_of(gradient, x)
    assert found == pytest.approx((9 / 20, 4 / 20, 4 / 20, 1 / 20))
    assert zeros_of(gradient).structural == 0.0


def test_the_rest_of_the_signs_are_their_definitions() -> None:
    h = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
    h[:, 2] *= 0.01
    assert dormant(h) == pytest.approx(1 / 6)
    singular = np.linalg.svd(h.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(h) == pytest.approx(np.exp(-(share * np.log(share)).sum()) / 6, rel=1e-6)
    assert effective_rank(torch.zeros(5, 3)) == 0.0
    gradient = torch.randn(8, 4)
    assert duplicates(gradient) == 0.0
    gradient[:, 3] = -2 * gradient[:, 0]
    assert duplicates(gradient) == 0.5
    assert duplicates(torch.zeros(8, 4)) == 0.0
    assert sum(block_shares(gradient, {"a": [0, 1], "b": [2, 3]}).values()) == pytest.approx(1.0)


def test_information_is_what_a_ridge_finds_of_it_on_other_rows() -> None:
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 3.0
    h = torch.cat([x[:, :2], 1e-3 * x[:, 2:4]], dim=1)
    worth = block_worth(
        h, questions(x), {"seen": [0, 1], "drowned": [2, 3], "gone": [4], "still": [5]}
    )
    assert worth["seen"] > 0.95
    assert abs(worth["drowned"]) < 0.05
    assert abs(worth["gone"]) < 0.05
    assert "still" not in worth


def test_an_encoder_that_lives_passes() -> None:
    health = trained(encoder(), max_norm=1e-3)
    assert [each.step for each in health.history] == [20, 40]
    assert health.report.verdict in ("pass", "warn")
    assert set(health.report.worth) == {"market", "indicator", "position"}
    assert min(health.report.worth.values()) > 0.3
    assert health.report.values["zeros_active"] < 0.05  # type: ignore[operator]  # it is known
    assert health.report.values["structural_flat"] == 0.0  # layer_norm hides columns of 0


def test_a_blind_encoder_fails_without_a_single_zero() -> None:
    health = trained(encoder("none", width=128))
    assert health.report.values["zeros_batch"] == 0.0
    assert health.report.verdict == "fail"
    assert health.report.worth["market"] < 0.1


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "unknown"),
        (dict.fromkeys(ZEROS, 0.0), "unknown"),
        (dict.fromkeys(ZEROS, 0.99), "warn"),
        ({"dormant_active": 0.0, "rank_active": 0.9, "weakest_worth": 0.9}, "pass"),
        ({"dormant_active": 0.0, "rank_active": 0.9, "weakest_worth": 0.0}, "fail"),
        ({"dormant_active": 0.2, "rank_active": 0.9, "weakest_worth": 0.9}, "warn"),
        ({"rank_active": 0.9, "weakest_worth": 0.9}, "unknown"),
        ({"dormant_active": 0.0, "rank_active": float("nan"), "weakest_worth": 0.9}, "unknown"),
    ],
)
def test_the_verdict_is_never_of_zeros_alone(values: dict[str, float], verdict: str) -> None:
    assert Health(1, values, {}, {}).verdict == verdict
    assert set(NEEDED) <= set(LIMITS)


def test_gradients_are_those_before_clipping() -> None:
    made = encoder()
    optimizer = torch.optim.SGD(made.parameters(), 1e-3)
    health = GradientHealth(made, optimizer, every=1, max_norm=1e-7)
    made(windows(8, 0.5)).square().mean().backward()
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in made.parameters()]))  # type: ignore[misc]  # backward() has run
    torch.nn.utils.clip_grad_norm_(made.parameters(), 1e-7)
    optimizer.step()
    values = health.report.values
    assert values["norm_over_clip"] == pytest.approx(norm / 1e-7, rel=1e-4)
    assert values["zeros_batch"] == 0.0
    assert values["zeros_after_clip"] > 0.5  # type: ignore[operator]  # what was first reported
    assert "starved" not in values  # SGD keeps no second moments


def test_measuring_changes_nothing_of_the_training() -> None:
    with_, without = encoder(), encoder()
    health = trained(with_)
    optimizer = torch.optim.Adam(without.parameters(), 1e-3)
    torch.manual_seed(0)
    with_.load_state_dict(encoder().state_dict())
    torch.manual_seed(1)
    health.close()
    other = GradientHealth(with_, torch.optim.Adam(with_.parameters(), 1e-3), every=1)
    for made, steps in ((with_, other.optimizer), (without, optimizer)):
        torch.manual_seed(1)
        for step in range(3):
            steps.zero_grad()
            made(windows(8, 0.5, seed=step)).square().mean().backward()
            steps.step()
    for one, two in zip(with_.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert len(other.history) == 3


def test_closed_it_measures_no_more() -> None:
    made = encoder()
    optimizer = torch.optim.Adam(made.parameters())
    health = GradientHealth(made, optimizer, every=1)
    health.close()
    made(windows(8, 0.5)).sum().backward()
    optimizer.step()
    assert health.history == []


def test_the_shock_at_onset_is_of_when_positions_open() -> None:
    made = encoder()
    optimizer = torch.optim.Adam(made.parameters(), 0.0)
    health = GradientHealth(made, optimizer)
    for step in range(60):
        with torch.no_grad():
            made(windows(8, 0.0 if step < 30 else 1.0))
        health.observe(torch.tensor(2.0 if step < 40 else 14.0))
    assert health.measure().values["onset_shock"] == 7.0
    flat = GradientHealth(made, optimizer)
    for _ in range(60):
        with torch.no_grad():
            made(windows(8, 1.0))
        flat.observe(torch.tensor(1.0))
    assert flat.measure().values["onset_shock"] is None


def test_probes_are_the_first_windows_of_either_kind() -> None:
    collector = Collector(lambda x: x[..., 16] != 0, {"flat": 3, "active": 5})
    collector.see(windows(8, 0.0))
    assert not collector.full
    collector.see(windows(8, 1.0))
    probes = collector.probes
    assert probes.flat is not None
    assert probes.active is not None
    assert (len(probes.flat), len(probes.active)) == (3, 5)
    assert (probes.flat[..., 16:] == 0).all()
    assert (probes.active[..., 16] != 0).all()


def test_a_loss_of_ones_own_decides_the_gradient() -> None:
    made = encoder()
    optimizer = torch.optim.Adam(made.parameters())
    probes = Probes(windows(16, 0.0), windows(16, 1.0))
    nothing = GradientHealth(made, optimizer, probes=probes, loss=lambda x: 0.0 * made(x).sum())
    assert nothing.measure().values["zeros_active"] == 1.0
    assert nothing.report.verdict != "pass"


def test_a_compiled_encoder_is_measured_while_it_trains() -> None:
    made = encoder()
    optimizer = torch.optim.Adam(made.parameters(), 1e-3)
    health = GradientHealth(made, optimizer, every=2)
    torch.compiler.reset()
    compiled = torch.compile(made, backend="aot_eager")
    for step in range(2):
        compiled(windows(64, 0.5, seed=step)).square().mean().backward()
        optimizer.step()
    assert [each.step for each in health.history] == [2]
    assert health.report.values["zeros_batch"] is not None
    assert health.report.values["zeros_flat"] is not None


def test_the_optimizer_has_to_be_the_encoders() -> None:
    with pytest.raises(ConfigError, match="does not train"):
        GradientHealth(encoder(), torch.optim.Adam(encoder().parameters()))


def test_it_is_told_as_text_json_scalars_and_a_drawing(tmp_path: Path) -> None:
    health = trained(encoder())
    document = json.loads(health.report.to_json())
    assert document["verdict"] == health.report.verdict
    assert document["levels"]["dormant_active"] == "ok"
    scalars = health.report.scalars()
    assert {"worth/market", "gradient/position", "zeros_batch"} <= scalars.keys()
    console = Console(record=True, width=80)
    console.print(health.report)
    told = console.export_text()
    for limit in LIMITS.values():
        assert limit.words.strip() in " ".join(told.split()) or limit.words in str(health.report)
    health.plot(tmp_path / "health.svg")
    drawn = (tmp_path / "health.svg").read_text()
    assert "dormant active" in drawn
    assert "nan" not in drawn


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    from featurekit.nn.plot import plot_health

    plot_health([], tmp_path / "none.svg")
    assert "not measured" in (tmp_path / "none.svg").read_text()


def test_measurements_reach_tensorboard(tmp_path: Path) -> None:
    board = pytest.importorskip("torch.utils.tensorboard", reason="needs the extra tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with board.SummaryWriter(str(tmp_path)) as writer:
        health = trained(encoder(), writer=writer)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    points = events.Scalars("health/worth/market")
    assert [point.step for point in points] == [20, 40]
    assert points[-1].value == pytest.approx(health.report.worth["market"], rel=1e-5)


def test_mlflow_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"featurekit\[mlflow\]"):
        trained(encoder(), mlflow=True)


def test_measurements_reach_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, int]] = []

    class Recorder:
        @staticmethod
        def log_metric(name: str, value: float, step: int) -> None:
            logged.append((name, step))

    monkeypatch.setitem(__import__("sys").modules, "mlflow", Recorder)
    trained(encoder(), mlflow=True)
    assert ("health/dormant_active", 40) in logged
