"""Imports point down only, and `import featurekit` brings nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featurekit

PACKAGE = Path(featurekit.__file__).parent

# From the bottom up: a module may import itself and those named before it.
LAYERS = [
    "errors",
    "document",
    "timeline",
    "clock",
    "splitmix",
    "operation",
    "column",
    "engine",
    "feature",
    "block",
    "blocks",
    "ledger",
    "bins",
    "psi",
    "profile",
    "sample",
    "cells",
    "markup",
    "violations",
    "schema",
    "samples",
    "stamps",
    "canonical",
    "sources",
    "scaling",
    "contract",
    "sections",
    "conditions",
    "inputs",
    "timeframe",
    "pipeline",
    "quarantine",
    "ingest",
    "audit",
    "dataset",
    "export",
    "build",
    "stream",
    "monitor",
    "replay",
    "checks",
    "nn",
    "integrations",
    "serve",
    "testing",
    "cli",
    "__main__",
]
RANK = {name: rank for rank, name in enumerate(LAYERS)}

# Imports inside a function that reach up on purpose, each with its reason.
UPWARD = {
    ("block", "blocks"): "looking a block up by name defines the built-in ones the first time",
    ("dataset", "export"): "dataset.export() is the method that users expect",
    ("pipeline", "build"): "pipeline.build() is the method that users expect",
    ("pipeline", "dataset"): "the type of what pipeline.build() returns",
}

THIRD_PARTY = {
    "numba": {"engine/loops.py", "engine/kernel.py", "bins.py", "monitor/watch.py"},
    "pandera": {"schema.py"},
    "sklearn": {"integrations/sklearn.py"},
    "torch": {
        "nn/",
        "dataset/batch.py",
        "dataset/blocks.py",
        "dataset/buffers.py",
        "dataset/gpu.py",
        "dataset/items.py",
        "dataset/latest.py",
        "dataset/loader.py",
        "dataset/options.py",
        "dataset/prefetch.py",
        "dataset/rows.py",
        "dataset/strip.py",
        "dataset/tensors.py",
        "dataset/treatment.py",
        "integrations/sb3.py",
        "integrations/zeros.py",
        "integrations/lightning.py",
        "serve/server.py",
        "serve/service.py",
    },
    "talib": set(),
    "pandas": set(),
    "streaming": {"export/mds.py"},
    "webdataset": {"export/webdataset.py"},
    "datasets": {"export/hf.py"},
    "pyarrow": {"export/hf.py"},
    "gymnasium": {"integrations/gym.py", "integrations/sb3.py"},
    "stable_baselines3": {"integrations/sb3.py", "integrations/health_sb3.py"},
    "onnx": {"nn/saving.py"},
    "onnxscript": {"nn/saving.py"},
    "mlflow": {"nn/health.py"},
    "lightning": {"integrations/lightning.py"},
    "fastapi": {"serve/__init__.py", "serve/app.py"},
    "pydantic": {"serve/messages.py", "serve/socket.py"},
    "orjson": {"serve/__init__.py", "serve/app.py", "serve/guard.py", "serve/socket.py"},
    "starlette": {"serve/app.py", "serve/guard.py", "serve/socket.py"},
    "uvicorn": {"serve/__init__.py", "serve/server.py"},
    "websockets": {"serve/__init__.py"},
}


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name the package in full"
            names.append(node.module or "")
            if node.module == "featurekit":
                names += [f"featurekit.{alias.name}" for alias in node.names if alias.name in RANK]
    return names


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = layer(path)
    assert here in RANK, f"{here} has no layer: add it to LAYERS"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "featurekit" and len(parts) > 1 and (here, parts[1]) not in UPWARD:
            assert RANK[parts[1]] <= RANK[here], f"{path}: {here} imports {parts[1]}"
        if parts[0] in THIRD_PARTY:
            place = str(path.relative_to(PACKAGE))
            homes = THIRD_PARTY[parts[0]]
            assert any(place.startswith(home) for home in homes), f"{place} imports {parts[0]}"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, featurekit; "
        "print([m for m in ('torch', 'sklearn', 'pandera', 'numba', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", featurekit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(featurekit, name) is not None
