"""Reads XGBoost models: a Booster, a model of its scikit-learn interface, or a .json or .ubj file."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import treelite
import xgboost

from xai_service.errors import PackRefused
from xai_service.model.links import apply_link
from xai_service.pack import xgboost_training
from xai_service.pack.forest import check_forest
from xai_service.pack.native import NativeModel
from xai_service.pack.reading import RAW_SCORE_HINT, bias_apart, class_names, unsupported
from xai_service.pack.treelite_trees import read_treelite

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.native import Contributions, Predict
    from xai_service.types import Float32Array, Float64Array

_OBJECTIVES: dict[str, tuple[Task, Link]] = {
    "binary:logistic": ("binary_classification", "logistic"),
    # Trained as binary:logistic, but the library predicts the margin: the probability is its logistic function.
    "binary:logitraw": ("binary_classification", "logistic"),
    # The two are trained alike; the first predicts the label, which the greatest margin tells.
    "multi:softmax": ("multiclass_classification", "softmax"),
    "multi:softprob": ("multiclass_classification", "softmax"),
    "reg:linear": ("regression", "identity"),
    "reg:squarederror": ("regression", "identity"),
    "reg:squaredlogerror": ("regression", "identity"),
    "reg:absoluteerror": ("regression", "identity"),
    "reg:pseudohubererror": ("regression", "identity"),
    "reg:quantileerror": ("regression", "identity"),
    "reg:logistic": ("regression", "logistic"),
    "count:poisson": ("regression", "exponential"),
    "reg:gamma": ("regression", "exponential"),
    "reg:tweedie": ("regression", "exponential"),
    "survival:cox": ("regression", "exponential"),
    "survival:aft": ("regression", "exponential"),
    "rank:pairwise": ("ranking", "identity"),
    "rank:ndcg": ("ranking", "identity"),
    "rank:map": ("ranking", "identity"),
}
_REASONS = {"binary:hinge": ", as it predicts 0 or 1 and no probability: train with binary:logistic"}
_MARGIN_IS_PREDICTED = ("binary:logitraw", "multi:softmax")


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of an XGBoost model, cut at its best iteration if training stopped early.

    A Booster does not tell which value meant "missing" in its training data, nor whether a custom objective trained
    it: here missing is NaN, and the objective is the one that its configuration names.

    Args:
        model: a Booster, or a fitted model of the scikit-learn interface.
        raw_score: take it for a regression of its margin, whatever its objective is.

    Raises:
        PackRefused: not a readable XGBoost model, or one whose objective or settings are not supported; says which.
    """
    booster = _booster(model, raw_score=raw_score)
    try:
        learner = json.loads(booster.save_config())["learner"]
    except xgboost.core.XGBoostError as error:
        raise PackRefused("the model was not trained, or it is damaged: it has no features") from error
    if learner["gradient_booster"]["name"] not in ("gbtree", "dart"):
        raise PackRefused(
            f"booster {learner['gradient_booster']['name']} is not supported, only gbtree and dart are: it has no trees"
        )
    objective = learner["objective"]["name"]
    task: Task = "regression"
    link: Link = "identity"
    if not raw_score:
        task, link = _task(objective)
    rounds = _rounds(booster)
    try:
        forest = read_treelite(treelite.frontend.from_xgboost(booster[:rounds]), "sum_hessian")
    except (treelite.TreeliteError, xgboost.core.XGBoostError, IndexError) as error:
        raise PackRefused(f"the model is damaged, it cannot be read: {error}") from error
    n_features = booster.num_features()
    check_forest(forest.trees, n_features, len(forest.base))
    if task == "binary_classification" and len(forest.base) > 1:
        task = "multilabel_classification"
    # A tree for all targets has vectors in its leaves, which XGBoost cannot explain.
    explains = all(len(tree.outputs) == 1 for tree in forest.trees)
    kinds = booster.feature_types or ()
    return NativeModel(
        made_by={"treelite": treelite.__version__, "xgboost": xgboost.__version__},
        trees=forest.trees,
        base=forest.base,
        task=task,
        link=link,
        cover="sum_hessian",
        n_features=n_features,
        feature_names=None if booster.feature_names is None else tuple(booster.feature_names),
        predict=_predictor(booster, rounds, None if raw_score else objective, link),
        class_names=class_names(model) if task == "multiclass_classification" else None,
        categorical=frozenset(i for i, kind in enumerate(kinds) if kind == "c"),
        categories=_categories(booster) if "c" in kinds else {},
        contributions=_contributions(booster, rounds) if explains else None,
        contributions_by="xgboost pred_contribs" if explains else None,
        hyper_parameters=xgboost_training.hyper_parameters(model, booster, rounds),
        monotonicity=xgboost_training.monotonicity(booster),
    )


