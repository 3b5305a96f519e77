"""Proofs over a pipeline, on the user's own bars and fills."""

from featurekit.checks.result import Checks, Finding, Proof
from featurekit.checks.run import PROOFS, check

__all__ = ["PROOFS", "Checks", "Finding", "Proof", "check"]
