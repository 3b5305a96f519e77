"""Batches: equal to slices of the table, in an order that ranks and interruptions do not change."""

from __future__ import annotations

import json
import warnings
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurekit.dataset import Dataset, DatasetWriter, Target, open_dataset
from featurekit.dataset.machine import machine_memory
from featurekit.dataset.rows import _RESIDENT
from featurekit.errors import ConfigError, DatasetError
from featurekit.feature import Feature
from featurekit.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from featurekit.dataset.batch import Batch
    from featurekit.dataset.loader import Loader

NAMES = ("market.a", "market.b", "position.c")
ROWS = {"A": 90, "B": 1, "C": 140, "D": 60}


def write(
    root: Path,
    rows: dict[str, int] = ROWS,
    *,
    targets: int = 1,
    large: dict[tuple[str, int, int], float] | None = None,
    **facts: Any,  # noqa: ANN401  # passed on
) -> Dataset:
    """One row a tick, a gap before row 50, targets that look ahead too far; cuts at 60 and 100."""
    features = [Feature(name, name.split(".")[0], "", None, "", 0, 0) for name in NAMES]
    kinds = [Target(f"ahead_{k + 3}", "forward_return", k + 3) for k in range(targets)]
    with DatasetWriter(
        root,
        fingerprint="0f",
        features=features,
        targets=kinds,
        plan=sorted(rows.items()),
        max_gap=5,
        shard_bytes=4000,
    ) as writer:
        for k, (symbol, n) in enumerate(sorted(rows.items())):
            rng = np.random.default_rng(k)
            time = np.arange(n) + np.where(np.arange(n) < 50, 0, 10)
            y = rng.standard_normal((n, targets)).astype("f4")
            for target, kind in enumerate(kinds):
                y[-kind.horizon :, target] = np.nan
            x = rng.standard_normal((n, 3)).astype("f4")
            for (name, row, column), value in (large or {}).items():
                if name == symbol:
                    x[row, column] = value
            writer.write(symbol, time, x, y)
        defaults = {"cuts": (70, 110), "embargo": 2, "window_max": 64, "scaling": None}
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
    root = tmp_path_factory.mktemp("loader")
    write(root)
    return open_dataset(root)


def origins(batches: Iterable[Batch]) -> list[tuple[str, int]]:
    """Symbol and time of the last row of every window, in the order they came."""
    return [
        (batch.symbols[code], time)
        for batch in batches
        for code, time in zip(batch.symbol.tolist(), batch.time.tolist(), strict=True)
    ]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("window", [1, 7, 20])
def test_batches_are_slices_of_the_table(dataset: Dataset, split: str, window: int) -> None:
    frame = dataset.to_polars()
    seen = 0
    for batch in dataset.loader(split=split, window=window, batch_size=8):
        assert batch.features.shape[1:] == (window, 3)
        assert batch.features.dtype == batch.targets.dtype == batch.weight.dtype == torch.float32
        assert batch.names == NAMES
        assert batch.weight.tolist() == [1.0] * len(batch)
        for at, (symbol, time) in enumerate(origins([batch])):
            rows = frame.filter(symbol=symbol).with_row_index()
            last = rows.filter(rows["time"].cast(int) == time)["index"].item()
            rows = rows.slice(last - window + 1, window)
            assert np.array_equal(batch.features[at].numpy(), rows.select(NAMES).to_numpy())
            assert batch.targets[at].tolist() == rows["ahead_3"].tail(1).to_list()
        seen += len(batch)
    assert seen == dataset.windows(split, window)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(1, 160), min_size=1, max_size=5),
    cuts=st.tuples(st.integers(1, 90), st.integers(0, 60)),
    embargo=st.integers(0, 4),
    window=st.sampled_from([1, 4, 13, 40]),
    split=st.sampled_from(["train", "validation", "test"]),
    targets=st.integers(0, 2),
)
def test_no_window_of_any_layout_crosses_a_symbol_a_gap_or_a_split(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    cuts: tuple[int, int],
    embargo: int,
    window: int,
    split: str,
    targets: int,
) -> None:
    """From the table alone: each window of rows is tried, and its batch is compared with it."""
    cuts = (cuts[0], sum(cuts))
    named = {f"S{k}": n for k, n in enumerate(rows)}
    dataset = write(
        tmp_path_factory.mktemp("layout"), named, targets=targets, cuts=cuts, embargo=embargo
    )
    code = ["train", "validation", "test"].index(split)
    horizon = targets + 2 if targets else 0
    allowed = []
    for symbol in named:
        table = dataset.to_polars().filter(symbol=symbol)
        time = table["time"].cast(int).to_numpy()
        part = np.searchsorted(cuts, time, side="right")
        in_split = np.cumsum(part == code) - 1
        for first in range(len(time) - window + 1):
            at = slice(first, first + window)
            ahead = first + window - 1 + horizon
            if (
                (part[at] == code).all()
                and (code == 0 or in_split[first] >= embargo)
                and (np.diff(time[at]) <= 5).all()
                and (ahead >= len(time) or part[ahead] == code)
                and not np.isnan(table[first + window - 1, 5:].to_numpy()).any()
            ):
                allowed.append((symbol, int(time[at][-1])))
    if not allowed:
        with pytest.raises(DatasetError, match="has no window"):
            dataset.loader(split, window)
        return
    assert origins(dataset.loader(split, window, shuffle=False)) == allowed
    assert sorted(origins(dataset.loader(split, window, 7, shuffle=True))) == sorted(allowed)


