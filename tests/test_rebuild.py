"""Builds that go on from the one before: bit for bit what a build of everything gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import featurekit as fk
from featurekit import block as block_module
from featurekit.audit import AuditReport
from featurekit.block import block
from featurekit.build import Build, build

HOUR = 3_600_000_000_000
SYMBOLS = ("AUD", "EUR", "JPY")
BARS = 1_400
HOURS = timedelta(hours=1)
ZERO = 1_600_000_000_000_000_000 // HOUR * HOUR


def bars_of(symbol: str, rows: int = BARS) -> pl.DataFrame:
    """Simulated: the first hours of a random walk, with two days off after each 480."""
    rng = np.random.default_rng(sum(map(ord, symbol)))
    close = np.exp(np.cumsum(rng.normal(0, 1e-3, 2 * BARS)))
    start = np.concatenate([[1.0], close[:-1]])
    low, high = np.minimum(start, close), np.maximum(start, close)
    hour = np.arange(2 * BARS)
    time = ZERO + (hour + hour // 480 * 48) * HOUR
    frame = pl.DataFrame(
        {
            "symbol": [symbol] * len(time),
            "time": pl.Series(time).cast(pl.Datetime("ns", "UTC")),
            "open": start,
            "high": high * 1.0005,
            "low": low * 0.9995,
            "close": close,
            "volume": rng.integers(1, 1000, len(time)).astype(float),
        }
    )
    return frame.head(rows)


def fills_of(symbol: str) -> pl.DataFrame:
    """Simulated: a trade now and then, now long, now short, some at the very close of a bar."""
    rng = np.random.default_rng(7 + sum(map(ord, symbol)))
    at = np.sort(rng.choice(2 * BARS - 2, 400, replace=False))
    bars = bars_of(symbol, 2 * BARS)
    time = bars["time"].dt.epoch("ns").to_numpy()[at] + rng.choice([HOUR, HOUR // 3], len(at))
    return pl.DataFrame(
        {
            "time": pl.Series(time).cast(pl.Datetime("ns", "UTC")),
            "symbol": [symbol] * len(at),
            "side": rng.choice(["buy", "sell"], len(at)),
            "quantity": rng.choice([0.5, 1.0, 2.0], len(at)),
            "price": bars["close"].to_numpy()[at],
            "fee": [0.25] * len(at),
        }
    ).sort("time", maintain_order=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces a symbol, as longer histories have, and no page, which others test."""
    monkeypatch.setattr("featurekit.build.rows.PIECE", 500)
    monkeypatch.setattr(AuditReport, "to_html", lambda self, path: Path(path).write_bytes(b""))


class Desk:
    """A directory with bars, fills and a pipeline, which a test changes between builds."""

    def __init__(self, root: Path, **document: Any) -> None:  # noqa: ANN401  # of the pipeline
        self.root = root
        root.mkdir(exist_ok=True)
        self.bars = {symbol: bars_of(symbol) for symbol in SYMBOLS}
        self.fills: dict[str, pl.DataFrame] = {}
        self.document: dict[str, Any] = {
            "name": "desk",
            "bars": {"path": str(root / "bars.parquet"), "bar": "1h", "timezone": "UTC"},
            "fills": {"path": str(root / "fills.csv"), "timezone": "UTC"},
            "blocks": [{"market": {}}, {"position": {}}, {"indicator": {}}],
            "targets": {"ahead": {"forward_return": 5}, "up": {"forward_sign": 2}},
            "splits": {"validation": "2020-11-01", "test": "2020-11-10", "embargo": 3},
            "windows": {"max": 32},
            "warmup": "lookback",
            **document,
        }

    def pipeline(self) -> fk.Pipeline:
        pl.concat(self.bars.values()).write_parquet(self.root / "bars.parquet")
        ends = {symbol: bars["time"].max() for symbol, bars in self.bars.items()}
        known = [
            self.fills.get(symbol, fills_of(symbol)).filter(pl.col("time") <= end + HOURS)
            for symbol, end in ends.items()
        ]
        pl.concat(known).sort("time", maintain_order=True).write_csv(self.root / "fills.csv")
        return fk.Pipeline.from_yaml(yaml.safe_dump(self.document, sort_keys=False))

    def build(self, out: str = "out", **options: Any) -> Build:  # noqa: ANN401  # passed on
        return build(self.pipeline(), out=self.root / out, **options)


def rows_of(dataset: fk.Dataset) -> pl.DataFrame:
    return dataset.to_polars()


