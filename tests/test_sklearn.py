"""The scikit-learn adapters: its own checks, and the numbers of the scaling and the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from featurekit.errors import ConfigError, DataError, UnrepresentativeWarning
from featurekit.integrations.sklearn import BarFeatures, FeatureScaler
from featurekit.nn import TemporalEncoder
from featurekit.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurekit.scaling import Kind, Squash

ROOT = Path(__file__).parents[1]
NAMES = ["market.a", "market.b", "position.c"]
HOUR = 3_600_000_000_000


@parametrize_with_checks([FeatureScaler(), FeatureScaler("robust", "clip")])
@pytest.mark.filterwarnings("ignore::featurekit.errors.UnrepresentativeWarning")
def test_scikit_learns_own_checks_pass(
    estimator: FeatureScaler, check: Callable[[FeatureScaler], None]
) -> None:
    check(estimator)


def table(n: int = 4000) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.standard_t(4, (n, 3)) * [1e-4, 50.0, 1e4] + [1.1, 50.0, 0.0]
    x[: n // 2, 2] = 0.0
    return pl.DataFrame(x.astype(np.float32), schema=NAMES)


@pytest.mark.parametrize("squash", ["asinh", "clip", "none"])
@pytest.mark.parametrize("kind", ["standard", "robust", "none"])
def test_numpy_polars_scikit_learn_and_the_encoder_agree(kind: Kind, squash: Squash) -> None:
    frame = table()
    rows = frame.to_numpy()
    scaler = FeatureScaler(kind, squash, features={"market.b": {"squash": "none"}}).fit(frame)
    expected = scaler.scaling_.apply(rows)
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(scaler.transform(frame), expected, **close)
    np.testing.assert_allclose(scaler.scaling_.apply_frame(frame).to_numpy(), expected, **close)
    encoder = TemporalEncoder(3, scaling=scaler.scaling_)
    inside = encoder.prelude(torch.from_numpy(rows)[None])[0]
    np.testing.assert_allclose(inside.numpy(), expected, **close)
    named = {"none": (), "standard": ("position.c",), "robust": ("market.a", "position.c")}
    assert scaler.scaling_.inflated == named[kind]


def test_frames_come_out_as_frames_with_the_names_that_went_in() -> None:
    scaler = FeatureScaler().set_output(transform="polars").fit(table())
    assert scaler.get_feature_names_out().tolist() == NAMES
    assert scaler.transform(table()).columns == NAMES
    pandas = scaler.set_output(transform="pandas").transform(table())
    assert list(pandas.columns) == NAMES


def test_blocks_and_features_are_those_of_the_frame() -> None:
    scaler = FeatureScaler(blocks={"market": {"kind": "none"}}).fit(table())
    assert scaler.scaling_.scale[:2].tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="blocks that there is not"):
        FeatureScaler(blocks={"markets": {"kind": "none"}}).fit(table())


def test_too_few_active_rows_are_warned_of() -> None:
    with pytest.warns(UnrepresentativeWarning, match=r"position\.c"):
        FeatureScaler().fit(table(1998))


def bars(rows: int = 1500) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    close = np.exp(rng.normal(0, 1e-3, rows).cumsum())
    time = pl.Series(np.arange(rows) * HOUR).cast(pl.Datetime("ns", "UTC"))
    wide = {"high": close * 1.001, "low": close * 0.999, "close": close, "volume": close * 100}
    return pl.DataFrame({"symbol": "X", "time": time, "open": close, **wide})


@pytest.mark.filterwarnings("ignore::featurekit.errors.UnrepresentativeWarning")
def test_a_whole_pipeline_is_a_transformer() -> None:
    pipeline = Pipeline.from_yaml(ROOT / "pipelines" / "trading129.yaml")
    features = clone(BarFeatures(pipeline)).set_output(transform="polars").fit(bars())
    out = features.transform(bars())
    assert out.columns == list(pipeline.columns) == features.get_feature_names_out().tolist()
    natural = pipeline.transform(bars()).select(pipeline.columns)
    expected = features.scaling_.apply(natural.to_numpy())
    np.testing.assert_array_equal(out.to_numpy(), expected)
    plain = BarFeatures(pipeline, scaled=False).fit(bars()).transform(bars())
    np.testing.assert_array_equal(plain, natural.to_numpy())
    target = bars()["close"].log().diff().shift(-1).fill_null(0.0).to_numpy()
    # Rows before the lookback are NaN, which this model takes for holes.
    model = make_pipeline(BarFeatures(pipeline), HistGradientBoostingRegressor(max_iter=5))
    assert model.fit(bars(), target).predict(bars()).shape == (1500,)


def test_bars_without_enough_history_are_refused() -> None:
    with pytest.raises(DataError, match="no row of these bars"):
        BarFeatures(ROOT / "pipelines" / "trading129.yaml").fit(bars(50))
