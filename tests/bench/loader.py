"""Speed of windows as batches, as ratios in one run.

    python tests/bench/loader.py [ROWS]

A copy of as many bytes, one behind another, is the limit: a window is read once and written once.
All run on one thread and are measured by CPU time, in turn, so that other work on the machine meets
both. The dataset is simulated: 20 symbols, 129 features, in shards of 256 MB.

Peers that store every window by itself are given 20,000 windows of 32 rows. They are asked for
where they are installed (mosaicml-streaming, litdata, webdataset); nothing is faked for those that
are not.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"
# profile.py beside this file is not Python's, which peers import.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import featurekit as fk
from featurekit.dataset import DatasetWriter, Target
from featurekit.dataset.strip import Strip
from featurekit.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

torch.set_num_threads(1)

WIDTH, SYMBOLS, BATCH, ROUNDS = 129, 20, 512, 15
WANTED = {32: 0.40, 128: 0.65}
STORED = 20_000  # windows that are stored for the peers


def write(root: Path, rows: int) -> None:
    features = [Feature(f"market.f{k}", "market", "", None, "", 0, 0) for k in range(WIDTH)]
    each = rows // SYMBOLS
    plan = [(f"S{k:02d}", each) for k in range(SYMBOLS)]
    targets = [Target("ret_next_5", "forward_return", 5)]
    with DatasetWriter(
        root, fingerprint="0f", features=features, targets=targets, plan=plan, max_gap=10,
        shard_bytes=256 << 20,
    ) as writer:  # fmt: skip
        rng = np.random.default_rng(0)
        for symbol, count in plan:
            x = rng.standard_normal((count, WIDTH), np.float32)
            writer.write(symbol, np.arange(count), x, x[:, :1])
        writer.commit(
            name="bench", pipeline="", fingerprints={}, versions={}, files={}, scaling=None,
            cuts=(each, each), embargo=0, window_max=128,
        )  # fmt: skip


def paired(ours: Callable[[int], object], other: Callable[[int], object]) -> tuple[float, float]:
    """CPU seconds of a call of ours, and how many times longer the other takes, by medians."""
    taken, ratios = [], []
    for k in range(ROUNDS):
        begin = time.process_time()
        other(k)
        middle = time.process_time()
        ours(k)
        end = time.process_time()
        taken.append(end - middle)
        ratios.append((middle - begin) / (end - middle))
    return float(np.median(taken)), float(np.median(ratios))


def against_copy(dataset: fk.Dataset, window: int) -> None:
    shards, repeats = dataset.shards, 10
    shards[0].arena.populate()
    features = [shard.features for shard in shards]
    strip = Strip.of(features, dataset.manifest.extents, shards[0].arena)
    starts = dataset.starts("train", window)
    order = np.random.default_rng(window).permutation(starts)
    out = torch.zeros(BATCH, window, WIDTH)
    flat, size = dataset.shards[0].features.reshape(-1), out.numel()

    def gather(k: int) -> None:
        for j in range(k * repeats, (k + 1) * repeats):
            at = j * BATCH % (len(order) - BATCH)
            strip.windows(order[at : at + BATCH], out)

    def copy(k: int) -> None:
        for j in range(k * repeats, (k + 1) * repeats):
            at = j * size % (flat.size - size)
            np.copyto(out.numpy().reshape(-1), flat[at : at + size])

    seconds, ratio = paired(gather, copy)
    wanted = f" (at least {WANTED[window]:.2f})" if window in WANTED else ""
    speed = BATCH * repeats / seconds
    print(f"  window {window:3}  {speed:9,.0f} windows/s   {ratio:.2f} of a copy{wanted}")


class PerSample(Dataset[dict[str, Any]]):
    """What one writes by hand: a slice of a table in memory for each sample."""

    def __init__(self, dataset: fk.Dataset, window: int) -> None:
        self.features = np.concatenate([shard.features for shard in dataset.shards])
        self.targets = np.concatenate([shard.targets for shard in dataset.shards])
        self.starts, self.window = dataset.starts("train", window), window

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = self.starts[index]
        x = torch.from_numpy(self.features[at : at + self.window])
        return {"features": x, "targets": torch.from_numpy(self.targets[at + self.window - 1])}


def forever(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def size(batch: Any) -> int:  # noqa: ANN401  # of any loader
    """Windows of a batch, which peers give as a mapping, a sequence or a tensor."""
    if isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch[0]) if isinstance(batch, list | tuple) else len(batch)


def against_loader(ours: Iterable[Any], name: str, other: Iterable[Any], wanted: str) -> None:
    """By all CPU time, not by medians: what a peer does once an epoch is its time too."""
    mine, theirs = forever(ours), forever(other)
    next(mine), next(theirs)
    windows, seconds = [0, 0], [0.0, 0.0]
    for _ in range(ROUNDS):
        for k, (batches, count) in enumerate(((mine, 20), (theirs, 8))):
            begin = time.process_time()
            windows[k] += sum(size(batch) for batch in islice(batches, count))
            seconds[k] += time.process_time() - begin
    ratio = (seconds[1] / windows[1]) / (seconds[0] / windows[0])
    print(f"  {name:44} {ratio:6.1f} times our time ({wanted})")


def samples(dataset: fk.Dataset, window: int) -> list[np.ndarray]:
    per_sample = PerSample(dataset, window)
    chosen = np.random.default_rng(0).integers(0, len(per_sample), STORED)
    return [per_sample[int(k)]["features"].numpy() for k in chosen]


def mosaic(windows: list[np.ndarray], root: Path) -> Iterable[Any]:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(root), columns={"x": "ndarray:float32:32,129"}) as out:
        for x in windows:
            out.write({"x": x})
    stored = StreamingDataset(local=str(root), shuffle=True, batch_size=BATCH)
    return DataLoader(stored, batch_size=BATCH)


def as_tensor(x: np.ndarray) -> dict[str, Any]:
    return {"x": torch.from_numpy(x)}


def as_array(x: np.ndarray) -> dict[str, Any]:
    return {"x": x}


def litdata(
    windows: list[np.ndarray],
    root: Path,
    sample: Callable[[np.ndarray], dict[str, Any]] = as_tensor,
) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    optimize(fn=sample, inputs=windows, output_dir=str(root), num_workers=1, chunk_bytes="64MB")
    stored = StreamingDataset(str(root), shuffle=True)
    return StreamingDataLoader(stored, batch_size=BATCH, num_workers=0)


def webdataset(windows: list[np.ndarray], root: Path) -> Iterable[Any]:
    import webdataset as wds

    with wds.TarWriter(str(root / "windows.tar")) as out:
        for k, x in enumerate(windows):
            content = io.BytesIO()
            np.save(content, x)
            out.write({"__key__": f"{k:08d}", "x.npy": content.getvalue()})
    stored = wds.WebDataset(str(root / "windows.tar"), shardshuffle=False).shuffle(1000)
    return DataLoader(stored.decode().to_tuple("x.npy").batched(BATCH), batch_size=None)


PEERS = {
    "MosaicML streaming, shuffled": (mosaic, "at least 15"),
    "litdata of tensors, shuffled": (litdata, "at least 50"),
    "litdata of arrays, shuffled": (partial(litdata, sample=as_array), "raw bytes, no tensors"),
    "WebDataset, shuffled within 1,000": (webdataset, "at least 50"),
}


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "data", rows)
        begin = time.process_time()
        dataset = fk.open_dataset(root / "data")
        opened = time.process_time() - begin
        print(f"{rows:,} rows of {WIDTH} features, batches of {BATCH}, CPU time of one thread")
        print(f"  opened in {opened:.3f} s (at most 0.5)")
        next(iter(dataset.loader(window=32)))
        for window in (20, 32, 64, 128):
            against_copy(dataset, window)
        # On one thread, as the others; a thread that fills ahead would work in their time.
        ours = dataset.loader(window=32, batch_size=BATCH, prefetch=0)
        per_sample = DataLoader(PerSample(dataset, 32), batch_size=BATCH, shuffle=True)
        against_loader(ours, "DataLoader, __getitem__ for each sample", per_sample, "at least 3")
        windows = samples(dataset, 32)
        for name, (peer, wanted) in PEERS.items():
            place = root / name.replace(" ", "-")
            place.mkdir()
            try:
                other = peer(windows, place)
            except ImportError as error:
                print(f"  {name}: not installed ({error})")
            else:
                against_loader(ours, name, other, wanted)


if __name__ == "__main__":
    main()