def test_train_is_shuffled_and_the_others_are_in_order(dataset: Dataset) -> None:
    train = origins(dataset.loader("train", 5))
    assert train != sorted(train)
    assert sorted(train) == origins(dataset.loader("train", 5, shuffle=False))
    for split in ("validation", "test"):
        loader = dataset.loader(split, 5)
        assert origins(loader) == origins(loader) == sorted(origins(loader))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_ranks_share_the_batches_of_one(dataset: Dataset, world_size: int, tail: Any) -> None:  # noqa: ANN401  # a literal
    options: dict[str, Any] = {"window": 6, "batch_size": 11, "seed": 3, "tail": tail}
    whole = [origins([batch]) for batch in dataset.loader(**options)]
    ranks = [
        [origins([b]) for b in dataset.loader(rank=rank, world_size=world_size, **options)]
        for rank in range(world_size)
    ]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole


def test_seeds_and_epochs_differ_and_repeat(dataset: Dataset) -> None:
    loader = dataset.loader(window=5, seed=1)
    epochs = [origins(loader) for _ in range(3)]
    assert loader.epoch == 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    again = dataset.loader(window=5, seed=1)
    assert [origins(again) for _ in range(3)] == epochs
    again.set_epoch(1)
    assert origins(again) == epochs[1]
    assert origins(dataset.loader(window=5, seed=2)) not in epochs


def test_an_epoch_left_early_is_not_taken_up_again(dataset: Dataset) -> None:
    loader, whole = dataset.loader(window=5, batch_size=16), dataset.loader(window=5, batch_size=16)
    first, second = origins(whole), origins(whole)
    assert origins([next(iter(loader))]) == first[:16]
    assert origins(loader) == second


def test_the_same_rows_have_the_same_order_whatever_wrote_them(
    dataset: Dataset, tmp_path: Path
) -> None:
    again = write(tmp_path)
    assert origins(again.loader(window=5)) == origins(dataset.loader(window=5))
    other = write(tmp_path, {**ROWS, "A": 91})
    assert origins(other.loader(window=5)) != origins(dataset.loader(window=5))


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(dataset: Dataset, stop: int) -> None:
    def loader() -> Loader:
        return dataset.loader(window=5, batch_size=24, seed=5)

    one = loader()
    expected = [origins([batch]) for _ in range(3) for batch in one]
    interrupted = loader()
    batches = (batch for _ in range(3) for batch in interrupted)
    assert [origins([batch]) for batch in islice(batches, stop)] == expected[:stop]
    state = json.loads(json.dumps(interrupted.state_dict()))
    assert len(json.dumps(state)) < 1024
    resumed = loader()
    resumed.load_state_dict(state)
    rest = [origins([batch]) for _ in range(3 - state["epoch"]) for batch in resumed]
    assert rest == expected[stop:]


def test_a_state_goes_on_with_another_number_of_ranks(dataset: Dataset) -> None:
    options: dict[str, Any] = {"window": 6, "batch_size": 11}
    whole = [origins([batch]) for batch in dataset.loader(**options)]
    two = dataset.loader(rank=1, world_size=2, **options)
    iterator = iter(two)
    next(iterator), next(iterator)
    one = dataset.loader(**options)
    one.load_state_dict(two.state_dict())
    assert [origins([batch]) for batch in one] == whole[2:]


@pytest.mark.parametrize(
    "other",
    [{"window": 6}, {"batch_size": 9}, {"seed": 1}, {"split": "test"}, {"stride": 2},
     {"shuffle": False}, {"tail": "drop"}, {"targets": False}],
)  # fmt: skip
def test_a_state_of_another_loader_is_refused(dataset: Dataset, other: dict[str, Any]) -> None:
    options: dict[str, Any] = {"window": 5, "batch_size": 8}
    state = dataset.loader(**{**options, **other}).state_dict()
    with pytest.raises(ConfigError, match=f"another {next(iter(other))}"):
        dataset.loader(**options).load_state_dict(state)