def load(path: Path) -> xgboost.Booster:
    """Returns the Booster in a file.

    Raises:
        PackRefused: not a .json or .ubj file that XGBoost reads; says what to do.
    """
    try:
        return xgboost.Booster(model_file=path)
    except (xgboost.core.XGBoostError, OSError, ValueError) as error:
        # XGBoost's own text is of its C++ source, and says nothing about the file; the traceback has it.
        raise PackRefused(
            f"{path}: XGBoost cannot read it: it is no XGBoost model, or damaged or cut short; write it again with "
            "Booster.save_model"
        ) from error


def _task(objective: str) -> tuple[Task, Link]:
    if objective not in _OBJECTIVES:
        raise unsupported(objective, _OBJECTIVES, _REASONS)
    return _OBJECTIVES[objective]


def _booster(model: Any, *, raw_score: bool) -> xgboost.Booster:
    if isinstance(model, xgboost.Booster):
        return model
    if not isinstance(model, xgboost.XGBModel):
        raise PackRefused(
            f"{type(model).__module__}.{type(model).__qualname__} is not supported; an xgboost.Booster, an xgboost "
            "model of the scikit-learn interface, or the path of a .json or .ubj file is"
        )
    if callable(model.objective) and not raw_score:
        raise PackRefused(
            f"custom objectives are not supported, as nothing says what their margins mean; supported are "
            f"{', '.join(_OBJECTIVES)}; {RAW_SCORE_HINT}"
        )
    if not (isinstance(model.missing, float) and math.isnan(model.missing)):
        raise PackRefused(
            f"missing={model.missing} is not supported: rows are served with NaN for missing values. The trees are the "
            "same for either: call set_params(missing=float('nan')), and write NaN in the rows where "
            f"{model.missing} stood"
        )
    try:
        return model.get_booster()
    except Exception as error:  # scikit-learn's NotFittedError, where scikit-learn is installed
        raise PackRefused(f"the model is not fitted: {error}") from error


def _rounds(booster: xgboost.Booster) -> int:
    """Returns how many boosting rounds predict: up to the best one if training stopped early, else all."""
    trained = booster.num_boosted_rounds()
    best = booster.attr("best_iteration")
    rounds = trained if best is None else int(best) + 1
    if not 1 <= rounds <= trained:
        raise PackRefused(f"the model has {trained} boosting rounds, of which {rounds} are to predict: nothing to pack")
    return rounds


def _categories(booster: xgboost.Booster) -> dict[int, tuple[Any, ...]]:
    """Returns the values that a DataFrame held in training, by column; XGBoost ≥ 3.1 keeps them."""
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    encodings = model.get("gbtree", model)["model"].get("cats", {}).get("enc", [])
    found: dict[int, tuple[Any, ...]] = {}
    for column, encoding in enumerate(encodings):
        if "offsets" in encoding:  # text, end to end as in Apache Arrow
            data, ends = bytes(np.array(encoding["values"], np.int64).astype(np.uint8)), encoding["offsets"]
            texts = [data[a:b].decode() for a, b in itertools.pairwise(ends)]
            found |= {column: tuple(texts)} if texts else {}
        else:
            found[column] = tuple(encoding["values"])
    return found


def _matrix(booster: xgboost.Booster, rows: Float32Array) -> xgboost.DMatrix:
    names, types = booster.feature_names, booster.feature_types
    return xgboost.DMatrix(
        rows, missing=np.nan, feature_names=names, feature_types=types, enable_categorical="c" in (types or ())
    )


def _predictor(booster: xgboost.Booster, rounds: int, objective: str | None, link: Link) -> Predict:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        matrix = _matrix(booster, rows)
        margin = booster.predict(matrix, output_margin=True, iteration_range=(0, rounds)).reshape(len(rows), -1)
        if objective is None:
            return margin, margin
        if objective in _MARGIN_IS_PREDICTED:
            return margin, apply_link(margin.astype(np.float64), link)
        return margin, booster.predict(matrix, iteration_range=(0, rounds)).reshape(margin.shape)

    return predict


def _contributions(booster: xgboost.Booster, rounds: int) -> Contributions:
    def contributions(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        found = booster.predict(_matrix(booster, rows), pred_contribs=True, iteration_range=(0, rounds))
        return bias_apart(found, rows)

    return contributions
