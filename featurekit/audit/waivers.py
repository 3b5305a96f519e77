"""Waivers: findings that are known, and may pass until a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurekit.audit.report import Finding, Waived

if TYPE_CHECKING:
    from featurekit.audit.subject import Subject
    from featurekit.contract import AuditSpec


def waive(
    findings: list[Finding], subject: Subject
) -> tuple[list[Finding], list[Waived], list[str]]:
    """Takes out what is waived; a waiver ends by the last row of the data, not by a clock."""
    spec: AuditSpec = subject.spec
    if not spec.waivers:
        return findings, [], []
    last = subject.span[1] if subject.span else None
    kept, waived, notes, used = list(findings), [], [], set()
    if last is None:
        notes.append("waivers end with the time of the data, and these rows have none: not applied")
        return kept, [], notes
    for number, waiver in enumerate(spec.waivers):
        for finding in findings:
            if (
                finding.metric == waiver.metric
                and waiver.feature in ("", finding.feature)
                and waiver.block in ("", finding.block)
                and waiver.slice in ("", finding.slice)
            ):
                used.add(number)
                if last < waiver.end and finding in kept:
                    kept.remove(finding)
                    waived.append(Waived(finding, waiver.reason, waiver.until))
        of = waiver.feature or waiver.block or "all"
        if last >= waiver.end:
            notes.append(f"the waiver of {waiver.metric} of {of} ended on {waiver.until}")
        elif number not in used:
            notes.append(f"the waiver of {waiver.metric} of {of} waives nothing: delete it")
    return kept, waived, notes
