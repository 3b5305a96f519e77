"""The report of GradientHealth: its lines, their limits, the verdict; as text, JSON and scalars."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Limit(NamedTuple):
    """What a line says, and where it is good and where it fails; None: information only."""

    words: str
    good: float | None = None
    bad: float | None = None
    share: bool = True

    def level(self, value: float | None) -> str:
        """`ok`, `warn`, `fail`, `info`, or `unknown` of what could not be measured.

        Example:
            >>> Limit("dormant units", 0.10, 0.25).level(0.2)
            'warn'
        """
        if value is None or math.isnan(value):
            return "unknown"
        if self.good is None or self.bad is None:
            return "info"
        sign = 1.0 if self.bad > self.good else -1.0
        if sign * value > sign * self.bad:
            return "fail"
        return "ok" if sign * value <= sign * self.good else "warn"


LIMITS = {
    "zeros_batch": Limit("gradient zeros, exact, last batch", 0.05, 0.25),
    "zeros_flat": Limit("gradient zeros, exact, flat", 0.05, 0.25),
    "zeros_active": Limit("gradient zeros, exact, active", 0.05, 0.25),
    "structural_flat": Limit("  of columns that are 0 while flat"),
    "structural_active": Limit("  of columns that are 0 in a position"),
    "dead_rows_active": Limit("  of units without any gradient, active"),
    "scattered_active": Limit("  scattered, active"),
    "zeros_after_clip": Limit("gradient below 1e-8 after clipping (as first reported)"),
    "starved": Limit("starved by the optimiser, sqrt(v) < eps", 0.05, 0.20),
    "duplicates_flat": Limit("duplicate columns of the gradient, flat"),
    "duplicates_active": Limit("duplicate columns of the gradient, active", 0.10, 0.20),
    "dormant_flat": Limit("dormant units, flat", 0.10, 0.25),
    "dormant_active": Limit("dormant units, active", 0.10, 0.25),
    "rank_active": Limit("effective rank of the units / width, active", 0.60, 0.40),
    "weakest_gradient": Limit("gradient share of the weakest block, active", 0.10, 0.05),
    "weakest_worth": Limit("information left of the weakest block, R2", 0.30, 0.10, share=False),
    "norm_over_clip": Limit("gradient norm / max_norm", 10.0, 100.0, share=False),
    "onset_shock": Limit("loss at onset / median before", 3.0, 10.0, share=False),
}
ZEROS = ("zeros_batch", "zeros_flat", "zeros_active")
NEEDED = ("dormant_active", "rank_active", "weakest_worth")  # to say that an encoder lives
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "info": "dim", "unknown": "dim"}


@dataclass(frozen=True, slots=True)
class Health:
    """One measurement of an encoder in training: numbers by the names in `LIMITS`, None: unknown.

    `gradient` and `worth` are, of each block, its share of the gradient's square and the R2 of its
    features from the units' outputs, both while active.

    Example:
        >>> Health(100, {"zeros_batch": 0.0, "dormant_active": 0.9}, {}, {}).verdict
        'fail'
        >>> Health(100, {"zeros_batch": 0.0}, {}, {}).verdict
        'unknown'
    """

    step: int
    values: dict[str, float | None]
    gradient: dict[str, float]
    worth: dict[str, float]

    @property
    def levels(self) -> dict[str, str]:
        """What is to be thought of each line."""
        return {name: limit.level(self.values.get(name)) for name, limit in LIMITS.items()}

    @property
    def verdict(self) -> str:
        """`pass`, `warn`, `fail`, or `unknown` where what tells was not measured.

        Never from zeros alone: blind encoders have none, so that few of them prove nothing, and
        many of them are a warning until something else agrees.
        """
        levels = self.levels
        others = [level for name, level in levels.items() if name not in ZEROS]
        if "fail" in others:
            return "fail"
        if "warn" in others or any(levels[name] in ("warn", "fail") for name in ZEROS):
            return "warn"
        return "unknown" if any(levels[name] == "unknown" for name in NEEDED) else "pass"

    def scalars(self) -> dict[str, float]:
        """What is known, by names as TensorBoard and MLflow take them."""
        known = {name: value for name, value in self.values.items() if value is not None}
        for kind, each in (("gradient", self.gradient), ("worth", self.worth)):
            known |= {f"{kind}/{block}": value for block, value in each.items()}
        return known

    def to_json(self) -> str:
        """One JSON object: step, verdict, values, levels, and both of each block."""
        document = asdict(self) | {"verdict": self.verdict, "levels": self.levels}
        return json.dumps(_finite(document), sort_keys=True)

    def __str__(self) -> str:
        lines = [f"gradient health at step {self.step}: {self.verdict}"]
        lines += [
            f"  {limit.words:<52} {told(limit, self.values.get(name)):>8}  {self.levels[name]}"
            for name, limit in LIMITS.items()
        ]
        for words, each in (("gradient share", self.gradient), ("information, R2", self.worth)):
            blocks = "  ".join(f"{block} {value:.2f}" for block, value in each.items())
            lines += [f"  {words} of each block, active: {blocks}"] if each else []
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = {"pass": "green", "unknown": "dim"}.get(self.verdict, STYLES.get(self.verdict, ""))
        yield f"gradient health at step {self.step}: [{style}]{self.verdict}[/]"
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(min_width=48)
        table.add_column(justify="right")
        for name, limit in LIMITS.items():
            level = self.levels[name]
            shown = "" if level in ("info", "unknown") else level
            style = STYLES[level]
            value = told(limit, self.values.get(name))
            table.add_row(*(f"[{style}]{text}[/]" for text in (limit.words, value, shown)))
        yield table
        blocks = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        blocks.add_column("block, active", min_width=20)
        blocks.add_column("gradient share", justify="right")
        blocks.add_column("information, R2", justify="right")
        for block in dict.fromkeys([*self.gradient, *self.worth]):
            numbers = (
                "-" if value is None else f"{value:.2f}"
                for value in (self.gradient.get(block), self.worth.get(block))
            )
            blocks.add_row(block, *numbers)
        if self.gradient or self.worth:
            yield blocks


def told(limit: Limit, value: float | None) -> str:
    """A value as it is read: a share in percent.

    Example:
        >>> told(LIMITS["starved"], 0.05), told(LIMITS["onset_shock"], 2.0)
        ('5.0%', '2.00')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.1%}" if limit.share else f"{value:,.2f}"


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
