"""The page for people: what is served, where each symbol is, what was flagged."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from featurekit.markup import escaped, filled, source_of
from featurekit.serve.messages import time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from featurekit.monitor import Flag
    from featurekit.serve.service import Service

SHOWN = 500  # symbols


def page(service: Service, taken: int) -> str:
    """One self-contained page; `taken` counts bars since the server was started."""
    told = service.symbols()
    stale = sum(each["stale"] for each in told)
    warming = sum(not each["ready"] for each in told)
    lasting = len(service.monitor.lasting)
    closes = [each["close"] for each in told if each["close"]]
    tiles = [
        ("bars taken", f"{taken:,}", ""),
        ("newest close, UTC", _short(max(closes))[:16] if closes else "none yet", ""),
        ("symbols", f"{len(told):,}", ""),
        ("stale", f"{stale:,}", "warn" if stale else "ok"),
        ("warming up", f"{warming:,}", "warn" if warming else "ok"),
        ("features that drift", f"{lasting:,}", "warn" if lasting else "ok"),
    ]
    parts = {
        "style": _asset("page.css"),
        "title": escaped(f"{service.pipeline.name} · featurekit serve"),
        "name": escaped(service.pipeline.name),
        "about": escaped(_about(service)),
        "tiles": "".join(
            f'<div><dt>{escaped(name)}</dt><dd class="{kind}">{escaped(value)}</dd></div>'
            for name, value, kind in tiles
        ),
        "symbols": _symbols(told),
        "flags": _flags(service.flags),
    }
    return filled(_asset("page.html"), parts)


def policy() -> str:
    """Content-Security-Policy: nothing is fetched, run or framed, and only this style applies."""
    return (
        f"default-src 'none'; style-src {source_of(_asset('page.css'))}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def _about(service: Service) -> str:
    encoder = service.encoder
    answers = f"{len(service.pipeline.columns)} columns"
    if encoder is not None:
        answers += f", or {encoder.config['d_model']} of an encoder over {service.window} rows"
    return f"featurekit serve · {answers}"


def _symbols(told: Sequence[dict[str, object]]) -> str:
    rows = [
        [
            (escaped(each["symbol"]), ""),
            (_short(each["time"]), ""),
            (_short(each["close"]), ""),
            (*_state(each),),
            (f"{each['flags']:,}", "number"),
        ]
        for each in told[:SHOWN]
    ]
    more = len(told) - SHOWN
    note = f'<p class="soft">and {more:,} more: GET /symbols</p>' if more > 0 else ""
    heads = [("symbol", ""), ("last bar", ""), ("closed", ""), ("state", ""), ("flags", "number")]
    return _table(heads, rows) + note


def _state(each: dict[str, object]) -> tuple[str, str]:
    if each["close"] is None:
        return "no bar yet", "soft"
    if each["stale"]:
        return "stale", "warn"
    return ("ready", "ok") if each["ready"] else ("warming up", "warn")


def _flags(flags: Sequence[Flag]) -> str:
    if not flags:
        return '<div class="wide none">None since the server was started.</div>'
    heads = [
        ("closed", ""), ("symbol", ""), ("severity", ""), ("kind", ""), ("feature", ""),
        ("value", "number"), ("expected", ""),
    ]  # fmt: skip
    rows = [
        [
            (_short(time_text(flag.time)), ""),
            (escaped(flag.symbol or "all"), ""),
            (escaped(flag.severity), flag.severity),
            (escaped(flag.kind), ""),
            (escaped(flag.feature), ""),
            (f"{flag.value:.4g}", "number"),
            (escaped(flag.expected), "soft"),
        ]
        for flag in reversed(flags)
    ]
    return _table(heads, rows)


def _table(heads: Iterable[tuple[str, str]], rows: Iterable[Iterable[tuple[str, str]]]) -> str:
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in heads)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{text}</td>' for text, kind in row) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _short(time: object) -> str:
    """A time for people: to the second, in UTC."""
    return escaped("—" if time is None else str(time)[:19].replace("T", " "))


@cache
def _asset(name: str) -> str:
    return files("featurekit.serve").joinpath(name).read_text(encoding="utf-8")
