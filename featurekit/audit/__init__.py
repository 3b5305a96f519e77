"""The scale audit: what a model would meet in these rows, judged before it is trained on them.

The module can be called: `featurekit.audit(dataset)` is `featurekit.audit.audit(dataset)`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from featurekit.audit.compare import Reference
from featurekit.audit.report import AuditReport, Finding
from featurekit.audit.rules import check_names
from featurekit.audit.run import audit_subject, reference_of
from featurekit.audit.subject import Subject
from featurekit.audit.table import table_subject

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    from numpy.typing import NDArray

    from featurekit.contract import AuditSpec
    from featurekit.scaling import Scaling

    Data: TypeAlias = "Audited | pl.DataFrame | NDArray[Any]"

__all__ = [
    "AuditReport",
    "Finding",
    "Subject",
    "audit",
    "audit_subject",
    "check_names",
]


class Audited(Protocol):
    """A dataset, as far as the audit needs one."""

    def subject(self, spec: AuditSpec | None) -> Subject:
        """What the audit needs of its rows."""


def audit(
    data: Data,
    *,
    against: Data | AuditReport | None = None,
    source: str = "frame",
    scaling: Scaling | None = None,
    layer_norm: bool | None = None,
    slices: Mapping[str, str] | None = None,
    spec: AuditSpec | None = None,
) -> AuditReport:
    """Judges a dataset as the model meets it, or a frame or array [rows, F] as it is.

    A frame with a `scaling` is judged after it, as a dataset is after its own.

    Args:
        data: What is judged.
        against: What it is compared with, column by column, and row by row where both have times.
        source: What a frame is called in the report.
        scaling: The scaling that a model of the frame applies.
        layer_norm: Whether the model normalises each row; by default if there is a scaling.
        slices: Conditions in SQL on columns of the frame; by default in and out of a position.
        spec: Limits, expectations and waivers; by default those of the dataset's pipeline.

    Raises:
        DataError: when there are no rows, or no columns of numbers.
        ConfigError: when a slice is no condition, or the contract names what there is not.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(2000, 3)) * [1.0, 1.0, 1e4]
        >>> report = audit(pl.DataFrame(rows, schema=["a.x", "a.y", "b.z"]))
        >>> report.verdict, report.effective < 1.1
        ('fail', True)
    """
    subject = _subject(
        data, source, scaling=scaling, layer_norm=layer_norm, slices=slices, spec=spec
    )
    if against is None:
        return audit_subject(subject)
    subject = replace(subject, against="OTHER")
    if isinstance(against, AuditReport):
        columns = {column["name"]: column for column in against.columns}
        return audit_subject(subject, Reference(against.name, columns))
    return audit_subject(subject, reference_of(_subject(against, "reference", spec=None)))


def _subject(data: Data, source: str, **options: Any) -> Subject:  # noqa: ANN401  # of a table
    if isinstance(data, (pl.DataFrame, np.ndarray)):
        return table_subject(data, source=source, **options)
    return data.subject(options["spec"])


class _Callable(ModuleType):
    def __call__(self, data: Any, **options: Any) -> AuditReport:  # noqa: ANN401  # those of audit
        return audit(data, **options)


# `fk.audit(dataset)` and `featurekit.audit.rules` are both public names.
sys.modules[__name__].__class__ = _Callable
