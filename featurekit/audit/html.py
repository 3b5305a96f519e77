"""report.html: the audit document as one page that needs no network and holds no rows.

What has to be readable without JavaScript, verdict, findings, statistics and shares, is written
here; report.js draws the rest from the document, which the page carries as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from featurekit.audit.packing import embedded, listed, redacted, rounded
from featurekit.markup import escaped, filled, source_of

if TYPE_CHECKING:
    from featurekit.audit.packing import Json

SHOWN = 10  # findings that stand open; the rest are in the page too, folded
WORDS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL"}
ICON = {"pass": "ok"}
EMPTY = "—"


def to_html(document: Json, *, redact: bool = False) -> str:
    """One self-contained page, UTF-8 text; `redact` leaves out the extremes of every feature.

    Then only robust statistics stay, quantiles and histograms end at 1% and 99%, and findings of
    an expected range or constant tell no value.
    """
    if redact:
        document = redacted(document)
    style, script = _asset("report.css"), _asset("report.js")
    verdict = str(document.get("verdict") or "pass")
    parts = {
        # Nothing is fetched, and only these two texts are run: not even from a feature's name.
        "policy": f"default-src 'none'; img-src data:; script-src {source_of(script)}; "
        f"style-src {source_of(style)}; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "title": _text(f"{WORDS.get(verdict, verdict)} · {_get(document, 'subject', 'name')}"),
        "verdict": _text(verdict),
        "head": _head(document, verdict),
        "effective": _effective(document),
        "findings": _findings(document),
        "model": _model(document),
        "blocks": _blocks(document),
        "document": embedded(document),
    }
    page = filled(_asset("report.html"), parts)
    return page.encode("utf-8", "replace").decode("utf-8")  # half an emoji is no UTF-8


def _asset(name: str) -> str:
    return files("featurekit.audit").joinpath("page").joinpath(name).read_text(encoding="utf-8")


def _text(value: object) -> str:
    """Text for an element or a quoted attribute."""
    return escaped(EMPTY if value is None else value)


def _name(name: object) -> str:
    return _text(name).replace(".", ".<wbr>")  # a long name breaks after its block


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return EMPTY
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.4g}"


def _count(number: int | None, what: str) -> str:
    return f"{_number(number)} {what}{'' if number == 1 else 's'}"


def _icon(name: str) -> str:
    return f'<svg class="icon {name}" aria-hidden="true"><use href="#icon-{name}"/></svg>'


def _get(document: Json, *path: str) -> Any:  # noqa: ANN401  # any JSON
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _head(document: Json, verdict: str) -> str:
    """Verdict, counts, the sentence, and what was judged."""
    counts, subject = document.get("counts") or {}, document.get("subject") or {}
    shown = (
        ("fail", "fail", "fail"),
        ("warn", "warn", "warn"),
        ("ok", "features_ok", "ok"),
        ("repaired", "repaired", "repaired"),
        ("waived", "waived", "waived"),
    )
    tally = "".join(
        f'<li class="{icon if counts.get(key) else "none"}">{_icon(icon)}'
        f"<b>{_number(counts.get(key))}</b> {label}</li>"
        for icon, key, label in shown
    )
    days = [str(subject[key])[:10] for key in ("first", "last") if subject.get(key)]
    judged = document.get("judged") or {}
    view = "as the model meets it" if judged.get("view") == "model" else "as it is"
    rows = "all rows" if judged.get("exact") else f"{_number(judged.get('sample'))} sampled rows"
    facts = [
        f"{_count(subject.get('rows'), 'row')} x {_count(subject.get('features'), 'feature')}",
        " to ".join(dict.fromkeys(days)),
        f"{_number(subject['symbols'])} symbols" if (subject.get("symbols") or 0) > 1 else "",
        f"judged {view}: {judged.get('treatment') or 'no treatment'}, {rows}",
        f"against {_get(document, 'reference', 'name')}" if document.get("reference") else "",
        f"{subject.get('kind') or 'data'} {str(subject.get('digest') or '')[:12]}".strip(),
    ]
    return (
        f'<h1>{_icon(ICON.get(verdict, verdict))}<span class="word">'
        f"{_text(WORDS.get(verdict, verdict))}</span> "
        f'<bdi class="name">{_text(subject.get("name"))}</bdi></h1>\n'
        f'<p class="sentence">{_text(document.get("sentence") or "")}</p>\n'
        f'<ul class="tally">{tally}</ul>\n'
        f'<p class="facts">{"".join(f"<span>{_text(fact)}</span> " for fact in facts if fact)}</p>'
    )


def _effective(document: Json) -> str:
    """Effective features from natural units, over the peeled ones, to what the model meets."""
    effective, width = document.get("effective") or {}, _get(document, "subject", "features") or 0
    steps = [("natural units", "", effective.get("natural"))]
    steps += [
        ("without", peel["without"], peel.get("effective"))
        for peel in listed(document, "peeled")
        if peel.get("without")
    ]
    steps += [
        (label, "", effective[key])
        for key, label in (("scaled", "after scaling"), ("model", "as the model meets it"))
        if effective.get(key) is not None
    ]
    items = "".join(
        f'<li class="{"peeled" if name else "view"}"><b>{_features(value)}</b>'
        f"{_bar(value / width if width and value else 0.0)}"
        f"<span>{label}{f' <bdi>{_name(name)}</bdi>' if name else ''}</span></li>"
        for label, name, value in steps
    )
    return f"<h2>Effective features <small>of {_number(width)}</small></h2><ol>{items}</ol>"


def _features(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bar(share: float) -> str:
    # Sizes are attributes: the policy of the page forbids style attributes.
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    return (
        '<svg class="bar" aria-hidden="true"><rect class="whole" width="100%" height="100%"/>'
        f'<rect class="part" width="{width}" height="100%"/></svg>'
    )


def _findings(document: Json) -> str:
    """All findings as text, then what the scaling repairs, what is waived, and notes."""
    index = {each.get("name"): at for at, each in enumerate(listed(document, "features"))}
    notes = listed(document, "notes")
    standing = [_finding(each, index) for each in listed(document, "findings")]
    parts = [f'<ol class="findings">{"".join(standing[:SHOWN])}</ol>']
    if not standing:
        parts = [f'<p class="calm">{_icon("ok")} Nothing is beyond its limit.</p>']
    folded = (
        ("more", "more finding", "", standing[SHOWN:]),
        *(
            (key, what, label, [_finding(each, index) for each in listed(document, key)])
            for key, what, label in (
                ("repaired", "finding", " in natural units, repaired before the model meets them"),
                ("waived", "waived finding", ""),
            )
        ),
        ("notes", "note", " on the data", [f"<li>{_text(note)}</li>" for note in notes]),
    )
    parts += [
        f'<details class="{key}"><summary>{_count(len(items), what)}{label}</summary>'
        f'<ol class="{"notes" if key == "notes" else "findings"}">{"".join(items)}</ol></details>'
        for key, what, label, items in folded
        if items
    ]
    return "\n".join(parts)


def _finding(finding: Json, index: Mapping[Any, int]) -> str:
    """One finding; the drawer of its feature shows a copy of this element."""
    feature, block = finding.get("feature"), finding.get("block")
    value, limit, margin = (finding.get(key) for key in ("value", "limit", "margin"))
    severity = "fail" if finding.get("severity") == "fail" else "warn"
    sign = "<" if value is not None and limit is not None and value < limit else ">"
    number = _number(value) + (f" {sign} {_number(limit)}" if limit is not None else "")
    if value is None and limit is not None:
        number = f"beyond {_number(limit)}"
    place = feature or (f"block {block}" if block else "all features")
    target = f' data-feature="{index[feature]}"' if feature and feature in index else ""
    target += f' data-block="{_text(block)}"' if block and not feature else ""
    slice_ = finding.get("slice")
    times = "x below the limit" if sign == "<" else "x the limit"
    more = [
        f"{_number(rounded(margin, 3))}{times}" if margin is not None else "",
        f"in slice {slice_}" if slice_ else "",
    ]
    lines = [("Fix", "fix", finding.get("fix")), ("Command", "command", finding.get("command"))]
    if finding.get("repaired_by"):
        lines[0] = ("Repaired by", "by", finding["repaired_by"])  # nothing to copy
    if finding.get("reason"):
        until = f", until {finding['until']}" if finding.get("until") else ""
        lines.insert(0, ("Waived", "reason", f"{finding['reason']}{until}"))
    body = "".join(
        f'<div class="{key}"><dt>{label}</dt><dd>{_code(key, text)}</dd></div>'
        for label, key, text in lines
        if text
    )
    return (
        f'<li class="finding {severity}"{target}><p class="what">{_icon(severity)}'
        f'<span class="severity">{severity}</span> <bdi class="name">{_text(place)}</bdi> '
        f'<span class="metric">{_text(finding.get("metric"))}</span> '
        f'<span class="value">{_text(number)}</span> '
        f'<span class="margin">{_text(" ".join(word for word in more if word))}</span></p>'
        f'<p class="why">{_text(finding.get("why") or "")}</p><dl>{body}</dl>'
        '<p class="do"></p></li>\n'
    )


def _code(key: str, text: object) -> str:
    return _text(text) if key == "reason" else f"<code>{_text(text)}</code>"


def _model(document: Json) -> str:
    """Statistics of the model view, a row each, by slice."""
    views = listed(document, "model")
    metrics: dict[str, Json] = {}
    for view in views:
        for statistic in listed(view, "statistics"):
            metrics.setdefault(str(statistic.get("metric")), statistic)
    if not metrics:
        return '<p class="calm">There is no model view of these rows.</p>'
    head = "".join(
        f'<th scope="col">{_text(view.get("slice") or "all rows")}'
        f"<small>{_number(view.get('rows'))} rows</small></th>"
        for view in views
    )
    rows = []
    for metric, first in metrics.items():
        cells = []
        for view in views:
            found: Json = next(
                (s for s in listed(view, "statistics") if s.get("metric") == metric), {}
            )
            severity = found.get("severity") or ""
            icon = _icon(severity) if severity in ("warn", "fail") else ""
            known = found.get("detail") and found.get("value") is not None
            detail = f"<small>{_name(found['detail'])}</small>" if known else ""
            cells.append(
                f'<td class="{_text(severity)}">{icon}{_number(rounded(found.get("value"), 3))}'
                f"{detail}</td>"
            )
        limits = ", ".join(
            f"{key} {'<' if first.get('low') else '>'} {_number(first.get(key))}"
            for key in ("warn", "fail")
            if first.get(key) is not None
        )
        rows.append(
            f'<tr><th scope="row">{_text(metric)}<small>{_text(limits)}</small></th>'
            f"{''.join(cells)}</tr>"
        )
    return (
        f'<table><thead><tr><th scope="col">statistic</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _blocks(document: Json) -> str:
    """One stacked bar a view with its legend; report.js shows one at a time."""
    blocks = listed(document, "blocks")
    views = list(dict.fromkeys(key for each in blocks for key in each.get("shares") or {}))
    figures = []
    for view in views:
        left, bars, legend = 0.0, [], []
        for at, each in enumerate(blocks):
            share = (each.get("shares") or {}).get(view)
            width = 100 * min(max(share or 0.0, 0.0), 1.0)
            colour = f"block-{at % 8}"
            bars.append(
                f'<rect class="{colour}" x="{left:.3f}%" width="{width:.3f}%" height="100%"/>'
            )
            left += width
            legend.append(
                f'<tr><th scope="row"><i class="{colour}"></i>'
                f"<bdi>{_text(each.get('block') or '-')}</bdi></th><td>{_share(share)}</td>"
                f"<td>{_number(each.get('features'))}</td></tr>"
            )
        figures.append(
            f'<figure data-view="{_text(view)}"><figcaption>{_text(view)}</figcaption>'
            f'<svg class="stack" aria-hidden="true">{"".join(bars)}</svg><table><thead><tr>'
            '<th scope="col">block</th><th scope="col">share</th><th scope="col">features</th>'
            f"</tr></thead><tbody>{''.join(legend)}</tbody></table></figure>"
        )
    return "".join(figures)


def _share(share: float | None) -> str:
    return EMPTY if share is None else "&lt;0.1%" if 0 < share < 0.001 else f"{share:.1%}"
