"""The counts of a monitor in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


def exposition(
    summary: Mapping[str, Any], flags: Mapping[tuple[str, str], int], closes: NDArray[Any]
) -> str:
    """Text format 0.0.4; `closes` are the last of each symbol, UTC ns, below 0 if there is none.

    Series are bounded: one a symbol, one a feature, and one a feature and kind that was flagged.
    """
    symbols = summary["symbols"]
    families: list[tuple[str, str, str, Iterable[tuple[dict[str, str], float]]]] = [
        ("rows_total", "counter", "Rows watched.", [({}, summary["rows"])]),
        (
            "flags_total",
            "counter",
            "Flags by kind and severity.",
            [({"kind": k, "severity": s}, n) for (k, s), n in sorted(flags.items())],
        ),
        (
            "feature_flags_total",
            "counter",
            "Flags by feature and kind.",
            [
                ({"feature": feature, "kind": kind}, n)
                for feature, kinds in summary["features"].items()
                for kind, n in kinds.items()
            ],
        ),
        (
            "psi",
            "gauge",
            "Population stability index of the last rows against the train rows.",
            [({"feature": n}, v) for n, v in summary["psi"].items() if v is not None],
        ),
        (
            "last_close_seconds",
            "gauge",
            "Close of the last bar, seconds since 1970.",
            [
                ({"symbol": symbol}, close / 1e9)
                for symbol, close in zip(symbols, closes.tolist(), strict=True)
                if close >= 0
            ],
        ),
        (
            "stale",
            "gauge",
            "1 while a symbol lacks bars.",
            [({"symbol": symbol}, float(told["stale"])) for symbol, told in symbols.items()],
        ),
    ]
    lines = []
    for name, kind, doc, samples in families:
        lines += [f"# HELP featurekit_{name} {doc}", f"# TYPE featurekit_{name} {kind}"]
        lines += [f"featurekit_{name}{_labels(labels)} {value!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
