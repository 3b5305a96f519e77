"""Live rows against the rows that were trained on."""

from featurekit.monitor.flag import Flag
from featurekit.monitor.monitor import Monitor

__all__ = ["Flag", "Monitor"]
