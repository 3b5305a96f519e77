"""Columns compiled to one program, and the one function that runs it over blocks of rows."""

from featurekit.engine.program import Program
from featurekit.engine.reach import Reach

__all__ = ["Program", "Reach"]
