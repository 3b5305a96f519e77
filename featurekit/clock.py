"""The columns that only the time decides: the exchange's clock, and the periods of higher bars."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from featurekit.timeline import DAY, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

CLOCK_COLUMNS = ("day_fraction", "weekday")
PERIOD = "period"
_MONDAY = 3 * DAY  # before 1970 began


def at_timeframe(name: str, timeframe: str) -> str:
    """The name of a clock column of higher bars; a space is in no name of a bar's column."""
    return f"{name} {timeframe}"


def is_clock(name: str) -> bool:
    """Whether an input comes from the clock: `weekday`, or `weekday 4h` and `period 4h`."""
    kind, space, _ = name.partition(" ")
    return kind in CLOCK_COLUMNS or (kind == PERIOD and bool(space))


class Clock:
    """The clock columns among the inputs of a program, on the wall clock of an exchange.

    `day_fraction` is the share of the day at a close and `weekday` its weekday, Monday 0; a close
    at 00:00 is the end of the day just over: share 1. `period 4h` numbers the periods of 4 hours:
    whole on the close that a period ends with, half below before it. `weekday 4h` is that of the
    period's end.

    Example:
        >>> clock = Clock(["day_fraction", "weekday", "close", "period 4h"], "UTC")
        >>> hours = np.array([0, 6]) * 3_600_000_000_000
        >>> {name: values.tolist() for name, values in clock.columns(hours).items()}
        {'day_fraction': [1.0, 0.25], 'weekday': [2.0, 3.0], 'period 4h': [0.0, 1.5]}
    """

    def __init__(self, inputs: Iterable[str], zone: str) -> None:
        self.names = [name for name in inputs if is_clock(name)]
        self._kinds = [name.partition(" ")[::2] for name in self.names]
        self._lengths = [duration(timeframe) if timeframe else 0 for _, timeframe in self._kinds]
        self._zone = zone
        self._info = None if zone == "UTC" else ZoneInfo(zone)
        self._close: int | None = None
        self._row: list[float] = []

    def columns(self, closes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Each clock column at these closes, UTC ns."""
        local = closes if self._info is None else _local(closes, self._zone)
        return dict(zip(self.names, self._columns(local), strict=True))

    def row(self, close: int) -> Sequence[float]:
        """The clock columns at one close; that of the last call is remembered."""
        if close != self._close:
            local = close
            if self._info is not None:
                moment = datetime.fromtimestamp(close // 1_000_000_000, timezone.utc)
                offset = moment.astimezone(self._info).utcoffset()
                assert offset is not None  # noqa: S101  # a zone has one
                local += int(offset.total_seconds()) * 1_000_000_000
            self._close, self._row = close, self._columns(np.array([local]))[:, 0].tolist()
        return self._row

    def _columns(self, local: NDArray[np.int64]) -> NDArray[np.float64]:
        columns = np.empty((len(self.names), local.size))
        for out, (kind, _), length in zip(columns, self._kinds, self._lengths, strict=True):
            since = _MONDAY if length % (7 * DAY) == 0 else 0
            period = -((-local - since) // length) if length else local  # the one it is in
            end = period * length - since if length else local
            if kind == PERIOD:
                out[:] = period - 0.5 * (end != local)
            else:
                day = (end - 1) // DAY
                out[:] = (day + 3) % 7 if kind == "weekday" else (end - day * DAY) / DAY
        return columns


def _local(time: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    aware = pl.Series(time).cast(pl.Datetime("ns", "UTC")).dt.convert_time_zone(zone)
    local: NDArray[np.int64] = aware.dt.replace_time_zone(None).cast(pl.Int64).to_numpy()
    return local
