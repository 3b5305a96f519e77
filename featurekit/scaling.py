"""Scaling: (x - centre) / scale and a squash, fitted once from the train profile.

This is the one definition: the scikit-learn transformer and the encoder's first module apply the
same numbers, and agree with `Scaling.apply` to 1e-6.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from featurekit.bins import RELATIVE_ERROR
from featurekit.errors import (
    ConfigError,
    DataError,
    DatasetError,
    Problem,
    UnrepresentativeWarning,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurekit.profile import Profile

Kind = Literal["none", "standard", "robust"]
Squash = Literal["asinh", "clip", "none"]

SQUASHES: tuple[Squash, ...] = ("none", "asinh", "clip")  # their places are the codes of a Scaling
BOUND = 3.0  # that the smooth clip stays within
NORMAL_IQR = 1.349  # interquartile range of a normal distribution of standard deviation 1
# A standard deviation below this share of the mean is the rounding of a constant to float32.
RESOLUTION = 1e-7
COARSE = 3.0  # errors of the quartiles that their distance has to exceed to be one
INFLATED = 0.25  # share of exact zeros from which on one quartile is no measure of the other values
REPRESENTATIVE = 1_000  # rows of a slice that a scale is trusted on


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
        """Kind and squash of the feature `block.name`.

        Example:
            >>> calm = ScalingSpec(blocks={"market": Treatment(squash="none")})
            >>> calm.of("market.ret_1"), calm.of("position.quantity")
            (('standard', 'none'), ('standard', 'asinh'))
        """
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

    A feature that cannot be scaled as it was asked for is named, never divided by a silent 1.

    Args:
        names: Of the features, in order.
        center: `[F]`, subtracted.
        scale: `[F]`, divided by.
        squash: `[F]`, places in `SQUASHES`: asinh, or the smooth clip x / sqrt(1 + (x/3)^2) of
            Holzmueller, Grinsztajn and Steinwart 2024.
        constant: Features that did not vary in train: there is no scale, and nothing was learned
            from them, so they become 0 whatever they are later.
        inflated: Features that are exactly 0 on a quarter of train or more. Under `robust` also
            those whose quartiles coincide, or nearly: they are divided by their standard deviation,
            as there is no interquartile range.
        thin: Inflated features that are not 0 on fewer than 1,000 rows of train.

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
    squash: NDArray[np.integer[Any]] | NDArray[np.bool_]
    constant: tuple[str, ...] = ()
    inflated: tuple[str, ...] = ()
    thin: tuple[str, ...] = ()

    @staticmethod
    def fit(profile: Profile, spec: ScalingSpec) -> Scaling:
        """Fits on the profile of the train split, and on nothing else.

        Warns with `UnrepresentativeWarning` of features that are `thin`.

        Raises:
            DataError: when the profile is of no rows.
            ConfigError: when the spec names a block or a feature that there is not.
        """
        _check(profile, spec)
        low, middle, high = (profile.quantile(q) for q in (0.25, 0.5, 0.75))
        spread, deviation = (high - low) / NORMAL_IQR, profile.std
        kinds, squashes = zip(*(spec.of(name) for name in profile.names), strict=True)
        kind = np.array(kinds)
        flat = ~(deviation > RESOLUTION * np.abs(profile.mean))
        # The histogram tells a quartile within 1/32 of its value: of a price that hardly moves both
        # lie in one bin.
        coarse = ~(spread > (np.abs(low) + np.abs(high)) * RELATIVE_ERROR * COARSE)
        inflated = (profile.zeros >= INFLATED * profile.count) | (coarse & (kind == "robust"))
        constant = flat & (kind != "none")
        inflated &= ~flat & (kind != "none")
        thin = inflated & (profile.count - profile.zeros < REPRESENTATIVE) & (profile.zeros > 0)
        center = np.select([kind == "standard", kind == "robust"], [profile.mean, middle], 0.0)
        scale = np.select(
            [constant | (kind == "none"), (kind == "standard") | coarse],
            [1.0, deviation],
            spread,
        )

        def named(chosen: NDArray[np.bool_]) -> tuple[str, ...]:
            return tuple(name for name, held in zip(profile.names, chosen, strict=True) if held)

        scaling = Scaling(
            profile.names,
            np.where(np.isfinite(center), center, 0.0),  # of a feature without a value
            scale,
            np.array([SQUASHES.index(each) for each in squashes], np.int8),
            named(constant),
            named(inflated),
            named(thin),
        )
        if scaling.thin:
            warnings.warn(scaling.warning(profile), UnrepresentativeWarning, stacklevel=2)
        return scaling

    def warning(self, profile: Profile) -> str:
        """What the scales of `thin` features are worth, told of the profile they are fitted on."""
        at = profile.names.index(self.thin[0])
        return str(
            Problem(
                "too few rows to scale these features by, as later rows will be: "
                + ", ".join(self.thin[:5])
                + (", ..." if len(self.thin) > 5 else ""),
                where=f"scaling, fitted on {profile.rows:,} rows",
                expected=f"{REPRESENTATIVE:,} rows or more on which a feature is not 0",
                got=f"{profile.count[at] - profile.zeros[at]:,} of {self.thin[0]}",
                fix="splits: {train: 0.8, validation: 0.1, test: 0.1}  # or more bars or fills",
            )
        )

    @property
    def scaled(self) -> tuple[str, ...]:
        """Names of the features that are not left as they are."""
        moved = (self.center != 0.0) | (self.gain != 1.0) | (self.squash != 0)
        return tuple(name for name, each in zip(self.names, moved, strict=True) if each)

    @property
    def squashes(self) -> str:
        """The squashes in use, in words; empty where there is none."""
        return " and ".join(
            {"asinh": "asinh", "clip": "smooth clip"}[each]
            for code, each in enumerate(SQUASHES)
            if code and (self.squash == code).any()
        )

    @property
    def gain(self) -> NDArray[np.float64]:
        """What a centred feature is multiplied by: 1 / scale, and 0 of a constant."""
        still = np.isin(self.names, self.constant)
        return np.where(still, 0.0, 1.0 / self.scale)

    def apply(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Scaled float32 of rows [..., F] in natural units."""
        with np.errstate(invalid="ignore"):  # a hole in a constant is a hole
            x = (np.asarray(rows, np.float64) - self.center) * self.gain
        if (asinh := self.squash == SQUASHES.index("asinh")).any():
            x = np.where(asinh, np.arcsinh(x), x)
        if (clip := self.squash == SQUASHES.index("clip")).any():
            x = np.where(clip, smooth_clip(x), x)
        treated: NDArray[np.float32] = x.astype(np.float32)
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
            "squash": [SQUASHES[int(code)] for code in self.squash],
            "constant": list(self.constant),
            "inflated": list(self.inflated),
            "thin": list(self.thin),
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
            # Before the smooth clip it was said of each feature whether there is an asinh.
            told = [SQUASHES[each] if each in (0, 1) else each for each in document["squash"]]
            squash = np.array([SQUASHES.index(each) for each in told], np.int8)
            if not len(names) == len(center) == len(scale) == len(squash):
                raise ValueError("lists of different lengths")
            constant, *later = document["constant"], *map(document.get, ("inflated", "thin"))
            named = (tuple(constant), *(tuple(each or ()) for each in later))
            return Scaling(names, center, scale, squash, *named)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(Problem("the scaling cannot be read", got=str(error))) from error


def smooth_clip(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smooth clip x / sqrt(1 + (x/3)^2): x near 0, and within 3 of it everywhere.

    Example:
        >>> smooth_clip(np.array([0.1, 4.0, np.inf])).round(3).tolist()
        [0.1, 2.4, 3.0]
    """
    bounded = np.clip(x, -1e15, 1e15)
    clipped: NDArray[np.float64] = bounded / np.sqrt(1.0 + (bounded / BOUND) ** 2)
    return clipped


def _check(profile: Profile, spec: ScalingSpec) -> None:
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
