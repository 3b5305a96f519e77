"""Profiles of the cells of a dataset, a split and its slices each, and the file that keeps them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from featurekit.errors import DatasetError, Problem
from featurekit.profile import BINS, F4, I8, Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = "1"


class ProfileGrid:
    """Profiles of disjoint cells, a split and a set of slices each, filled a chunk at a time.

    A cell's name is `split/slices`, such as `train/active`; rows of no slice are in `split/-`.
    """

    def __init__(
        self, names: Sequence[str], splits: Sequence[str], slices: Sequence[str] = ()
    ) -> None:
        self.names, self.splits, self.slices = tuple(names), tuple(splits), tuple(slices)
        self._cells: dict[str, Profile] = {}

    def update(self, rows: F4, split: I8, slices: I8) -> None:
        """Adds a chunk [n, F]; `split` counts in the splits, bit k of `slices` is slice k."""
        code = split * (1 << len(self.slices)) + slices
        for each in np.unique(code):
            at, bits = divmod(int(each), 1 << len(self.slices))
            held = [name for k, name in enumerate(self.slices) if bits >> k & 1]
            cell = f"{self.splits[at]}/{'+'.join(held) or '-'}"
            profile = self._cells.get(cell) or Profile.empty(self.names)
            chosen = rows if (code == each).all() else rows[code == each]
            self._cells[cell] = profile.updated(chosen)

    def profiles(self) -> dict[str, Profile]:
        """The cells by name, sorted; a slice without train rows has an empty one."""
        cells = {f"{self.splits[0]}/{name}": Profile.empty(self.names) for name in self.slices}
        return dict(sorted((cells | self._cells).items()))


def merged(cells: Mapping[str, Profile], split: str, slice_: str | None = None) -> Profile | None:
    """The profile of a split, or of one slice of it; None if it has no rows."""
    found = None
    for name, profile in sorted(cells.items()):
        where, _, held = name.partition("/")
        if profile.rows and where == split and (slice_ is None or slice_ in held.split("+")):
            found = profile if found is None else found + profile
    return found


def save_profiles(path: str | Path, profiles: Mapping[str, Profile]) -> None:
    """Writes profiles by name as one safetensors file; of the histograms only what is not 0."""
    tensors: dict[str, NDArray[Any]] = {}
    heads = []
    for number, (name, profile) in enumerate(profiles.items()):
        filled = np.flatnonzero(profile.histogram)
        tensors |= {
            f"{number}.counts": profile.counts,
            f"{number}.extremes": profile.extremes,
            f"{number}.moments": profile.moments,
            f"{number}.share": profile.share,
            f"{number}.bins": filled.astype(np.int32),
            f"{number}.filled": profile.histogram.reshape(-1)[filled],
        }
        heads.append({"name": name, "rows": profile.rows, "whole_rows": profile.whole_rows})
    names = next(iter(profiles.values())).names if profiles else ()
    head = {"format": FORMAT, "names": json.dumps(names), "profiles": json.dumps(heads)}
    save_file(tensors, str(path), metadata=head)


def load_profiles(path: str | Path) -> dict[str, Profile]:
    """Reads what `save_profiles` wrote.

    Raises:
        DatasetError: when the file is missing, damaged or of another version.
    """
    try:
        with safe_open(str(path), "numpy") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT:
                raise ValueError(f"format {head.get('format')}, not {FORMAT}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        names = tuple(json.loads(head["names"]))
        return {
            each["name"]: _loaded(tensors, str(number), names, each)
            for number, each in enumerate(json.loads(head["profiles"]))
        }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DatasetError(
            Problem("the profile cannot be read", where=str(path), got=str(error)[:200])
        ) from error


def _loaded(
    tensors: Mapping[str, NDArray[Any]], number: str, names: tuple[str, ...], head: dict[str, Any]
) -> Profile:
    held = {key.split(".")[1]: t for key, t in tensors.items() if key.split(".")[0] == number}
    histogram = np.zeros(len(names) * BINS, np.int64)
    histogram[held.pop("bins")] = held.pop("filled")
    known = {each.name for each in fields(Profile)}
    return Profile(
        names=names,
        rows=int(head["rows"]),
        whole_rows=int(head["whole_rows"]),
        histogram=histogram.reshape(len(names), BINS),
        **{key: value for key, value in held.items() if key in known},
    )
