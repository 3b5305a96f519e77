"""Changes: what of each symbol is kept, what is added, and what is computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from featurekit.build.fills import Fills
from featurekit.build.parts import Part, parts_of, warmup_of
from featurekit.build.saved import Saved, digest_rows
from featurekit.dataset.manifest import content_digest
from featurekit.dataset.places import Planned
from featurekit.inputs import columns_of_bars, symbol_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from featurekit.build.base import Base
    from featurekit.dataset.manifest import ShardRows
    from featurekit.ingest import Ingested
    from featurekit.ledger.replay import Closes
    from featurekit.pipeline import Pipeline

LISTED = 5


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with a symbol: the rows of its first `known` bars are there already.

    `saved` is what is known after these bars; None if there are none.
    """

    part: Part
    planned: Planned
    known: int = 0
    saved: Saved | None = None

    @property
    def computed(self) -> int:
        """Bars whose rows are computed."""
        return self.part.bars - self.known


class Changes:
    """The steps of a build, one a symbol in their order, and what they say of the bars."""

    def __init__(
        self,
        pipeline: Pipeline,
        bars: pl.DataFrame,
        fills: Fills,
        parts: Sequence[Part],
        base: Base | None,
    ) -> None:
        self._pipeline, self._base, self._fills = pipeline, base, fills
        names = sorted({*columns_of_bars(pipeline.program.inputs), "close"})
        self._bars = bars.select("time", pl.col(names).cast(pl.Float64))
        self._parts = {part.symbol: part for part in parts}
        self.short = self._short(bars)
        self._portfolio_moved = self._portfolio_has_moved()
        self.steps = [self._step(part) for part in parts]

    def _short(self, bars: pl.DataFrame) -> str:
        """Names the bars of symbols without rows, which an account of all symbols sees too."""
        if self._pipeline.account.scope != "portfolio":
            return ""
        return content_digest(
            [
                [symbol, count, digest_rows(self._bars.slice(first, count), count)]
                for symbol, first, count in symbol_spans(bars)
                if symbol not in self._parts
            ]
        )

    @property
    def unchanged(self) -> bool:
        """Whether the dataset has every row already, no others, and has seen every bar."""
        return (
            self._base is not None
            and self._base.dataset.symbols == tuple(self._parts)
            and not any(step.computed for step in self.steps)
            and all(step.planned.kept == step.planned.rows for step in self.steps)
        )

    @property
    def past_changed(self) -> bool:
        """Whether rows that the generation before has are gone, or others now."""
        if self._base is None or self._base.damaged:
            return True
        kept = {step.part.symbol for step in self.steps if step.known}
        return not kept.issuperset(self._base.dataset.symbols)

    def notes(self) -> list[str]:
        """What has changed since the generation before, for people."""
        if self._base is None:
            return []
        there = self._base.dataset.symbols
        more = {
            step.part.symbol: step.computed for step in self.steps if step.known and step.computed
        }
        anew = [step.part.symbol for step in self.steps if not step.known]
        changed = [symbol for symbol in anew if symbol in there]
        damaged = [symbol for symbol in anew if symbol in self._base.damaged]
        new = [symbol for symbol in anew if symbol not in (*changed, *damaged)]
        gone = [symbol for symbol in there if symbol not in self._parts]
        told = [
            ("new bars are added", [f"{s} ({n})" for s, n in more.items()]),
            ("new symbols", new),
            ("computed again, as bars or fills of the past have changed", changed),
            ("computed again, as it was damaged", damaged),
            ("left out, as there are no more bars", gone),
        ]
        return [f"{what}: {_listed(symbols)}" for what, symbols in told if symbols]

    def saved(self, step: Step, account: Mapping[str, Any], engine: NDArray[np.float64]) -> Saved:
        """What is known of a symbol after its last bar."""
        part = step.part
        close = self._last_close(part)
        seen, digest = self._fills_seen(part.symbol, close)
        bars = digest_rows(self._bars.slice(part.first, part.bars), part.bars)
        return Saved(part.symbol, part.bars, bars, close, seen, digest, account, engine)

    @property
    def digest(self) -> str:
        """Names the bars and the fills that the rows are made of."""
        found = []
        for part in self._parts.values():
            bars = digest_rows(self._bars.slice(part.first, part.bars), part.bars)
            seen = self._fills_seen(part.symbol, self._last_close(part))
            found.append([part.symbol, part.bars, bars, seen])
        return content_digest(found)

    def later_closes(self, symbol: str) -> dict[str, Closes] | None:
        """Of a portfolio, the closes of the other symbols since the generation before."""
        if self._pipeline.account.scope != "portfolio":
            return None
        later = {}
        for other, part in self._parts.items():
            if other != symbol:
                saved = None if self._base is None else self._base.saved.get(other)
                known = 0 if saved is None else saved.bars
                rows = self._bars.slice(part.first + known, part.bars - known)
                later[other] = (self._pipeline.closes(rows), rows["close"].to_numpy())
        return later

    def _step(self, part: Part) -> Step:
        saved = None if self._base is None else self._base.saved.get(part.symbol)
        if self._base is None or saved is None or not self._continues(part, saved):
            return Step(part, Planned(part.symbol, part.rows))
        dataset = self._base.dataset
        if part.symbol not in dataset.symbols:
            return Step(part, Planned(part.symbol, part.rows))
        code = dataset.symbols.index(part.symbol)
        first, stop = dataset.manifest.symbol_starts[code : code + 2].tolist()
        shards = dataset.manifest.shards
        held = [rows for shard in shards for rows in shard.symbols if rows.symbol == part.symbol]
        kept = _kept(held, stop - first, part.rows, dataset.manifest.horizon)
        longest = self._pipeline.windows.max
        if len(held) > 1 and longest > dataset.manifest.window_max:
            kept = 0  # what is repeated before each stretch would be too short
        halo = min(kept, longest - 1) if kept < part.rows else 0
        return Step(part, Planned(part.symbol, part.rows, kept, halo), saved.bars, saved)

    def _continues(self, part: Part, saved: Saved) -> bool:
        """Whether all that was known after the last bar still holds."""
        if self._portfolio_moved or saved.bars > part.bars:
            return False
        bars = digest_rows(self._bars.slice(part.first, part.bars), saved.bars)
        seen, fills = self._fills_seen(part.symbol, saved.last_close)
        return (bars, seen, fills) == (saved.bars_digest, saved.fills, saved.fills_digest)

    def _fills_seen(self, symbol: str, close: int) -> tuple[int, str]:
        fills = self._fills.of(symbol)
        if fills is None:
            return 0, ""
        seen = self._fills.seen(symbol, close)
        return seen, digest_rows(fills, seen)

    def _portfolio_has_moved(self) -> bool:
        """Whether an account of all symbols has seen a close or a fill that it now sees otherwise.

        Then every symbol's rows are others, as each tells of the same account.
        """
        base = self._base
        if base is None or self._pipeline.account.scope != "portfolio" or not base.saved:
            return False
        if base.fingerprints.get("short") != self.short:
            return True
        latest = max(saved.last_close for saved in base.saved.values())
        if any(symbol not in self._parts for symbol in base.saved):
            return True
        for part in self._parts.values():
            saved = base.saved.get(part.symbol)
            known = 0 if saved is None else saved.bars
            frame = self._bars.slice(part.first, part.bars)
            if saved is not None and digest_rows(frame, known) != saved.bars_digest:
                return True
            later = self._pipeline.closes(frame.slice(known, 1))
            if later.size and later[0] <= latest:
                return True
        return False

    def _last_close(self, part: Part) -> int:
        """UTC ns at which the last bar of a symbol closed."""
        last = self._bars.slice(part.first + part.bars - 1, 1)
        return int(self._pipeline.closes(last)[0])


