"""Exports: each format's own library reads back every bit, and nothing is left half written."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from featurekit.cli import main
from featurekit.cli.export import command
from featurekit.dataset import Dataset, DatasetWriter, Target
from featurekit.errors import ConfigError, DatasetError, MissingExtraError
from featurekit.export import FORMATS, parts
from featurekit.feature import Feature
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("market.a", "market.b", "position.c")
LONG = "x" * 5000
ROWS = {"../x": 40, "/etc/a": 33, "A": 1, "a/b": 60, LONG: 20, "{0}-%d\n[b]": 25, "😀": 45}
LIBRARIES = {"mds": "streaming", "webdataset": "webdataset", "hf": "datasets"}
SAMPLED = [name for name, form in FORMATS.items() if form.windows]
TABLES = ("features", "targets", "time")

# WebDataset leaves the tar files open that it reads by a URL.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def write(root: Path, rows: dict[str, int] = ROWS, **facts: Any) -> Dataset:  # noqa: ANN401  # passed on
    """Ticks with a gap before row 15 and every kind of float32; cuts at 25 and 45."""
    targets = [Target(f"ahead_{k}", "forward_return", k) for k in facts.pop("horizons", (2, 3))]
    changed = facts.pop("changed", lambda symbol, x, y, time: None)
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=[Feature(name, name.split(".")[0], "", None, "", 0, 0) for name in NAMES],
        targets=targets,
        plan=sorted(rows.items()),
        max_gap=5,
        shard_bytes=facts.pop("shard_bytes", 2000),
    ) as writer:
        for symbol, n in sorted(rows.items()):
            rng = np.random.default_rng(len(symbol))
            x = rng.integers(0, 2**32, (n, 3), np.uint32).view("f4")  # NaN of any payload too
            x[::4, 0], x[1::4, 0], x[2::4, 1] = -0.0, 0.0, np.inf
            y = rng.standard_normal((n, len(targets))).astype("f4")
            y[-3:] = np.nan
            time = np.arange(n, dtype=np.int64) + np.where(np.arange(n) < 15, 0, 10)
            changed(symbol, x, y, time)
            writer.write(symbol, time, x, y)
        defaults = {"cuts": (25, 45), "embargo": 1, "window_max": 30, "scaling": None}
        return writer.commit(
            name="demo",
            pipeline="",
            fingerprints={},
            versions={},
            files={},
            **{**defaults, **facts},
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write(tmp_path_factory.mktemp("dataset") / "d")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK_BYTES", 7 * 3 * 4)


def library(to: str) -> Any:  # noqa: ANN401  # a module without types
    """Imports the library of a format, or skips the test."""
    if to not in LIBRARIES:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other people's imports
        try:
            return importlib.import_module(LIBRARIES[to])
        except (ImportError, RuntimeError) as error:  # torchvision that is not of this torch
            pytest.skip(f"pip install -e '.[{to}]' to run this: {error}")


@pytest.fixture(params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    library(request.param)
    return str(request.param)


def bits(array: np.ndarray) -> tuple[object, ...]:
    return array.dtype, array.shape, array.tobytes()


def expected(dataset: Dataset, split: str | None = None) -> dict[str, Any]:
    """Rows in the order of symbol and time, straight from the shards."""
    rows = dataset.to_numpy()
    kept = np.arange(dataset.rows)
    if split is not None:
        code = ("train", "validation", "test").index(split)
        kept = np.concatenate([np.arange(*each) for each in dataset.bounds[:, code : code + 2]])
    symbols = [dataset.symbols[code] for code in rows.symbol[kept]]
    return {"symbol": symbols, **{name: getattr(rows, name)[kept] for name in TABLES}}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found["symbol"]) == list(wanted["symbol"])
    for name in TABLES:
        assert bits(found[name]) == bits(wanted[name]), name


# What a user of each format writes to read it. No code of the export is in here.


def of_frame(frame: pl.DataFrame, dataset: Dataset) -> dict[str, Any]:
    targets = [target.name for target in dataset.targets]
    assert frame.columns == ["symbol", "time", *NAMES, *targets]
    assert frame.schema["time"] == pl.Datetime("ns", "UTC")
    assert not frame.null_count().sum_horizontal().item()
    return {
        "symbol": frame["symbol"].to_list(),
        "features": frame.select(NAMES).to_numpy(),
        "targets": frame.select(targets).to_numpy(),
        "time": frame["time"].to_physical().to_numpy(),
    }


def of_parquet(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    return of_frame(pl.read_parquet(out / part), dataset)


def of_arrow(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    return of_frame(pl.scan_ipc(out / part).collect(), dataset)


def of_npy(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    found = {name: np.load(out / f"{name}.npy", allow_pickle=False) for name in (*TABLES, "symbol")}
    symbols = json.loads((out / "manifest.json").read_text())["symbols"]
    return {**found, "symbol": [symbols[code] for code in found["symbol"]]}


MDS = """
import sys, pickle, numpy as np
from streaming import StreamingDataset
for out, part, target in [sys.argv[1:]]:
    rows = list(StreamingDataset(local=out, split=part, shuffle=False, batch_size=1))
    np.savez(target, time=np.array([r["time"] for r in rows]),
             symbol=np.array([r["symbol"] for r in rows]),
             **{k: np.stack([r[k] for r in rows]) for k in ("features", "targets")})
