"""The columns of a pipeline one bar at a time."""

from featurekit.stream.stream import Stream

__all__ = ["Stream"]
