"""Finding and AuditReport: what the audit says, as one object that every renderer reads."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["warn", "fail"]
Verdict = Literal["pass", "warn", "fail"]

VERSION = 1  # of audit.json


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric beyond its limit: where, by how much, why it matters and what mends it.

    `margin` is how many times the limit the value is (of a lower limit, how many times below).
    `repaired_by` is the line of the pipeline that already mends it, or empty.
    """

    severity: Severity
    metric: str
    feature: str
    block: str
    slice: str
    value: float
    limit: float
    margin: float
    why: str
    fix: str
    command: str
    repaired_by: str = ""


@dataclass(frozen=True, slots=True)
class BlockShare:
    """A block's part of the features, of the squared norm in natural units, and of the model's."""

    block: str
    features: int
    natural: float
    model: float


@dataclass(frozen=True, slots=True)
class Peel:
    """Effective features that are left when the largest ones are taken away."""

    without: str
    effective: float


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All findings, the worst first, and what they are measured on.

    `findings` are what the model would meet; `repaired` what it would have met in natural units.
    """

    source: str
    rows: int
    features: int
    slices: dict[str, int]
    effective: float
    blocks: tuple[BlockShare, ...]
    peeled: tuple[Peel, ...]
    findings: tuple[Finding, ...]
    repaired: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst severity of the findings, or pass."""
        severities = {finding.severity for finding in self.findings}
        return "fail" if "fail" in severities else "warn" if severities else "pass"

    def breaches(self, fail_on: Literal["warn", "fail", "never"]) -> bool:
        """Whether a gate at this severity is breached."""
        return self.verdict in {"warn": ("warn", "fail"), "fail": ("fail",), "never": ()}[fail_on]

    def to_json(self) -> str:
        """Canonical JSON, byte-identical for the same data; what is not finite is null."""
        document = {"version": VERSION, "verdict": self.verdict, **asdict(self)}
        return json.dumps(_finite(document), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        # 12 digits: more would tell apart sums that were only added in another order.
        return float(f"{value:.12g}") if math.isfinite(value) else None
    return value
