"""The encoder: what its input treatment promises, and that it is saved with the model."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from featurekit.errors import ConfigError, DatasetError
from featurekit.nn import TemporalEncoder
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAMES = [f"a.x{k}" for k in range(6)]


def scaling(rows: np.ndarray, names: Sequence[str] = NAMES, **spec: object) -> Scaling:
    return Scaling.fit(Profile.of(rows, names), ScalingSpec(**spec))  # type: ignore[arg-type]  # as given


def rows(n: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)) * [1e-4, 1.0, 50.0, 1e4, 1.0, 3.0] + [0, 0, 50, 0, 1, 0]
    x[:, 4] = rng.standard_t(2, n)
    return x.astype(np.float32)


@pytest.mark.parametrize("t", [1, 5, 20, 512])
def test_windows_of_any_length_become_vectors(t: int) -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows()))
    assert encoder(torch.zeros(3, t, 6)).shape == (3, 16)


@pytest.mark.parametrize("squash", ["asinh", "clip", "none"])
@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_the_prelude_is_the_scaling(kind: str, squash: str) -> None:
    x = rows()
    fitted = scaling(x, kind=kind, squash=squash)
    encoder = TemporalEncoder(6, scaling=fitted)
    inside, windows = torch.from_numpy(fitted.apply(x)), torch.from_numpy(x)[:, None]
    torch.testing.assert_close(encoder.prelude(windows)[:, 0], inside, rtol=1e-6, atol=1e-6)
    expected = torch.nn.functional.layer_norm(inside, (6,))
    torch.testing.assert_close(encoder.treat(windows)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_each_feature_has_the_squash_of_its_scaling() -> None:
    x = rows()
    own = {"a.x0": Treatment(squash="clip"), "a.x3": Treatment(squash="none")}
    fitted = scaling(x, features=own)
    inside = TemporalEncoder(6, scaling=fitted).prelude(torch.from_numpy(x)[:, None])[:, 0]
    torch.testing.assert_close(inside, torch.from_numpy(fitted.apply(x)), rtol=1e-6, atol=1e-6)


def test_a_price_that_hardly_moves_keeps_its_digits() -> None:
    x = (18_000 + np.random.default_rng(0).normal(size=(4000, 6))).astype(np.float32)
    fitted = scaling(x)
    inside = TemporalEncoder(6, scaling=fitted).prelude(torch.from_numpy(x)[:, None])[:, 0]
    torch.testing.assert_close(inside, torch.from_numpy(fitted.apply(x)), rtol=1e-6, atol=1e-6)


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
        ({"prelude": "running", "squash": "tanh"}, "asinh | clip | none"),
        ({"prelude": "running", "activation": "tanh"}, "relu | gelu | silu"),
        ({"prelude": "running", "layers": 1, "heads": 5}, "do not share"),
        ({"scaling": scaling(rows()), "norm": "block"}, "a of 6"),
        ({"prelude": "none", "norm": "block", "features": NAMES}, "does not scale"),
        ({"scaling": scaling(rows()), "features": NAMES[::-1]}, "of another order"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        TemporalEncoder(6, **options)  # type: ignore[arg-type]  # the mistake under test


def windows(n: int = 2) -> torch.Tensor:
    return torch.from_numpy(rows(20 * n)).reshape(n, 20, 6)


def test_statistics_are_frozen_and_part_of_the_state() -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows()))
    before = encoder.prelude.center.clone()
    encoder.train()(windows())
    torch.testing.assert_close(encoder.prelude.center, before, rtol=0, atol=0)
    other = TemporalEncoder(6, 16, scaling=scaling(rows() * 3, squash="clip"))
    other.load_state_dict(encoder.state_dict())
    x = windows()
    torch.testing.assert_close(other.eval()(x), encoder.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: TemporalEncoder(6, 16, prelude="running"), "of another prelude"),
        (lambda: TemporalEncoder(6, 16, scaling=scaling(rows(), NAMES[::-1])), "feature 1"),
    ],
)
def test_a_state_of_other_features_is_refused(
    other: Callable[[], TemporalEncoder], message: str
) -> None:
    state = TemporalEncoder(6, 16, scaling=scaling(rows())).state_dict()
    with pytest.raises(ConfigError, match=message):
        other().load_state_dict(state)


OPTIONS: list[dict[str, Any]] = [
    {"scaling": scaling(rows())},
    {"scaling": scaling(rows(), squash="clip"), "layers": 2, "heads": 2, "activation": "silu"},
    {"prelude": "running", "squash": "clip", "side_channel": True, "features": NAMES},
    {"prelude": "running", "squash": "none", "activation": "gelu"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_saved_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    encoder = TemporalEncoder(6, 16, **options)
    encoder(windows())
    encoder.save(tmp_path / "e.safetensors", note="mine")
    again = TemporalEncoder.load(tmp_path / "e.safetensors")
    x = windows()
    torch.testing.assert_close(again(x), encoder.eval()(x), rtol=0, atol=0)
    assert (again.features, again.config) == (encoder.features, encoder.config)


@pytest.mark.parametrize("options", OPTIONS)
def test_it_compiles_without_a_graph_break(options: dict[str, Any]) -> None:
    encoder = TemporalEncoder(6, 16, **options, dropout=0.0)
    torch.compiler.reset()  # older versions compile a function only so many times
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    x, mask = windows(), torch.arange(20).expand(2, 20) < 15
    torch.testing.assert_close(compiled(x, mask), encoder(x, mask))
    encoder.eval()
    torch.testing.assert_close(compiled(x), encoder(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_onnx_is_what_pytorch_is(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    encoder = TemporalEncoder(6, 16, **options)
    encoder(windows(100))
    encoder.to_onnx(tmp_path / "e.onnx")
    assert encoder.training
    x = windows(7)
    session = runtime.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    (z,) = session.run(["z"], {"features": x.numpy()})
    np.testing.assert_allclose(z, encoder.eval()(x).detach().numpy(), rtol=0, atol=1e-5)


def test_bfloat16_scales_in_float32() -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows())).eval()
    x, expected = windows(), encoder(windows())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(x).float(), expected, rtol=0, atol=0.02)
        encoder(x).square().sum().backward()
    encoder.bfloat16()
    assert encoder.prelude.center.dtype == torch.float32
    torch.testing.assert_close(encoder(x).float(), expected, rtol=0, atol=0.02)


def test_the_input_has_a_gradient_if_it_asks_for_one() -> None:
    encoder = TemporalEncoder(6, 16, scaling=scaling(rows())).eval()
    x = windows().requires_grad_()
    encoder(x).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()
    assert not encoder.treat(windows()).requires_grad


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
    torch.testing.assert_close(encoder.prelude.center.double(), flat.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        1 / encoder.prelude.gain.double(), flat.std(0, correction=0), rtol=1e-3, atol=1e-6
    )
    before = encoder.prelude.gain.clone()
    encoder.eval()(x * 100)
    torch.testing.assert_close(encoder.prelude.gain, before, rtol=0, atol=0)


def test_running_statistics_leave_out_holes_and_masked_rows() -> None:
    x = windows(50)
    mask = torch.ones(50, 20, dtype=torch.bool)
    mask[:, :5] = False
    holed = x.clone()
    holed[:, :5] = 1e9
    holed[0, 7, 2] = torch.nan
    mask[0, 7] = False
    known = x[mask].double()
    encoder = TemporalEncoder(6, prelude="running")
    encoder(holed, mask)
    assert encoder.prelude.seen == len(known)
    torch.testing.assert_close(encoder.prelude.center.double(), known.mean(0), rtol=1e-3, atol=1e-4)


def test_running_statistics_of_nothing_are_refused_in_eval() -> None:
    encoder = TemporalEncoder(6, prelude="running").eval()
    with pytest.raises(ConfigError, match="seen no row"):
        encoder(windows())


def test_a_feature_that_wakes_up_while_statistics_run_is_0_until_then() -> None:
    encoder = TemporalEncoder(6, prelude="running", squash="none")
    x = windows()
    x[..., 3] = 5.0
    assert (encoder.prelude(x)[..., 3] == 0).all()
    x[..., 3] = torch.randn(2, 20) * 1e4
    assert 0.5 < encoder.prelude(x)[..., 3].std() < 2.0


def test_blocks_are_normalised_by_themselves_before_the_row() -> None:
    names = [f"{block}.x{k}" for block in "ab" for k in range(8)]
    x = torch.randn(4000, 16).numpy()
    encoder = TemporalEncoder(16, scaling=scaling(x, names), norm="block")
    treated = encoder.treat(torch.from_numpy(x).reshape(200, 20, 16))
    torch.testing.assert_close(treated[..., :8].mean(-1), torch.zeros(200, 20), atol=1e-5, rtol=0)
    spread = treated[..., 8:].std(-1, correction=0)
    torch.testing.assert_close(spread, torch.ones(200, 20), atol=1e-3, rtol=0)


def test_the_side_channel_tells_what_layer_norm_takes_away() -> None:
    encoder = TemporalEncoder(6, prelude="running", squash="none", side_channel=True)
    x = windows()
    scaled = encoder.prelude(x)
    encoder.eval()
    side = encoder.treat(x)[..., 6:]
    torch.testing.assert_close(side[..., 0], scaled.mean(-1))
    torch.testing.assert_close(side[..., 1].exp(), scaled.square().mean(-1).sqrt())


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
    mask = torch.stack([mask[0], torch.zeros(20, dtype=torch.bool)])
    changed[:, 15:] = torch.nan
    for each in (encoder, TemporalEncoder(6, scaling=scaling(rows()), layers=1).eval()):
        z = each(changed, mask)
        assert z.isfinite().all()
        assert (z[1] == 0).all()


@pytest.mark.parametrize("shape", [(2, 20, 5), (2, 513, 6)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="not of the encoder's shape"):
        TemporalEncoder(6, scaling=scaling(rows()))(torch.zeros(shape))


def test_gradients_reach_every_layer() -> None:
    encoder = TemporalEncoder(6, scaling=scaling(rows()), layers=1)
    encoder(torch.from_numpy(rows(400)).reshape(20, 20, 6)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_a_prelude_the_audits_numbers_of_the_dataset_are_told(tmp_path: Path) -> None:
    x = rows()
    dataset = SimpleNamespace(
        names=tuple(NAMES),
        features=[SimpleNamespace(block="a")] * 6,
        starts=lambda split, window, targets: np.arange(4000),
        take=lambda numbers: x[numbers],
    )
    with pytest.warns(UserWarning, match=r"a\.x3 is then \d\d\.\d% of the squared norm") as told:
        TemporalEncoder.from_dataset(dataset, prelude="none", squash="none")  # type: ignore[arg-type]  # as far as it is read
    assert len(told) == 1


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
