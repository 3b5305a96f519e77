"""What the probe and the replay look like: in the terminal, and as a drawing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from featurekit.nn.plot import Panel, draw
from featurekit.nn.probe import Probed, advice
from featurekit.nn.reproduce import ONSET, Promises, Replay, means
from featurekit.nn.treatments import TREATMENTS
from featurekit.nn.vital_report import LIMITS, STYLES, told

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

BARS = " ▁▂▃▄▅▆▇█"
SHOWN = {
    "zeros_batch": "gradient zeros, last batch",
    "zeros_active": "gradient zeros, active",
    "dormant_active": "dormant units, active",
    "rank_active": "effective rank, active",
    "weakest_gradient": "gradient of weakest block",
}
# What was promised of the default treatment: the words, the bound, and whether it is a lower one.
PROMISED = {
    "zeros_before": ("gradient zeros before onset", 0.05, False),
    "zeros_after": ("gradient zeros after", 0.05, False),
    "corr_activity": ("zeros' correlation with activity", 0.2, False),
    "dormant_active": ("dormant units, active", 0.10, False),
    "r2_active": ("R2 on active bars", 0.70, True),
    "pooling_cv": ("variation of pooling gradient", 0.6, False),
    "onset_peak": ("loss at onset / median before", 2.0, False),
}
TIMES_LAYER_NORM = 2.5  # that R2 is to be of that of layer_norm alone
SHARES = ("zeros_before", "zeros_after", "dormant_active")


def render_probe(probed: Sequence[Probed], console: Console) -> None:
    """The treatments side by side: health, information of each block, loss by phase; the advice."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"after {len(probed[0].record.loss)} updates", no_wrap=True)
    for each in probed:
        table.add_column(each.treatment, justify="right")
    verdicts = (each.health.verdict for each in probed)
    table.add_row("verdict", *(_styled(_level(verdict), verdict) for verdict in verdicts))
    for name, words in SHOWN.items():
        cells = (
            _styled(each.health.levels[name], told(LIMITS[name], each.health.values.get(name)))
            for each in probed
        )
        table.add_row(words, *cells)
    for block in dict.fromkeys(block for each in probed for block in each.health.worth):
        cells = (_worth(each.health.worth.get(block)) for each in probed)
        table.add_row(f"information of {block}, R2", *cells)
    for phase in dict.fromkeys(phase for each in probed for phase in each.losses):
        cells = (_number(each.losses.get(phase)) for each in probed)
        table.add_row(f"loss on validation, {phase}", *cells)
    table.add_row("zeros over the updates", *(_bars(each.record.zeros) for each in probed))
    console.print(table)
    for each in probed:
        console.print(f"[dim]{each.treatment}: {TREATMENTS[each.treatment].words}[/]")
    console.print(advice(probed))


def plot_probe(probed: Sequence[Probed], path: str | Path) -> None:
    """Draws zeros, loss, dormant units and the weakest block's information of each treatment."""

    def of(name: str) -> dict[str, tuple[list[float], list[float]]]:
        return {
            each.treatment: (
                [float(health.step) for health in each.history],
                [value if (value := health.values.get(name)) is not None else np.nan
                 for health in each.history],
            )
            for each in probed
        }  # fmt: skip

    panels = [
        Panel("gradient zeros", _smooth(probed, "zeros"), bounds=(0.0, 1.0)),
        Panel("loss", _smooth(probed, "loss"), log=True),
        Panel("dormant units, active", of("dormant_active"), bounds=(0.0, 1.0)),
        Panel("information of the weakest block, R2", of("weakest_worth"), bounds=(0.0, 1.0)),
    ]
    draw(panels, path, "featurekit probe: the same windows under each input treatment")


def kept(found: dict[str, Promises]) -> dict[str, bool]:
    """Which promises the default treatment keeps."""
    default = asdict(found["default"])
    held = {
        name: default[name] >= bound if least else abs(default[name]) < bound
        for name, (_, bound, least) in PROMISED.items()
    }
    if "layer_norm" in found:
        least = TIMES_LAYER_NORM * found["layer_norm"].r2_active
        held["r2_active"] = held["r2_active"] and default["r2_active"] >= least
    return held


