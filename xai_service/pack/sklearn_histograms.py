"""Reads scikit-learn's HistGradientBoosting models, whose splits have double thresholds, or sets of categories.

Inside, scikit-learn moves categorical columns to the front and counts their categories from 0. Here columns stand as
the caller has them. Categories that are whole numbers are served as they are; others, such as texts, as their places
in the sorted list, which the manifest keeps.

A category that training did not know goes where a missing value does. Sets are therefore always those known categories
that go the other way: whatever is not in the set, missing and unknown among it, takes one side.
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
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Int64Array

_LOSSES: Mapping[str, tuple[Task, Link]] = {
    "squared_error": ("regression", "identity"),
    "absolute_error": ("regression", "identity"),
    "quantile": ("regression", "identity"),
    "poisson": ("regression", "exponential"),
    "gamma": ("regression", "exponential"),
}
_MAX_CODE = 1 << 24


def read_histogram_boosting(model: Any) -> NativeModel:
    """Returns the description of a fitted HistGradientBoosting model.

    Raises:
        PackRefused: its loss is the user's own, or categories cannot be served as whole numbers.
    """
    classifier = is_classifier(model)
    baseline = np.asarray(model._baseline_prediction, np.float64).ravel()  # noqa: SLF001
    base = baseline.astype(np.float32).astype(np.float64)
    task, link = _task(model, len(base), classifier=classifier)
    columns = _Columns(model)
    plain = [
        _plain_tree(tree, output, columns)
        for trees in model._predictors  # noqa: SLF001
        for output, tree in enumerate(trees)
    ]

    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        given = columns.as_trained(rows)
        if classifier:
            margin = quietly(model.decision_function, given).reshape(len(rows), -1)
            return margin, quietly(model.predict_proba, given)[:, -len(base) :]
        found = quietly(model.predict, given)[:, None]
        return (np.log(found) if link == "exponential" else found), found

    return described(
        model,
        plain,
        base,
        compares_float64=True,
        task=task,
        link=link,
        cover="data_count",
        predict=predict,
        class_names=class_names(model) if classifier else None,
        categorical=frozenset(columns.categories),
        categories=columns.named,
    )


def _task(model: Any, n_outputs: int, *, classifier: bool) -> tuple[Task, Link]:
    if classifier and model.loss == "log_loss":
        return ("binary_classification", "logistic") if n_outputs == 1 else ("multiclass_classification", "softmax")
    if classifier or model.loss not in _LOSSES:
        raise PackRefused(f"loss={model.loss} is not supported; log_loss, {', '.join(_LOSSES)} are")
    return _LOSSES[model.loss]


class _Columns:
    """Which column of the caller's is which in the trees, and what its categories are.

    Attributes:
        order: int64, the caller's column of each of the trees'.
        categories: by the caller's column, the categories in the trees' order.
        named: those that are served as their places.
    """

    def __init__(self, model: Any) -> None:
        categorical = getattr(model, "is_categorical_", None)
        self.order: Int64Array = np.arange(model.n_features_in_)
        self.categories: dict[int, tuple[Any, ...]] = {}
        self.named: dict[int, tuple[Any, ...]] = {}
        if categorical is None:
            return
        self.order = np.r_[np.flatnonzero(categorical), np.flatnonzero(~categorical)]
        encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
        of_frame = model.categorical_features == "from_dtype" if isinstance(model.categorical_features, str) else False
        for column, found in zip(np.flatnonzero(categorical).tolist(), encoder.categories_, strict=True):
            known = tuple(one for one in found.tolist() if one is not None and one == one)  # noqa: PLR0124 - NaN
            self.categories[column] = known
            if of_frame or any(isinstance(one, str) for one in known):
                self.named[column] = known
            elif not all(float(one).is_integer() and 0 <= one < _MAX_CODE for one in known):
                raise PackRefused(
                    f"column {column} has categories that are no whole numbers from 0 to 2^24, such as "
                    f"{next(one for one in known if not (float(one).is_integer() and 0 <= one < _MAX_CODE))}: train "
                    "with their places in a list, or with a DataFrame's categories"
                )

    def served(self, column: int, codes: Int64Array) -> Float32Array:
        """Returns what the caller gives for categories that the trees count from 0."""
        if column in self.named:
            return codes.astype(np.float32)
        return np.sort(np.array(self.categories[column], np.float32)[codes])

    def as_trained(self, rows: Float32Array) -> NDArray[Any]:
        """Returns the rows with named categories as the model was given them in training."""
        if not self.named:
            return rows
        given = rows.astype(object)
        for column, known in self.named.items():
            texts = any(isinstance(one, str) for one in known)
            unknown = "".join(map(str, known)) + "?" if texts else max(known) + 1
            of_code: dict[float, Any] = {float(code): one for code, one in enumerate(known)}
            given[:, column] = [
                np.nan if code != code else of_code.get(code, unknown)  # noqa: PLR0124 - NaN
                for code in rows[:, column].tolist()
            ]
        return given


def _plain_tree(tree: Any, output: int, columns: _Columns) -> PlainTree:
    nodes = tree.nodes
    split = nodes["is_leaf"] == 0
    left, right = (np.where(split, nodes[name].astype(np.int64), -1) for name in ("left", "right"))
    feature = columns.order[np.where(split, nodes["feature_idx"], 0)]
    missing_left = split & (nodes["missing_go_to_left"] != 0)
    sets: dict[int, Float32Array] = {}
    for node in np.flatnonzero(split & (nodes["is_categorical"] != 0)).tolist():
        bits = tree.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        codes = np.arange(len(columns.categories[feature[node]]))
        goes_left = (bits[codes // 32] >> (codes % 32)) & 1 == 1
        if missing_left[node]:
            left[node], right[node] = right[node], left[node]
            goes_left, missing_left[node] = ~goes_left, False
        sets[node] = columns.served(int(feature[node]), codes[goes_left])
    return PlainTree(
        left=left,
        right=right,
        feature=feature,
        threshold=nodes["num_threshold"].astype(np.float64),
        missing_left=missing_left,
        value=nodes["value"].astype(np.float64)[:, None],
        outputs=np.array([output]),
        cover=nodes["count"].astype(np.float64),
        sets=sets,
    )
