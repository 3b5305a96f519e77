"""What commands have in common: an option, a progress bar, and an end on SIGTERM."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


on_bad = click.option(
    "--on-bad",
    type=click.Choice(["fail", "quarantine"]),
    default="fail",
    show_default=True,
    help="What to do with bars that break their schema.",
)


@contextmanager
def terminable() -> Iterator[None]:
    """Ends a command on SIGTERM as on Ctrl-C: what it has written so far is removed."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what is being done; nothing where nobody watches."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        tasks = {}

        def tell(what: str, done: int, rows: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=rows)
            bar.update(tasks[what], completed=done, total=rows)

        yield tell