def assert_equals_a_full_build(desk: Desk, built: Build, *, fitted: bool = True) -> None:
    """Rows, digest, profile and saved states, and what is fitted; files may be others."""
    whole = desk.build("whole")
    assert rows_of(built.dataset).equals(rows_of(whole.dataset), null_equal=True)
    one, other = built.dataset, whole.dataset
    assert one.manifest.data_digest == other.manifest.data_digest
    assert one.manifest.segments == other.manifest.segments
    assert one.manifest.splits == other.manifest.splits
    assert (one.generation / "profile").read_bytes() == (other.generation / "profile").read_bytes()
    states = [
        each.path / "state" / f"{each.manifest.generation:06d}.safetensors" for each in (one, other)
    ]
    assert states[0].read_bytes() == states[1].read_bytes()
    fk.open_dataset(one.path).verify(full=True)
    if not fitted:
        return
    # A scaling that stays was fitted with the stretches of time of then: to rounding the same.
    assert one.scaling is not None
    assert other.scaling is not None
    np.testing.assert_allclose(one.scaling.scale, other.scaling.scale, rtol=1e-12)
    np.testing.assert_allclose(one.scaling.center, other.scaling.center, rtol=1e-9, atol=1e-16)
    audits = [(each.generation / "audit.json").read_text() for each in (one, other)]
    assert audits[0] == audits[1]


DESKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "portfolio": {"account": {"scope": "portfolio", "cash": 50_000}},
    "this": {"account": {"fill_at_close": "this", "multiplier": 10}},
    "restarts": {"segments": {"max_gap": "2d", "reset": True}},
    "memory": {
        "warmup": "memory",
        "splits": {"validation": "2020-11-04", "test": "2020-11-07"},
    },
}


@pytest.mark.parametrize("kind", DESKS)
def test_new_bars_go_on_from_the_saved_state(kind: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DESKS[kind])
    desk.build()
    for more in (1, 30, 200):
        rows = {symbol: bars.height for symbol, bars in desk.bars.items()}
        desk.bars = {symbol: bars_of(symbol, n + more) for symbol, n in rows.items()}
        before = fk.open_dataset(tmp_path / "out")
        built = desk.build()
        assert any("new bars are added: AUD" in note for note in built.notes), built.notes
        old = {shard.file for shard in before.manifest.shards}
        assert old & {shard.file for shard in built.dataset.manifest.shards}
        written = [s for s in built.dataset.manifest.shards if s.file not in old]
        assert sum(shard.rows for shard in written) < built.dataset.rows // 2
    assert_equals_a_full_build(desk, built)


