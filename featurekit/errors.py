"""The exceptions, and the one shape every message has: what, where, expected and got, Fix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it is, and the line that mends it.

    Example:
        >>> print(Problem("unknown key 'blocs'", where="demo.yaml, line 4", fix="blocks:"))
        unknown key 'blocs'
          where:    demo.yaml, line 4
          Fix: blocks:
    """

    what: str
    where: str = ""
    expected: str = ""
    got: str = ""
    fix: str = ""

    def __str__(self) -> str:
        lines = [self.what]
        lines += [
            f"  {label}{text}"
            for label, text in (
                ("where:    ", self.where),
                ("expected: ", self.expected),
                ("got:      ", self.got),
                ("Fix: ", self.fix),
            )
            if text
        ]
        return "\n".join(lines)


class FeaturekitError(Exception):
    """What went wrong, all of it at once; the command line prints it and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ConfigError(FeaturekitError):
    """A pipeline, a schema, a block or an option is not written as it has to be."""


class DataError(FeaturekitError):
    """Bars or fills cannot be used as they are."""


class DatasetError(FeaturekitError):
    """A dataset on disk is missing, unfinished, damaged or of another version."""


class MissingExtraError(FeaturekitError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class UnrepresentativeWarning(UserWarning):
    """A scale was fitted on too few rows of a slice to be trusted on others."""


def no_frame(what: str, got: object) -> DataError:
    """The error of bars or fills that are anything else than a polars frame."""
    kind = type(got).__name__
    mends = {"LazyFrame": f"{what}.collect()", "NoneType": f"fk.sources.read_{what}(path)"}
    return DataError(
        Problem(
            f"the {what} are no frame",
            expected="a polars DataFrame",
            got=kind,
            fix=f"{what} = {mends.get(kind, f'pl.DataFrame({what})')}",
        )
    )
