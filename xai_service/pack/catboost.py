"""Reads CatBoost models: a CatBoost object, or a .cbm or .json file, with numeric features.

The trees are read from CatBoost's JSON. Its splits ask ``value > border``, so that what is not greater goes left, NaN
among it unless the feature's missing values count as its greatest (``nan_mode=Max``). A symmetric tree lists one split
for each level, the last one at its root: leaf i lies where the bits of i say which splits were passed, the first split
being the lowest bit.

CatBoost's own attributions (``ShapValues``) are compared with, but for two faults known to its issue tracker. Of trees
that are not symmetric they do not add up until the model was saved and loaded again (2136), so they are asked of a
copy. And where a leaf that no training row reached has a value, as monotone constraints leave it, CatBoost counts the
rows to explain instead of the training's (1956), so that they depend on each other, and nothing is compared.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import catboost
import numpy as np

from xai_service.errors import PackRefused
from xai_service.pack.catboost_file import load, survives
from xai_service.pack.forest import check_forest
from xai_service.pack.native import NativeModel
from xai_service.pack.plain_trees import PlainTree, packed_trees
from xai_service.pack.reading import bias_apart, class_names, scalars, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.native import Contributions, Predict
    from xai_service.types import Float32Array, Float64Array

__all__ = ["load", "read"]

_OBJECTIVES: Mapping[str, tuple[Task, Link]] = {
    "Logloss": ("binary_classification", "logistic"),
    "CrossEntropy": ("binary_classification", "logistic"),
    "MultiClass": ("multiclass_classification", "softmax"),
    "MultiClassOneVsAll": ("multiclass_classification", "one_vs_all"),
    "MultiLogloss": ("multilabel_classification", "logistic"),
    "MultiCrossEntropy": ("multilabel_classification", "logistic"),
    "RMSE": ("regression", "identity"),
    "MAE": ("regression", "identity"),
    "MAPE": ("regression", "identity"),
    "Quantile": ("regression", "identity"),
    "Huber": ("regression", "identity"),
    "Expectile": ("regression", "identity"),
    "LogCosh": ("regression", "identity"),
    "Lq": ("regression", "identity"),
    "MultiRMSE": ("regression", "identity"),
    "MultiQuantile": ("regression", "identity"),
    "Poisson": ("regression", "exponential"),
    "Tweedie": ("regression", "exponential"),
    "YetiRank": ("ranking", "identity"),
    "YetiRankPairwise": ("ranking", "identity"),
    "PairLogit": ("ranking", "identity"),
    "PairLogitPairwise": ("ranking", "identity"),
    "QueryRMSE": ("ranking", "identity"),
    "QuerySoftMax": ("ranking", "identity"),
    "LambdaMart": ("ranking", "identity"),
    "StochasticRank": ("ranking", "identity"),
}
_REASONS: Mapping[str, str] = {
    "RMSEWithUncertainty": ": of its two outputs CatBoost explains one; train with RMSE",
    "custom": ": nothing says what the margins of a custom objective mean",
}
_NO_COVERS = (
    "the model lacks the weights of its leaves, which explanations need, as one that went through ONNX or CoreML does; "
    "CatBoost itself fails to write it: pack the model as it was trained, or its .cbm file"
)
_MADE_OF = {"OnlineCtr": "categories", "OneHotFeature": "categories", "EstimatedFeature": "texts or embeddings"}


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of a CatBoost model.

    A model trained with ``use_best_model`` holds the trees up to its best iteration only.

    Args:
        model: a fitted CatBoost, CatBoostClassifier, CatBoostRegressor or CatBoostRanker.
        raw_score: take it for a regression of its margin, whatever its objective is.

    Raises:
        PackRefused: not a fitted CatBoost model, or one whose objective or features are not supported; says which.
    """
    if not isinstance(model, catboost.CatBoost):
        raise PackRefused(
            f"{type(model).__module__}.{type(model).__qualname__} is not supported; a catboost.CatBoost, or a model "
            "derived from it, is, or the path of a .cbm or .json file"
        )
    if not model.is_fitted():
        raise PackRefused("the model is not fitted")
    _refuse_features(model)
    description, copy = _through_json(model)
    task: Task = "regression"
    link: Link = "identity"
    try:
        objective = _objective(description)
        if not raw_score:
            task, link = _task(objective)
            _refuse_threshold(description, task)
        scale, bias = description["scale_and_bias"]
        base = np.asarray(bias, np.float64).ravel()
        plain = _trees(description, float(scale), len(base))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise PackRefused(
            f"the model is damaged: what CatBoost writes of it is not whole ({error}); write it again with save_model"
        ) from error
    trees = packed_trees(plain)
    n_features = len(model.feature_names_)
    check_forest(trees, n_features, len(base))
    names = tuple(model.feature_names_)
    explains = objective != "RMSEWithUncertainty" and not any(_has_values_unseen(tree) for tree in plain)
    return NativeModel(
        made_by={"catboost": catboost.__version__},
        trees=trees,
        base=base.astype(np.float32).astype(np.float64),
        task=task,
        link=link,
        cover="weighted_count",
        n_features=n_features,
        feature_names=None if names == tuple(map(str, range(n_features))) else names,
        predict=_predictor(model, link, len(base), raw_score=raw_score),
        class_names=_class_names(model, task, len(base)),
        contributions=_contributions(copy) if explains else None,
        contributions_by="catboost ShapValues" if explains else None,
        hyper_parameters=scalars(model.get_all_params()),
    )


