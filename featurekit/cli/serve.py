"""`featurekit serve`: bars and fills in over HTTP and WebSocket, columns or encodings out."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from featurekit.errors import ConfigError, Problem

LEAST_TOKEN = 16  # characters


@click.command("serve")
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option(
    "--dataset",
    required=True,
    type=click.Path(path_type=Path),
    help="Of the pipeline: where it begins, and what rows are held against.",
)
@click.option("--encoder", type=click.Path(path_type=Path), help="A saved TemporalEncoder.")
@click.option(
    "--window", default=20, show_default=True, type=click.IntRange(1), help="Rows of the encoder."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Directory of what it took in; DATASET.state by default.",
)
@click.option("--token-file", type=click.Path(path_type=Path), help="Holds what clients show.")
@click.option("--open", "opened", is_flag=True, help="Whoever reaches the address may ask.")
@click.option("--allow-host", "names", multiple=True, help="A name it may be asked for under.")
@click.option(
    "--rate",
    default=20_000.0,
    show_default=True,
    type=click.FloatRange(1.0, 1e9),
    help="Bars or requests a second from one address.",
)
@click.option(
    "--max-bytes",
    default=4 << 20,
    show_default=True,
    type=click.IntRange(1_000),
    help="Of a message.",
)
@click.option(
    "--clock/--no-clock",
    default=True,
    help="Hold bars against the clock; not for bars of the past.",
)
def command(
    pipeline: Path,
    dataset: Path,
    encoder: Path | None,
    window: int,
    host: str,
    port: int,
    state: Path | None,
    token_file: Path | None,
    opened: bool,
    names: tuple[str, ...],
    rate: float,
    max_bytes: int,
    clock: bool,
) -> None:
    """Takes bars and fills over HTTP and WebSocket, answers their columns or encodings.

    A bar that was answered is on disk. SIGTERM or Ctrl-C saves everything and ends it. Needs the
    extra `serve`.
    """
    from featurekit.dataset import open_dataset
    from featurekit.nn import TemporalEncoder
    from featurekit.pipeline import Pipeline
    from featurekit.serve.journal import Journal
    from featurekit.serve.server import Access, Limits, begin, run

    console = Console(stderr=True, highlight=False)
    access = Access(host, port, names, _token(token_file), opened)
    parsed, opened_dataset = Pipeline.from_yaml(pipeline), open_dataset(dataset)
    model = None if encoder is None else TemporalEncoder.load(encoder)
    place = dataset.resolve()
    folder = place.with_name(f"{place.name}.state") if state is None else state
    journal = Journal(folder)
    try:
        service = begin(
            parsed,
            opened_dataset,
            journal,
            encoder=model,
            window=window,
            tell=lambda text: console.print(Text(text, style="dim"), soft_wrap=True),
        )
    except BaseException:
        journal.close()
        raise

    def ready(address: str) -> None:
        count = len(service.stream.symbols)
        symbols = "1 symbol" if count == 1 else f"{count:,} symbols"
        console.print(
            Text.assemble(
                ("serving ", "bold"),
                f"{parsed.name}, {symbols}, at ",
                (address, "bold cyan"),
                ("   Ctrl-C to stop", "dim"),
            ),
            soft_wrap=True,
        )

    saved = run(service, journal, access, Limits(max_bytes, rate), clock=clock, ready=ready)
    if not saved:
        sys.exit(1)
    console.print(Text(f"saved in {folder}", style="dim"), soft_wrap=True)


def _token(path: Path | None) -> str | None:
    """What is in a file.

    Raises:
        ConfigError: when that is too short to keep anybody out.
    """
    if path is None:
        return None
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            Problem(
                "this is no token",
                where=str(path),
                expected=f"{LEAST_TOKEN} printable characters of ASCII or more",
                got=f"{len(token)} characters",
                fix=f"openssl rand -hex 32 > {path}",
            )
        )
    return token
