"""scikit-learn: the scaling as a transformer, and a whole pipeline of bars as one.

Axes: n rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featurekit.errors import DataError, Problem
from featurekit.pipeline import Pipeline
from featurekit.profile import Profile
from featurekit.scaling import Kind, Scaling, ScalingSpec, Squash, Treatment

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    from numpy.typing import NDArray


class FeatureScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Features to about unit scale, exactly as `Scaling` and the encoder do it; float32.

    NaN is a hole: it is left out when fitting, and stays NaN.

    Args:
        kind: `standard`, `robust` or `none`.
        squash: `asinh`, `clip` or `none`, after the scaling.
        blocks: Of features that are named `block.feature`: `{block: {kind: ..., squash: ...}}`.
        features: The same for single features, by their names.

    Attributes:
        scaling_: The fitted `Scaling`, which names constant and zero-inflated features; give it to
            `TemporalEncoder(scaling=...)`.

    Example:
        >>> FeatureScaler(squash="none").fit_transform([[1.0], [3.0]])
        array([[-1.],
               [ 1.]], dtype=float32)
    """

    def __init__(
        self,
        kind: Kind = "standard",
        squash: Squash = "asinh",
        *,
        blocks: Mapping[str, Mapping[str, Any]] | None = None,
        features: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.kind, self.squash, self.blocks, self.features = kind, squash, blocks, features

    def fit(self, X: Any, y: object = None) -> FeatureScaler:  # noqa: ANN401  # arrays and frames
        """Fits on rows [n, F]: those of train, and no others.

        Raises:
            ConfigError: when a block or feature is named that there is not.
        """
        rows = self._rows(X, reset=True)
        names = getattr(self, "feature_names_in_", None)
        named = [f"x{k}" for k in range(rows.shape[1])] if names is None else list(names)
        spec = ScalingSpec(
            self.kind,
            self.squash,
            {name: Treatment(**each) for name, each in (self.blocks or {}).items()},
            {name: Treatment(**each) for name, each in (self.features or {}).items()},
        )
        self.scaling_ = Scaling.fit(Profile.of(rows, named), spec)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: ANN401  # arrays and frames
        """The rows scaled and squashed, float32 [n, F]."""
        check_is_fitted(self)
        return self.scaling_.apply(self._rows(X, reset=False))

    def _rows(self, X: Any, *, reset: bool) -> NDArray[Any]:  # noqa: ANN401  # arrays and frames
        kinds = [np.float64, np.float32]
        rows: NDArray[Any] = validate_data(
            self, X, reset=reset, dtype=kinds, ensure_all_finite="allow-nan"
        )
        return rows

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401  # scikit-learn has no types
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class BarFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Bars to the features of a pipeline, scaled as its `scaling:` says; float32 [n, F].

    Every row is computed from itself and rows before it, so `transform` needs the history of each
    symbol that it is asked for. A row before the pipeline's lookback is NaN.

    Args:
        pipeline: A `Pipeline`, or the path of its YAML.
        fills: Those of the account, as the pipeline's `transform` takes them.
        scaled: Or natural units.

    Attributes:
        scaling_: Fitted on the features of the bars that `fit` was given.

    Example:
        >>> from featurekit.sources import read_bars
        >>> pipeline = Pipeline.from_yaml("pipelines/eurusd_demo.yaml")
        >>> bars = read_bars(**pipeline.bars).head(1500)  # doctest: +SKIP
        >>> BarFeatures(pipeline).fit(bars).transform(bars).shape  # doctest: +SKIP
        (1500, 129)
    """

    def __init__(
        self,
        pipeline: Pipeline | str | Path,
        fills: pl.DataFrame | None = None,
        *,
        scaled: bool = True,
    ) -> None:
        self.pipeline, self.fills, self.scaled = pipeline, fills, scaled

    def fit(self, X: pl.DataFrame, y: object = None) -> BarFeatures:
        """Fits the pipeline's scaling on the features of bars; X is a canonical frame of bars.

        Raises:
            DataError: when no row has all of its history.
        """
        self.pipeline_ = (
            self.pipeline
            if isinstance(self.pipeline, Pipeline)
            else Pipeline.from_yaml(self.pipeline)
        )
        rows = self._rows(X)
        known = rows[np.isfinite(rows).all(axis=1)]
        if not len(known):
            raise DataError(
                Problem(
                    "no row of these bars has all of its features",
                    expected=f"more than {self.pipeline_.memory} bars of a symbol",
                    got=f"{len(rows)} rows",
                    fix="BarFeatures(pipeline).fit(more_bars)",
                )
            )
        self.scaling_ = Scaling.fit(
            Profile.of(known, self.pipeline_.columns), self.pipeline_.scaling
        )
        return self

    def transform(self, X: pl.DataFrame) -> NDArray[np.float32]:
        """The features of each bar, in the order of the bars."""
        check_is_fitted(self)
        rows = self._rows(X)
        return self.scaling_.apply(rows) if self.scaled else rows

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """The pipeline's columns in order."""
        check_is_fitted(self)
        return np.array(self.pipeline_.columns, dtype=object)

    def _rows(self, bars: pl.DataFrame) -> NDArray[np.float32]:
        table = self.pipeline_.transform(bars, self.fills, dtype="float32")
        rows: NDArray[np.float32] = table.select(self.pipeline_.columns).to_numpy()
        return rows

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401  # scikit-learn has no types
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags
