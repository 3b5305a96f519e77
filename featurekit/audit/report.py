"""Finding and AuditReport: what the audit says, as one object that every renderer reads."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featurekit.audit.limits import LIMITS
from featurekit.audit.views import PROBABILITIES

if TYPE_CHECKING:
    from featurekit.contract import Gate

Severity = Literal["warn", "fail"]
Verdict = Literal["pass", "warn", "fail"]

# Severities that breach a gate.
BREACH: dict[Gate, tuple[str, ...]] = {"warn": ("warn", "fail"), "fail": ("fail",), "never": ()}
VERSION = 2  # of audit.json
DIGITS = 7  # of numbers in audit.json: more would tell apart sums that were added in another order


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

    @property
    def of(self) -> str:
        """What it is a finding of: the feature, the block, or all features."""
        return self.feature or (f"block {self.block}" if self.block else "all features")

    @property
    def beyond(self) -> str:
        """Value and limit, with the sign between them."""
        sign = "<" if self.value < self.limit else ">"
        return f"{self.value:.4g} {sign} {self.limit:.4g}"


@dataclass(frozen=True, slots=True)
class Waived:
    """A finding that is known and may pass until a day."""

    finding: Finding
    reason: str
    until: str


@dataclass(frozen=True, slots=True)
class BlockShare:
    """A block's part of the features, and of the squared norm in each view, by its name."""

    block: str
    features: int
    shares: dict[str, float]

    @property
    def natural(self) -> float:
        """Share of the squared norm in natural units."""
        return self.shares["raw"]

    @property
    def model(self) -> float:
        """Share of the squared norm as the model meets it, in natural units where it is bare."""
        return next(reversed(self.shares.values()))