def _refuse_features(model: Any) -> None:
    kinds = {
        "categorical": model.get_cat_feature_indices(),
        "text": model.get_text_feature_indices(),
        "embedding": model.get_embedding_feature_indices(),
    }
    for kind, columns in kinds.items():
        if columns:
            raise PackRefused(
                f"feature {model.feature_names_[columns[0]]!r} is a {kind} feature, which CatBoost turns into "
                "statistics of the target that no ONNX tree computes: encode it as numbers before training"
            )


def _through_json(model: Any) -> tuple[dict[str, Any], catboost.CatBoost]:
    """Returns what CatBoost writes of the model, and what it reads of that."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        try:
            model.save_model(str(path), format="cbm")
            if not survives(path):
                raise PackRefused(_NO_COVERS)
            path = path.with_suffix(".json")
            model.save_model(str(path), format="json")
            description: dict[str, Any] = json.loads(path.read_bytes())
            return description, catboost.CatBoost().load_model(str(path), format="json")
        except (catboost.CatBoostError, ValueError) as error:
            raise PackRefused(f"CatBoost cannot write the model as JSON: {error}") from error


def _has_values_unseen(tree: PlainTree) -> bool:
    return bool(((tree.left < 0) & (tree.cover == 0) & (tree.value != 0).any(axis=1)).any())


def _objective(description: Mapping[str, Any]) -> str:
    """Returns the loss function's name, without its parameters."""
    loss = description["model_info"].get("params", {}).get("loss_function", {})
    name = str(loss.get("type", "custom"))
    return "custom" if name.startswith("Python") else name


def _task(objective: str) -> tuple[Task, Link]:
    if objective not in _OBJECTIVES:
        raise unsupported(objective, _OBJECTIVES, _REASONS)
    return _OBJECTIVES[objective]


def _refuse_threshold(description: Mapping[str, Any], task: Task) -> None:
    given = description["model_info"].get("binclass_probability_threshold")
    if task == "binary_classification" and given is not None and float(given) != 0.5:
        raise PackRefused(
            f"the model's probability threshold is {given}: call set_probability_threshold(0.5), and pack with "
            f"threshold={given}"
        )


def _trees(description: Mapping[str, Any], scale: float, n_outputs: int) -> list[PlainTree]:
    features = {one["feature_index"]: one for one in description["features_info"].get("float_features", [])}
    symmetric = description.get("oblivious_trees")
    if symmetric is not None:
        return [_symmetric(tree, number, features, scale, n_outputs) for number, tree in enumerate(symmetric)]
    return [
        _nested(tree, number, features, scale, n_outputs) for number, tree in enumerate(description.get("trees", []))
    ]


