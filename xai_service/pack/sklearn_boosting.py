"""Reads scikit-learn's GradientBoosting models: an initial value, and trees times the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor

from xai_service.errors import PackRefused
from xai_service.pack.reading import class_names
from xai_service.pack.sklearn_calls import described, quietly
from xai_service.pack.sklearn_forests import plain_tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array

_RANDOM = ("stratified", "uniform")  # strategies of a DummyClassifier


def read_boosting(model: Any) -> NativeModel:
    """Returns the description of a fitted GradientBoosting model.

    Raises:
        PackRefused: its initial value is not the same for all rows.
    """
    classifier = is_classifier(model)
    n_outputs = model.estimators_.shape[1]
    plain = [
        plain_tree(tree.tree_, model.learning_rate * tree.tree_.value[:, :, 0], np.array([output]))
        for trees in model.estimators_
        for output, tree in enumerate(trees)
    ]
    base = _initial(model, n_outputs).astype(np.float32).astype(np.float64)
    task, link = _task(n_outputs, classifier=classifier)

    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        margin = quietly(model.decision_function if classifier else model.predict, rows).reshape(len(rows), -1)
        if not classifier:
            return margin, margin
        return margin, quietly(model.predict_proba, rows)[:, -n_outputs:]

    return described(
        model,
        plain,
        base,
        task=task,
        link=link,
        link_scale=2.0 if classifier and model.loss == "exponential" else 1.0,
        cover="weighted_count",
        predict=predict,
        class_names=class_names(model) if classifier else None,
    )


def _task(n_outputs: int, *, classifier: bool) -> tuple[Task, Link]:
    if not classifier:
        return "regression", "identity"
    return ("binary_classification", "logistic") if n_outputs == 1 else ("multiclass_classification", "softmax")


def _initial(model: Any, n_outputs: int) -> Float64Array:
    """Returns float64 (outputs,), the margins before the first tree."""
    initial = model.init_
    if isinstance(initial, str) and initial == "zero":
        return np.zeros(n_outputs)
    if not isinstance(initial, (DummyClassifier, DummyRegressor)) or getattr(initial, "strategy", "") in _RANDOM:
        raise PackRefused(
            f"init={type(initial).__name__} is not supported: its margin differs from row to row, and is no sum of "
            "trees; train with init=None or init='zero'"
        )
    return np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))[0])  # noqa: SLF001
