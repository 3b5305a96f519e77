"""The encoder: what its input treatment promises, and that it is saved with the model."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from featurekit.errors import ConfigError, DatasetError
from featurekit.nn import TemporalEncoder
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"a.x{k}" for k in range(6)]


def scaling(rows: np.ndarray, **spec: object) -> Scaling:
    return Scaling.fit(Profile.of(rows, NAMES), ScalingSpec(**spec))  # type: ignore[arg-type]  # as given


def rows(n: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)) * [1e-4, 1.0, 50.0, 1e4, 1.0, 3.0] + [0, 0, 50, 0, 1, 0]
    x[:, 4] = rng.standard_t(2, n)
    return x.astype(np.float32)


@pytest.mark.parametrize("t", [1, 5, 20, 512])
def test_windows_of_any_length_become_vectors(t: int) -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows()))
    assert encoder(torch.zeros(3, t, 6)).shape == (3, 16)


@pytest.mark.parametrize("squash", ["asinh", "none"])
@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_the_prelude_is_the_scaling(kind: str, squash: str) -> None:
    x = rows()
    fitted = scaling(x, kind=kind, squash=squash)
    encoder = TemporalEncoder(6, scaling=fitted)
    inside = torch.from_numpy(fitted.apply(x))
    expected = torch.nn.functional.layer_norm(inside, (6,))
    torch.testing.assert_close(encoder.treat(torch.from_numpy(x)), expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_is_always_there() -> None:
    x = torch.from_numpy(rows(100)).reshape(5, 20, 6)
    for encoder in (TemporalEncoder(6, scaling=scaling(rows())), raw()):
        treated = encoder.treat(x)
        torch.testing.assert_close(treated.mean(-1), torch.zeros(5, 20), rtol=0, atol=1e-5)
        assert treated.abs().max() <= 6**0.5


def raw() -> TemporalEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TemporalEncoder(6, prelude="none", squash="none")


def test_the_original_fix_warns() -> None:
    with pytest.warns(UserWarning, match="layer_norm bounds a row"):
        TemporalEncoder(6, prelude="none", squash="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the statistics"),
        ({"prelude": "fited"}, "fitted | running | none"),
        ({"prelude": "running", "squash": "tanh"}, "asinh | none"),
        ({"scaling": scaling(rows()), "features": NAMES[::-1]}, "of another order"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        TemporalEncoder(6, **options)  # type: ignore[arg-type]  # the mistake under test


def test_statistics_are_frozen_and_saved_with_the_model(tmp_path: Path) -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows()))
    before = encoder.center.clone()
    encoder.train()(torch.from_numpy(rows(40)).reshape(2, 20, 6))
    torch.testing.assert_close(encoder.center, before, rtol=0, atol=0)
    assert {"center", "scale", "squashed"} <= encoder.state_dict().keys()
    encoder.save(tmp_path / "e.safetensors")
    again = TemporalEncoder.load(tmp_path / "e.safetensors")
    x = torch.from_numpy(rows(40)).reshape(2, 20, 6)
    torch.testing.assert_close(again(x), encoder.eval()(x), rtol=0, atol=0)
    assert again.features == tuple(NAMES)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all"])
def test_a_file_that_is_no_encoder_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(DatasetError, match="no saved encoder"):
        TemporalEncoder.load(tmp_path / "e")


def test_running_statistics_follow_in_training_only() -> None:
    x = torch.from_numpy(rows(4000)).reshape(200, 20, 6)
    encoder = TemporalEncoder(6, prelude="running")
    encoder.train()
    for part in x.split(20):
        encoder(part)
    flat = x.reshape(-1, 6).double()
    torch.testing.assert_close(encoder.center.double(), flat.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        encoder.scale.double(), flat.std(0, correction=0), rtol=1e-3, atol=1e-6
    )
    before = encoder.scale.clone()
    encoder.eval()(x * 100)
    torch.testing.assert_close(encoder.scale, before, rtol=0, atol=0)


def test_other_features_than_the_encoders_are_refused() -> None:
    encoder = TemporalEncoder(6, scaling=scaling(rows()))
    names = [*NAMES[:3], "a.x9", *NAMES[4:]]
    batch = SimpleNamespace(features=torch.zeros(2, 5, 6), names=names)
    with pytest.raises(ConfigError, match=r"(?s)feature 4.*a\.x3.*a\.x9"):
        encoder(batch)


def test_masked_rows_do_not_count() -> None:
    encoder = TemporalEncoder(6, scaling=scaling(rows())).eval()
    x = torch.from_numpy(rows(40)).reshape(2, 20, 6)
    changed = x.clone()
    changed[:, 15:] = 7.0
    mask = torch.arange(20).expand(2, 20) < 15
    torch.testing.assert_close(encoder(x, mask), encoder(changed, mask))
    assert not torch.allclose(encoder(x), encoder(changed))


def test_gradients_reach_projection_and_pooling() -> None:
    encoder = TemporalEncoder(6, scaling=scaling(rows()))
    encoder(torch.from_numpy(rows(400)).reshape(20, 20, 6)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def dying(encoder: torch.nn.Module, project: torch.nn.Linear, n: int) -> float:
    """Share of hidden units that no active row fires, after positions open halfway. Simulated."""
    generator = torch.Generator().manual_seed(3)
    head = torch.nn.Linear(project.out_features, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-3)
    for step in range(n):
        x = torch.randn(32, 20, 24, generator=generator)
        truth = x[:, -1, :4].sum(-1, keepdim=True)
        active = step >= n // 2
        x[:, :, 12:] *= 1e4 if active else 0.0
        loss = (head(encoder(x)) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], 0.5)
        optimizer.step()
    gradient = project.weight.grad
    assert gradient is not None
    return float((gradient == 0).float().mean())


def test_the_treatment_keeps_the_gradient_alive_when_positions_open() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(4000, 24)).astype(np.float32)
    x[:, 12:] *= 1e4
    x[::2, 12:] = 0.0
    names = [f"a.x{k}" for k in range(24)]
    fitted = Scaling.fit(Profile.of(x, names), ScalingSpec())
    treated = TemporalEncoder(24, 64, scaling=fitted)
    assert dying(treated, treated.temporal_projection, 400) < 0.05


def test_torch_is_not_needed_to_read_rows() -> None:
    import subprocess
    import sys

    code = "import sys, featurekit.build, featurekit.dataset; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