def _split(split: Mapping[str, Any], features: Mapping[int, Any], tree: int) -> tuple[int, float, bool]:
    """Returns the column, the border, and whether NaN goes left."""
    if split["split_type"] != "FloatFeature":
        raise PackRefused(f"tree {tree} splits on {_MADE_OF.get(split['split_type'], split['split_type'])}")
    feature = features[split["float_feature_index"]]
    return feature["flat_feature_index"], split["border"], feature["nan_value_treatment"] != "AsTrue"


def _symmetric(
    tree: Mapping[str, Any], number: int, features: Mapping[int, Any], scale: float, n_outputs: int
) -> PlainTree:
    splits = [_split(one, features, number) for one in reversed(tree["splits"] or [])]
    depth = len(splits)
    weights = tree.get("leaf_weights")
    if weights is None or len(weights) != 1 << depth:
        raise PackRefused(_NO_COVERS)
    inner = (1 << depth) - 1  # node i's children are 2i + 1 and 2i + 2
    nodes = np.arange(2 * inner + 1)
    level = np.repeat(np.arange(depth + 1), 1 << np.arange(depth + 1))
    cover = np.zeros(len(nodes))
    cover[inner:] = weights
    for node in range(inner - 1, -1, -1):
        cover[node] = cover[2 * node + 1] + cover[2 * node + 2]
    value = np.zeros((len(nodes), n_outputs))
    value[inner:] = scale * np.asarray(tree["leaf_values"], np.float64).reshape(-1, n_outputs)
    return PlainTree(
        left=np.where(nodes < inner, 2 * nodes + 1, -1),
        right=np.where(nodes < inner, 2 * nodes + 2, -1),
        feature=np.array([*(one[0] for one in splits), 0], np.int64)[level],
        threshold=np.array([*(one[1] for one in splits), 0.0], np.float64)[level],
        missing_left=np.array([*(one[2] for one in splits), False], np.bool_)[level],
        value=value,
        outputs=np.arange(n_outputs),
        cover=cover,
    )


def _nested(
    tree: Mapping[str, Any], number: int, features: Mapping[int, Any], scale: float, n_outputs: int
) -> PlainTree:
    nodes: list[Mapping[str, Any]] = [tree]
    children: list[tuple[int, int]] = []
    for node in nodes:  # grows as it goes
        if "split" in node:
            children.append((len(nodes), len(nodes) + 1))
            nodes += [node["left"], node["right"]]
        else:
            children.append((-1, -1))
    splits = [_split(node["split"], features, number) if "split" in node else (0, 0.0, False) for node in nodes]
    value, cover = np.zeros((len(nodes), n_outputs)), np.zeros(len(nodes))
    for place in range(len(nodes) - 1, -1, -1):
        node, (left, right) = nodes[place], children[place]
        if left >= 0:
            cover[place] = cover[left] + cover[right]
        elif "weight" not in node:
            raise PackRefused(_NO_COVERS)
        else:
            cover[place], value[place] = node["weight"], scale * np.asarray(node["value"], np.float64)
    left, right = np.array(children, np.int64).T
    return PlainTree(
        left=left,
        right=right,
        feature=np.array([one[0] for one in splits], np.int64),
        threshold=np.array([one[1] for one in splits], np.float64),
        missing_left=np.array([one[2] for one in splits], np.bool_),
        value=value,
        outputs=np.arange(n_outputs),
        cover=cover,
    )


def _class_names(model: Any, task: Task, n_outputs: int) -> tuple[str, ...] | None:
    names = class_names(model)
    fits = names is not None and len(names) == max(2, n_outputs)
    return names if task.endswith("classification") and fits else None


def _predictor(model: Any, link: Link, n_outputs: int, *, raw_score: bool) -> Predict:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        def ask(kind: str) -> NDArray[Any]:
            return np.asarray(catboost.CatBoost.predict(model, rows, kind)).reshape(len(rows), -1)

        margin = ask("RawFormulaVal")
        if raw_score or link == "identity":
            return margin, margin
        if link == "exponential":
            return margin, ask("Exponent")
        return margin, ask("Probability")[:, -n_outputs:]

    return predict


def _contributions(model: Any) -> Contributions:
    def contributions(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        found = model.get_feature_importance(catboost.Pool(rows), type="ShapValues")
        return bias_apart(found, rows)

    return contributions
