"""Reads XGBoost models: a Booster, a model of its scikit-learn interface, or a .json or .ubj file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import treelite
import xgboost

from xai_service.errors import PackRefused
from xai_service.pack import xgboost_training
from xai_service.pack.native import NativeModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.model.manifest import Link, Task
    from xai_service.types import Float32Array

_OBJECTIVES: dict[str, tuple[Task, Link]] = {
    "binary:logistic": ("binary_classification", "logistic"),
    # Trained as binary:logistic, but the library predicts the margin: the probability is its logistic function.
    "binary:logitraw": ("binary_classification", "logistic"),
    "reg:squarederror": ("regression", "identity"),
    "reg:squaredlogerror": ("regression", "identity"),
    "reg:absoluteerror": ("regression", "identity"),
    "reg:pseudohubererror": ("regression", "identity"),
    "reg:quantileerror": ("regression", "identity"),
    "count:poisson": ("regression", "exponential"),
    "reg:gamma": ("regression", "exponential"),
    "reg:tweedie": ("regression", "exponential"),
}


def read(model: Any) -> NativeModel:
    """Returns the neutral description of an XGBoost model, cut at its best iteration if training stopped early.

    A Booster does not tell which value meant "missing" in its training data, nor whether a custom objective trained
    it: here missing is NaN, and the objective is the one that its configuration names.

    Raises:
        PackRefused: not a readable XGBoost model, or one whose objective or settings are not supported; says which.
    """
    booster = _booster(model)
    learner = json.loads(booster.save_config())["learner"]
    if learner["gradient_booster"]["name"] not in ("gbtree", "dart"):
        raise PackRefused(
            f"booster {learner['gradient_booster']['name']} is not supported, only gbtree and dart are: it has no trees"
        )
    objective = learner["objective"]["name"]
    if objective not in _OBJECTIVES:
        raise PackRefused(f"objective {objective} is not supported; supported are {', '.join(_OBJECTIVES)}")
    sizes = learner["learner_model_param"]
    if int(sizes["num_class"]) > 1 or int(sizes.get("num_target", "1")) > 1:
        raise PackRefused("models with several outputs (multi-class, multi-target) are not supported yet, only one is")
    if "c" in (booster.feature_types or ()):
        columns = [i for i, kind in enumerate(booster.feature_types) if kind == "c"]
        raise PackRefused(f"features {columns[:8]} are categorical; categoricals are not supported yet")

    rounds = _rounds(booster)
    try:
        trees = treelite.frontend.from_xgboost(booster[:rounds])
    except treelite.TreeliteError as error:
        raise PackRefused(f"treelite cannot read the model: {error}") from error
    task, link = _OBJECTIVES[objective]
    return NativeModel(
        made_by={"treelite": treelite.__version__, "xgboost": xgboost.__version__},
        trees=trees,
        base=_base(trees),
        task=task,
        link=link,
        cover="sum_hessian",
        n_features=booster.num_features(),
        feature_names=None if booster.feature_names is None else tuple(booster.feature_names),
        predict=_predictor(booster, rounds, raw=objective == "binary:logitraw"),
        hyper_parameters=xgboost_training.hyper_parameters(model, booster, rounds),
        monotonicity=xgboost_training.monotonicity(booster),
    )


def load(path: Path) -> xgboost.Booster:
    """Returns the Booster in a file.

    Raises:
        PackRefused: not a .json or .ubj file that XGBoost reads; says what to do.
    """
    if path.suffix not in (".json", ".ubj"):
        raise PackRefused(f"{path}: only .json and .ubj are read, as Booster.save_model writes them")
    if not path.is_file():
        raise PackRefused(f"{path}: there is no such file")
    try:
        return xgboost.Booster(model_file=path)
    except (xgboost.core.XGBoostError, OSError, ValueError) as error:
        # XGBoost's own text is of its C++ source, and says nothing about the file; the traceback has it.
        raise PackRefused(
            f"{path}: XGBoost cannot read it: it is no XGBoost model, or damaged or cut short; write it again with "
            "Booster.save_model"
        ) from error


def _booster(model: Any) -> xgboost.Booster:
    if isinstance(model, (str, Path)):
        return load(Path(model))
    if isinstance(model, xgboost.Booster):
        return model
    if isinstance(model, xgboost.XGBModel):
        if callable(model.objective):
            raise PackRefused(f"custom objectives are not supported; supported are {', '.join(_OBJECTIVES)}")
        if not (isinstance(model.missing, float) and math.isnan(model.missing)):
            raise PackRefused(f"missing={model.missing} is not supported: train with NaN for missing values")
        try:
            return model.get_booster()
        except Exception as error:  # scikit-learn's NotFittedError, where scikit-learn is installed
            raise PackRefused(f"the model is not fitted: {error}") from error
    raise PackRefused(
        f"{type(model).__module__}.{type(model).__qualname__} is not supported; an xgboost.Booster, an xgboost model "
        "of the scikit-learn interface, or the path of a .json or .ubj file is"
    )


def _rounds(booster: xgboost.Booster) -> int:
    """Returns how many boosting rounds predict: up to the best one if training stopped early, else all."""
    trained = booster.num_boosted_rounds()
    best = booster.attr("best_iteration")
    rounds = trained if best is None else int(best) + 1
    if not 1 <= rounds <= trained:
        raise PackRefused(f"the model has {trained} boosting rounds, of which {rounds} are to predict: nothing to pack")
    return rounds


def _base(trees: Any) -> float:
    # treelite carries base_score through the objective's link, once for every output.
    base = trees.get_header_accessor().get_field("base_scores")
    if base.shape != (1,):
        raise PackRefused(f"the model has {base.size} base scores; models with one output are supported")
    return float(np.float32(base[0]))


def _predictor(
    booster: xgboost.Booster, rounds: int, *, raw: bool
) -> Callable[[Float32Array], tuple[Float32Array, Float32Array]]:
    names, types = booster.feature_names, booster.feature_types

    def predict(rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        matrix = xgboost.DMatrix(rows, missing=np.nan, feature_names=names, feature_types=types)
        margin = booster.predict(matrix, output_margin=True, iteration_range=(0, rounds))
        if raw:
            with np.errstate(over="ignore"):
                return margin, (1 / (1 + np.exp(-margin.astype(np.float64)))).astype(np.float32)
        return margin, booster.predict(matrix, iteration_range=(0, rounds))

    return predict
