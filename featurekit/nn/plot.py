"""Lines over training steps as a self-contained SVG file, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from featurekit.nn.vital_report import LIMITS

if TYPE_CHECKING:
    from featurekit.nn.vital_report import Health

WIDTH, HEIGHT = 420, 200  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 44, 26
COLUMNS = 2
COLORS = ("#d1495b", "#e09f3e", "#2a9d8f", "#3d5a98", "#8e6bbf", "#6c757d", "#bc4b9b", "#4c956c")
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:12px}"
    ".axis{stroke:#bbb}.limit{stroke:#999;stroke-dasharray:3 3}.back{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#555}.back{fill:#16181c}}"
)
Line = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines of a name each, x and y; `limits` are drawn dashed, `bounds` are those of y."""

    title: str
    lines: Mapping[str, Line]
    log: bool = False
    limits: Sequence[float] = ()
    bounds: tuple[float, float] | None = None
    marks: Mapping[str, float] = field(default_factory=dict)


def draw(panels: Sequence[Panel], path: str | Path, note: str = "") -> None:
    """Writes the panels, two side by side, with a note below them."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + (22 if note else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
    ]
    for at, panel in enumerate(panels):
        x, y = at % COLUMNS * WIDTH, at // COLUMNS * HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    if note:
        parts.append(f'<text x="{LEFT}" y="{height - 7}">{escape(note)}</text>')
    Path(path).write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def plot_health(history: Sequence[Health], path: str | Path) -> None:
    """Draws what was measured over the steps: zeros, units, information and gradient of blocks."""

    def of(*names: str) -> dict[str, Line]:
        lines = dict[str, Line]()
        for name in names:
            known = [(each.step, each.values.get(name)) for each in history]
            points = [(float(step), value) for step, value in known if value is not None]
            if points:
                lines[name.replace("_", " ")] = [x for x, _ in points], [y for _, y in points]
        return lines

    def by_block(kind: str) -> dict[str, Line]:
        blocks = dict.fromkeys(block for each in history for block in getattr(each, kind))
        return {
            block: (
                [each.step for each in history if block in getattr(each, kind)],
                [getattr(each, kind)[block] for each in history if block in getattr(each, kind)],
            )
            for block in blocks
        }

    def limits(name: str) -> list[float]:
        return [bound for bound in (LIMITS[name].good, LIMITS[name].bad) if bound is not None]

    whole = (0.0, 1.0)
    draw(
        [
            Panel(
                "gradient zeros, before clipping",
                of("zeros_batch", "zeros_flat", "zeros_active"),
                limits=limits("zeros_active"),
                bounds=whole,
            ),
            Panel(
                "dormant units, effective rank",
                of("dormant_flat", "dormant_active", "rank_active"),
                limits=limits("dormant_active"),
                bounds=whole,
            ),
            Panel(
                "information left of each block, active, R2",
                by_block("worth"),
                limits=limits("weakest_worth"),
                bounds=whole,
            ),
            Panel("gradient norm, before clipping", of("norm"), log=True),
        ],
        path,
        "dashed: where it is good, and where it fails",
    )


def _panel(panel: Panel) -> list[str]:
    title = f'<text class="title" x="{LEFT}" y="16">{escape(panel.title)}</text>'
    points = [
        (x, y)
        for xs, ys in panel.lines.values()
        for x, y in zip(xs, ys, strict=True)
        if math.isfinite(y) and (y > 0 or not panel.log)
    ]
    if not points:
        return [title, _text(LEFT, 60, "not measured")]
    frame = _Frame.around(panel, points)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [title, f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for y in _ticks(frame.y_low, frame.y_high, log=panel.log):
        parts.append(_line("axis", LEFT - 4, frame.down(y), LEFT, frame.down(y)))
        parts.append(_text(LEFT - 7, frame.down(y) + 4, f"{y:.2g}", "end"))
    parts += [_line("limit", LEFT, frame.down(y), right, frame.down(y)) for y in panel.limits]
    for name, x in panel.marks.items():
        parts.append(_line("limit", frame.across(x), TOP, frame.across(x), bottom))
        parts.append(_text(frame.across(x) + 3, TOP + 10, name))
    start = LEFT
    for at, (name, (xs, ys)) in enumerate(panel.lines.items()):
        color = COLORS[at % len(COLORS)]
        known = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        path = "M" + "L".join(f"{frame.across(x):.1f} {frame.down(y):.1f}" for x, y in known)
        parts.append(f'<path fill="none" stroke="{color}" stroke-width="1.6" d="{path}"/>')
        parts.append(f'<rect x="{start}" y="26" width="9" height="9" fill="{color}"/>')
        parts.append(_text(start + 13, 35, name))
        start += 24 + 6 * len(name)
    parts.append(_text(LEFT, HEIGHT - 9, f"step {frame.x_low:,.0f}"))
    parts.append(_text(right, HEIGHT - 9, f"step {frame.x_high:,.0f}", "end"))
    return parts


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a point of a panel is drawn."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    @staticmethod
    def around(panel: Panel, points: Sequence[tuple[float, float]]) -> _Frame:
        xs, ys = zip(*points, strict=True)
        low, high = panel.bounds or (min(0.0, *ys) if not panel.log else min(ys), max(ys))
        if panel.log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        if high <= low:
            low, high = (low / 10, low * 10) if panel.log else (low - 0.5, low + 0.5)
        return _Frame(min(xs), max(xs), low, high, panel.log)

    def across(self, x: float) -> float:
        return LEFT + (x - self.x_low) / max(self.x_high - self.x_low, 1e-9) * (
            WIDTH - LEFT - RIGHT
        )

    def down(self, y: float) -> float:
        if self.log:
            share = math.log(max(y, self.y_low) / self.y_low) / math.log(self.y_high / self.y_low)
        else:
            share = (y - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    if not log:
        return [low, (low + high) / 2, high]
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**each for each in range(first, last + 1, max((last - first) // 4, 1))]
