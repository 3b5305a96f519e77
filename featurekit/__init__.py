"""Market bars and trading fills into training-ready tensors, with feature scale made visible."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurekit import nn, sources, testing
    from featurekit.audit import audit
    from featurekit.block import Block
    from featurekit.checks import check
    from featurekit.column import Col, sar, where
    from featurekit.dataset import Dataset, open_dataset
    from featurekit.errors import FeaturekitError
    from featurekit.ledger import Ledger
    from featurekit.monitor import Monitor
    from featurekit.pipeline import Pipeline
    from featurekit.profile import Profile
    from featurekit.scaling import Scaling
    from featurekit.schema import validate
    from featurekit.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Col",
    "Dataset",
    "FeaturekitError",
    "Ledger",
    "Monitor",
    "Pipeline",
    "Profile",
    "Scaling",
    "Stream",
    "audit",
    "check",
    "nn",
    "open_dataset",
    "sar",
    "sources",
    "testing",
    "validate",
    "where",
]

# Where the names that are no modules live. Nothing is imported before it is asked for:
# `import featurekit` takes milliseconds and needs neither torch, scikit-learn, pandera nor numba.
_HOMES = {
    "Block": "block",
    "Col": "column",
    "Dataset": "dataset",
    "FeaturekitError": "errors",
    "Ledger": "ledger",
    "Monitor": "monitor",
    "Pipeline": "pipeline",
    "Profile": "profile",
    "Scaling": "scaling",
    "Stream": "stream",
    "check": "checks",
    "open_dataset": "dataset",
    "sar": "column",
    "validate": "schema",
    "where": "column",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'featurekit' has no attribute {name!r}")
    module = importlib.import_module(f"featurekit.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return __all__
