"""GradientHealth: whether an encoder lives, measured while it trains in any loop.

Axes: n windows, T rows of a window, F features, N rows of all windows, D units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from featurekit.errors import ConfigError, MissingExtraError, Problem
from featurekit.nn.probes import Collector, Phase, Probes, phase_of
from featurekit.nn.vital_report import Health
from featurekit.nn.vitals import (
    block_shares,
    block_worth,
    blocks_of,
    dormant,
    duplicates,
    effective_rank,
    questions,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch.utils.hooks import RemovableHandle

    from featurekit.nn.encoder import TemporalEncoder


AHEAD = 20  # batches that activity is the mean of
BEFORE = 10  # losses before onset, at least
ONSET = 0.1  # share of active rows from which on positions are open


class GradientHealth:
    """Measures an encoder every so many steps of its optimizer; hooks do it, whatever the loop.

    Gradients are read as backward leaves them, before anything clips them. Everything else is
    measured in eval on two fixed probe batches, flat and active; without `probes` they are the
    first windows of either kind that the encoder sees.

    Args:
        encoder: The encoder, not compiled; its compiled form may train.
        optimizer: Its steps are counted. All of its parameters count for the norm.
        probes: `Probes.from_dataset(dataset)`, or windows of one's own.
        loss: Of windows [n, T, F], to take the probes' gradients of; by default a fixed random
            read-out of the encoder's output, as which units pass a gradient is not the loss's.
        every: Steps between two measurements.
        max_norm: That of `clip_grad_norm_`, if the loop clips.
        active: Tells of rows [..., F] which are active; by default `position.side` is not 0.
        writer: A TensorBoard `SummaryWriter`, to which each measurement is written.
        mlflow: Whether to log each measurement to MLflow's active run.

    Raises:
        ConfigError: when the encoder is not the optimizer's.
        MissingExtraError: when MLflow is asked for and not installed.

    Example:
        >>> from featurekit.nn import TemporalEncoder
        >>> encoder = TemporalEncoder(4, 8, prelude="running")
        >>> optimizer = torch.optim.Adam(encoder.parameters())
        >>> health = GradientHealth(encoder, optimizer, every=2)
        >>> for _ in range(2):
        ...     loss = encoder(torch.randn(32, 20, 4)).square().mean()
        ...     loss.backward()
        ...     health.observe(loss)
        ...     optimizer.step()
        >>> health.report.step, sorted(health.report.worth)
        (2, ['all'])
    """

    def __init__(
        self,
        encoder: TemporalEncoder,
        optimizer: torch.optim.Optimizer,
        *,
        probes: Probes | None = None,
        loss: Callable[[Tensor], Tensor] | None = None,
        every: int = 100,
        max_norm: float | None = None,
        active: Phase | None = None,
        writer: Any = None,  # noqa: ANN401  # a SummaryWriter, or anything with add_scalar
        mlflow: bool = False,
    ) -> None:
        self.encoder, self.optimizer, self.every, self.max_norm = (
            encoder,
            optimizer,
            every,
            max_norm,
        )
        self.weight = encoder.temporal_projection.weight
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not any(each is self.weight for each in parameters):
            raise ConfigError(
                Problem(
                    "the optimizer does not train this encoder's temporal_projection",
                    where="GradientHealth(encoder, optimizer)",
                    fix="torch.optim.Adam(encoder.parameters())",
                )
            )
        self.phase = active or phase_of(encoder.features)
        self.loss = loss or self._read_out
        self.blocks = blocks_of(encoder.features, self.weight.shape[1])
        self.steps, self.history = 0, list[Health]()
        self.writer, self._mlflow = writer, _mlflow() if mlflow else None
        self._probes, self._collector = probes, None if probes else Collector(self.phase)
        self._asked: tuple[Tensor, Tensor] | None = None  # active windows, what is asked of them
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._gradient: Tensor | None = None
        self._squares: dict[int, Tensor] = {}
        self._parameters = parameters
        self._handles = [
            encoder.register_forward_pre_hook(torch.compiler.disable(self._look)),  # type: ignore[no-untyped-call]  # torch has none
            optimizer.register_step_post_hook(self._stepped),
        ]
        self._reading: list[RemovableHandle] = []  # of gradients, at the steps that are measured
        self._read_if_due()

    @property
    def report(self) -> Health:
        """The last measurement, or one of now if there is none yet."""
        return self.history[-1] if self.history else self.measure()

    def observe(self, loss: Tensor) -> None:
        """Notes a batch's loss, for the shock at onset; nothing waits for the device."""
        self._losses.append(loss.detach())

    def close(self) -> None:
        """Removes all hooks; what was measured stays."""
        for handle in (*self._handles, *self._reading):
            handle.remove()
        self._handles, self._reading = [], []

    def measure(self) -> Health:
        """Measures now, and adds it to `history` and to what is logged to."""
        training = self.encoder.training
        self.encoder.eval()
        try:
            health = self._measured()
        finally:
            self.encoder.train(training)
        self.history.append(health)
        for name, value in health.scalars().items():
            if self.writer is not None:
                self.writer.add_scalar(f"health/{name}", value, health.step)
            if self._mlflow is not None:
                self._mlflow.log_metric(f"health/{name}", value, step=health.step)
        return health

    def plot(self, path: str | Path) -> None:
        """Draws all measurements over the steps into an SVG file."""
        from featurekit.nn.plot import plot_health

        plot_health(self.history, path)

    # --- hooks ------------------------------------------------------------------------------------

    def _read_if_due(self) -> None:
        """Reads the gradients of the next step, if it is one that is measured."""
        if (self.steps + 1) % self.every == 0:
            self._reading = [
                each.register_post_accumulate_grad_hook(self._accumulated)
                for each in self._parameters
            ]

    def _look(self, encoder: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not encoder.training:
            return
        x = arguments[0] if isinstance(arguments[0], Tensor) else arguments[0].features
        if self.phase is not None:
            self._shares.append(self.phase(x.detach()[:, -1]).float().mean())
        if self._collector is not None:
            self._collector.see(x)
            if self._collector.full:
                self._probes, self._collector = self._collector.probes, None

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._squares[id(parameter)] = parameter.grad.detach().float().square().sum()
            if parameter is self.weight:
                self._gradient = parameter.grad.detach().clone()

    def _stepped(self, *_: object) -> None:
        self.steps += 1
        if self._reading:
            for handle in self._reading:
                handle.remove()
            self._reading = []
            self.measure()
            self._squares.clear()
        self._read_if_due()

    # --- what is measured -------------------------------------------------------------------------

    def _measured(self) -> Health:
        values: dict[str, float | None] = self._of_training()
        probes = self._probes or (self._collector.probes if self._collector else Probes(None, None))
        gradient, worth = dict[str, float](), dict[str, float]()
        for phase, windows in probes.phases.items():
            if windows is None:
                continue
            x = windows.to(self.weight.device)
            gradient_DF, seen_NF, h_ND = self._passed(x)
            found = zeros(gradient_DF, seen_NF)
            values |= {
                f"zeros_{phase}": found.dead + found.scattered,
                f"structural_{phase}": found.structural,
                f"dead_rows_{phase}": found.dead,
                f"scattered_{phase}": found.scattered,
                f"duplicates_{phase}": duplicates(gradient_DF),
            }
            values[f"dormant_{phase}"] = dormant(h_ND)
            if phase == "active":
                gradient = block_shares(gradient_DF, self.blocks)
                if self._asked is None or self._asked[0] is not windows:
                    self._asked = windows, questions(x.flatten(0, 1))
                worth = block_worth(h_ND, self._asked[1], self._featured)
                values["rank_active"] = effective_rank(h_ND)
                values["weakest_gradient"] = _least(gradient)
                values["weakest_worth"] = _least(worth)
        return Health(self.steps, values, gradient, worth)

    @property
    def _featured(self) -> dict[str, list[int]]:
        width = int(self.encoder.config["n_features"])
        return {name: places for name, places in self.blocks.items() if places[-1] < width}

    def _of_training(self) -> dict[str, float | None]:
        values: dict[str, float | None] = {"onset_shock": self._shock()}
        if self._gradient is not None:
            values["zeros_batch"] = zeros(self._gradient).total
            norm = (
                float(torch.stack([*self._squares.values()]).sum().sqrt()) if self._squares else 0.0
            )
            clipped = 1.0
            if self.max_norm is not None and norm > 0.0:
                values["norm_over_clip"] = norm / self.max_norm
                clipped = min(1.0, self.max_norm / norm)
            values["norm"] = norm
            tiny = (self._gradient.abs() * clipped) < 1e-8
            values["zeros_after_clip"] = float(tiny.float().mean())
        state = self.optimizer.state.get(self.weight, {})
        if "exp_avg_sq" in state:
            eps = next(
                group["eps"]
                for group in self.optimizer.param_groups
                if any(each is self.weight for each in group["params"])
            )
            values["starved"] = float((state["exp_avg_sq"].sqrt() < eps).float().mean())
        return values

    def _passed(self, x_nTF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the projection's weight on windows, its inputs, its units' outputs.

        The gradient is taken apart from those of training, and no hook of theirs is run.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        handle = self.encoder.temporal_projection.register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0], output))
        )
        try:
            with torch.enable_grad():
                loss = self.loss(x_nTF)
                (gradient,) = torch.autograd.grad(loss, [self.weight], allow_unused=True)
        finally:
            handle.remove()
        inputs, output = (each.detach().flatten(0, 1) for each in seen[0])
        gradient = torch.zeros_like(self.weight) if gradient is None else gradient
        return gradient.float(), inputs, self.encoder.activation(output).float()

    def _read_out(self, x_nTF: Tensor) -> Tensor:
        z_nD = self.encoder(x_nTF).float()
        direction = torch.randn(z_nD.shape, generator=torch.Generator().manual_seed(0))
        total: Tensor = (z_nD * direction.to(z_nD.device)).sum() / len(z_nD)
        return total

    def _shock(self) -> float | None:
        """The largest loss since positions opened over the median before."""
        n = min(len(self._losses), len(self._shares))
        if n < AHEAD:
            return None
        shares, losses = (torch.stack(each[:n]).cpu() for each in (self._shares, self._losses))
        open_ = shares.unfold(0, AHEAD, 1).mean(-1) > ONSET  # from each batch on
        onset = int(open_.float().argmax())
        if onset < BEFORE or not open_[onset]:
            return None
        return float(losses[onset:].max() / losses[:onset].median())


def _least(each: Mapping[str, float]) -> float | None:
    return min(each.values()) if len(each) > 1 else None


def _mlflow() -> Any:  # noqa: ANN401  # a module without types
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtraError(
            Problem(
                "measurements are logged with mlflow",
                where="GradientHealth(..., mlflow=True)",
                expected="the extra 'mlflow'",
                got=str(error),
                fix='pip install "featurekit[mlflow]"',
            )
        ) from error
    return mlflow