def test_nothing_new_is_up_to_date(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.build()
    again = desk.build()
    assert not first.up_to_date
    assert again.up_to_date
    assert again.dataset.generation == first.dataset.generation
    assert again.verdict == first.verdict
    assert again.audit.to_json() == first.audit.to_json()
    desk.document["bars"]["path"] = str(tmp_path / "bars.csv")  # the same rows in another file
    pl.concat(desk.bars.values()).write_csv(tmp_path / "bars.csv")
    other = desk.build()
    assert not other.up_to_date  # the pipeline that is stored names another file
    assert len(other.dataset.manifest.shards) == len(first.dataset.manifest.shards)
    assert {s.file[:6] for s in other.dataset.manifest.shards} == {"000001"}
    pl.concat(desk.bars.values()).write_csv(tmp_path / "bars.csv", quote_style="always")
    assert desk.build().up_to_date


def changed(frame: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:  # noqa: ANN401  # cells
    index = pl.int_range(pl.len())
    return frame.with_columns(
        pl.when(index == row).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in values.items()
    )


def rewrite_close(desk: Desk) -> None:
    close = desk.bars["EUR"]["close"][700]
    desk.bars["EUR"] = changed(desk.bars["EUR"], 700, close=close * 1.0001)


def rewrite_close_and_add(desk: Desk) -> None:
    rewrite_close(desk)
    desk.bars = {s: pl.concat([b, bars_of(s, BARS + 50).tail(50)]) for s, b in desk.bars.items()}


def drop_a_bar(desk: Desk) -> None:
    desk.bars["EUR"] = desk.bars["EUR"].filter(pl.int_range(pl.len()) != 900)


def fewer_bars(desk: Desk) -> None:
    desk.bars["EUR"] = desk.bars["EUR"].head(BARS - 10)


def late_fill(desk: Desk) -> None:
    fills = fills_of("EUR")
    desk.fills["EUR"] = fills.filter(pl.int_range(pl.len()) != 30)


def new_symbol(desk: Desk) -> None:
    desk.bars["CHF"] = bars_of("CHF", 600)
    desk.bars = dict(sorted(desk.bars.items()))


def symbol_gone(desk: Desk) -> None:
    del desk.bars["EUR"]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (rewrite_close, "of the past have changed: EUR"),
        (rewrite_close_and_add, "of the past have changed: EUR"),
        (drop_a_bar, "of the past have changed: EUR"),
        (fewer_bars, "of the past have changed: EUR"),
        (late_fill, "of the past have changed: EUR"),
        (new_symbol, "new symbols: CHF"),
        (symbol_gone, "no more bars: EUR"),
    ],
)
def test_another_past_is_computed_again_for_its_symbol_only(
    change: Callable[[Desk], None], note: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    first = desk.build()
    change(desk)
    built = desk.build()
    assert any(note in told for told in built.notes), built.notes
    before = {shard.file for shard in first.dataset.manifest.shards}
    kept = [
        part.symbol
        for shard in built.dataset.manifest.shards
        for part in shard.symbols
        if shard.file in before
    ]
    assert {"AUD", "JPY"} <= set(kept)
    assert ("EUR" in kept) == (change is new_symbol)
    # A new symbol adds rows to train, and the scaling stays.
    assert_equals_a_full_build(desk, built, fitted=change is not new_symbol)


@pytest.mark.parametrize("change", [rewrite_close, late_fill, new_symbol])
def test_a_portfolio_sees_another_past_of_any_symbol(
    change: Callable[[Desk], None], tmp_path: Path
) -> None:
    desk = Desk(tmp_path, account={"scope": "portfolio"})
    desk.build()
    change(desk)
    assert_equals_a_full_build(desk, desk.build())


def test_cuts_and_scaling_stay_until_they_are_asked_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, splits={"validation": 0.2, "test": 0.2}, slices={})
    first = desk.build()
    desk.bars = {symbol: bars_of(symbol, BARS + 400) for symbol in SYMBOLS}
    added = desk.build()
    assert added.dataset.manifest.cuts == first.dataset.manifest.cuts
    assert added.dataset.manifest.scaling == first.dataset.manifest.scaling
    anew = desk.build(resplit=True)
    assert anew.dataset.manifest.cuts > first.dataset.manifest.cuts
    assert anew.dataset.manifest.scaling != first.dataset.manifest.scaling
    shards = [dataset.manifest.shards for dataset in (anew.dataset, added.dataset)]
    assert shards[0] == shards[1]  # no row was written again
    assert_equals_a_full_build(desk, anew)
    assert (
        desk.build(resplit=True).dataset.manifest.data_digest == anew.dataset.manifest.data_digest
    )


