"""Bars and fills into a dataset on disk, in one pass and in memory bounded by blocks.

A build goes on from the generation before: what has not changed is kept, what is new is added, and
only a symbol whose past has changed is computed again.
"""

from featurekit.build.changes import source_digest
from featurekit.build.run import Build, Progress, build

__all__ = ["Build", "Progress", "build", "source_digest"]
