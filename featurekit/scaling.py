"""Scaling: (x - centre) / scale and an optional asinh, fitted once from the train profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from featurekit.errors import ConfigError, DataError, DatasetError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.profile import Profile

Kind = Literal["none", "standard", "robust"]
Squash = Literal["asinh", "none"]

NORMAL_IQR = 1.349  # interquartile range of a normal distribution of standard deviation 1
# A standard deviation below this share of the mean is the rounding of a constant to float32.
RESOLUTION = 1e-7


@dataclass(frozen=True, slots=True)
class Treatment:
    """How one block or feature is scaled, where it is not as the rest."""

    kind: Kind | None = None
    squash: Squash | None = None


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """The pipeline's `scaling:`; features override blocks, blocks override the whole."""

    kind: Kind = "standard"
    squash: Squash = "asinh"
    blocks: Mapping[str, Treatment] = field(default_factory=dict)
    features: Mapping[str, Treatment] = field(default_factory=dict)

    def of(self, feature: str) -> tuple[Kind, Squash]:
        """Kind and squash of the feature `block.name`."""
        kind, squash = self.kind, self.squash
        for one in (self.blocks.get(feature.split(".")[0]), self.features.get(feature)):
            kind = kind if one is None or one.kind is None else one.kind
            squash = squash if one is None or one.squash is None else one.squash
        return kind, squash

    def unknown(self, features: Sequence[str]) -> list[tuple[str, str, list[str]]]:
        """Of the names given, those of no block or feature: `blocks` or `features`, name, known."""
        blocks = list(dict.fromkeys(name.split(".")[0] for name in features))
        return [
            (section, name, known)
            for section, given, known in (
                ("blocks", self.blocks, blocks),
                ("features", self.features, list(features)),
            )
            for name in given
            if name not in known
        ]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Centre, scale and squash of each of F features, in their natural units.

    `constant` names features that did not vary in train: they are centred, and as there is no
    scale to divide by they are named here and in the audit.

    Example:
        >>> from featurekit.profile import Profile
        >>> profile = Profile.of(np.array([[1.0], [3.0]]), ["a.x"])
        >>> scaling = Scaling.fit(profile, ScalingSpec(squash="none"))
        >>> scaling.apply(np.array([[1.0], [5.0]], np.float32))
        array([[-1.],
               [ 3.]], dtype=float32)
    """

    names: tuple[str, ...]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    squash: NDArray[np.bool_]
    constant: tuple[str, ...] = ()

    @staticmethod
    def fit(profile: Profile, spec: ScalingSpec) -> Scaling:
        """Fits on the profile of the train split, and on nothing else.

        Raises:
            DataError: when the profile is of no rows.
            ConfigError: when a feature has an interquartile range of 0 under `robust`, or the
                spec names a block or a feature that there is not.
        """
        if not profile.rows:
            raise DataError(
                Problem(
                    "a scaling is fitted on rows, and there are none",
                    expected="the profile of a table with rows",
                    got="0 rows",
                    fix='Scaling.fit(dataset.profile("train"), spec)',
                )
            )
        problems = [
            Problem(
                f"scaling names one of the {section} that there is not",
                expected=", ".join(known[:5]),
                got=name,
                fix=f"{section}: {{{known[0]}: {{kind: robust}}}}",
            )
            for section, name, known in spec.unknown(profile.names)
        ]
        if problems:
            raise ConfigError(*problems)
        kinds = [spec.of(name) for name in profile.names]
        low, middle, high = (profile.quantile(q) for q in (0.25, 0.5, 0.75))
        spread = (high - low) / NORMAL_IQR
        deviation = profile.std
        flat = ~(deviation > RESOLUTION * np.abs(profile.mean))
        center, scale = np.zeros(len(kinds)), np.ones(len(kinds))
        inflated, constant = [], []
        for k, (kind, _) in enumerate(kinds):
            if kind == "none":
                continue
            center[k] = profile.mean[k] if kind == "standard" else middle[k]
            if flat[k]:
                constant.append(profile.names[k])
            elif kind == "standard":
                scale[k] = deviation[k]
            elif spread[k] > 0.0:
                scale[k] = spread[k]
            else:
                inflated.append(k)
        if inflated:
            blocks = sorted({profile.names[k].split(".")[0] for k in inflated})
            raise ConfigError(
                Problem(
                    "robust scaling divides by the interquartile range, which is 0 for "
                    + ", ".join(profile.names[k] for k in inflated[:10]),
                    where="scaling, fitted on train",
                    expected="at least half of the values apart",
                    got=f"{profile.zeros[inflated[0]] / profile.rows:.0%} zeros in "
                    + profile.names[inflated[0]],
                    fix="scaling: {kind: robust, blocks: {"
                    + ", ".join(f"{block}: {{kind: standard}}" for block in blocks)
                    + "}}",
                )
            )
        squash = np.array([squash == "asinh" for _, squash in kinds])
        return Scaling(profile.names, center, scale, squash, tuple(constant))

    @property
    def scaled(self) -> tuple[str, ...]:
        """Names of the features that are not left as they are."""
        moved = (self.center != 0.0) | (self.scale != 1.0) | self.squash
        return tuple(name for name, each in zip(self.names, moved, strict=True) if each)

    def apply(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Scaled float32 of rows [..., F] in natural units."""
        scaled = (np.asarray(rows, np.float64) - self.center) / self.scale
        treated: NDArray[np.float32] = np.where(self.squash, np.arcsinh(scaled), scaled).astype(
            np.float32
        )
        return treated

    def apply_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with its features scaled; other columns stay as they are.

        Raises:
            DataError: when a feature is missing.
        """
        missing = [name for name in self.names if name not in frame.columns]
        if missing:
            raise DataError(
                Problem(
                    "the frame lacks features",
                    expected=", ".join(missing[:10]),
                    got=", ".join(frame.columns[:10]),
                    fix="table = pipeline.transform(bars, fills)",
                )
            )
        rows = self.apply(frame.select(self.names).to_numpy())
        return frame.with_columns(pl.Series(n, rows[:, k]) for k, n in enumerate(self.names))

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` makes the same scaling of, bit for bit."""
        return {
            "names": list(self.names),
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "squash": self.squash.tolist(),
            "constant": list(self.constant),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Scaling:
        """Reads what `to_json` gave.

        Raises:
            DatasetError: when something is missing or does not fit together.
        """
        try:
            names = tuple(document["names"])
            center, scale = (np.array(document[k], np.float64) for k in ("center", "scale"))
            squash = np.array(document["squash"], np.bool_)
            if not len(names) == len(center) == len(scale) == len(squash):
                raise ValueError("lists of different lengths")
            return Scaling(names, center, scale, squash, tuple(document["constant"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(Problem("the scaling cannot be read", got=str(error))) from error
