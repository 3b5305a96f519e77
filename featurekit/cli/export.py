"""`featurekit export`: a dataset in the formats of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from featurekit.cli.terminal import progress, terminable

if TYPE_CHECKING:
    from featurekit.dataset import Dataset
    from featurekit.export import Export


@click.command("export")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["parquet", "arrow", "npy", "mds", "webdataset", "hf"]),
    help="Format; the last three need the extra of their name.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory: new, empty, or an earlier export, which is replaced.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Rows of this split only; by default all.",
)
@click.option("--scaled", is_flag=True, help="Features after the scaling that was fitted on train.")
@click.option(
    "--window",
    metavar="N",
    type=int,
    help="Samples are the loader's windows of N rows; mds and webdataset only.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read all of it back with the format's own library, and compare every bit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    dataset: Path,
    to: str,
    out: Path,
    split: str | None,
    scaled: bool,
    window: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Exports a DATASET: all of its rows in natural units, in the order of symbol and time.

    \b
    parquet     a table: files of one symbol each, which are read as one
    arrow       the same in Arrow IPC, uncompressed, to be mapped
    npy         features [n, F], targets [n, K], time [n], symbol codes [n]
    mds         samples for MosaicML's StreamingDataset, a directory a split
    webdataset  samples in tar files, named by split
    hf          a DatasetDict of the splits for datasets.load_from_disk

    A sample of mds and webdataset is a row of features [F], or with --window N a window of
    features [N, F], with the targets and time of its last row, and the symbol. Windows overlap: N
    of them hold each row N times. Samples are in order: shuffle where they are read.

    Beside the files lie manifest.json, the dataset's own, and export.json with the names of the
    columns and the hash of every file.
    """  # noqa: D301  # click's mark of lines that stay as they are
    from featurekit.dataset import open_dataset

    opened = open_dataset(dataset)
    with terminable(), progress(Console(stderr=True)) as tell:
        done = opened.export(
            out, to, split=split, scaled=scaled, window=window, verify=verify, progress=tell
        )
    if as_json:
        click.echo(json.dumps(_summary(done)))
    else:
        _print(done, opened, window)


def _summary(done: Export) -> dict[str, object]:
    return {
        "out": str(done.path),
        "format": done.format,
        "samples": done.parts,
        "files": done.files,
        "bytes": done.bytes,
        "verified": done.verified or None,
        "seconds": round(done.seconds, 3),
    }


def _print(done: Export, dataset: Dataset, window: int | None) -> None:
    console = Console(highlight=False)
    what = "rows" if window is None else f"windows of {window} rows"
    rate = done.bytes / done.seconds / 1e6
    # As text: what a path has in brackets is no markup.
    console.print(
        Text.assemble(
            (str(done.path), "bold"),
            f"  {done.format}, {len(dataset.names)} features, {done.bytes / 1e6:,.1f} MB in "
            f"{done.files:,} files, {done.seconds:.1f} s ({rate:,.0f} MB/s)",
        ),
        soft_wrap=True,
    )
    for name, samples in done.parts.items():
        console.print(f"  {name:<11} {samples:>12,} {what}")
    if done.verified:
        console.print(f"  read back by {done.verified}: every bit as in the dataset")
    else:
        console.print("  not read back", style="yellow")
