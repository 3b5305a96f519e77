"""A dataset's rows as something to audit, finished or just written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from featurekit.audit.subject import Subject
from featurekit.conditions import DEFAULT_SLICES, Conditions
from featurekit.contract import AuditSpec, check_audit
from featurekit.document import parse, read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from featurekit.cells import Cells
    from featurekit.feature import Feature
    from featurekit.scaling import Scaling


class Rows(Protocol):
    """Rows that can be read by their numbers."""

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features [n, F]."""


def subject(
    pipeline: str,
    *,
    name: str,
    path: Path,
    digest: str,
    features: Sequence[Feature],
    cells: Cells,
    scaling: Scaling | None,
    rows: Rows,
    symbols: int,
    span: tuple[int, int],
    spec: AuditSpec | None,
    frame: Callable[[], pl.DataFrame] | None = None,
) -> Subject:
    """What the audit needs; of `pipeline`, the YAML text, it reads `audit:` and `slices:` only.

    Blocks of a user's own are in there as well, and need not be there to judge what they made.

    Raises:
        ConfigError: when these sections cannot be read.
    """
    document, source = read_yaml(pipeline, f"the pipeline of {path}")
    if spec is None:
        spec = parse(AuditSpec, document.get("audit") or {}, source, ("audit",))
        if spec is not None:
            check_audit(spec, source)
        source.check()
    names = [feature.name for feature in features]
    slices = document.get("slices")
    if slices is None:
        slices = DEFAULT_SLICES if "position.side" in names else {}
    return Subject(
        kind="dataset",
        name=name,
        path=str(path),
        digest=digest,
        features=features,
        cells=cells,
        take=rows.take,
        scaling=scaling,
        norm=scaling is not None,
        spec=spec or AuditSpec(),
        slice_columns=Conditions(slices, names, source.name).columns,
        symbols=symbols,
        span=span,
        rows=frame,
    )
