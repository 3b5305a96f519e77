"""What is audited: a dataset or a table, as far as the audit needs to know it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from featurekit.audit.limits import LIMITS
from featurekit.contract import AuditSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from featurekit.cells import Cells
    from featurekit.feature import Feature
    from featurekit.sample import RowSample
    from featurekit.scaling import Scaling

Take = Callable[[NDArray[np.int64]], NDArray[np.float32]]

SAMPLE_VALUES = 8_000_000  # of the sample that are looked at, so that wide tables stay quick
SAMPLE_LEAST = 2_000


@dataclass(frozen=True, slots=True)
class Subject:
    """Rows to judge: their features, their summaries, and how to get at those of the sample.

    Args:
        kind: What they come from.
        name: What the user calls it.
        path: The argument of `featurekit audit` that audits it.
        digest: Names the content.
        features: The columns in order.
        cells: Their summaries.
        take: Gives rows by their numbers.
        scaling: As fitted on train; None if the rows are judged as they are.
        norm: Whether the model applies layer_norm.
        spec: Limits, expectations and waivers.
        slice_columns: The columns that each slice is a condition on.
        symbols: How many there are, if that is known.
        span: UTC ns of the first and the last row, if that is known.
        overflow: Share of each column that is finite before the cast to float32 and not after it.
        rows: Gives all rows with their symbols and times, if these are known.
        against: The argument of `--against`, if they are compared with something.
        notes: What should be known of the input.
    """

    kind: Literal["dataset", "file", "frame"]
    name: str
    path: str
    digest: str
    features: Sequence[Feature]
    cells: Cells
    take: Take
    scaling: Scaling | None = None
    norm: bool = False
    spec: AuditSpec = field(default_factory=AuditSpec)
    slice_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    symbols: int | None = None
    span: tuple[int, int] | None = None
    overflow: NDArray[np.float64] | None = None
    rows: Callable[[], pl.DataFrame] | None = None
    against: str = ""
    notes: tuple[str, ...] = ()

    def command(self, metric: str, feature: str = "") -> str:
        """The command line that shows a finding again."""
        compared = bool(self.against) and metric in LIMITS and LIMITS[metric].compared
        if self.kind == "frame":  # of this process: no command line has it
            return f"fk.audit({self.path}{', against=' + self.against if compared else ''})"
        parts = ["featurekit audit", shlex.quote(self.path)]
        if compared:
            parts += ["--against", shlex.quote(self.against)]
        if feature:
            parts += ["--feature", shlex.quote(feature)]
        return " ".join(parts)

    def own(self, slice_: str) -> list[str]:
        """The columns that a slice is a condition on."""
        return list(self.slice_columns.get(slice_, ()))

    def sample(self, slice_: str | None = None) -> RowSample:
        """The rows of train that are looked at one by one, of all or of a slice."""
        sample = self.cells.sample("train", slice_)
        least = max(SAMPLE_LEAST, SAMPLE_VALUES // max(len(self.features), 1))
        return sample.first(least)
