"""Measure: the values of one metric, before they are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featurekit.audit.views import F8


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of each feature, of each block or of all; NaN where it is not judged.

    `natural` is what it was before the scaling, of a metric that a scaling can repair. Where
    `quiet` holds it may fail but does not warn; a `mild` one may warn but does not fail.
    """

    metric: str
    of: Literal["feature", "block", "all"]
    values: F8
    natural: F8 | None = None
    slice: str = ""
    quiet: NDArray[np.bool_] | None = None
    mild: bool = False
