"""Cells: the summaries of a table by split, slices and stretch of time, and the file of them.

Cells are disjoint, so the summary of any split, slice or stretch is a sum of theirs.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from featurekit.bins import BINS, F4, I8
from featurekit.errors import DatasetError, Problem
from featurekit.profile import CHUNK, Profile
from featurekit.sample import RowSample, Sampler, row_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = "2"
CHUNKS = 12  # stretches of time
CHUNK_TIMES = 500  # times that one has at least
WIDE = 12_000  # features of all cells of a table together: each has a histogram of 64 KB


class Cell(NamedTuple):
    """A split, the slices that its rows are in (none, one or several), and a stretch of time."""

    split: str
    slices: tuple[str, ...]
    chunk: int


@dataclass(frozen=True)
class Cells:
    """Profiles of the cells, and a sample of the rows of each split and its slices.

    `chunks` are the UTC ns at which the stretches of time start, all but the first.

    Example:
        >>> cells = Cells.of_table(np.array([[1.0], [2.0], [6.0]], np.float32), ["x"])
        >>> cells.profile("train").mean
        array([3.])
    """

    names: tuple[str, ...]
    slices: tuple[str, ...]
    chunks: tuple[int, ...] = ()
    profiles: Mapping[Cell, Profile] = field(default_factory=dict)
    samples: Mapping[tuple[str, tuple[str, ...]], RowSample] = field(default_factory=dict)

    @staticmethod
    def of_table(
        rows: F4, names: Sequence[str], slices: Mapping[str, NDArray[np.bool_]] | None = None
    ) -> Cells:
        """The cells of a table [n, F] that is all train, in up to 12 stretches of its order."""
        slices = slices or {}
        code = np.zeros(len(rows), np.int64)
        for bit, held in enumerate(slices.values()):
            code |= held.astype(np.int64) << bit
        number = np.arange(len(rows), dtype=np.int64)
        edges = chunk_edges(number, max(WIDE // max(len(names), 1), 1))
        grid = ProfileGrid(names, ("train",), tuple(slices), edges)
        keys = row_keys("", number)
        for start in range(0, len(rows), CHUNK):
            cut = slice(start, start + CHUNK)
            none = np.zeros(len(number[cut]), np.int64)
            grid.update(rows[cut], none, code[cut], number[cut], keys[cut], number[cut])
        return grid.cells()

    def profile(
        self, split: str | None = None, slice_: str | None = None, chunk: int | None = None
    ) -> Profile:
        """The summary of a split, of one slice, of one stretch of time, or of what all of them say.

        It is of no rows where there are none.
        """
        chosen = self._chosen(split, slice_, chunk)
        return Profile.total(chosen) if chosen else Profile.empty(self.names)

    def count(
        self, split: str | None = None, slice_: str | None = None, chunk: int | None = None
    ) -> int:
        """Rows of what `profile` is the summary of."""
        return sum(profile.rows for profile in self._chosen(split, slice_, chunk))

    def _chosen(self, split: str | None, slice_: str | None, chunk: int | None) -> list[Profile]:
        return [
            profile
            for cell, profile in sorted(self.profiles.items(), key=itemgetter(0))
            if split in (None, cell.split)
            and (slice_ is None or slice_ in cell.slices)
            and chunk in (None, cell.chunk)
        ]

    def sample(self, split: str, slice_: str | None = None) -> RowSample:
        """The sample of a split's rows, or of one slice of it."""
        found = RowSample.empty()
        for (where, held), sample in sorted(self.samples.items(), key=itemgetter(0)):
            if where == split and (slice_ is None or slice_ in held):
                found = found + sample
        return found

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file: of the histograms what is not 0, packed."""
        tensors: dict[str, NDArray[Any]] = {}
        cells, samples = [], []
        for number, (cell, profile) in enumerate(sorted(self.profiles.items(), key=itemgetter(0))):
            filled = np.flatnonzero(profile.histogram)
            tensors |= {
                f"{number}.counts": profile.counts,
                f"{number}.extremes": profile.extremes,
                f"{number}.moments": profile.moments,
                f"{number}.share": profile.share,
                f"{number}.bins": _packed(np.diff(filled, prepend=0)),
                f"{number}.filled": _packed(profile.histogram.reshape(-1)[filled]),
            }
            cells.append([*cell, profile.rows, profile.whole_rows])
        for number, (where, sample) in enumerate(sorted(self.samples.items(), key=itemgetter(0))):
            tensors |= {
                f"sample.{number}.keys": sample.keys,
                f"sample.{number}.numbers": sample.numbers,
            }
            samples.append([*where, sample.seen])
        head = {
            "format": FORMAT,
            "names": self.names,
            "slices": self.slices,
            "chunks": self.chunks,
            "cells": cells,
            "samples": samples,
        }
        # One entry: safetensors writes several in any order.
        save_file(tensors, str(path), metadata={"cells": json.dumps(head)})

    @staticmethod
    def load(path: str | Path) -> Cells:
        """Reads what `save` wrote.

        Raises:
            DatasetError: when the file is missing, damaged or of another version.
        """
        try:
            with safe_open(str(path), "numpy") as file:
                head = json.loads((file.metadata() or {})["cells"])
                if head["format"] != FORMAT:
                    raise ValueError(f"format {head['format']}, not {FORMAT}")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            names = tuple(head["names"])
            profiles = {
                Cell(split, tuple(slices), chunk): Profile(
                    names,
                    rows,
                    whole,
                    histogram=_histogram(tensors, number, len(names)),
                    **{
                        each: tensors[f"{number}.{each}"]
                        for each in ("counts", "extremes", "moments", "share")
                    },
                )
                for number, (split, slices, chunk, rows, whole) in enumerate(head["cells"])
            }
            samples = {
                (split, tuple(slices)): RowSample(
                    tensors[f"sample.{number}.keys"], tensors[f"sample.{number}.numbers"], seen
                )
                for number, (split, slices, seen) in enumerate(head["samples"])
            }
            return Cells(names, tuple(head["slices"]), tuple(head["chunks"]), profiles, samples)
        except (
            OSError,
            SafetensorError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            zlib.error,
        ) as error:
            raise DatasetError(
                Problem(
                    "the profile cannot be read",
                    where=str(path),
                    got=str(error)[:200],
                    fix="featurekit build PIPELINE",
                )
            ) from error


class ProfileGrid:
    """Cells that are filled a piece of rows at a time."""

    def __init__(
        self,
        names: Sequence[str],
        splits: Sequence[str],
        slices: Sequence[str] = (),
        chunks: Sequence[int] = (),
    ) -> None:
        self.names, self.splits = tuple(names), tuple(splits)
        self.slices, self.chunks = tuple(slices), tuple(chunks)
        self._profiles: dict[Cell, Profile] = {}
        self._samplers: dict[tuple[str, tuple[str, ...]], Sampler] = {}

    @staticmethod
    def of(cells: Cells, splits: Sequence[str]) -> ProfileGrid:
        """Goes on from what had been added to another grid of these splits."""
        grid = ProfileGrid(cells.names, splits, cells.slices, cells.chunks)
        grid._profiles = dict(cells.profiles)
        grid._samplers = {key: Sampler(sample) for key, sample in cells.samples.items()}
        return grid

    def update(
        self,
        rows: F4,
        split: I8,
        slices: I8,
        time: I8,
        keys: NDArray[np.uint64],
        numbers: I8,
    ) -> None:
        """Adds a piece of at most 4,096 rows [n, F].

        `split` counts in the splits, bit k of `slices` is slice k, `time` is in UTC ns; `keys` and
        `numbers` are those of the sample.
        """
        chunk = np.searchsorted(np.array(self.chunks, np.int64), time, side="right")
        where = split << len(self.slices) | slices
        for code in np.unique(where):
            at, bits = divmod(int(code), 1 << len(self.slices))
            held = tuple(name for k, name in enumerate(self.slices) if bits >> k & 1)
            mine = where == code
            key = (self.splits[at], held)
            self._samplers.setdefault(key, Sampler()).add(keys[mine], numbers[mine])
            for stretch in np.unique(chunk[mine]):
                chosen = mine & (chunk == stretch)
                cell = Cell(*key, int(stretch))
                profile = self._profiles.get(cell) or Profile.empty(self.names)
                piece = rows if chosen.all() else rows[chosen]
                self._profiles[cell] = profile.updated(piece)

    def cells(self) -> Cells:
        """What has been added so far."""
        samples = {key: sampler.sample() for key, sampler in self._samplers.items()}
        return Cells(self.names, self.slices, self.chunks, dict(self._profiles), samples)


def chunk_edges(times: NDArray[np.int64], most: int = CHUNKS) -> tuple[int, ...]:
    """Where stretches of time start, all but the first: 12 of as many times each, or fewer of 500.

    Args:
        times: Ascending, each once.
        most: Stretches that there may be.

    Example:
        >>> chunk_edges(np.arange(1_500))
        (500, 1000)
    """
    count = min(CHUNKS, most, len(times) // CHUNK_TIMES)
    return tuple(int(times[len(times) * k // count]) for k in range(1, count))


def _packed(numbers: I8) -> NDArray[np.uint8]:
    """Small numbers in few bytes: the bytes of one place together, deflated."""
    planes = numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T
    return np.frombuffer(zlib.compress(planes.tobytes(), 1), np.uint8)


def _unpacked(packed: NDArray[np.uint8]) -> I8:
    planes = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8).reshape(8, -1)
    return np.ascontiguousarray(planes.T).view("<i8").reshape(-1)


def _histogram(tensors: Mapping[str, NDArray[Any]], number: int, width: int) -> I8:
    histogram = np.zeros(width * BINS, np.int64)
    histogram[np.cumsum(_unpacked(tensors[f"{number}.bins"]))] = _unpacked(
        tensors[f"{number}.filled"]
    )
    return histogram.reshape(width, BINS)