"""


def of_mds(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    target = out.parent / f"{out.name}-{part}.npz"
    # A process of its own: it leaves shared memory and threads to its end.
    code = [sys.executable, "-W", "ignore", "-c", MDS, str(out), part, str(target)]
    subprocess.run(code, check=True, capture_output=True)
    with np.load(target, allow_pickle=False) as found:
        return dict(found)


def of_webdataset(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    webdataset = library("webdataset")
    urls = sorted(str(path) for path in out.glob(f"{part}-*.tar"))
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len({row["__key__"] for row in rows}) == len(rows)
    return {
        "symbol": [row["json"]["symbol"] for row in rows],
        "features": np.stack([row["features.npy"] for row in rows]),
        "targets": np.stack([row["targets.npy"] for row in rows]),
        "time": np.array([row["json"]["time"] for row in rows]),
    }


def of_hf(out: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    found = library("hf").load_from_disk(str(out))[part]
    assert found.column_names == ["symbol", "time", "features", "targets"]
    rows = found.with_format("numpy")
    times = found.with_format("arrow")[:]["time"].to_numpy()
    return {
        "symbol": found["symbol"],
        "features": np.asarray(rows["features"][:]),
        "targets": np.asarray(rows["targets"][:]),
        "time": times.view(np.int64),
    }


READERS: dict[str, Callable[[Path, str, Dataset], dict[str, Any]]] = {
    "parquet": of_parquet,
    "arrow": of_arrow,
    "npy": of_npy,
    "mds": of_mds,
    "webdataset": of_webdataset,
    "hf": of_hf,
}


def test_its_own_library_reads_every_bit(dataset: Dataset, to: str, tmp_path: Path) -> None:
    done = dataset.export(tmp_path / "out", to)
    by_split = FORMATS[to].by_split
    assert done.verified
    assert list(done.parts) == (["train", "validation", "test"] if by_split else ["rows"])
    assert sum(done.parts.values()) == dataset.rows
    for part in done.parts:
        found = READERS[to](tmp_path / "out", part, dataset)
        assert_same(found, expected(dataset, part if by_split else None))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_its_rows(dataset: Dataset, to: str, split: str, tmp_path: Path) -> None:
    done = dataset.export(tmp_path / "out", to, split=split)
    assert done.parts == {split: dataset.splits[split].rows}
    found = READERS[to](tmp_path / "out", split, dataset)
    assert_same(found, expected(dataset, split))


@pytest.mark.parametrize("to", SAMPLED)
def test_windows_are_those_of_the_loader(dataset: Dataset, to: str, tmp_path: Path) -> None:
    library(to)
    done = dataset.export(tmp_path / "out", to, window=5)
    assert set(done.parts) == {"train", "validation", "test"}
    for split, samples in done.parts.items():
        assert samples == dataset.windows(split, 5)
        found = READERS[to](tmp_path / "out", split, dataset)
        (batch,) = dataset.loader(split, window=5, batch_size=10_000, shuffle=False)
        wanted = {name: getattr(batch, name).numpy() for name in TABLES}
        assert_same(found, {"symbol": [batch.symbols[k] for k in batch.symbol], **wanted})


@pytest.mark.parametrize("to", ["npy", *SAMPLED])
def test_scaled_is_the_fitted_scaling(to: str, tmp_path: Path) -> None:
    library(to)
    squash = np.array([True, False, True])
    scaling = Scaling(NAMES, np.array([1.0, -2.0, 0.0]), np.array([3.0, 0.5, 1e-3]), squash)

    def tame(symbol: str, x: np.ndarray, y: np.ndarray, time: np.ndarray) -> None:
        x[:] = np.random.default_rng(len(symbol)).standard_normal(x.shape)

    dataset = write(tmp_path / "d", changed=tame, scaling=scaling.to_json())
    dataset.export(tmp_path / "out", to, scaled=True, split="train")
    wanted = expected(dataset, "train")
    wanted["features"] = scaling.apply(wanted["features"])
    assert_same(READERS[to](tmp_path / "out", "train", dataset), wanted)


def test_a_dataset_without_targets(to: str, tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", {"A": 80}, horizons=())
    assert dataset.export(tmp_path / "out", to).verified


def test_the_same_rows_are_the_same_bytes(dataset: Dataset, to: str, tmp_path: Path) -> None:
    for out in ("a", "b"):
        dataset.export(tmp_path / out, to)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert files
    for file in files:
        if (tmp_path / "a" / file).is_file():
            same = (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
            assert same, file


def test_files_are_named_by_numbers_and_listed(dataset: Dataset, to: str, tmp_path: Path) -> None:
    done = dataset.export(tmp_path / "out", to)
    mark = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.stat().st_size
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert done.files == len(found)
    assert done.bytes == sum(found.values())
    assert {name: each["bytes"] for name, each in mark["files"].items()} | {
        "export.json": found["export.json"]
    } == found
    assert all(name.isascii() and len(name) < 60 for name in found)
    assert mark["features"] == list(NAMES)
    assert mark["data_digest"] == dataset.manifest.data_digest
    manifest = (dataset.generation / "manifest.json").read_bytes()
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_no_row_group_holds_two_symbols(dataset: Dataset, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    dataset.export(tmp_path / "out", "parquet")
    groups = 0
    for path in (tmp_path / "out" / "rows").iterdir():
        file = parquet.ParquetFile(path)
        for k in range(file.num_row_groups):
            assert len(file.read_row_group(k, ["symbol"])["symbol"].unique()) == 1
            groups += 1
    assert groups == sum(-(-n // 7) for n in ROWS.values())
    table = parquet.read_table(tmp_path / "out" / "rows")
    assert_same(of_frame(pl.DataFrame(pl.from_arrow(table)), dataset), expected(dataset))


def test_arrow_files_are_read_by_arrow(dataset: Dataset, tmp_path: Path) -> None:
    feather = pytest.importorskip("pyarrow.feather")
    dataset.export(tmp_path / "out", "arrow")
    tables = [feather.read_table(p) for p in sorted((tmp_path / "out" / "rows").iterdir())]
    frame = pl.concat([pl.DataFrame(pl.from_arrow(table)) for table in tables])
    assert_same(of_frame(frame, dataset), expected(dataset))


@pytest.mark.parametrize(("window", "most"), [(None, 7), (3, 2), (20, 1)])
def test_no_more_than_a_block_is_in_memory(dataset: Dataset, window: int | None, most: int) -> None:
    by_split = window is not None
    for part in parts.parts_of(dataset, by_split=by_split, split=None, scaled=False, window=window):
        blocks = list(part.blocks())
        assert max(len(block.time) for block in blocks) == most
        spans = [range(part.samples)[span] for span in part.spans()]
        assert [len(span) for span in spans] == [len(block.time) for block in blocks]


# What is read back is compared: a writer that errs is found out.


def flip_zero(symbol: str, x: np.ndarray, y: np.ndarray, time: np.ndarray) -> None:
    if symbol == "a/b":
        x[8, 0] = 0.0  # was -0.0


def other_nan(symbol: str, x: np.ndarray, y: np.ndarray, time: np.ndarray) -> None:
    if symbol == "A":
        y[0, 1] = np.array([0x7FC00001], np.uint32).view("f4")[0]


def later(symbol: str, x: np.ndarray, y: np.ndarray, time: np.ndarray) -> None:
    if symbol == "😀":
        time[-1] += 1


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"changed": flip_zero}, "1 values of features that differ"),
        ({"changed": other_nan}, "1 values of targets that differ"),
        ({"changed": later}, "1 values of time that differ"),
        ({"rows": {**ROWS, "😀": 44}}, ""),
        ({"rows": {"": 0, **{s: n for s, n in ROWS.items() if s != "😀"}, "😁": 45}}, "symbol '"),
    ],
)
def test_a_bit_that_differs_is_found(
    dataset: Dataset,
    change: dict[str, Any],
    got: str,
    to: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write(tmp_path / "d", **change)
    module = importlib.import_module(f"featurekit.export.{to}")
    write_parts, by_split = module.write, FORMATS[to].by_split

    def write_other(_: object, directory: Path, tell: Callable[[int], None]) -> None:
        theirs = parts.parts_of(other, by_split=by_split, split=None, scaled=False, window=None)
        write_parts(theirs, directory, tell)

    monkeypatch.setattr(module, "write", write_other)
    with pytest.raises(DatasetError, match="not what was written") as caught:
        dataset.export(tmp_path / "out", to)
    assert got in str(caught.value) or "fewer samples" in str(caught.value)
    assert not (tmp_path / "out").exists()
    dataset.export(tmp_path / "out", to, verify=False)
    assert (tmp_path / "out" / "export.json").exists()


# Directories: ours are replaced, others are left alone, and nothing is half there.


def test_an_earlier_export_is_replaced(dataset: Dataset, tmp_path: Path) -> None:
    dataset.export(tmp_path / "out", "parquet")
    dataset.export(tmp_path / "out", "npy")
    assert not (tmp_path / "out" / "rows").exists()
    assert_same(of_npy(tmp_path / "out", "rows", dataset), expected(dataset))


@pytest.mark.parametrize("there", ["file", "dataset", "a file in it", "a link in it", "a mark"])
def test_what_is_not_ours_is_left_alone(dataset: Dataset, there: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "dataset":
        shutil.copytree(dataset.path, out)
    elif there == "a mark":
        out.mkdir()
        (out / "export.json").write_text("[]")
    else:
        dataset.export(out, "npy")
        (out / "sub").mkdir()
        if there == "a file in it":
            (out / "sub" / "notes.txt").write_text("mine")
        else:
            (out / "sub" / "notes.txt").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="nothing in it will be overwritten"):
        dataset.export(out, "npy")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_a_directory_is_followed(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    dataset.export(tmp_path / "out", "npy")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "export.json").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    dataset: Dataset, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.export(tmp_path / "out", "npy")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("featurekit.export.parquet"), "write", fail)
    wanted = DatasetError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        dataset.export(tmp_path / "out", "parquet")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_what_a_killed_export_left_is_removed(dataset: Dataset, tmp_path: Path) -> None:
    left = tmp_path / ".out.export" / "new" / "rows"
    left.mkdir(parents=True)
    (left / "000000.parquet").write_bytes(b"PAR1")
    dataset.export(tmp_path / "out", "npy")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_two_exports_do_not_write_one_directory(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / ".out.export" / "new").mkdir(parents=True)
    descriptor = os.open(tmp_path / ".out.export", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another export is writing"):
            dataset.export(tmp_path / "out", "npy")
        assert (tmp_path / ".out.export" / "new").exists()
    finally:
        os.close(descriptor)


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "csv"}, "parquet | arrow"),
        ({"split": "dev"}, "train | validation | test"),
        ({"scaled": True}, "this dataset has no scaling"),
        ({"to": "parquet", "window": 5}, "--to mds --window 5"),
        ({"to": "mds", "window": 0}, "a whole number, 1 to 30"),
        ({"to": "mds", "window": 31}, "--window 30"),
        ({"to": "csv", "split": "dev", "scaled": True}, "this dataset has no scaling"),
    ],
)
def test_options_out_of_range_are_refused(
    dataset: Dataset, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        dataset.export(tmp_path / "out", **options)
    assert words in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"split": "test"}, {"to": "mds", "window": 20}])
def test_nothing_to_export_is_an_error(options: dict[str, Any], tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", {"A": 10})
    with pytest.raises(DatasetError, match="to export"):
        dataset.export(tmp_path / "out", **options)


@pytest.mark.parametrize("to", LIBRARIES)
def test_a_missing_library_names_its_extra(
    dataset: Dataset, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == LIBRARIES[to]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, LIBRARIES[to], None)
    with pytest.raises(MissingExtraError) as caught:
        dataset.export(tmp_path / "out", to)
    assert f'pip install "featurekit[{to}]"' in str(caught.value)
    assert not any(tmp_path.iterdir())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_the_command_offers_every_format() -> None:
    (option,) = (each for each in command.params if each.name == "to")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(FORMATS)


@pytest.mark.parametrize("verify", [True, False])
def test_the_command_says_what_it_wrote(dataset: Dataset, verify: bool, tmp_path: Path) -> None:
    options = [] if verify else ["--no-verify"]
    done = run(dataset.path, "--to", "npy", "--out", tmp_path / "[out]", *options)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert str(tmp_path / "[out]") in done.stdout
    assert ("read back by numpy" if verify else "not read back") in done.stdout
    assert f"{dataset.rows:,} rows" in done.stdout


def test_the_command_prints_json(dataset: Dataset, tmp_path: Path) -> None:
    done = run(
        dataset.path, "--to", "parquet", "--split", "test", "--out", tmp_path / "o", "--json"
    )
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") >= 0
    size = sum(p.stat().st_size for p in (tmp_path / "o").rglob("*") if p.is_file())
    rows = dataset.splits["test"].rows
    assert summary == {
        "out": str(tmp_path / "o"),
        "format": "parquet",
        "samples": {"test": rows},
        "files": 2 + len(list((tmp_path / "o" / "test").iterdir())),
        "bytes": size,
        "verified": "polars",
    }


def test_the_command_tells_a_mistake(dataset: Dataset, tmp_path: Path) -> None:
    done = run(dataset.path, "--to", "npy", "--window", 5, "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert "npy holds rows" in done.stderr
    assert "Traceback" not in done.output


def test_progress_hears_every_sample_twice(dataset: Dataset, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    dataset.export(tmp_path / "o", "npy", progress=lambda *told: heard.append(told))
    rows = dataset.rows
    assert [told for told in heard if told[1] == 0] == [
        ("writing", 0, rows), ("reading back", 0, rows),
    ]  # fmt: skip
    assert [told for told in heard if told[1] == rows] == [
        ("writing", rows, rows), ("reading back", rows, rows),
    ]  # fmt: skip
