"""Time: durations, closes, segments between gaps, and the splits' cuts."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOUR, DAY = 3_600_000_000_000, 86_400_000_000_000  # ns
LONGEST = 36_500 * DAY  # of all durations
# Nanoseconds in 64 bits reach from 1677 to 2262: the rest is room to add durations and offsets.
FIRST_YEAR, LAST_YEAR = 1700, 2150
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
EARLIEST, LATEST = (
    (datetime(year, 1, 1, tzinfo=timezone.utc) - _EPOCH).days * DAY
    for year in (FIRST_YEAR, LAST_YEAR)
)
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
        ConfigError: when the text is no duration, or one of nothing or of more than a century.

    Example:
        >>> duration("1h30m") // 10**9
        5400
    """
    parts = re.findall(r"([0-9]{1,12})(ms|[smhdw])", text)
    length = sum(int(n) * _UNITS[unit] for n, unit in parts)
    if "".join(n + unit for n, unit in parts) != text or not 0 < length <= LONGEST:
        raise ConfigError(
            Problem(
                "this is no duration",
                expected=f"such as 5m, 1h, 4d, 1d12h, above 0 and at most {LONGEST // DAY}d",
                got=repr(text[:80]),
                fix="bar: 1h",
            )
        )
    return length


def duration_text(length: int) -> str:
    """The text that `duration` reads as this many nanoseconds, rounded down to milliseconds.

    Example:
        >>> duration_text(duration("1d12h")), duration_text(duration("7d"))
        ('1d12h', '7d')
    """
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, length = divmod(length, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "1ms"


def check_zone(zone: str) -> None:
    """Refuses what is no time zone.

    Raises:
        ConfigError: when there is none of that name; its fix is a near one.
    """
    try:
        pl.Series([0]).cast(pl.Datetime("ns")).dt.replace_time_zone(zone or "none")
    except (pl.exceptions.PolarsError, ValueError):
        near = difflib.get_close_matches(zone, zoneinfo.available_timezones(), 1)
        raise ConfigError(
            Problem(
                "there is no such time zone",
                expected="such as Europe/Helsinki",
                got=repr(zone[:80]),
                fix=f"timezone: {near[0] if near else 'UTC'}",
            )
        ) from None


def closes(time: NDArray[np.int64], stamp: Literal["open", "close"], bar: int) -> NDArray[np.int64]:
    """UTC ns at which each bar closed, from its stamp."""
    return time + bar if stamp == "open" else time


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
        aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
        moment = (aware - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError):
        moment = LATEST
    if not EARLIEST <= moment < LATEST:
        raise ConfigError(
            Problem(
                "this is no date",
                expected=f"such as 2017-10-01, from {FIRST_YEAR} to {LAST_YEAR - 1}",
                got=repr(text[:80]),
                fix="validation: 2017-10-01",
            )
        )
    return moment


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
