"""Rows counted through trees, and what they are as covers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shap
from sklearn.ensemble import GradientBoostingRegressor

from tests.matrix import lightgbm_models
from tests.matrix.data import people
from tests.matrix.onnx_models import COUNT, of_onnx, quietly
from xai_service.pack import pack, readers
from xai_service.pack.covers import count_rows
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from pathlib import Path


def test_counts_are_lightgbms_own() -> None:
    """Missing values, and sets of categories, included."""
    native = readers.read(lightgbm_models.categorical().model)
    assert any(tree.set_sizes.any() for tree in native.trees)
    for tree in native.trees:
        np.testing.assert_array_equal(count_rows(tree, people().rows), tree.cover)


def test_counted_covers_explain_as_scikit_learns_own(tmp_path: Path) -> None:
    """Without weights and sampling scikit-learn's covers, by which shap explains, are counts of rows too."""
    from skl2onnx import to_onnx  # noqa: PLC0415 - imported late, where its warnings are caught

    model = GradientBoostingRegressor(n_estimators=10, random_state=0).fit(
        people().filled, people().targets["log wage"]
    )
    file = quietly(to_onnx, model, people().filled[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    bundle = pack(of_onnx(file).model, people().filled, name="m", out=tmp_path, **COUNT)
    explainer = TreeExplainer(bundle / "model.onnx")
    theirs = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent").shap_values(people().filled[:50])
    np.testing.assert_allclose(
        explainer.shap_values(people().filled[:50]), theirs, rtol=0, atol=1e-6 * np.abs(theirs).max()
    )
