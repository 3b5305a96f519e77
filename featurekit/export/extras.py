"""The message of a library that cannot be imported."""

from __future__ import annotations

from featurekit.errors import MissingExtraError, Problem


def missing(extra: str, library: str, error: Exception) -> MissingExtraError:
    """Names the extra that brings a library, and the line that installs it.

    Example:
        >>> print(missing("hf", "datasets", ImportError("No module named 'datasets'")))
        the library datasets cannot be imported
          where:    featurekit export --to hf
          expected: the extra 'hf'
          got:      No module named 'datasets'
          Fix: pip install "featurekit[hf]"
    """
    return MissingExtraError(
        Problem(
            f"the library {library} cannot be imported",
            where=f"featurekit export --to {extra}",
            expected=f"the extra {extra!r}",
            got=str(error),
            fix=f'pip install "featurekit[{extra}]"',
        )
    )
