"""Reads scikit-learn's linear models: their weights, their intercept and their link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import LinearSVC, LinearSVR

from xai_service.errors import PackRefused
from xai_service.pack.additive import Additive
from xai_service.pack.native import NativeModel
from xai_service.pack.reading import RAW_SCORE_HINT, class_names
from xai_service.pack.sklearn_calls import feature_names, quietly

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.types import Float32Array, Float64Array


_MARGIN: tuple[Task, Link] = ("regression", "identity")


def _of(*names: str) -> tuple[type, ...]:
    """Returns those of scikit-learn's linear models that the version at hand has."""
    return tuple(getattr(linear_model, name) for name in names if hasattr(linear_model, name))


REGRESSORS = (
    *_of(
        "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "Lars", "LarsCV",
        "LassoLars", "LassoLarsCV", "LassoLarsIC", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV",
        "BayesianRidge", "ARDRegression", "HuberRegressor", "SGDRegressor", "QuantileRegressor", "TheilSenRegressor",
        "MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet", "MultiTaskElasticNetCV",
        "PassiveAggressiveRegressor",
    ),
    LinearSVR,
)  # fmt: skip
GENERALISED = _of("PoissonRegressor", "GammaRegressor", "TweedieRegressor")
WITH_PROBABILITIES = (*_of("LogisticRegression", "LogisticRegressionCV"), LinearDiscriminantAnalysis)
MARGIN_ONLY = (*_of("RidgeClassifier", "RidgeClassifierCV", "Perceptron", "PassiveAggressiveClassifier"), LinearSVC)
SGD_CLASSIFIER = _of("SGDClassifier")
KINDS = (*REGRESSORS, *GENERALISED, *WITH_PROBABILITIES, *MARGIN_ONLY, *SGD_CLASSIFIER)


def read_linear(model: Any, *, raw_score: bool) -> NativeModel:
    """Returns the description of a fitted linear model.

    Args:
        model: of one of `KINDS`.
        raw_score: its margin alone is wanted.

    Raises:
        PackRefused: it has no probabilities, or such as no link gives, and more than its margin is wanted.
    """
    weights, intercept = _weights(model)
    task, link = _MARGIN if raw_score else _task(model, len(intercept))

    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        values = np.asarray(rows, np.float64)
        if isinstance(model, REGRESSORS):
            margin = _wide(quietly(model.predict, values))
            return margin, margin
        margin = _margin(model, values, weights, intercept)
        if task == "regression":
            with np.errstate(over="ignore"):  # to infinity, as in the file
                return margin, margin if link == "identity" else _wide(quietly(model.predict, values))
        probabilities = quietly(model.predict_proba, values)
        return margin, probabilities[:, 1:] if task == "binary_classification" else probabilities

    def straight(rows: Float32Array) -> Float64Array:
        return np.asarray(np.asarray(rows, np.float64)[:, :, None] * weights)

    return NativeModel(
        made_by={"scikit-learn": sklearn.__version__},
        trees=(),
        base=intercept,
        task=task,
        link=link,
        cover="none",
        n_features=model.n_features_in_,
        feature_names=feature_names(model),
        predict=predict,
        class_names=class_names(model) if task.endswith("classification") else None,
        takes_missing=False,
        additive=Additive(intercept, straight, np.zeros(len(weights), np.float32)),
        weights=weights,
    )


def _wide(values: Any) -> Float64Array:
    found = np.asarray(values, np.float64)
    return found.reshape(len(found), -1)


def _margin(model: Any, rows: Float64Array, weights: Float64Array, intercept: Float64Array) -> Float64Array:
    if hasattr(model, "decision_function"):
        return _wide(quietly(model.decision_function, rows))
    return rows @ weights + intercept


def _weights(model: Any) -> tuple[Float64Array, Float64Array]:
    """Returns float64 (features, outputs) and (outputs,)."""
    coefficients = model.coef_
    if hasattr(coefficients, "toarray"):  # after sparsify()
        coefficients = coefficients.toarray()
    weights = np.asarray(coefficients, np.float64).reshape(-1, model.n_features_in_).T
    intercept = np.broadcast_to(np.asarray(model.intercept_, np.float64).ravel(), weights.shape[1:])
    if not (np.isfinite(weights).all() and np.isfinite(intercept).all()):
        raise PackRefused("the model has a weight or an intercept that is not finite")
    return weights, intercept.copy()


def _task(model: Any, outputs: int) -> tuple[Task, Link]:
    name, loss = type(model).__name__, getattr(model, "loss", None)
    if isinstance(model, REGRESSORS):
        return _MARGIN
    if isinstance(model, GENERALISED):
        return "regression", _generalised_link(model)
    if isinstance(model, MARGIN_ONLY):
        raise PackRefused(f"{name} is not supported as a classifier, as it predicts no probability: {_WAYS_OUT}")
    if isinstance(model, SGD_CLASSIFIER):
        if loss != "log_loss":
            raise PackRefused(
                f"{name} with loss={loss!r} is not supported as a classifier, as its probabilities, if any, are "
                f"none of a logistic model: {_WAYS_OUT}"
            )
        if outputs > 1:
            raise PackRefused(
                f"{name} of several classes is not supported as a classifier: its probabilities are those of each "
                f"class against the rest, made to add up to 1, which is no link that is served: {_WAYS_OUT}"
            )
    return ("binary_classification", "logistic") if outputs == 1 else ("multiclass_classification", "softmax")


_WAYS_OUT = f"train a LogisticRegression, {RAW_SCORE_HINT}"


def _generalised_link(model: Any) -> Link:
    link = getattr(model, "link", "log")
    if link == "auto":
        link = "identity" if model.power <= 0 else "log"
    return "identity" if link == "identity" else "exponential"
