"""Checks: what was proved, on how much, and what was found against it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a proof found; `column` is empty where it is about no single one."""

    proof: str
    severity: Literal["warn", "fail"]
    column: str
    block: str
    symbol: str
    time: str
    what: str
    expected: str
    got: str
    fix: str


@dataclass(frozen=True, slots=True)
class Proof:
    """One proof: what it looked at, in words, and what it found."""

    name: str
    looked_at: str
    findings: tuple[Finding, ...] = ()
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)  # what it measured of each

    @property
    def verdict(self) -> Literal["pass", "warn", "fail"]:
        """The worst of its findings."""
        severities = {finding.severity for finding in self.findings}
        return "fail" if "fail" in severities else "warn" if severities else "pass"


@dataclass(frozen=True, slots=True)
class Checks:
    """All proofs of a pipeline on some data."""

    pipeline: str
    proofs: tuple[Proof, ...]
    rows: int
    symbols: tuple[str, ...]
    of_rows: int
    of_symbols: int

    @property
    def passed(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return not any(proof.verdict == "fail" for proof in self.proofs)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all proofs, in their order."""
        return tuple(finding for proof in self.proofs for finding in proof.findings)

    def __getitem__(self, name: str) -> Proof:
        return next(proof for proof in self.proofs if proof.name == name)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "pipeline": self.pipeline,
            "passed": self.passed,
            "rows": self.rows,
            "of_rows": self.of_rows,
            "symbols": list(self.symbols),
            "of_symbols": self.of_symbols,
            "proofs": [{"verdict": proof.verdict, **asdict(proof)} for proof in self.proofs],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON, the same bytes for the same data."""
        return json.dumps(self.to_dict(), sort_keys=True)
