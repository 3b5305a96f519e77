"""Draws the README's pictures of the bundled sample's audit: in the terminal, and the page.

python docs/picture.py

The page is photographed in Chromium, which needs selenium and the packages chromium and
chromium-driver.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

import featurekit as fk
from featurekit.audit.text import render

if TYPE_CHECKING:
    from featurekit.audit import AuditReport

ROOT = Path(__file__).parents[1]
WIDTH = 100


def audited() -> AuditReport:
    """The audit of the demo pipeline, built in a temporary directory."""
    pipeline = fk.Pipeline.from_yaml(ROOT / "pipelines" / "eurusd_demo.yaml")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # so that commands name the path that a user has
        try:
            return fk.audit(pipeline.build(out="build/eurusd"))
        finally:
            os.chdir(here)


def draw(report: AuditReport, path: Path) -> None:
    """The report as the terminal shows it, as an SVG file."""
    with Path(os.devnull).open("w") as nothing:
        console = Console(record=True, width=WIDTH, file=nothing, highlight=False)
        command = "featurekit build pipelines/eurusd_demo.yaml && featurekit audit build/eurusd"
        console.print(Text(f"$ {command}", style="bold"))
        render(report, console)
        console.print()  # the last line of the drawing is cut
        console.save_svg(str(path), title="featurekit", unique_id="audit")


def photograph(report: AuditReport, path: Path) -> None:
    """The map of the report's page, as a PNG file."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with tempfile.TemporaryDirectory() as directory:
        report.to_html(Path(directory) / "report.html")
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((Path(directory) / "report.html").as_uri() + "#tab=map")
            browser.execute_script("document.getElementById('explore').scrollIntoView()")
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            path.write_bytes(base64.b64decode(shot["data"]))
        finally:
            browser.quit()


if __name__ == "__main__":
    found = audited()
    draw(found, Path(__file__).parent / "audit.svg")
    photograph(found, Path(__file__).parent / "report.png")
