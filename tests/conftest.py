"""Fixtures shared by every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run, however slow the machine is: a change is what fails a test, and
# nothing else. New ones are looked for with --hypothesis-profile=search.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", max_examples=2_000, deadline=None)
settings.load_profile("same")

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not beside the checkout: {SHARED_DATA}")
    return SHARED_DATA
