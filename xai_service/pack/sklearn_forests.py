"""Reads scikit-learn's single trees, random forests, extra trees and isolation forests.

A forest averages its trees. A classifier's leaves hold shares of the classes, so that its margins are probabilities
and its link is the identity; of two classes the margin is the probability of the second.

Ties. Forests of pure leaves often give two classes equally many trees, and scikit-learn, which adds in float64, then
takes the first. Sums of float32 leaves such as 1/100 would end beside 1/2, or each beside the other, on either side,
and beyond 0 and 1. So

* of two classes leaves are stored as their distance from an even share, 1/2, which is the base value instead: of equal
  votes these distances add up to almost nothing, and adding the base value rounds that away;
* in forests of up to 128 trees leaves are cut to multiples of 2^-24, distances to those of 2^-25. These add up exactly,
  and to no more than 1. A share may be too small by 128 of these at the most, 8e-6. Larger forests may take another of
  several tied classes.

An isolation forest's score is 2^(-d/c): d is the mean length of the row's paths through the trees, c what it would be
in a random tree (Liu, Ting and Zhou, 2008, equations 1 and 2). The margin is its logarithm, -d ln 2 / c, a sum over
trees, and its link the exponential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier

from xai_service.errors import PackRefused
from xai_service.pack.plain_trees import PlainTree
from xai_service.pack.reading import class_names
from xai_service.pack.sklearn_calls import described, quietly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xai_service.model.manifest import Task
    from xai_service.pack.native import NativeModel, Predict
    from xai_service.types import Float32Array, Float64Array, Int64Array

_MOST_EXACT_TREES = 128


def read_forest(model: Any) -> NativeModel:
    """Returns the description of a fitted tree, or of a forest that averages trees.

    Raises:
        PackRefused: several targets of more than two classes, or a single class.
    """
    task, n_outputs = _task(model)
    trees = getattr(model, "estimators_", None) or [model]
    halves = len(trees) > 1 and task in ("binary_classification", "multilabel_classification")
    centre = 0.5 if halves else 0.0
    cut = task != "regression" and 1 < len(trees) <= _MOST_EXACT_TREES
    step = 2.0**-25 if halves else 2.0**-24
    plain = []
    for tree in trees:
        leaves = (_leaves(tree.tree_, task) - centre) / len(trees)
        plain.append(plain_tree(tree.tree_, np.trunc(leaves / step) * step if cut else leaves, np.arange(n_outputs)))
    return _native(model, plain, np.full(n_outputs, centre), task, _predictor(model, task))


def read_isolation_forest(model: Any) -> NativeModel:
    """Returns the description of a fitted isolation forest, as a regression of its anomaly score.

    Raises:
        PackRefused: it was fitted to a single row, or rows.
    """
    usual = float(average_path_length(np.array([model.max_samples_]))[0])
    if usual == 0:
        raise PackRefused("the isolation forest's trees were grown on one row each: its score is the same for all rows")
    scale = -np.log(2) / (usual * len(model.estimators_))
    plain = []
    for tree, columns in zip(model.estimators_, model.estimators_features_, strict=True):
        # Where trees get all columns they get them in order, whatever estimators_features_ lists.
        own = np.sort(columns) if len(columns) == model.n_features_in_ else columns
        lengths = scale * _path_lengths(tree.tree_)
        plain.append(plain_tree(tree.tree_, lengths[:, None], np.zeros(1, np.int64), columns=np.asarray(own)))

    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        score = -quietly(model.score_samples, rows)[:, None]
        return np.log(score), score

    return _native(model, plain, np.zeros(1), "regression", predict)


def plain_tree(tree: Any, value: Float64Array, outputs: Int64Array, *, columns: Int64Array | None = None) -> PlainTree:
    """Returns one of scikit-learn's trees.

    Args:
        tree: an estimator's ``tree_``.
        value: float64 (nodes, outputs added to), what its leaves add to the margins.
        outputs: int64 (outputs added to,).
        columns: of the model, those that the tree was given; ``None`` for all.
    """
    split = tree.children_left >= 0
    feature = np.where(split, tree.feature, 0)
    return PlainTree(
        left=np.where(split, tree.children_left, -1),
        right=np.where(split, tree.children_right, -1),
        feature=feature if columns is None else columns[feature],
        threshold=np.asarray(tree.threshold, np.float64),
        missing_left=np.asarray(tree.missing_go_to_left, bool),
        value=value,
        outputs=outputs,
        cover=np.asarray(tree.weighted_n_node_samples, np.float64),
    )


def average_path_length(n: NDArray[Any]) -> Float64Array:
    """Returns float64, the mean length of unsuccessful searches in a binary search tree of ``n`` rows each, n ≥ 0."""
    count = np.maximum(np.asarray(n, np.float64), 2.0)
    several = 2 * (np.log(np.maximum(count - 1, 1)) + np.euler_gamma) - 2 * (count - 1) / count
    return np.asarray(np.where(n <= 1, 0.0, np.where(n == 2, 1.0, several)))


def _task(model: Any) -> tuple[Task, int]:
    """Returns what a tree or forest predicts, and in how many outputs."""
    if not is_classifier(model):
        return "regression", model.n_outputs_
    n_classes = np.atleast_1d(model.n_classes_)
    if (n_classes < 2).any():
        raise PackRefused("the classifier was trained on a single class: there is nothing to explain")
    if len(n_classes) > 1:
        if (n_classes > 2).any():
            raise PackRefused(
                f"a classifier of several targets of more than two classes ({n_classes.max()}) is not supported: train "
                "one for each target"
            )
        return "multilabel_classification", len(n_classes)
    if n_classes[0] == 2:
        return "binary_classification", 1
    return "multiclass_classification", int(n_classes[0])


def _leaves(tree: Any, task: Task) -> Float64Array:
    """Returns float64 (nodes, outputs), each node's means or shares."""
    value = np.asarray(tree.value, np.float64)  # (nodes, targets, classes), or (nodes, targets, 1)
    if task == "regression":
        return value[:, :, 0]
    shares: Float64Array = value / value.sum(axis=2, keepdims=True)
    return shares[:, 0] if task == "multiclass_classification" else shares[:, :, 1]


def _path_lengths(tree: Any) -> Float64Array:
    """Returns float64 (nodes,), how many splits lie above each, and how many would follow were its rows split on."""
    depth = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # parents stand before their children
        if tree.children_left[node] >= 0:
            depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
    return depth + average_path_length(tree.n_node_samples)


def _predictor(model: Any, task: Task) -> Predict:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        if task == "regression":
            found = quietly(model.predict, rows).reshape(len(rows), -1)
        elif task == "multilabel_classification":
            found = np.column_stack([shares[:, 1] for shares in quietly(model.predict_proba, rows)])
        else:
            found = quietly(model.predict_proba, rows)
            found = found[:, 1:] if task == "binary_classification" else found
        return found, found

    return predict


def _native(model: Any, plain: Sequence[PlainTree], base: Float64Array, task: Task, predict: Predict) -> NativeModel:
    return described(
        model,
        plain,
        base,
        task=task,
        link="exponential" if not hasattr(model, "n_outputs_") else "identity",
        cover="weighted_count",
        predict=predict,
        class_names=class_names(model) if task in ("binary_classification", "multiclass_classification") else None,
    )