def source_digest(pipeline: Pipeline, data: Ingested) -> str:
    """Names the bars and the fills that a build makes rows of: its `fingerprints["data"]`.

    Raises:
        DataError: when no symbol has a row after the warm-up.
    """
    parts, _ = parts_of(pipeline, data.bars, warmup_of(pipeline))
    return Changes(pipeline, data.bars, Fills(pipeline, data.fills), parts, None).digest


def _kept(held: Sequence[ShardRows], before: int, rows: int, horizon: int) -> int:
    """Rows of a symbol that stay in the shards they lie in; all of them if none is added.

    The last ones have targets that are known now. Stretches not longer than what is added to them
    are written again with it, so that a symbol is never in more than a few shards.
    """
    if before == rows:
        return rows
    kept = max(before - horizon, 0)
    for part in reversed(held):
        start = part.first + part.halo
        if kept - start > rows - kept:
            break
        kept = min(kept, start)  # a symbol that is cut may have its last targets in two shards
    return kept


def differences(before: Any, now: Any, where: str = "") -> list[str]:  # noqa: ANN401  # of documents
    """The keys at which two documents differ, with what each of them says.

    Example:
        >>> differences({"blocks": [{"market": {}}], "width": 48}, {"blocks": [{"market": {}}]})
        ['width: 48 -> (not there)']
    """
    # A section that was not there is told key by key.
    before, now = (
        {} if one is _NONE and isinstance(other, Mapping) and other else one
        for one, other in ((before, now), (now, before))
    )
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        pairs = [(f"{where}.{key}".lstrip("."), before, now, key) for key in keys]
        return [
            line
            for path, one, other, key in pairs
            for line in differences(one.get(key, _NONE), other.get(key, _NONE), path)
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs_ = enumerate(zip(before, now, strict=True))
        return [line for k, (a, b) in pairs_ for line in differences(a, b, f"{where}[{k}]")]
    if before == now:
        return []
    return [f"{where}: {_text(before)} -> {_text(now)}"]


class _Nothing:
    def __repr__(self) -> str:
        return "(not there)"


_NONE = _Nothing()


def _text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(symbols: Sequence[str]) -> str:
    more = len(symbols) - LISTED
    return ", ".join(symbols[:LISTED]) + (f" and {more} more" if more > 0 else "")
