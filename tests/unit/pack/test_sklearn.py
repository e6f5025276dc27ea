"""What the matrix does not show of scikit-learn's models: ties, columns, refusals."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeClassifier

from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.pack.sklearn_forests import average_path_length

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.types import Float32Array


def shuffled(X: Float32Array, n: int) -> Float32Array:
    """Returns rows of values from everywhere, about which trees disagree."""
    rng = np.random.default_rng(3)
    return np.column_stack([rng.choice(column, n) for column in X.T])


@pytest.mark.parametrize(("load", "trees"), [(load_breast_cancer, 12), (load_breast_cancer, 100), (load_iris, 100)])
def test_ties_go_to_the_class_that_scikit_learn_takes(load: Any, trees: int, tmp_path: Path) -> None:
    X, y = load(return_X_y=True)
    X = X[:, :4].astype(np.float32)
    model = RandomForestClassifier(trees, random_state=0, max_features=1).fit(X, y)
    snapshot = ModelSnapshot.load(pack(model, X[:40], name="m", out=tmp_path))
    rows = shuffled(X, 8000)
    shares = model.predict_proba(rows)
    first, second = -np.partition(-shares, 1, axis=1)[:, :2].T
    assert (first == second).sum() > 20
    served = snapshot.predict(rows)
    np.testing.assert_array_equal(served.labels, model.predict(rows))
    assert served.probabilities.min() >= 0
    assert served.probabilities.max() <= 1


def test_large_forests_decide_ties_of_two_classes_too(tmp_path: Path) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = X[:, :4].astype(np.float32)
    model = RandomForestClassifier(150, random_state=0, max_depth=1, max_features=1).fit(X, y)
    for tree in model.estimators_:  # trees that vote
        votes = tree.tree_.value.argmax(axis=2)
        tree.tree_.value[:] = np.eye(2)[votes]
    rows = shuffled(X, 8000)
    assert (model.predict_proba(rows)[:, 1] == 0.5).sum() > 5
    snapshot = ModelSnapshot.load(pack(model, X[:40], name="m", out=tmp_path))
    np.testing.assert_array_equal(snapshot.predict(rows).labels, model.predict(rows))


def test_an_isolation_forest_of_all_columns_has_them_in_order(tmp_path: Path) -> None:
    X = load_iris().data.astype(np.float32)
    model = IsolationForest(n_estimators=10, random_state=0).fit(X)
    model.estimators_features_ = [columns[::-1] for columns in model.estimators_features_]  # unused by scikit-learn
    snapshot = ModelSnapshot.load(pack(model, X, name="m", out=tmp_path))
    np.testing.assert_allclose(snapshot.predict(X).prediction[:, 0], -model.score_samples(X), rtol=1e-6)


def test_average_path_length() -> None:
    """Of n rows, 2 H(n - 1) - 2 (n - 1) / n by harmonic numbers H, which scikit-learn approximates from 3 rows on."""
    np.testing.assert_array_equal(average_path_length(np.array([0, 1, 2])), [0, 0, 1])
    harmonic = sum(1 / i for i in range(1, 256))
    assert average_path_length(np.array([256]))[0] == pytest.approx(2 * harmonic - 2 * 255 / 256, abs=0.01)


def test_without_shap_nothing_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "shap" else find(name, *of))
    X, y = load_iris(return_X_y=True)
    parity = ModelSnapshot.load(pack(DecisionTreeClassifier().fit(X, y), X, name="m", out=tmp_path)).manifest.parity
    assert (parity.attribution_reference, parity.attribution_rows) == (None, 0)
    assert parity.additivity_rows > len(X)


def test_a_class_derived_from_a_forest(tmp_path: Path) -> None:
    class Own(RandomForestClassifier):
        """As libraries derive theirs."""

    X, y = load_iris(return_X_y=True)
    manifest = ModelSnapshot.load(pack(Own(3, random_state=0).fit(X, y), X, name="m", out=tmp_path)).manifest
    assert manifest.classes == ("0", "1", "2")
    assert (manifest.link, manifest.cover) == ("identity", "weighted_count")
    assert set(manifest.made_by) >= {"scikit-learn", "xai-service"}
    assert not any(feature.allows_missing for feature in manifest.features)


def test_raw_score(tmp_path: Path) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = X[:, :4].astype(np.float32)
    model = HistGradientBoostingClassifier(max_iter=5).fit(X, y)
    snapshot = ModelSnapshot.load(pack(model, X, name="m", out=tmp_path, raw_score=True))
    assert snapshot.manifest.task == "regression"
    np.testing.assert_allclose(snapshot.predict(X).prediction[:, 0], model.decision_function(X), atol=1e-5)


def test_refusals(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    two = y > 0
    fraction = HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]).fit(X, y)
    boosting = GradientBoostingClassifier(n_estimators=2).fit(X, two)
    one_row = IsolationForest(n_estimators=2, max_samples=1).fit(X)
    search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1]}, cv=2).fit(X, y)
    for model, match, options in (
        (RandomForestClassifier(), "the model is not fitted", {}),
        (LogisticRegression(), "the model is not fitted", {}),
        (KMeans(), "KMeans is not supported; of scikit-learn DecisionTreeClassifier.*LogisticRegression", {}),
        (search, "GridSearchCV is not supported: pack what it found, its best_estimator_", {}),
        (fraction, "column 0 has categories that are no whole numbers", {}),
        (boosting, "missing is 'all', and the model takes no missing values", {"missing": "all"}),
        (one_row, "grown on one row each", {}),
    ):
        with pytest.raises(PackRefused, match=match):
            pack(model, X, name="m", out=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
