"""Draws the README's picture: the audit of the bundled sample, as the terminal shows it.

python docs/picture.py
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

import featurekit as fk
from featurekit.audit.text import render

ROOT = Path(__file__).parents[1]


def draw(path: Path) -> None:
    """Builds the demo pipeline in a temporary directory, and draws its audit to an SVG file."""
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as nothing:
        dataset = pipeline.build(out=Path(directory) / "eurusd")
        console = Console(record=True, width=84, file=nothing, highlight=False)
        command = "featurekit build pipelines/eurusd_demo.yaml && featurekit audit build/eurusd"
        console.print(Text(f"$ {command}", style="bold"))
        render(fk.audit(dataset), console)
        console.print()  # the last line of the drawing is cut
        console.save_svg(str(path), title="featurekit", unique_id="audit")


if __name__ == "__main__":
    draw(Path(__file__).parent / "audit.svg")
