"""Fills on their way to the first bar that sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.ledger.fill import Fill, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from featurekit.ledger.frames import Visibility


class FillQueue:
    """Fills in order of time, handed out bar by bar; `fill_at_close` as in `AccountReplay`."""

    def __init__(self, fill_at_close: Visibility) -> None:
        if fill_at_close not in ("next", "this"):
            raise ConfigError(
                Problem(
                    "the bar that sees a fill stamped with a bar's close is unknown",
                    expected="next or this",
                    got=repr(fill_at_close),
                    fix="account: {fill_at_close: next}",
                )
            )
        self.fill_at_close = fill_at_close
        self.last_close: int | None = None
        self._fills: list[Fill] = []
        self._times = np.empty(0, np.int64)
        self._taken = 0

    def add(self, fills: list[Fill]) -> None:
        """Queues further fills.

        Raises:
            DataError: A fill is earlier than the one before it, or than a bar that had to see it.
        """
        new_times = np.array([fill.time for fill in fills], np.int64)
        times = np.concatenate([self._times[self._taken :], new_times])
        back = np.flatnonzero(np.diff(times) < 0)
        if back.size:
            before, after = (timestamp(int(times[back[0] + step])) for step in (0, 1))
            raise DataError(
                Problem(
                    "the fills go back in time",
                    where=f"{back.size} of {times.size} fills",
                    expected=f"{before} or later, as the fill before it",
                    got=after,
                    fix='fills = fills.sort("time", maintain_order=True)',
                )
            )
        late = 0 if self.last_close is None else self._due(times, self.last_close)
        if self.last_close is not None and late:
            raise DataError(
                Problem(
                    "a fill came after the bar that had to show it",
                    where=f"{late} of {times.size} fills",
                    expected=f"fills that the bar of {timestamp(self.last_close)} does not see",
                    got=timestamp(int(times[0])),
                    fix="stream.update(bars, fills)  # a fill no later than the bar that sees it",
                )
            )
        self._fills = [*self._fills[self._taken :], *fills]
        self._times = times
        self._taken = 0

    def take(self, closes: NDArray[np.int64]) -> Iterator[tuple[int, Fill]]:
        """Hands out what these next bars are the first to see, as (bar, fill).

        Raises:
            DataError: The bars do not come after those before.
        """
        first = int(closes[0])
        if self.last_close is not None and first <= self.last_close:
            raise DataError(
                Problem(
                    "the bars go back in time",
                    expected=f"a close after {timestamp(self.last_close)}",
                    got=timestamp(first),
                    fix='bars = bars.sort("symbol", "time")',
                )
            )
        start = self._taken
        due = self._times[start : start + self._due(self._times[start:], int(closes[-1]))]
        strictly = self.fill_at_close == "next"
        bars = np.searchsorted(closes, due, side="right" if strictly else "left").tolist()
        self._taken += due.size
        self.last_close = int(closes[-1])
        return zip(bars, self._fills[start : self._taken], strict=True)

    def idle(self, close: int) -> bool:
        """Whether a next bar that closes then is the first to see no fill; it has then passed."""
        if self.last_close is not None and close <= self.last_close:
            return False  # `take` says what is wrong
        if self._taken < len(self._fills):
            time = self._fills[self._taken].time
            if time < close or (time == close and self.fill_at_close == "this"):
                return False
        self.last_close = close
        return True

    def _due(self, times: NDArray[np.int64], close: int) -> int:
        """How many of these times a bar that closes then has seen."""
        strictly = self.fill_at_close == "next"
        return int(np.searchsorted(times, close, side="left" if strictly else "right"))

    def state(self) -> dict[str, Any]:
        """What waits, as plain values; JSON keeps every bit of them."""
        return {
            "fill_at_close": self.fill_at_close,
            "last_close": self.last_close,
            "fills": [list(fill) for fill in self._fills[self._taken :]],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FillQueue:
        """The queue whose `state()` this was."""
        queue = cls(state["fill_at_close"])
        queue.add([Fill(*fill) for fill in state["fills"]])
        queue.last_close = state["last_close"]
        return queue
