"""The service on real data against XGBoost's own contributions of the native model."""

from __future__ import annotations

import numpy as np
import shap
import xgboost as xgb

from xai_service.client import Client
from xai_service.treeshap import TreeExplainer
from xai_service.types import ExplanationStatus


def test_service_attributions_equal_xgboosts_own(loans, loan_server):
    rows = loans.held_out
    native = loans.booster.predict(xgb.DMatrix(rows), pred_contribs=True)
    margin = loans.booster.predict(xgb.DMatrix(rows), output_margin=True)
    with Client(loan_server) as client:
        reply = client.predict(rows, "loan")
    assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
    phi = reply.attributions[:, :, 0]
    np.testing.assert_allclose(phi, native[:, :-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(reply.base_values[0], native[:, -1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(reply.margin[:, 0], margin, rtol=0, atol=1e-5)
    np.testing.assert_allclose(reply.base_values[0] + phi.sum(axis=1), reply.margin[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(reply.probabilities[:, 1], loans.booster.predict(xgb.DMatrix(rows)), rtol=0, atol=1e-6)
    assert reply.additivity_residual.max() <= 1e-5
    # The data has missing values and refusals, else this proves less than it says.
    assert rows.isna().to_numpy().any()
    assert {0, 1} <= set(reply.labels.tolist())


def test_tree_explainer_reads_the_same_file(loans, loan_repository):
    explainer = TreeExplainer(loan_repository / "loan" / "1" / "model.onnx")
    rows = loans.held_out.to_numpy()
    native = loans.booster.predict(xgb.DMatrix(loans.held_out), pred_contribs=True)
    phi = explainer.shap_values(rows)
    np.testing.assert_allclose(phi, native[:, :-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(explainer.expected_value, native[0, -1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(explainer.expected_value + phi.sum(axis=1), explainer.margin(rows), rtol=0, atol=1e-5)


def test_to_shap_is_what_shap_would_give(loans, loan_server):
    rows = loans.held_out.iloc[:20]
    with Client(loan_server) as client:
        reply = client.predict(rows, "loan")
        alone = client.decision(reply.decision_ids[7]).to_shap()
    explanation = reply.to_shap()
    theirs = shap.TreeExplainer(loans.booster)(rows)
    assert explanation.values.shape == theirs.values.shape == (20, loans.features.shape[1])
    np.testing.assert_allclose(explanation.values, theirs.values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(explanation.base_values, theirs.base_values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(explanation.data, rows.to_numpy(np.float32))
    assert list(explanation.feature_names) == list(theirs.feature_names) == list(loans.features.columns)
    np.testing.assert_array_equal(alone.values, explanation.values[7])
    assert alone.base_values == explanation.base_values[7]
