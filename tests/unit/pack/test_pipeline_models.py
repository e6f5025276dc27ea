"""Pipelines before models of scikit-learn and CatBoost; those before XGBoost and LightGBM are in the matrix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from catboost import CatBoostClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.flights import flights
from xai_service.pack import pack

if TYPE_CHECKING:
    from pathlib import Path

MODELS = (
    RandomForestClassifier(6, max_depth=4, random_state=0),
    GradientBoostingRegressor(n_estimators=6, random_state=0),
    HistGradientBoostingClassifier(max_iter=6, random_state=0),
    HistGradientBoostingRegressor(max_iter=6, random_state=0),
    CatBoostClassifier(iterations=6, depth=3, verbose=0, allow_writing_files=False, random_seed=0, thread_count=1),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_gate_lets_them_pass(model: Any, tmp_path: Path) -> None:
    """It compares with the pipeline's own answers, on raw rows with gaps, unknown categories and on thresholds."""
    X, y = flights().train.iloc[:800], flights().late[:800]
    parts = [
        ("strings", OneHotEncoder(handle_unknown="ignore"), ["origin", "dest"]),
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["dep_delay", "distance"]),
    ]
    columns = ColumnTransformer(parts, sparse_threshold=0)
    bundle = pack(Pipeline([("columns", columns), ("model", model)]).fit(X, y), X, name="late", out=tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [feature["name"] for feature in manifest["features"]] == ["origin", "dest", "dep_delay", "distance"]
    assert [feature["kind"] for feature in manifest["features"]] == ["string", "string", "numeric", "numeric"]
    parity = manifest["parity"]
    assert parity["threshold_rows"] > 0
    assert parity["max_margin_difference"] <= parity["tolerance"]
    assert parity["additivity_rows"] > 800