@pytest.mark.parametrize(
    ("change", "note", "kept"),
    [
        ({"audit": {"fail_on": "warn"}}, "audit.fail_on: (not there) -> 'warn'", True),
        ({"scaling": {"kind": "robust", "blocks": {"position": {"kind": "standard"}}}},
         "scaling.kind", None),
        ({"windows": {"max": 64}}, "windows.max: 32 -> 64", True),
        ({"splits": {"validation": "2020-10-20", "test": "2020-11-10"}}, "splits.validation", True),
        ({"targets": {"ahead": {"forward_return": 3}}}, "targets.up", False),
        ({"blocks": [{"market": {}}, {"position": {}}]}, "blocks", False),
        ({"account": {"cash": 20_000}}, "account", False),
    ],
)  # fmt: skip
def test_what_has_changed_in_the_pipeline_is_told(
    change: dict[str, Any], note: str, kept: bool | None, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    first = desk.build()
    desk.document |= change
    if kept is None:  # most bars of this desk are flat: an interquartile range of 0 is refused
        desk.document["scaling"]["blocks"]["indicator"] = {"kind": "standard"}
        desk.document["scaling"]["blocks"]["market"] = {"kind": "standard"}
    built = desk.build()
    assert any(note in told for told in built.notes), built.notes
    same = [s.file for s in built.dataset.manifest.shards] == [
        s.file for s in first.dataset.manifest.shards
    ]
    assert same == (kept is not False)
    assert ("every row is computed again" in built.notes) == (kept is False)
    assert_equals_a_full_build(desk, built)


def test_a_longer_window_rewrites_what_was_added_in_stretches(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.build()
    desk.bars = {symbol: bars_of(symbol, BARS + 40) for symbol in SYMBOLS}
    desk.build()
    desk.document["windows"] = {"max": 100}
    built = desk.build()
    loader = built.dataset.loader("test", window=100, shuffle=False)
    whole = desk.build("whole").dataset.loader("test", window=100, shuffle=False)
    for one, other in zip(loader, whole, strict=True):
        assert np.array_equal(one.features.numpy(), other.features.numpy())
    assert_equals_a_full_build(desk, built)


def test_a_block_of_another_code_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, blocks=[{"market": {}}, {"rebuilt": {}}])
    for window in (3, 4):

        def rebuilt(close: fk.Col, *, window: int = window) -> dict[str, fk.Col]:
            """Mean."""
            return {"mean": close.mean(window)}

        with monkeypatch.context() as patched:
            patched.delitem(block_module._BLOCKS, "rebuilt", raising=False)
            block(unit="ratio")(rebuilt)
            built = desk.build()
    assert "a block is computed in another way than before" in built.notes


def test_another_unit_of_the_same_numbers_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, blocks=[{"market": {}}, {"described": {}}])
    for unit in ("ratio", "percent"):

        def described(close: fk.Col) -> dict[str, fk.Col]:
            """Mean."""
            return {"mean": close.mean(3)}

        with monkeypatch.context() as patched:
            patched.delitem(block_module._BLOCKS, "described", raising=False)
            block(unit=unit)(described)
            built = desk.build()
            assert desk.build().up_to_date
    assert built.dataset.features[-1].unit == "percent"
    assert {shard.file[:6] for shard in built.dataset.manifest.shards} == {"000001"}
    assert "every row is computed again" not in built.notes


def test_many_appends_leave_few_shards(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.bars = {"EUR": bars_of("EUR")}
    desk.build()
    for more in range(1, 10):
        desk.bars = {"EUR": bars_of("EUR", BARS + 8 * more)}
        built = desk.build()
        assert len(built.dataset.manifest.shards) <= 5
    assert_equals_a_full_build(desk, built)


def damage_shard(dataset: fk.Dataset) -> None:
    path = dataset.path / "shards" / dataset.manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:-1])


def lose_shard(dataset: fk.Dataset) -> None:
    (dataset.path / "shards" / dataset.manifest.shards[0].file).unlink()


def flip_shard(dataset: fk.Dataset) -> None:
    path = dataset.path / "shards" / dataset.manifest.shards[0].file
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)


