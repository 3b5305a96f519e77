"""The bundled samples, and how each is read; their licences lie beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featurekit.errors import ConfigError, Problem

SAMPLES: dict[str, dict[str, Any]] = {
    "eurusd_h1": {
        "path": "eurusd_h1.csv.gz",
        "symbol": "EURUSD",
        "time_format": "%d.%m.%Y %H:%M:%S%.3f",
        "timezone": "UTC",
        "stamp": "open",
        "bar": "1h",
    },
    "us_stocks_d1": {
        "path": "us_stocks_d1.csv.gz",
        "columns": {"symbol": "Ticker", "time": "Date"},
        "timezone": "UTC",
        "stamp": "open",
        "bar": "1d",
    },
    "eurusd_h1_fills": {"path": "eurusd_h1_fills.csv"},
}


def sample(name: str, where: str = "") -> dict[str, Any]:
    """How a bundled sample is read, with the path of its file.

    Raises:
        ConfigError: when there is none of that name.

    Example:
        >>> sample("eurusd_h1")["bar"]
        '1h'
    """
    if name not in SAMPLES:
        raise ConfigError(
            Problem(
                "there is no such sample",
                where=where,
                expected=" | ".join(SAMPLES),
                got=repr(name),
                fix=f"sample: {next(iter(SAMPLES))}",
            )
        )
    return SAMPLES[name] | {"path": str(Path(__file__).parent / SAMPLES[name]["path"])}