def test_a_state_of_other_data_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    other = write(tmp_path, {"A": 100}).loader(window=5).state_dict()
    with pytest.raises(ConfigError, match="another data_digest"):
        dataset.loader(window=5).load_state_dict(other)
    with pytest.raises(ConfigError, match="no epoch") as caught:
        dataset.loader(window=5).load_state_dict({})
    assert len(caught.value.problems) > 5


def test_a_state_of_other_batches_is_taken_where_that_is_meant(dataset: Dataset) -> None:
    state = dataset.loader(window=5, batch_size=8, seed=1).state_dict()
    loader = dataset.loader(window=6, batch_size=16)
    loader.load_state_dict({**state, "epoch": 2, "step": 3}, strict=False)
    assert (loader.epoch, loader.step) == (2, 3)
    expected = dataset.loader(window=6, batch_size=16)
    expected.set_epoch(2)
    assert origins(loader) == origins(expected)[3 * 16 :]
    with pytest.raises(ConfigError, match="no step"):
        loader.load_state_dict({"epoch": 1}, strict=False)
    loader.load_state_dict({"epoch": 1, "step": 10**6}, strict=False)
    assert list(loader) == []
    assert loader.epoch == 2


@pytest.mark.parametrize(("tail", "sizes"), [("short", [20, 20, 6]), ("drop", [20, 20])])
def test_the_tail_is_short_or_dropped(dataset: Dataset, tail: Any, sizes: list[int]) -> None:  # noqa: ANN401  # a literal
    loader = dataset.loader("validation", 11, 20, tail=tail, targets=False)
    assert [len(batch) for batch in loader] == sizes
    assert (len(loader), loader.windows) == (len(sizes), sum(sizes))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_padded_tail_marks_what_fills_it_up(dataset: Dataset, world_size: int) -> None:
    options: dict[str, Any] = {"split": "validation", "window": 11, "batch_size": 17}
    whole = origins(dataset.loader(**options))
    loaders = [
        dataset.loader(**options, tail="pad", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {(len(loader), loader.windows) for loader in loaders} == {(3, len(whole))}
    batches = list(chain(*zip(*loaders, strict=True)))
    assert sum(map(len, batches)) == 3 * 17
    masks = [batch.mask.tolist() for batch in batches]
    assert [batch.weight.tolist() for batch in batches] == masks
    real = [o for o, real in zip(origins(batches), chain(*masks), strict=True) if real]
    assert real == whole
    assert set(origins(batches)) == set(whole)  # what fills up is finite, as windows are
    assert all(batch.mask.dtype == torch.bool for batch in batches)


def test_a_padded_tail_longer_than_the_split_repeats_it(dataset: Dataset) -> None:
    windows = dataset.windows("validation", 11)
    (batch,) = dataset.loader("validation", 11, 2 * windows + 3, tail="pad")
    assert int(batch.weight.sum()) == windows
    assert torch.equal(batch.features[:windows], batch.features[windows : 2 * windows])


def test_targets_decide_which_windows_there_are_only_when_asked_for(dataset: Dataset) -> None:
    with_targets = origins(dataset.loader("test", 5))
    batches = list(dataset.loader("test", 5, targets=False))
    assert all(batch.targets.shape == (len(batch), 0) for batch in batches)
    # C alone reaches the test split; its last 3 targets are not known yet.
    assert set(origins(batches)) - set(with_targets) == {("C", time) for time in (147, 148, 149)}
    assert all(torch.isfinite(b.targets).all() for b in dataset.loader("test", 5))


def test_a_dataset_without_targets_gives_every_window(tmp_path: Path) -> None:
    dataset = write(tmp_path, targets=0)
    (batch,) = dataset.loader("test", 5)
    assert batch.targets.shape == (len(batch), 0)
    assert len(batch) == dataset.windows("test", 5, targets=False)


def test_scaled_batches_are_what_the_scaling_makes_of_natural_ones(tmp_path: Path) -> None:
    fitted = Scaling(
        NAMES, np.array([1.0, 0, -3]), np.array([2.0, 0.1, 1]), np.array([1, 0, 1]) > 0
    )
    dataset = write(tmp_path, scaling=fitted.to_json())
    natural, scaled = (dataset.loader(window=5, scaled=scaled) for scaled in (False, True))
    for x, y in zip(natural, scaled, strict=True):
        assert np.array_equal(y.features.numpy(), fitted.apply(x.features.numpy()))
        assert torch.equal(x.targets, y.targets)
    latest = dataset.latest(5, scaled=True).features.numpy()
    assert np.array_equal(latest, fitted.apply(dataset.latest(5).features.numpy()))


def big(root: Path, value: float) -> Dataset:
    """One of whose values is large; the scaling makes it small."""
    fitted = Scaling(NAMES, np.zeros(3), np.array([1.0, 1e6, 1]), np.zeros(3) > 0)
    return write(root, scaling=fitted.to_json(), large={("A", 20, 1): value})


@pytest.mark.parametrize("memory", ["mapped", "resident", "pool"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_features_are_cast_after_they_are_scaled(
    tmp_path: Path,
    memory: Any,  # noqa: ANN401  # a literal
    scaled: bool,
    dtype: Any,  # noqa: ANN401  # a literal
) -> None:
    dataset = big(tmp_path, 60_000.0)
    loader = dataset.loader(window=5, scaled=scaled, dtype=dtype, memory=memory)
    expected = dataset.loader(window=5, scaled=scaled, memory="mapped")
    for batch, plain in zip(loader, expected, strict=True):
        assert batch.features.dtype == getattr(torch, dtype)
        assert torch.equal(batch.features, plain.features.to(batch.features.dtype))
        assert torch.equal(batch.targets, plain.targets)
        assert torch.equal(batch.time, plain.time)
    assert dataset.latest(5, scaled=scaled, dtype=dtype).features.dtype == loader.dtype


@pytest.mark.parametrize("memory", ["mapped", "resident", "pool"])
def test_what_float16_cannot_hold_is_refused_with_its_name(tmp_path: Path, memory: Any) -> None:  # noqa: ANN401  # a literal
    dataset = big(tmp_path, -65_536.0)
    with pytest.raises(DatasetError, match=r"market\.b is too large for float16") as caught:
        list(dataset.loader(window=5, dtype="float16", memory=memory))
    assert caught.value.problems[0].got == "65,536"
    assert caught.value.problems[0].fix == 'dtype="bfloat16", or scaled=True'
    assert list(dataset.loader(window=5, dtype="float16", memory=memory, scaled=True))
    assert list(dataset.loader(window=5, dtype="bfloat16", memory=memory))


def test_an_infinity_is_no_overflow(tmp_path: Path) -> None:
    (batch,) = big(tmp_path, np.inf).loader(window=5, dtype="float16")
    assert batch.features.isinf().any()


def test_loaders_of_one_dataset_share_the_rows_that_they_keep(tmp_path: Path) -> None:
    dataset = write(tmp_path)
    train, held_out = (dataset.loader(split, 5, memory="resident") for split in ("train", "test"))
    list(train), list(held_out)
    tables = [loader._rows.features.flats[0] for loader in (train, held_out)]  # type: ignore[union-attr]
    assert tables[0] is tables[1]
    assert len(_RESIDENT[dataset]) == 1
    del tables, train, held_out
    assert len(_RESIDENT[dataset]) == 0


@pytest.mark.parametrize(
    ("options", "machine", "memory"),
    [
        ({}, 1 << 40, "mapped"),
        ({}, 1 << 20, "mapped"),
        ({}, 1 << 18, "pool"),
        ({"dtype": "bfloat16"}, 1 << 40, "resident"),
        ({"dtype": "bfloat16"}, 1 << 20, "resident"),
        ({"dtype": "bfloat16"}, 1 << 18, "pool"),
        ({"dtype": "bfloat16", "world_size": 512, "tail": "pad"}, 1 << 20, "mapped"),
        ({"dtype": "bfloat16", "memory": "mapped"}, 1 << 40, "mapped"),
        ({"memory": "resident"}, 0, "resident"),
        ({"memory": "pool"}, 1 << 40, "pool"),
    ],
)
def test_memory_is_chosen_by_the_size_of_the_machine(
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    machine: int,
    memory: str,
) -> None:
    assert 3 << 16 < sum(shard.bytes for shard in dataset.manifest.shards) < 3 << 18
    monkeypatch.setattr("featurekit.dataset.loader.machine_memory", lambda: machine)
    loader = dataset.loader(window=5, **options)
    assert loader.memory == memory
    assert memory in repr(loader)
    assert len(next(iter(loader))) > 0


def test_the_memory_of_the_machine_is_more_than_a_gigabyte() -> None:
    assert machine_memory() == machine_memory() > 1 << 30


def test_many_symbols_of_which_some_are_too_short(tmp_path: Path) -> None:
    rows = {f"S{k:03d}": 12 if k % 10 < 3 else 40 for k in range(100)}
    dataset = write(tmp_path, rows, cuts=(1000, 1000))
    loader = dataset.loader(window=16)
    assert loader.absent == tuple(symbol for symbol, n in rows.items() if n < 16)
    assert len(loader.absent) == 30
    assert {symbol for symbol, _ in origins(loader)} == set(rows) - set(loader.absent)
    assert loader.windows == 70 * (40 - 3 - 16 + 1)


def test_the_latest_window_of_each_symbol(dataset: Dataset) -> None:
    batch = dataset.latest(12)
    assert origins([batch]) == [("A", 99), ("C", 149)]  # B has one row, D has 10 after its gap
    frame = dataset.to_polars()
    for at, symbol in enumerate(("A", "C")):
        rows = frame.filter(symbol=symbol).tail(12).select(NAMES)
        assert np.array_equal(batch.features[at].numpy(), rows.to_numpy())
    with pytest.raises(DatasetError, match="no symbol has 64 rows after") as caught:
        write(dataset.path.parent / "short", {"A": 60}).latest(64)
    assert caught.value.problems[0].fix == "window=10"


def test_a_batch_is_a_copy_and_moves_between_devices(dataset: Dataset) -> None:
    loader = dataset.loader("validation", 5, 8)
    kept = next(iter(loader))
    before = kept.features.clone()
    kept.features.zero_()
    assert torch.equal(next(iter(loader)).features, before)
    moved = kept.to("meta")
    assert {getattr(moved, name).device.type for name in ("features", "targets", "time")} == {
        "meta"
    }
    assert moved.names == kept.names
    assert next(iter(dataset.loader("validation", 5, device="meta"))).symbol.device.type == "meta"


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"window": 0}, "window=1"),
        ({"window": 2.5}, "window=1"),
        ({"window": 65}, "window=64, or windows: {max: 65} and a new build"),
        ({"batch_size": 0}, "batch_size=1"),
        ({"batch_size": -512}, "batch_size=1"),
        ({"batch_size": 3, "world_size": 4}, "batch_size=4"),
        ({"seed": -1}, "seed=0"),
        ({"world_size": 0}, "world_size=1"),
        ({"world_size": "2"}, "world_size=1"),
        ({"rank": 2, "world_size": 2}, "rank=1"),
        ({"rank": -1}, "rank=0"),
        ({"stride": 0}, "stride=1"),
        ({"stride": 10**30}, "stride=2147483647"),
        ({"batch_size": 10**30}, "batch_size=2147483647"),
        ({"tail": "long"}, 'tail="short"'),
        ({"memory": "gpu"}, 'memory="auto"'),
        ({"dtype": "int8"}, 'dtype="float32"'),
        ({"split": "valid"}, 'split="train"'),
        ({"device": "gpu"}, 'device="cpu"'),
        ({"scaled": True}, "scaled=False"),
        ({"batch_size": 10**6, "tail": "drop"}, 'tail="short"'),
        ({"batch_size": 45, "world_size": 4, "split": "validation", "window": 11,
          "targets": False}, 'tail="pad", or tail="drop"'),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_with_its_fix(
    dataset: Dataset, options: dict[str, Any], fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        dataset.loader(**{"window": 5, "batch_size": 8, **options})
    assert [problem.fix for problem in caught.value.problems] == [fix]


def test_all_wrong_options_are_told_at_once(dataset: Dataset) -> None:
    with pytest.raises(ConfigError) as caught:
        dataset.loader(window=0, batch_size=0, stride=0, rank=9, scaled=True)
    assert len(caught.value.problems) == 5


def test_a_window_longer_than_every_run_is_told_with_the_symbols(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="no window of 60 rows") as caught:
        dataset.loader("train", 60)
    assert "A 50, B 1, C 50, D 50" in str(caught.value)
    assert caught.value.problems[0].fix == "window=50"
    assert len(dataset.loader("train", 50)) == 1


def test_targets_that_are_all_unknown_are_told(tmp_path: Path) -> None:
    dataset = write(tmp_path, {"A": 3}, cuts=(50, 50))
    with pytest.raises(DatasetError, match="no target") as caught:
        dataset.loader(window=2)
    assert caught.value.problems[0].fix == "targets=False"
    assert len(dataset.loader(window=2, targets=False)) == 1


def test_loading_warns_of_nothing(dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(batch) for batch in dataset.loader(window=5)) == dataset.windows("train", 5)