def render_replays(replays: Sequence[Replay], console: Console) -> None:
    """The promises under each treatment, what raw, layer_norm and the default do; simulated."""
    found, seeds = means(replays), len({replay.seed for replay in replays})
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"simulated, mean of {seeds} seeds", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right")
    table.add_column("promised", justify="right")
    held = kept(found) if "default" in found else {}
    for name, (words, bound, least) in PROMISED.items():
        cells = []
        for treatment, each in found.items():
            shown = _promise(name, getattr(each, name))
            level = {True: "ok", False: "fail"}.get(held[name]) if treatment == "default" else None
            cells.append(_styled(level or "plain", shown))
        table.add_row(words, *cells, f"{'>=' if least else '<'} {_promise(name, bound)}")
    worth = {name: [each.worth for each in replays if each.treatment == name] for name in found}
    for block in replays[0].worth:
        cells = [f"{np.mean([each[block] for each in worth[name]]):.2f}" for name in found]
        table.add_row(f"information of {block}, R2", *cells)
    for name, words in (("zeros", "zeros over the updates"), ("loss", "loss, log")):
        cells = []
        for treatment in found:
            first = next(each for each in replays if each.treatment == treatment)
            cells.append(_bars(getattr(first.record, name), log=name == "loss"))
        table.add_row(words, *cells)
    console.print(table)
    console.print(f"positions open at {ONSET:.0%} of the updates; the bars are of the first seed")
    for line in _findings(found, worth):
        console.print(line)


def plot_replays(replays: Sequence[Replay], path: str | Path) -> None:
    """Draws zeros, loss, the pooling's gradient and activity over the updates of the first seed."""
    first = [each for each in replays if each.seed == replays[0].seed]
    marks = {"positions open": ONSET * len(first[0].record.loss)}
    active = {"active windows": _averaged(first[0].record.activity)}
    draw(
        [
            Panel(
                "gradient zeros, before clipping",
                _smooth(first, "zeros"),
                bounds=(0.0, 1.0),
                marks=marks,
            ),
            Panel("loss", _smooth(first, "loss", largest=True), log=True, marks=marks),
            Panel(
                "gradient norm of the pooling, after clipping",
                _smooth(first, "pooling"),
                marks=marks,
            ),
            Panel("share of windows in a position", active, bounds=(0.0, 1.0), marks=marks),
        ],
        path,
        "featurekit probe --reproduce, simulated stream: means (loss: maxima) of 15 updates",
    )


def _findings(found: dict[str, Promises], worth: dict[str, list[dict[str, float]]]) -> list[str]:
    lines = []
    if raw := found.get("raw"):
        lines.append(
            f"raw dies: zeros rise from {raw.zeros_before:.0%} to {raw.zeros_after:.0%} with "
            f"activity (r {raw.corr_activity:+.2f}), and the loss peaks at {raw.onset_peak:,.0f} "
            "times its median."
        )
    if alone := found.get("layer_norm"):
        blind = [
            block
            for block in worth["layer_norm"][0]
            if np.mean([each[block] for each in worth["layer_norm"]]) < 0.1
        ]
        lines.append(
            f"layer_norm alone, the original fix, repairs the loss (peak {alone.onset_peak:.1f}) "
            f"and the zeros before ({alone.zeros_before:.0%}); it does not repair the zeros after "
            f"({alone.zeros_after:.0%}), the dormant units ({alone.dormant_active:.0%}) or what is "
            f"learned (R2 {alone.r2_active:.2f}; nothing is left of "
            f"{' and '.join(blind) or 'no block'})."
        )
    if "default" in found:
        broken = [PROMISED[name][0] for name, held in kept(found).items() if not held]
        lines.append(
            f"the default treatment breaks: {', '.join(broken)}."
            if broken
            else f"the default treatment keeps all promises: R2 {found['default'].r2_active:.2f}."
        )
    return lines


def _promise(name: str, value: float) -> str:
    return f"{value:.1%}" if name in SHARES else f"{value:,.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1e3 else f"{value:.1e}"


def _worth(value: float | None) -> str:
    limit = LIMITS["weakest_worth"]
    return _styled(limit.level(value), told(limit, value))


def _level(verdict: str) -> str:
    return "ok" if verdict == "pass" else verdict


def _styled(level: str, text: str) -> str:
    style = STYLES.get(level, "")
    return f"[{style}]{text}[/]" if style else text


def _bars(values: Sequence[float], width: int = 11, *, log: bool = False) -> str:
    """Means of consecutive parts as bars: of a share between 0 and 1, of a log between its own."""
    parts = [float(np.mean(part)) for part in np.array_split(np.array(values), width) if len(part)]
    levels = np.log(np.maximum(parts, 1e-12)) if log else np.array(parts)
    low, high = (levels.min(), max(levels.max(), levels.min() + 2.0)) if log else (0.0, 1.0)
    places = np.clip((levels - low) / (high - low) * (len(BARS) - 1), 0, len(BARS) - 1)
    return "".join(BARS[round(float(place))] for place in places)


def _averaged(
    values: Sequence[float], *, largest: bool = False, of: int = 15
) -> tuple[list[float], list[float]]:
    parts = np.array_split(np.array(values), max(len(values) // of, 1))
    ends = np.cumsum([len(part) for part in parts]).astype(float)
    return ends.tolist(), [float(part.max() if largest else part.mean()) for part in parts]


def _smooth(
    each: Sequence[Probed] | Sequence[Replay], name: str, *, largest: bool = False
) -> dict[str, tuple[list[float], list[float]]]:
    return {one.treatment: _averaged(getattr(one.record, name), largest=largest) for one in each}