def flip_state(dataset: fk.Dataset) -> None:
    path = next((dataset.path / "state").iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_state(dataset: fk.Dataset) -> None:
    next((dataset.path / "state").iterdir()).unlink()


def lose_audit(dataset: fk.Dataset) -> None:
    (dataset.generation / "audit.json").unlink()


def lose_manifest(dataset: fk.Dataset) -> None:
    (dataset.generation / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "note", "more"),
    [
        (damage_shard, "is damaged", 20),
        (lose_shard, "is damaged", 0),
        (flip_shard, "is damaged in block 0", 20),
        (flip_state, "is damaged or missing", 20),
        (lose_state, "is damaged or missing", 0),
        (lose_audit, "audit.json is damaged or missing", 0),
        (lose_audit, "audit.json is damaged or missing", 20),
        (lose_manifest, "cannot be read", 20),
    ],
)
def test_what_is_damaged_is_built_again(
    damage: Callable[[fk.Dataset], None], note: str, more: int, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    first = desk.build(shard_bytes=400_000)
    assert len(first.dataset.manifest.shards) == 3
    damage(first.dataset)
    desk.bars = {symbol: bars_of(symbol, BARS + more) for symbol in SYMBOLS}
    full = damage in (flip_shard, flip_state)
    built = desk.build(verify="full" if full else "size")
    assert any(note in told for told in built.notes), built.notes
    if damage in (damage_shard, lose_shard, flip_shard):
        before = {shard.file for shard in first.dataset.manifest.shards[1:]}
        assert before <= {shard.file for shard in built.dataset.manifest.shards}
    assert_equals_a_full_build(desk, built)
    assert desk.build().up_to_date


def test_what_was_set_aside_is_told_again_and_is_part_of_the_input(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.bars["EUR"] = changed(desk.bars["EUR"], 700, high=0.0)
    first = desk.build(on_bad="quarantine")
    again = desk.build(on_bad="quarantine")
    assert (first.up_to_date, again.up_to_date) == (False, True)
    assert first.quarantined == again.quarantined > 0
    desk.bars["EUR"] = bars_of("EUR")
    built = desk.build(on_bad="quarantine")
    assert (built.up_to_date, built.quarantined) == (False, 0)
    assert not list(built.dataset.generation.glob("quarantine/*"))
    assert_equals_a_full_build(desk, built)


def test_a_portfolio_sees_the_bars_of_symbols_that_are_too_short(tmp_path: Path) -> None:
    desk = Desk(tmp_path, account={"scope": "portfolio"})
    desk.bars = {"CHF": bars_of("CHF", 150), "EUR": bars_of("EUR")}
    desk.build()
    desk.bars = {"CHF": bars_of("CHF", 151), "EUR": bars_of("EUR", BARS + 5)}
    assert_equals_a_full_build(desk, desk.build())


def test_no_slices_are_other_than_the_usual_ones(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.build()
    desk.document["slices"] = {}
    built = desk.build()
    assert not built.up_to_date
    assert "the pipeline has changed: slices: (not there) -> {}" in built.notes
    assert_equals_a_full_build(desk, built)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_any_history_of_builds_is_a_full_build(seed: int, tmp_path: Path) -> None:
    """Twenty changes in a row: bars, fills, symbols, windows, slices, splits, damage, pruning."""
    rng = random.Random(seed)  # noqa: S311  # of changes
    desk = Desk(tmp_path, **DESKS[rng.choice(list(DESKS))])
    desk.build()
    for _ in range(20):
        change = rng.choice(["add", "add", "add", "add", *CHANGES])
        verify = "full" if change == "damage" else "size"
        if change == "add":
            for symbol, bars in desk.bars.items():
                later = bars_of(symbol, 2 * BARS).filter(pl.col("time") > bars["time"][-1])
                count = rng.choice([0, 1, 5, 40, 300])
                desk.bars[symbol] = pl.concat([bars, later.head(count)])
        else:
            CHANGES[change](desk, rng)
        built = desk.build(
            resplit=change == "resplit", verify=verify, shard_bytes=rng.choice([200_000, 10**8])
        )
        assert_equals_a_full_build(desk, built, fitted=False)


def damage_any(desk: Desk, rng: random.Random) -> None:
    dataset = fk.open_dataset(desk.root / "out")
    path = dataset.path / "shards" / rng.choice(dataset.manifest.shards).file
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1
    path.write_bytes(content)


def grow_a_short_one(desk: Desk, rng: random.Random) -> None:
    desk.bars["CHF"] = bars_of("CHF", rng.choice([150, 151, 300, 900]))
    desk.bars = dict(sorted(desk.bars.items()))


HELD = {"held": '"position.side" != 0'}
CHANGES: dict[str, Callable[[Desk, random.Random], object]] = {
    "past": lambda desk, rng: rewrite_close(desk),
    "fill": lambda desk, rng: late_fill(desk),
    "short": grow_a_short_one,
    "windows": lambda desk, rng: desk.document.update(windows={"max": rng.choice([8, 32, 100])}),
    "slices": lambda desk, rng: desk.document.update(
        slices=rng.choice([{}, {"held": '"position.side" != 0'}])
    ),
    "resplit": lambda desk, rng: None,
    "prune": lambda desk, rng: fk.open_dataset(desk.root / "out").prune(rng.choice([1, 2])),
    "damage": damage_any,
}


def test_bars_that_only_warm_up_again_are_seen(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DESKS["restarts"])
    desk.bars = {"EUR": bars_of("EUR", 1440)}
    desk.build()
    for rows in (1442, 1700):  # features start afresh at bar 1,440
        desk.bars = {"EUR": bars_of("EUR", rows)}
        assert_equals_a_full_build(desk, desk.build())


def test_targets_are_filled_in_where_a_symbol_is_cut_before_its_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path, windows={"max": 8})
    desk.bars = {"EUR": bars_of("EUR", 1_600)}
    rows, row_bytes = desk.build().dataset.rows, (129 + 2) * 4 + 8
    shard_bytes = (rows - 1) * row_bytes // 4 + 1
    first = desk.build("cut", shard_bytes=shard_bytes).dataset
    assert [part.rows for s in first.manifest.shards for part in s.symbols][-1] < 20
    desk.bars = {"EUR": bars_of("EUR", 1_640)}
    assert_equals_a_full_build(desk, desk.build("cut", shard_bytes=shard_bytes))
