"""Time: durations, closes, the exchange's clock, segments between gaps, and the splits' cuts."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAY = 86_400_000_000_000  # ns
_UNITS = {
    "ms": DAY // 86_400_000,
    "s": DAY // 86_400,
    "m": DAY // 1440,
    "h": DAY // 24,
    "d": DAY,
    "w": 7 * DAY,
}


def duration(text: str) -> int:
    """Nanoseconds of a duration such as 5m, 1h, 4d or 1d12h.

    Raises:
        ConfigError: when the text is no duration.

    Example:
        >>> duration("1h30m") // 10**9
        5400
    """
    parts = re.findall(r"(\d+)(ms|[smhdw])", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ConfigError(
            Problem("this is no duration", expected="such as 5m, 1h, 4d, 1d12h", got=repr(text))
        )
    return sum(int(n) * _UNITS[unit] for n, unit in parts)


def closes(time: NDArray[np.int64], stamp: Literal["open", "close"], bar: int) -> NDArray[np.int64]:
    """UTC ns at which each bar closed, from its stamp."""
    return time + bar if stamp == "open" else time


def clock(close: NDArray[np.int64], zone: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the day at each close, and its weekday (Monday 0), on the wall clock of a zone.

    A close at 00:00 is the end of the day just over: share 1.

    Example:
        >>> clock(np.array([0, 6 * 3600 * 10**9]), "UTC")
        (array([1.  , 0.25]), array([2., 3.]))
    """
    local = close if zone == "UTC" else _local(close, zone)
    day = (local - 1) // DAY
    return (local - day * DAY) / DAY, ((day + 3) % 7).astype(np.float64)


def _local(time: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    aware = pl.Series(time).cast(pl.Datetime("ns", "UTC")).dt.convert_time_zone(zone)
    local: NDArray[np.int64] = aware.dt.replace_time_zone(None).cast(pl.Int64).to_numpy()
    return local


def segment_starts(time: NDArray[np.int64], max_gap: int) -> NDArray[np.int64]:
    """Rows at which a new segment starts: the first, and each that follows a longer gap."""
    starts = np.flatnonzero(np.diff(time) > max_gap) + 1
    return np.concatenate([[0], starts]).astype(np.int64)[: max(len(time), 0) or None]


def instant(text: str) -> int:
    """UTC ns of an ISO date or time; without an offset it is UTC.

    Raises:
        ConfigError: when the text is no such time.

    Example:
        >>> instant("1970-01-02")
        86400000000000
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            Problem("this is no date", expected="such as 2017-10-01", got=repr(text))
        ) from None
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return int(aware.timestamp()) * 10**9


def forward(
    close: NDArray[np.float64], starts: NDArray[np.int64], kind: str, horizon: int
) -> NDArray[np.float32]:
    """What the close does over the next `horizon` bars of its segment; NaN where unknown.

    `forward_return` is ln(C[+h]/C); `forward_sign` is 1 where that is above 0, else 0.
    """
    ahead = np.full(len(close), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead[:-horizon] = np.log(close[horizon:] / close[:-horizon])
    ends = np.concatenate([starts[1:], [len(close)]])
    for end in ends:
        ahead[max(end - horizon, 0) : end] = np.nan
    if kind == "forward_sign":
        ahead = np.where(np.isnan(ahead), np.nan, ahead > 0.0)
    return ahead.astype(np.float32)
