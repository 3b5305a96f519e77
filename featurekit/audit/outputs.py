"""What machines read of an audit: JUnit, annotations of GitHub, and the contract that rows keep."""

from __future__ import annotations

import difflib
import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, Any

from featurekit.audit.report import BREACH
from featurekit.contract import rounded_down, rounded_up
from featurekit.document import to_yaml
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from featurekit.audit.report import AuditReport, Finding
    from featurekit.contract import Gate

# What XML cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: AuditReport, fail_on: Gate) -> str:
    """JUnit XML: a test case a feature and one for all of them, failed where the gate is breached.

    A feature that only the reference has is one as well. What does not breach the gate is in
    `system-out`, as JUnit knows no warnings.
    """
    suite = ElementTree.Element("testsuite", name=_xml(f"featurekit audit {report.name}"))
    failed, breach = 0, BREACH[fail_on]
    cases: dict[str, list[Finding]] = {
        name: [] for name in ["", *(c["name"] for c in report.columns)]
    }
    for finding in report.findings:
        cases.setdefault(finding.feature, []).append(finding)
    for name, findings in cases.items():
        told = _xml(name or "all features")
        case = ElementTree.SubElement(suite, "testcase", classname="featurekit", name=told)
        severe = [f for f in findings if f.severity in breach]
        if severe:
            failed += 1
            message = "; ".join(f"{f.metric} {f.beyond}" for f in severe)
            failure = ElementTree.SubElement(case, "failure", message=_xml(message))
            failure.text = _xml("\n".join(map(_told, severe)))
        mild = [f for f in findings if f.severity not in breach]
        if mild:
            ElementTree.SubElement(case, "system-out").text = _xml("\n".join(map(_told, mild)))
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(failed))
    ElementTree.indent(suite)
    text: str = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def to_github(report: AuditReport) -> Iterator[str]:
    """Workflow commands of GitHub Actions: an error or a warning a finding."""
    for finding in report.findings:
        kind = "error" if finding.severity == "fail" else "warning"
        title = _property(f"scale audit: {finding.metric}")
        yield f"::{kind} title={title}::{_data(_told(finding))}"
    yield f"::notice title=scale audit::{_data(report.verdict + ': ' + report.sentence)}"


def feature_of(report: AuditReport, name: str) -> Mapping[str, Any]:
    """What was measured of a feature.

    Raises:
        ConfigError: when there is none of that name.
    """
    names = [column["name"] for column in report.columns]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            Problem(
                "there is no such feature",
                where=report.source,
                expected=", ".join(names[:5]) + ", ...",
                got=repr(name),
                fix=f"--feature {near[0]}" if near else f"featurekit show {report.source}",
            )
        )
    return report.columns[names.index(name)]


def inferred(report: AuditReport, slack: float) -> str:
    """The `audit:` section whose expectations these rows keep, and others within the slack.

    A scale may be that many times larger or smaller, a share that much more, a range wider by that
    share of itself.
    """
    expect = {
        column["name"]: expected for column in report.columns if (expected := _keeps(column, slack))
    }
    return to_yaml({"audit": {"expect": expect}}, flow=True)


def _keeps(column: Mapping[str, Any], slack: float) -> dict[str, Any]:
    stats, checks = column["stats"], column["checks"]
    found: dict[str, Any] = {}
    low, high = column["quantiles"][0], column["quantiles"][-1]
    if not stats["count"]:
        return {}
    if not low < high:
        return {"constant": True}
    if stats["scale"] > 0.0:
        found["scale"] = [
            rounded_down(stats["scale"] / (1.0 + slack)),
            rounded_up(stats["scale"] * (1 + slack)),
        ]
    room = (high - low) * slack
    found["range"] = [rounded_down(low - room), rounded_up(high + room)]
    found["zeros"] = f"<{rounded_up(min(stats['zeros'] * (1 + slack) + 0.02, 1.001)):g}"
    missing = stats["nan"] + stats["inf"]
    found["nan"] = f"<{rounded_up(missing * (1 + slack) + 1e-9):g}"
    if "tail weight" in checks:
        found["tail"] = f"<{rounded_up(stats['tail'] * (1 + slack) + 1e-9):g}"
    if "zeros" in checks and checks["zeros"]["value"] > 0.5:
        found["sparse"] = True
    return found


def _told(finding: Finding) -> str:
    place = f" in slice {finding.slice}" if finding.slice else ""
    return (
        f"{finding.of}: {finding.metric} {finding.beyond}{place}. {finding.why}. Fix: {finding.fix}"
    )


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
