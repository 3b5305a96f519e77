"""A user's own block: five lines outside the package, named in YAML by `use:`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from featurekit.block import block
from featurekit.errors import ConfigError
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from featurekit.column import Col

MODULE = '''from featurekit.block import block

@block(unit="bps", scale=(-50, 50))
def spread(bid, ask, *, window: int = 20):
    """Bid-ask spread, and against its own recent mean."""
    s = 1e4 * (ask - bid) / ((ask + bid) / 2)
    return {"spread": s, f"spread_over_mean_{window}": s / s.mean(window)}
'''

PIPELINE = """name: desk
use: [desk_blocks]
blocks:
  - spread: {window: 5, as: fast}
  - spread: {}
width: 4
"""


def test_a_block_of_the_users_own_is_found_by_use(tmp_path: Path) -> None:
    (tmp_path / "desk_blocks.py").write_text(MODULE)
    (tmp_path / "desk.yaml").write_text(PIPELINE)
    code = (
        "import polars as pl, featurekit as fk\n"
        "p = fk.Pipeline.from_yaml('desk.yaml')\n"
        "assert p.columns == ['fast.spread', 'fast.spread_over_mean_5', 'spread.spread', "
        "'spread.spread_over_mean_20'], p.columns\n"
        "assert [f.lookback for f in p.features] == [0, 4, 0, 19]\n"
        "assert {f.unit for f in p.features} == {'bps'}\n"
        "bars = pl.DataFrame({'symbol': ['X'] * 9, 'time': range(9), 'bid': [1.0] * 9, "
        "'ask': [1.01] * 9}).with_columns(pl.col('time').cast(pl.Datetime('ns', 'UTC')))\n"
        "table = p.transform(bars, dtype='float64')\n"
        "assert abs(table['fast.spread'][0] - 1e4 * 0.01 / 1.005) < 1e-9\n"
        "assert table['fast.spread_over_mean_5'].is_nan().sum() == 4\n"
        "print(table['fast.spread_over_mean_5'][8])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.0)


def twice(close: Col) -> dict[str, Col]:
    """Repeats a key."""
    return {"a": close, "a": close + 1.0}  # noqa: F601  # the mistake under test


def pairs_twice(close: Col) -> list[tuple[str, Col]]:
    """Repeats a name."""
    return [("a", close), ("a", close + 1.0)]


def nothing(close: Col) -> dict[str, Col]:
    """Returns nothing."""
    del close
    return {}


def no_column(close: Col) -> dict[str, object]:
    """Returns a number."""
    del close
    return {"a": 1.0}


def bad_name(close: Col) -> dict[str, Col]:
    """Returns a name with a path in it."""
    return {"../a": close}


def no_name(close: Col) -> list[tuple[object, Col]]:
    """Returns a name that cannot be looked up."""
    return [([1], close)]


def leaves(close: Col) -> dict[str, Col]:
    """Ends the process, if it may."""
    del close
    sys.exit(0)


def truth(close: Col) -> dict[str, Col]:
    """Asks a column for its truth."""
    return {"a": close if close > 0 else -close}


def looks_ahead(close: Col) -> dict[str, Col]:
    """Lags by less than nothing."""
    return {"a": close.lag(-1)}


def undocumented(close: Col) -> dict[str, Col]:
    return {"a": close}


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (twice, "returns the column 'a' twice"),
        (pairs_twice, "returns the column 'a' twice"),
        (nothing, "returns no column"),
        (no_column, "returns no column for 'a'"),
        (bad_name, "no usable name"),
        (no_name, "no usable name"),
        (leaves, "SystemExit: 0"),
        (truth, "a column has no truth value"),
        (looks_ahead, "lag counts rows"),
        (undocumented, "has no docstring"),
    ],
)
def test_mistakes_are_told_where_they_are(define: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        block(unit="x")(define).columns({})  # type: ignore[arg-type]  # the mistake under test
    assert "test_block.py" in str(caught.value) or define in (truth, looks_ahead)


def test_a_module_that_ends_the_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'leaving'") as told:
        Pipeline(name="x", use=["leaving"], blocks=["market"])
    assert "SystemExit: 0" in str(told.value)


def test_a_name_is_taken_once() -> None:
    def market(close: Col) -> dict[str, Col]:
        """Another block of this name."""
        return {"a": close}

    Pipeline(name="x", blocks=["market"])  # so that the built-in one is known
    with pytest.raises(ConfigError, match="two blocks are named 'market'"):
        block()(market)


def test_a_column_that_never_forgets_declares_its_memory() -> None:
    @block(name="endless")
    def endless(close: Col) -> dict[str, Col]:
        """The sum since the start of time."""
        return {"total": close.cumsum()}

    with pytest.raises(ConfigError, match="remembers its whole past"):
        _ = Pipeline(name="x", blocks=["endless"]).features
