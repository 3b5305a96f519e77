"""The sections of a pipeline file, and what their values have to be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from featurekit.canonical import BARS, FILLS, FILLS_OPTIONAL, unknown_column
from featurekit.contract import AuditSpec, check_audit
from featurekit.errors import ConfigError
from featurekit.samples import sample
from featurekit.scaling import ScalingSpec
from featurekit.timeline import check_zone, duration, instant

if TYPE_CHECKING:
    from featurekit.document import Source

MOST_BARS = 1_000_000_000  # that a window, an embargo or a horizon may count


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
    """Where fills come from; without them the account never trades."""

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
    audit: AuditSpec = field(default_factory=AuditSpec)
    warmup: Literal["memory", "lookback"] = "memory"


_Place = TypeVar("_Place", Bars | None, Fills | None)


def with_sample(section: _Place, where: str) -> _Place:
    """The section, which stands there, with what is known of the bundled sample that it names."""
    if section is None or section.sample is None or section.path is not None:
        return section
    known = sample(section.sample, where)
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
            source.add(
                f"{what} come from one place",
                (what,),
                expected="path: ... or sample: ...",
                got="both" if given.path else "neither",
                fix=f"path: data/{what}.parquet",
            )
    if bars is not None and bars.path is not None and bars.bar is None:
        source.add("the length of a bar is not declared", ("bars",), fix="bar: 1h")
    for name, target in pipeline.targets.items():
        kinds = [k for k in (target.forward_return, target.forward_sign) if k is not None]
        if len(kinds) != 1 or not 1 <= kinds[0] <= MOST_BARS:
            source.add(
                f"the target {name!r} looks ahead by a number of bars",
                ("targets", name),
                expected=f"forward_return or forward_sign, of 1 to {MOST_BARS} bars",
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
            source.add(
                "a number is out of range",
                path,
                expected="above 0",
                got=str(number),
                fix=f"{path[-1]}: {10_000 if path[-1] == 'cash' else 1}",
            )
    counts = {
        ("windows", "max"): (pipeline.windows.max, 1),
        ("splits", "embargo"): (pipeline.splits.embargo, 0),
    }
    for place, (count, least) in counts.items():
        if not least <= count <= MOST_BARS:
            source.add(
                "a number is out of range",
                place,
                expected=f"{least} to {MOST_BARS}",
                got=str(count),
                fix=f"{place[1]}: {20 if least == 0 else 64}",
            )
    _check_times(pipeline, bars, source)
    _check_splits(pipeline.splits, source)
    check_audit(pipeline.audit, source)
    source.check()


def _check_times(pipeline: Document, bars: Bars | None, source: Source) -> None:
    fills = pipeline.fills
    for path, read, text in (
        (("segments", "max_gap"), duration, pipeline.segments.max_gap),
        (("bars", "bar"), duration, bars and bars.bar),
        (("bars", "timezone"), check_zone, bars and bars.timezone),
        (("bars", "exchange_timezone"), check_zone, bars and bars.exchange_timezone),
        (("fills", "timezone"), check_zone, fills and fills.timezone),
        (("splits", "validation"), instant, pipeline.splits.validation),
        (("splits", "test"), instant, pipeline.splits.test),
    ):
        if isinstance(text, str):
            try:
                read(text)
            except ConfigError as error:
                it = error.problems[0]
                source.add(
                    f"{path[1]}: {it.what}",
                    path,
                    expected=it.expected,
                    got=it.got,
                    fix=f"{path[1]}: {it.fix.partition(': ')[2]}",
                )


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
        source.add(
            "validation and test are both shares or both dates",
            ("splits",),
            got=f"validation: {splits.validation}, test: {splits.test}",
            fix="splits: {validation: 2017-10-01, test: 2017-11-01, embargo: 20}",
        )
    elif isinstance(splits.validation, str) and not source.problems:
        first, second = instant(splits.validation), instant(str(splits.test))
        if first > second:
            source.add(
                "test starts before validation",
                ("splits",),
                expected="train, then validation, then test",
                got=f"validation: {splits.validation}, test: {splits.test}",
                fix=f"splits: {{validation: {splits.test}, test: {splits.validation}}}",
            )


def check_references(
    pipeline: Document, features: Sequence[str], inputs: Sequence[str], source: Source
) -> None:
    """Notes names of columns, blocks and features that there are not.

    Args:
        pipeline: What names them.
        features: The columns of its blocks.
        inputs: The columns of bars that its blocks read.
        source: Where the pipeline comes from.
    """
    for section, given, known in (
        ("bars", pipeline.bars, tuple(dict.fromkeys([*BARS, *inputs]))),
        ("fills", pipeline.fills, (*FILLS, *FILLS_OPTIONAL)),
    ):
        for name, held in (given.columns if given else {}).items():
            if name not in known:
                where = source.where((section, "columns", name))
                source.problems.append(unknown_column(name, held, known, where))
    for place, name, names in pipeline.scaling.unknown(features):
        near = difflib.get_close_matches(name, names, 1)
        source.add(
            f"scaling names one of the {place} that there is not",
            ("scaling", place, name),
            expected=", ".join(names[:10]),
            got=name,
            fix=f"{near[0] if near else names[0]}: {{kind: robust}}",
        )
