"""The sections of a pipeline file, and what their values have to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from featurekit.errors import ConfigError
from featurekit.samples import sample
from featurekit.scaling import ScalingSpec
from featurekit.timeline import duration, instant

if TYPE_CHECKING:
    from featurekit.document import Source


@dataclass(frozen=True, slots=True)
class Bars:
    """Where bars come from, and how their times are to be read."""

    path: str | None = None
    sample: str | None = None
    schema: str | None = None
    symbol: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    stamp: Literal["open", "close"] = "open"
    bar: str | None = None
    timezone: str | None = None
    time_format: str | None = None
    exchange_timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Fills:
    """Where fills come from; without them the position block is 0."""

    path: str | None = None
    sample: str | None = None
    schema: str | None = None
    symbol: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "canonical"
    timezone: str | None = None
    time_format: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the fills move: cash in its currency, units per contract, leverage."""

    cash: float = 10_000.0
    multiplier: float | Mapping[str, float] = 1.0
    leverage: float = 1.0
    fill_at_close: Literal["next", "this"] = "next"
    scope: Literal["symbol", "portfolio"] = "symbol"


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be predicted: the log return of the next bars, or whether it is above 0."""

    forward_return: int | None = None
    forward_sign: int | None = None

    @property
    def kind(self) -> str:
        """`forward_return` or `forward_sign`."""
        return "forward_sign" if self.forward_return is None else "forward_return"

    @property
    def horizon(self) -> int:
        """Bars ahead."""
        return (self.forward_sign if self.forward_return is None else self.forward_return) or 0


@dataclass(frozen=True, slots=True)
class Segments:
    """Where windows are cut: at gaps longer than this; `reset` restarts the features there."""

    max_gap: str = "4d"
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Windows:
    """The longest window that a batch may ask for, in rows."""

    max: int = 512


@dataclass(frozen=True, slots=True)
class Splits:
    """Shares of the unique times, or the dates at which validation and test start."""

    train: float | None = None
    validation: float | str = 0.15
    test: float | str = 0.15
    embargo: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """The gate of `featurekit build`."""

    fail_on: Literal["warn", "fail", "never"] = "fail"


@dataclass(frozen=True, slots=True)
class Document:
    """A pipeline file; `blocks` are checked by the blocks themselves."""

    name: str
    bars: Bars | None = None
    fills: Fills | None = None
    account: Account = Account()
    use: tuple[str, ...] = ()
    blocks: tuple[Any, ...] = ()
    width: int | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    segments: Segments = Segments()
    windows: Windows = Windows()
    splits: Splits = Splits()
    slices: Mapping[str, str] | None = None
    scaling: ScalingSpec = field(default_factory=ScalingSpec)
    audit: Audit = Audit()
    warmup: Literal["memory", "lookback"] = "memory"


_Place = TypeVar("_Place", Bars | None, Fills | None)


def with_sample(section: _Place) -> _Place:
    """The section with what is known of the bundled sample that it names."""
    if section is None or section.sample is None or section.path is not None:
        return section
    known = sample(section.sample)
    held = {each.name for each in fields(section)}
    unset = {k: v for k, v in known.items() if k in held and not getattr(section, k)}
    return replace(section, **unset)


def check_values(pipeline: Document, bars: Bars | None, source: Source) -> None:
    """Notes values that are of the right kind and still cannot be meant.

    Raises:
        ConfigError: when there is one.
    """
    for what, given in (("bars", pipeline.bars), ("fills", pipeline.fills)):
        if given is not None and (given.path is None) == (given.sample is None):
            source.add(f"{what} come from one place", (what,), expected="path: ... or sample: ...")
    if bars is not None and bars.path is not None and bars.bar is None:
        source.add("the length of a bar is not declared", ("bars",), fix="bar: 1h")
    for name, target in pipeline.targets.items():
        kinds = [k for k in (target.forward_return, target.forward_sign) if k is not None]
        if len(kinds) != 1 or kinds[0] < 1:
            source.add(
                f"the target {name!r} looks ahead by a number of bars",
                ("targets", name),
                expected="forward_return or forward_sign, of 1 bar or more",
                fix=f"{name}: {{forward_return: 5}}",
            )
    account = pipeline.account
    numbers: dict[tuple[str, ...], float] = {
        ("account", "cash"): account.cash,
        ("account", "leverage"): account.leverage,
    }
    if isinstance(account.multiplier, Mapping):
        numbers |= {("account", "multiplier", s): n for s, n in account.multiplier.items()}
    else:
        numbers["account", "multiplier"] = account.multiplier
    for path, number in numbers.items():
        if not 0.0 < number < math.inf:
            source.add("a number is out of range", path, expected="above 0", got=str(number))
    counts = {
        ("windows", "max"): (pipeline.windows.max, 1),
        ("splits", "embargo"): (pipeline.splits.embargo, 0),
    }
    for place, (count, least) in counts.items():
        if count < least:
            expected = f"{least} or more"
            source.add("a number is out of range", place, expected=expected, got=str(count))
    _check_times(pipeline, bars, source)
    _check_splits(pipeline.splits, source)
    source.check()


def _check_times(pipeline: Document, bars: Bars | None, source: Source) -> None:
    bar = bars.bar if bars else None
    for path, read, text in (
        (("segments", "max_gap"), duration, pipeline.segments.max_gap),
        (("bars", "bar"), duration, bar),
        (("splits", "validation"), instant, pipeline.splits.validation),
        (("splits", "test"), instant, pipeline.splits.test),
    ):
        if isinstance(text, str):
            try:
                read(text)
            except ConfigError as error:
                it = error.problems[0]
                source.add(f"{path[1]}: {it.what}", path, expected=it.expected, got=it.got)


def _check_splits(splits: Splits, source: Source) -> None:
    given = (splits.train, splits.validation, splits.test)
    shares = [share for share in given if share is not None and not isinstance(share, str)]
    total = sum(shares)
    if (
        any(not 0 <= share <= 1 for share in shares)
        or total > 1 + 1e-9
        or (len(shares) == len(given) and total < 1 - 1e-9)
    ):
        source.add(
            "shares of the splits add up to 1",
            ("splits",),
            got=" + ".join(map(str, shares)),
            fix="splits: {train: 0.7, validation: 0.15, test: 0.15, embargo: 20}",
        )
    if isinstance(splits.validation, str) != isinstance(splits.test, str):
        source.add("validation and test are both shares or both dates", ("splits",))
