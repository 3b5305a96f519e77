"""Messages: what clients send and what they are answered, as OpenAPI tells it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from featurekit.errors import DataError, FeaturekitError, Problem
from featurekit.timeline import EARLIEST, FIRST_YEAR, LAST_YEAR, LATEST

MOST_BARS = 1_000  # of one message: others wait as long as it takes
MOST_TEXT = 200  # characters of a name
MOST_PROBLEMS = 20  # that one refusal tells

Output = Literal["features", "encoder"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MOST_TEXT)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[
    int | str,
    Field(
        description="RFC 3339 with an offset and up to nine digits of a second, or ns since 1970",
        examples=["2024-01-02T10:00:00Z"],
    ),
]


class Bar(BaseModel):
    """A bar as the pipeline's bars are: its stamp, prices, and whatever else its blocks read."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Number | str | bool | None] = Field(init=False)

    symbol: Name
    time: Time
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number = 0.0


class Fill(BaseModel):
    """A fill in canonical form: a trade of an account, an order update, or money that moves."""

    model_config = ConfigDict(strict=True, extra="forbid")

    time: Time
    symbol: Name | None = None
    side: Literal["buy", "sell", "deposit", "withdraw"]
    quantity: Number
    price: Number | None = None
    fee: Number = 0.0
    stop: Number | None = None
    target: Number | None = None
    realized_pnl: Number | None = None
    trade_id: Name | None = None


class Message(BaseModel):
    """Fills and bars, taken in this order, all of them or none.

    Fills need an `id`: a message sent again with the same one is not taken twice. Bars need none: a
    bar that is the same as before is answered again.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    bars: list[Bar] = Field(default=[], max_length=MOST_BARS)
    fills: list[Fill] = Field(default=[], max_length=MOST_BARS)
    id: Name | None = None
    output: Output = "features"
    scaled: bool = False


class FlagTold(BaseModel):
    """Something in which a bar is unlike the rows that were trained on."""

    kind: str
    severity: Literal["warn", "fail"]
    symbol: str
    feature: str
    time: str
    value: float | None
    expected: str
    row: int


class Row(BaseModel):
    """The columns at a bar.

    `ready` is false during the warm-up; `repeated` says that the bar was there already. `encoding`
    is null until there are as many rows since the last gap as the encoder's window has.
    """

    symbol: str
    time: str
    close: str
    ready: bool
    repeated: bool
    features: list[float | None] | None = None
    encoding: list[float] | None = None


class Answer(BaseModel):
    """Rows in the order of the message's bars; `flags` are about any of them."""

    id: str | None
    rows: list[Row]
    flags: list[FlagTold]


class SymbolTold(BaseModel):
    """What is known of a symbol; times are null before its first bar."""

    symbol: str
    time: str | None
    close: str | None
    ready: bool
    stale: bool
    flags: int


class Column(BaseModel):
    """A feature, in the place that it has in `features`."""

    name: str
    block: str
    unit: str


class ProblemTold(BaseModel):
    """What is wrong, where, what was expected and got, and the line that mends it."""

    what: str
    where: str
    expected: str
    got: str
    fix: str


class Refusal(BaseModel):
    """Why nothing of a message was taken."""

    problems: list[ProblemTold]


class Health(BaseModel):
    """Whether messages are taken."""

    status: Literal["ok", "stopping", "failed"]


class RefusedError(DataError):
    """A message of which nothing was taken: the status of HTTP, and seconds to wait."""

    def __init__(self, status: int, *problems: Problem, wait: float = 1.0) -> None:
        super().__init__(*problems)
        self.status, self.wait = status, wait


def status_of(error: FeaturekitError) -> int:
    """The status of HTTP that says what kind of a refusal it is."""
    return error.status if isinstance(error, RefusedError) else 422


def problems_of(errors: Sequence[Any]) -> list[Problem]:
    """What pydantic found, in the one shape that every message has."""
    return [_problem(error) for error in errors[:MOST_PROBLEMS]]


def _problem(error: Any) -> Problem:  # noqa: ANN401  # a dictionary of pydantic
    if isinstance(error.get("input"), bytes):  # it was not even read
        return Problem(
            "the body is not said to be JSON",
            where="header Content-Type",
            expected="application/json",
            fix="Content-Type: application/json",
        )
    return Problem(
        str(error["msg"]),
        where=".".join(str(part) for part in error["loc"] if part != "body")[:MOST_TEXT],
        got=ascii(error.get("input", ""))[:80],
        fix="GET /openapi.json   # what a message has to be",
    )


def refusal(error: FeaturekitError) -> dict[str, Any]:
    """The problems of an error as plain data."""
    return {"problems": [asdict(problem) for problem in error.problems]}


_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-]\d\d:\d\d))", re.ASCII
)


def nanoseconds(time: int | str, where: str) -> int:
    """UTC ns of a time as clients write it.

    Raises:
        DataError: when it is none, has no offset, or is beyond what ns can count.

    Example:
        >>> nanoseconds("1970-01-01T01:00:00.5+01:00", "bar 0")
        500000000
    """
    if isinstance(time, int):
        moment = time
    else:
        match = _RFC_3339.fullmatch(time)
        try:
            if match is None:
                raise ValueError
            date, clock, fraction, zulu, offset = match.groups()
            whole = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zulu else offset}")
            moment = int((whole - _EPOCH).total_seconds()) * 1_000_000_000
            moment += int((fraction or "").ljust(9, "0"))
        except (ValueError, OverflowError):
            moment = LATEST
    if not EARLIEST <= moment < LATEST:
        raise DataError(
            Problem(
                "this is no time",
                where=where,
                expected=f"RFC 3339 with an offset, or ns since 1970, {FIRST_YEAR} to "
                f"{LAST_YEAR - 1}",
                got=ascii(time)[:80],
                fix='"time": "2024-01-02T10:00:00Z"',
            )
        )
    return moment


def time_text(time: int) -> str:
    """RFC 3339 in UTC, with as many digits of a second as it has.

    Example:
        >>> time_text(1), time_text(3_600_000_000_000)
        ('1970-01-01T00:00:00.000000001Z', '1970-01-01T01:00:00Z')
    """
    whole = time % 1_000_000_000 == 0
    moment = np.datetime64(time, "ns")
    return f"{moment.astype('M8[s]') if whole else moment}Z"


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
