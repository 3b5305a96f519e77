"""The scale audit: what a model would meet in these rows, judged before it is trained on them.

The module can be called: `featurekit.audit(dataset)` is `featurekit.audit.audit(dataset)`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from featurekit.audit.report import AuditReport, Finding
from featurekit.audit.rules import Named, audit_profiles
from featurekit.errors import DataError, Problem
from featurekit.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurekit.scaling import Scaling

__all__ = ["AuditReport", "Finding", "audit", "audit_profiles"]


class Audited(Protocol):
    """A dataset, as far as the audit needs one."""

    path: Path

    @property
    def features(self) -> Sequence[Named]:
        """Its features in order."""

    @property
    def scaling(self) -> Scaling | None:
        """The scaling fitted on train."""

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of its slices."""

    def cells(self) -> Mapping[str, Profile]:
        """Its profiles by `split/slices`."""


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    block: str


def audit(data: Audited | pl.DataFrame | NDArray[Any], *, source: str = "frame") -> AuditReport:
    """Judges a dataset as the model meets it, or a frame or array [rows, F] as it is.

    Raises:
        DataError: when there are no rows, or no columns of numbers.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(2000, 3)) * [1.0, 1.0, 1e4]
        >>> report = audit(pl.DataFrame(rows, schema=["a.x", "a.y", "b.z"]))
        >>> report.verdict, report.effective < 1.1
        ('fail', True)
    """
    if not isinstance(data, (pl.DataFrame, np.ndarray)):
        return audit_profiles(
            data.cells(), data.features, data.scaling, source=str(data.path), slices=data.slices
        )
    if not len(data):
        raise DataError(Problem("there are no rows to audit", where=source))
    profile = Profile.of(data)
    columns = [
        _Column(name, name.partition(".")[0] if "." in name else "") for name in profile.names
    ]
    return audit_profiles({"train/-": profile}, columns, source=source)


class _Callable(ModuleType):
    def __call__(
        self, data: Audited | pl.DataFrame | NDArray[Any], *, source: str = "frame"
    ) -> AuditReport:
        return audit(data, source=source)


# `fk.audit(dataset)` and `featurekit.audit.rules` are both public names.
sys.modules[__name__].__class__ = _Callable
