"""Scalars of a training for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurekit.errors import MissingExtraError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Board:
    """Writes scalars into a directory; without one it writes nothing.

    Raises:
        MissingExtraError: when there is a directory and tensorboard is not installed.
    """

    def __init__(self, directory: Path | None, step: int = 0) -> None:
        self.writer: Any = None
        if directory is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                Problem(
                    "the library tensorboard cannot be imported",
                    expected="the extra 'tensorboard'",
                    got=str(error),
                    fix='pip install "featurekit[tensorboard]"',
                )
            ) from error
        # Of a training that goes on, what it had written after its checkpoint is not shown twice.
        self.writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars, of a step counted over all epochs."""
        if self.writer is None:
            return
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        if self.writer is not None:
            self.writer.close()
