"""`featurekit check`: proofs of a pipeline on its own bars and fills."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.text import Text

from featurekit.cli.terminal import on_bad, progress, terminable
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from featurekit.checks.subject import Prepare


@click.command("check")
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--only", help="Proofs to run, such as causality,memory.")
@click.option(
    "--prepare",
    metavar="MODULE:FUNCTION",
    help="What computes your own columns from bars: it is proved with the pipeline.",
)
@on_bad
@click.option("--thorough", is_flag=True, help="All symbols and rows, and more cuts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    pipeline: Path,
    only: str | None,
    prepare: str | None,
    on_bad: Literal["fail", "quarantine"],
    thorough: bool,
    as_json: bool,
) -> None:
    """Proves that no column sees the future, each forgets in time, and all paths agree.

    On the pipeline's own bars and fills. Exits with 1 if a proof fails.
    """
    from featurekit.checks import PROOFS, check
    from featurekit.checks.text import render
    from featurekit.ingest import ingest
    from featurekit.pipeline import Pipeline

    parsed = Pipeline.from_yaml(pipeline)
    recipe = None if prepare is None else _recipe(prepare)
    names = PROOFS if only is None else tuple(name.strip() for name in only.split(","))
    console = Console(stderr=True, highlight=False)
    with (
        terminable(),
        progress(console) as tell,
        tempfile.TemporaryDirectory(prefix="featurekit-check-") as scratch,
    ):
        data = ingest(parsed, Path(scratch), on_bad=on_bad, tell=tell)
        checks = check(
            parsed,
            data.bars,
            data.fills,
            prepare=recipe,
            only=names,
            thorough=thorough,
            tell=tell,
        )
    for note in data.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    if as_json:
        click.echo(checks.to_json())
    else:
        render(checks, Console(highlight=False))
    sys.exit(0 if checks.passed else 1)


def _recipe(name: str) -> Prepare:
    """The function of that name, from the working directory too.

    Raises:
        ConfigError: when there is none.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError(f"{function} is no function")
    except (Exception, SystemExit) as error:  # whatever a user's module raises is told
        raise ConfigError(
            Problem(
                f"cannot use {name!r} to prepare bars",
                expected=f"module:function, on the Python path or under {here}",
                got=f"{type(error).__name__}: {error}",
                fix="--prepare my_features:add_columns",
            )
        ) from error
    finally:
        sys.path.remove(here)
    recipe: Prepare = found
    return recipe
