"""The audit section of a pipeline: limits, what columns are expected to be, and waivers.

Limits move what is too much for the data at hand; expectations say what a column is, and any
departure is a finding; waivers let a known finding pass until a date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Literal

from featurekit.document import parse, read_yaml
from featurekit.errors import ConfigError, Problem
from featurekit.timeline import instant

if TYPE_CHECKING:
    from pathlib import Path

    from featurekit.document import Source

Gate = Literal["warn", "fail", "never"]
_BELOW = re.compile(r"<\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Bound:
    """Values beyond which a metric warns and fails; `never` if it does not."""

    warn: float | Literal["never"] | None = None
    fail: float | Literal["never"] | None = None


@dataclass(frozen=True, slots=True)
class Bounds(Bound):
    """The bounds of a metric, and other ones for some blocks and features."""

    blocks: Mapping[str, Bound] = field(default_factory=dict)
    features: Mapping[str, Bound] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expect:
    """What a column is: its robust scale, median and range, shares below, and what it may be.

    `sparse` columns are 0 most of the time, `constant` ones never change, and neither is a finding.
    What is None is not said; a range of `[]` is any.
    """

    scale: tuple[float, ...] | None = None
    median: tuple[float, ...] | None = None
    range: tuple[float, ...] | None = None
    zeros: str | None = None
    nan: str | None = None
    tail: str | None = None
    sparse: bool | None = None
    constant: bool | None = None

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lower and upper end of what is expected within a range."""
        given = {"scale": self.scale, "median": self.median, "range": self.range}
        return {name: (ends[0], ends[1]) for name, ends in given.items() if ends}

    @property
    def below(self) -> dict[str, float]:
        """What is expected below a number."""
        given = {"zeros": self.zeros, "nan": self.nan, "tail": self.tail}
        found = {name: _BELOW.fullmatch(text.strip()) for name, text in given.items() if text}
        return {name: float(match[1]) for name, match in found.items() if match}


@dataclass(frozen=True, slots=True)
class Waiver:
    """A finding that is known: what it is of, why it may pass, and the last day that it may."""

    metric: str
    reason: str
    until: str
    feature: str = ""
    block: str = ""
    slice: str = ""

    @property
    def end(self) -> int:
        """UTC ns of the end of its last day."""
        return instant(self.until) + 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """The pipeline's `audit:`; `expect` is by feature or by block."""

    fail_on: Gate = "fail"
    limits: Mapping[str, Bounds] = field(default_factory=dict)
    expect: Mapping[str, Expect] = field(default_factory=dict)
    waivers: tuple[Waiver, ...] = ()

    def expected(self, feature: str, block: str) -> Expect:
        """What is said of a feature, and where it is silent, of its block."""
        own, whole = self.expect.get(feature, Expect()), self.expect.get(block, Expect())
        said = {each.name: getattr(own, each.name) for each in fields(Expect)}
        return replace(whole, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True, slots=True)
class ContractFile(AuditSpec):
    """An `audit:` section in a file of its own, with the slices to judge apart."""

    slices: Mapping[str, str] | None = None


def read_contract(path: Path) -> tuple[AuditSpec, Mapping[str, str] | None]:
    """The `audit:` and the `slices:` of a contract file or of a pipeline.

    Raises:
        ConfigError: when it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise ConfigError(Problem("cannot read the contract", where=str(path), got=got)) from error
    document, source = read_yaml(text, str(path))
    section: object = document
    where: tuple[str | int, ...] = ()
    if "audit" in document or "blocks" in document:  # a pipeline, or its section with its name
        section, where = document.get("audit") or {}, ("audit",)
        if isinstance(section, Mapping) and "slices" in document:
            section = {**section, "slices": document["slices"]}
    parsed = parse(ContractFile, section, source, where)
    if parsed is not None:
        check_audit(parsed, source, where)
    source.check()
    assert parsed is not None  # noqa: S101  # check() raised otherwise
    return parsed, parsed.slices


def check_audit(spec: AuditSpec, source: Source, path: tuple[str | int, ...] = ("audit",)) -> None:
    """Notes what cannot be meant: ranges that are none, shares that are not written as `<0.2`."""
    for name, expect in spec.expect.items():
        where = (*path, "expect", name)
        for key in ("scale", "median", "range"):
            ends = getattr(expect, key)
            if ends and not (len(ends) == 2 and ends[0] <= ends[1]):
                source.add(
                    f"{key} is a range", (*where, key), expected="[low, high]", got=str(list(ends))
                )
        for key in ("zeros", "nan", "tail"):
            text = getattr(expect, key)
            if text and not _BELOW.fullmatch(text.strip()):
                source.add(
                    f"{key} is a bound", (*where, key), expected='such as "<0.2"', got=repr(text)
                )
    for at, waiver in enumerate(spec.waivers):
        where = (*path, "waivers", at)
        if not waiver.reason.strip():
            source.add("a waiver has a reason", where, fix="reason: known, fixed in March")
        try:
            instant(waiver.until)
        except ConfigError:
            source.add("a waiver ends on a day", where, expected="2026-12-31", got=waiver.until)


def rounded_down(value: float) -> float:
    """Three digits of a number, and not more than it."""
    return _rounded(value, ROUND_FLOOR)


def rounded_up(value: float) -> float:
    """Three digits of a number, and not less than it.

    Example:
        >>> rounded_up(0.12301), rounded_down(-0.12301)
        (0.124, -0.124)
    """
    return _rounded(value, ROUND_CEILING)


def _rounded(value: float, direction: str) -> float:
    exact = Decimal(value)
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding=direction))