@dataclass(frozen=True, slots=True)
class Peel:
    """Effective features that are left when the largest ones are taken away."""

    without: str
    effective: float


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic of the model view, with its limits; `detail` names the block or feature."""

    metric: str
    value: float
    warn: float | None
    fail: float | None
    low: bool
    severity: str
    detail: str


@dataclass(frozen=True, slots=True)
class ModelSlice:
    """The statistics of the model view on the rows of a slice; "" is all rows."""

    slice: str
    rows: int
    statistics: tuple[Statistic, ...]


@dataclass(frozen=True)
class AuditReport:
    """All findings, the worst first, and what they are measured on.

    `findings` are what the model would meet; `repaired` what it would have met in natural units.
    `columns` are the features with all that was measured of them, as plain data, and `reference`
    what they were compared with.
    """

    kind: str
    name: str
    source: str
    digest: str
    rows: int
    features: int
    symbols: int | None
    span: tuple[str, str] | None
    view: Literal["natural", "model"]
    treatment: str
    sample: int
    exact: bool
    splits: Mapping[str, int]
    slices: Mapping[str, int]
    effective_features: dict[str, float]
    blocks: tuple[BlockShare, ...]
    peeled: tuple[Peel, ...]
    model: tuple[ModelSlice, ...]
    findings: tuple[Finding, ...]
    repaired: tuple[Finding, ...]
    waived: tuple[Waived, ...]
    notes: tuple[str, ...]
    columns: tuple[Mapping[str, Any], ...]
    chunks: tuple[Mapping[str, Any], ...]
    redundant: tuple[tuple[str, str, float], ...]
    fail_on: Gate = "fail"
    reference: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst severity of the findings, or pass."""
        severities = {finding.severity for finding in self.findings}
        return "fail" if "fail" in severities else "warn" if severities else "pass"

    @property
    def effective(self) -> float:
        """Effective features, as the model meets them."""
        return next(reversed(self.effective_features.values()))

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity, those repaired and waived, and features by the worst of theirs."""
        status = [column["status"] for column in self.columns]
        return {
            "fail": sum(f.severity == "fail" for f in self.findings),
            "warn": sum(f.severity == "warn" for f in self.findings),
            "repaired": len(self.repaired),
            "waived": len(self.waived),
            **{f"features_{each}": status.count(each) for each in ("ok", "warn", "fail")},
        }

    @property
    def sentence(self) -> str:
        """What a reader should know first, in one sentence."""
        natural, seen = self.effective_features["natural"], self.effective
        if not self.findings:
            scaled = f", from {natural:.1f} in natural units" if self.view == "model" else ""
            return (
                f"Every feature has its say: {seen:.1f} of {self.features} features are effective"
                f"{scaled}."
            )
        worst = self.findings[0]
        where = f" in slice {worst.slice}" if worst.slice else ""
        rest = f"{seen:.1f} of {self.features} features are effective"
        if self.view == "natural" and len(self.peeled) > 1:
            rest += f", {self.peeled[-1].effective:.1f} without the largest {len(self.peeled) - 1}"
        return f"{worst.of}: {worst.metric} {worst.beyond}{where}; {worst.why}; {rest}."

    def breaches(self, fail_on: Gate) -> bool:
        """Whether a gate at this severity is breached."""
        return self.verdict in BREACH[fail_on]

    def document(self, *, located: bool = True) -> dict[str, Any]:
        """The report as plain data; if not `located`, without the place of the data on disk."""
        place = {"dataset": "DATASET", "file": "FILE"}.get(self.kind, "FILE")

        def listed(finding: Finding, **more: str) -> dict[str, Any]:
            told = asdict(finding) | more
            if not located and self.kind != "frame":
                told["command"] = _unlocated(finding, place)
            return told

        document = {
            "version": VERSION,
            "verdict": self.verdict,
            "subject": {
                "kind": self.kind,
                "name": self.name,
                **({"path": self.source} if located else {}),
                "digest": self.digest,
                "rows": self.rows,
                "features": self.features,
                "symbols": self.symbols,
                "first": self.span[0] if self.span else None,
                "last": self.span[1] if self.span else None,
            },
            "sentence": self.sentence,
            "judged": {
                "view": self.view,
                "treatment": self.treatment,
                "sample": self.sample,
                "exact": self.exact,
            },
            "counts": self.counts,
            "splits": dict(self.splits),
            "slices": [
                {"name": name, "rows": rows, "share": rows / max(self.splits.get("train", 0), 1)}
                for name, rows in self.slices.items()
            ],
            "effective": dict(self.effective_features),
            "peeled": [asdict(peel) for peel in self.peeled],
            "blocks": [asdict(block) for block in self.blocks],
            "model": [asdict(each) for each in self.model],
            "checks": [
                {
                    "metric": metric,
                    "warn": limit.warn,
                    "fail": limit.fail,
                    "low": limit.low,
                    "why": limit.why,
                    "formula": limit.formula,
                }
                for metric, limit in LIMITS.items()
            ],
            "findings": [listed(finding) for finding in self.findings],
            "repaired": [listed(finding) for finding in self.repaired],
            "waived": [
                listed(each.finding, reason=each.reason, until=each.until) for each in self.waived
            ],
            "notes": list(self.notes),
            "probabilities": list(PROBABILITIES),
            "chunks": list(self.chunks),
            "redundant": [list(pair) for pair in self.redundant],
        }
        last = {"features": self._features, "reference": _finite(self.reference)}
        return _finite(document) | last  # type: ignore[no-any-return]  # a dict in, a dict out

    @cached_property
    def _features(self) -> list[dict[str, Any]]:
        return [_finite(column) for column in self.columns]

    def to_json(self) -> str:
        """Canonical JSON, byte-identical for the same data; what is not finite is null.

        Each finding and each feature has a line of its own. The place of the data on disk is not
        in it: in the commands it is FILE or DATASET.
        """
        lines = []
        for key, value in self.document(located=False).items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                each = ",\n  ".join(json.dumps(item, allow_nan=False) for item in value)
                lines.append(f" {json.dumps(key)}: [\n  {each}\n ]")
            else:
                lines.append(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def to_html(self, path: str | Path, *, redact: bool = False) -> None:
        """Writes the report as one HTML file that needs nothing else.

        `redact` leaves out extremes, and moments and bins that would tell them.
        """
        from featurekit.audit.html import to_html

        Path(path).write_text(to_html(self.document(), redact=redact), encoding="utf-8")


def _unlocated(finding: Finding, place: str) -> str:
    against = " --against OTHER" if "--against" in finding.command else ""
    shown = finding.feature and "--feature" in finding.command
    feature = f" --feature {shlex.quote(finding.feature)}" if shown else ""
    return f"featurekit audit {place}{against}{feature}"


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
