"""The population stability index of counts in groups, and what chance alone may make of it."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]


def stability_index(past: NDArray[Any], present: NDArray[Any]) -> F8:
    """PSI of counts [..., G] in G groups: 0 where the shares are the same; half a row is added.

    Example:
        >>> stability_index(np.array([50, 50]), np.array([[50, 50], [90, 10]])).round(2)
        array([0.  , 0.85])
    """
    p, q = (np.asarray(counts, np.float64) + 0.5 for counts in (past, present))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    index: F8 = ((q - p) * np.log(q / p)).sum(-1)
    return index


def chance_index(inverse: float, groups: int, false: float) -> float:
    """The PSI that a share `false` of draws from one source exceeds; `inverse` is 1/n + 1/m.

    Without any change PSI is about (1/n + 1/m) times a chi-squared of as many groups less one
    (Yurdakul 2018), whose quantile is that of Wilson and Hilferty 1931.
    """
    k = groups - 1
    if k < 1:
        return 0.0
    z = NormalDist().inv_cdf(1.0 - false)
    return inverse * float(k * (1.0 - 2.0 / (9.0 * k) + z * math.sqrt(2.0 / (9.0 * k))) ** 3)
