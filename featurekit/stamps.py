"""Stamps: the times of any table in UTC ns, whatever type, format and clock they were written in.

Nothing is guessed: text is read in ISO order, year first, or by a declared format. A cell that is
no time, or lies outside of what 64 bits of nanoseconds hold, is null, and told by whoever asked.
"""

from __future__ import annotations

import re

import polars as pl

from featurekit.errors import ConfigError, DataError, Problem
from featurekit.timeline import DAY, EARLIEST, FIRST_YEAR, LAST_YEAR, LATEST, check_zone

UTC = pl.Datetime("ns", "UTC")
EPOCHS = {"epoch_s": 10**9, "epoch_ms": 10**6, "epoch_us": 10**3, "epoch_ns": 1}
_UNITS = {"ms": 10**6, "us": 10**3, "ns": 1}  # ns of each unit of polars' times
_OFFSET = re.compile(r"%[:#]*z|%\+")
_DATE = r"\d{4}(?P<sign>[-/.])\d{1,2}(?P=sign)\d{1,2}"
_CLOCK = r"(?P<gap>[T ])\d{1,2}:\d{2}(?P<seconds>:\d{2}([.]\d+)?)?"
_ISO = re.compile(rf"{_DATE}({_CLOCK}(?P<offset>(?P<space> ?)(Z|[+-]\d{{2}}(:?\d{{2}})?))?)?")


def stamps(
    raw: pl.LazyFrame,
    dtype: pl.DataType,
    where: str,
    timezone: str | None,
    time_format: str | None,
) -> pl.Expr:
    """The column `time` of a table in UTC ns; null where it is no time.

    Raises:
        ConfigError: when the format or the zone is none.
        DataError: when numbers have no unit, text no known order, or clocks no zone.
    """
    x = pl.col("time")
    where = f"{where}, column time"
    first = (
        raw.select(x.drop_nulls().first()).collect().item() if dtype == pl.String else str(dtype)
    )
    if dtype == pl.Null or first is None:
        return pl.lit(None, UTC).alias("time")
    if dtype.is_numeric() or (dtype == pl.String and time_format in EPOCHS):
        return _since_1970(x, dtype, where, time_format)
    if dtype == pl.String:
        time_format = time_format or _iso_format(first, where)
        _check_format(first, time_format, where)
        # Nanoseconds of a year that they cannot hold would be another year's: where its digits do
        # not come first, they are parsed in microseconds too.
        if time_format.startswith("%Y"):
            held = x.str.head(4).is_between(pl.lit(f"{FIRST_YEAR}"), pl.lit(f"{LAST_YEAR - 1}"))
        else:
            held = _within(x.str.to_datetime(time_format, time_unit="us", strict=False), "us")
        x = pl.when(held).then(x.str.to_datetime(time_format, time_unit="ns", strict=False))
        if _OFFSET.search(time_format.replace("%%", "")):
            return x
    elif isinstance(dtype, pl.Datetime):
        x = pl.when(_within(x, dtype.time_unit)).then(x.dt.cast_time_unit("ns"))
        if dtype.time_zone is not None:
            return x.dt.convert_time_zone("UTC")
    else:
        days = x.cast(pl.Int64).is_between(EARLIEST // DAY, LATEST // DAY, closed="left")
        x = pl.when(days).then(x.cast(pl.Datetime("ns")))
    if timezone is None:
        raise DataError(
            Problem(
                "times have no time zone, and none is declared",
                where=where,
                expected="the zone of the clock that wrote them",
                got=first[:80],
                fix="timezone: UTC",
            )
        )
    check_zone(timezone)
    # An hour that the clock shows twice in autumn is the first of the two; one that it leaves out
    # in spring is no time, and told as such.
    local = x.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _since_1970(x: pl.Expr, dtype: pl.DataType, where: str, unit: str | None) -> pl.Expr:
    if unit not in EPOCHS:
        raise _no_unit(where)
    per = EPOCHS[unit]
    whole = x.cast(pl.Int64, strict=False)
    held = whole.is_between(EARLIEST // per, LATEST // per, closed="left")
    if not (dtype == pl.String or dtype.is_integer()):
        held &= whole.cast(dtype) == x  # what follows the point would be lost
    return (pl.when(held).then(whole) * per).cast(UTC)


def _within(x: pl.Expr, unit: str) -> pl.Expr:
    per = _UNITS[unit]
    return x.to_physical().is_between(EARLIEST // per, LATEST // per, closed="left")


def _no_unit(where: str) -> DataError:
    return DataError(
        Problem(
            "times are numbers, and their unit is not declared",
            where=where,
            expected=" | ".join(EPOCHS),
            fix="time_format: epoch_ms",
        )
    )


def _iso_format(first: str, where: str) -> str:
    """The format of times in ISO order, as the first of them is written.

    Example:
        >>> _iso_format("2024-01-31T23:00Z", "")
        '%Y-%m-%dT%H:%M%#z'
    """
    found = _ISO.fullmatch(first)
    if found is None:
        if re.fullmatch(r"\d+([.]\d+)?", first) and len(first) != len("20240131"):
            raise _no_unit(where)
        raise DataError(
            Problem(
                "the order of day, month and year is not known",
                where=where,
                expected="ISO order, such as 2024-01-31 23:00:00, or a declared format",
                got=repr(first[:80]),
                fix=f'time_format: "{_likely_format(first)}"',
            )
        )
    sign, gap, space = found["sign"], found["gap"], found["space"] or ""
    clock = f"{gap}%H:%M" + (":%S%.f" if found["seconds"] else "") if gap else ""
    return f"%Y{sign}%m{sign}%d{clock}" + (f"{space}%#z" if found["offset"] else "")


def _likely_format(first: str) -> str:
    """A format that may be the one of a time, to be declared by whoever knows.

    Example:
        >>> _likely_format("31.01.2024 23:00"), _likely_format("01/31/2024")
        ('%d.%m.%Y %H:%M', '%m/%d/%Y')
    """
    found = re.match(r"(\d{1,2})([./-])(\d{1,2})\2\d{4}", first)
    if found is None:
        return "%Y%m%d" if re.fullmatch(r"\d{8}", first) else "%Y-%m-%d %H:%M:%S"
    sign = found[2]
    date = f"%m{sign}%d{sign}%Y" if int(found[3]) > 12 else f"%d{sign}%m{sign}%Y"
    rest = re.sub(r"\d+:\d+", "%H:%M", first[found.end() :], count=1)
    return date + re.sub(r"(%H:%M):\d+([.]\d+)?", r"\1:%S%.f", rest)


def _check_format(first: str, time_format: str, where: str) -> None:
    try:
        pl.Series([first]).str.to_datetime(time_format, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            Problem(
                "the format of the times cannot be read",
                where=where,
                expected="a format of strftime with a date, or " + " | ".join(EPOCHS),
                got=f"{time_format}: {str(error).splitlines()[0]}",
                fix='time_format: "%Y-%m-%d %H:%M:%S"',
            )
        ) from error
