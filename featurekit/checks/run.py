"""check: all proofs of a pipeline, one after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurekit.checks.causality import causality, targets
from featurekit.checks.evidence import evidence
from featurekit.checks.holes import holes
from featurekit.checks.memory import memory
from featurekit.checks.parity import parity
from featurekit.checks.redundancy import redundancy
from featurekit.checks.result import Checks, Proof
from featurekit.checks.splits import splits
from featurekit.checks.subject import Prepare, Tell, subject_of
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from featurekit.pipeline import Pipeline

PROOFS = ("causality", "evidence", "memory", "holes", "parity", "splits", "redundancy")


def check(
    pipeline: Pipeline,
    bars: pl.DataFrame,
    fills: pl.DataFrame | None = None,
    *,
    prepare: Prepare | None = None,
    only: Sequence[str] = PROOFS,
    thorough: bool = False,
    tell: Tell = lambda *_: None,
) -> Checks:
    """Proves of a pipeline, on these bars and fills, what training on its rows takes for granted.

    - causality: no column changes at a row when what comes after it does.
    - evidence: no column that you computed yourself says more of the future than the past can.
    - memory: after `memory` rows the start of the history matters to no column.
    - holes: each column recovers from a missing value, and from missing bars.
    - parity: batch, stream, resume, append and build give the same bits.
    - splits: no window, target or scaling reaches across a cut.
    - redundancy: columns that say nothing new, as warnings.

    Args:
        pipeline: Whose columns, targets, splits and scaling these are.
        bars: Canonical bars, with the columns of your own that the pipeline reads.
        fills: Canonical fills.
        prepare: What computes those columns: from bars to the same bars with columns more. It is
            run again on each other future, and so proved; without it there is evidence only.
        only: Names of the proofs to run.
        thorough: On all symbols and rows, with more cuts; else on the first rows of three symbols.
        tell: Called with what is being done, how much of it is, and of how much.

    Raises:
        ConfigError: when there is no such proof.
        DataError: when the bars or what `prepare` gives cannot be used.

    Example:
        ```python
        checks = fk.check(pipeline, bars, fills)
        assert checks.passed, checks.findings
        ```
    """
    unknown = [name for name in only if name not in PROOFS]
    if unknown or not only:
        raise ConfigError(
            Problem(
                "there is no such proof",
                expected=", ".join(PROOFS),
                got=", ".join(unknown) or "none",
                fix=f"--only {PROOFS[0]}",
            )
        )
    subject = subject_of(pipeline, bars, fills, prepare, thorough)
    proofs: list[Proof] = []
    # Columns may be infinite, or have no deviation: proofs compare what that gives.
    quiet = np.errstate(invalid="ignore", divide="ignore", over="ignore")
    with quiet, tempfile.TemporaryDirectory(prefix="featurekit-check-") as scratch:
        folder = Path(scratch)
        for name in (name for name in PROOFS if name in only):
            if name == "causality":
                proof = causality(subject, tell, thorough=thorough)
                found = (*proof.findings, *targets(subject, tell))
                proof = Proof(proof.name, proof.looked_at, found, proof.columns)
            elif name == "evidence":
                proof = evidence(subject, tell)
            elif name == "memory":
                proof = memory(subject, tell, thorough=thorough)
            elif name == "holes":
                proof = holes(subject, tell, thorough=thorough)
            elif name == "parity":
                proof = parity(subject, folder, tell, thorough=thorough)
            elif name == "splits":
                proof = splits(subject, folder, tell)
            else:
                proof = redundancy(subject, tell)
            proofs.append(proof)
    return Checks(
        pipeline=pipeline.name,
        proofs=tuple(proofs),
        rows=subject.bars.height,
        symbols=tuple(name for name, _, _ in subject.spans),
        of_rows=bars.height,
        of_symbols=bars["symbol"].n_unique(),
    )
