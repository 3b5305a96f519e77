"""What becomes of natural float32 rows before a model reads them: scaled, then cast.

Axes: F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from featurekit.errors import DatasetError, Problem

if TYPE_CHECKING:
    from featurekit.scaling import Scaling

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Treatment:
    """A scaling or none, and the type of the result; `names` are the features'.

    Example:
        >>> half = Treatment(("a.x",), None, torch.float16)
        >>> half.apply(torch.tensor([[0.1]]), torch.empty(1, 1, dtype=torch.float16)).item()
        0.0999755859375
    """

    names: tuple[str, ...]
    scaling: Scaling | None
    dtype: torch.dtype

    @property
    def changes(self) -> bool:
        """Whether a row is anything else than it was."""
        return self.scaling is not None or self.dtype != torch.float32

    def apply(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Fills `out` `[..., F]` from float32 rows of the same shape, and returns it.

        Raises:
            DatasetError: when a finite value is too large for float16.
        """
        if self.scaling is not None:
            rows = torch.from_numpy(self.scaling.apply(rows.numpy()))
        out.copy_(rows)
        if self.dtype == torch.float16:
            self._check_range(rows, out)
        return out

    def _check_range(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        lost = out.isinf() & rows.isfinite()
        if not lost.any():
            return
        largest = torch.where(lost, rows.abs(), 0.0).reshape(-1, len(self.names)).amax(0)
        at = int(largest.argmax())
        others = int((largest > 0).sum()) - 1
        raise DatasetError(
            Problem(
                f"{self.names[at]} is too large for float16"
                + (f", and {others} more features are" if others else ""),
                expected="absolute values of at most 65,504",
                got=f"{float(largest[at]):,.6g}",
                fix='dtype="bfloat16"' + ("" if self.scaling else ", or scaled=True"),
            )
        )
