"""Reads LightGBM models: a Booster, a model of its scikit-learn interface, or the text file that save_model writes.

What LightGBM does to a value before it compares: where a split knows no missing values NaN counts as 0, which treelite
carries over as the side that NaN takes; and values up to 1e-35 count as 0, so that thresholds between -1e-35 and 1e-35
all ask for the sign. Both are kept. Codes of categories are cut to whole numbers, so only whole numbers are served.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import treelite

from xai_service.errors import PackRefused
from xai_service.pack.forest import check_forest
from xai_service.pack.lightgbm_file import DamagedFile, read_text
from xai_service.pack.native import NativeModel
from xai_service.pack.reading import RAW_SCORE_HINT, bias_apart, class_names, scalars, unsupported
from xai_service.pack.treelite_trees import read_treelite

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.native import Contributions, Predict
    from xai_service.types import Float32Array, Float64Array

_OBJECTIVES: dict[str, tuple[Task, Link]] = {
    "binary": ("binary_classification", "logistic"),
    "multiclass": ("multiclass_classification", "softmax"),
    "multiclassova": ("multiclass_classification", "one_vs_all"),
    "regression": ("regression", "identity"),
    "regression_l1": ("regression", "identity"),
    "huber": ("regression", "identity"),
    "fair": ("regression", "identity"),
    "quantile": ("regression", "identity"),
    "mape": ("regression", "identity"),
    "poisson": ("regression", "exponential"),
    "gamma": ("regression", "exponential"),
    "tweedie": ("regression", "exponential"),
    "cross_entropy": ("regression", "logistic"),
    "lambdarank": ("ranking", "identity"),
    "rank_xendcg": ("ranking", "identity"),
}
_REASONS = {
    "cross_entropy_lambda": ": its link, log(1 + exp(margin)), is not among those served",
    "custom": ": nothing says what the margins of a custom objective mean",
}
_ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold: what is nearer to 0 is taken for 0
_MISSING_IS_ZERO = 1  # of a split's decision_type, bits 2 and 3
_IS_CATEGORICAL = 1  # bit 0


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of a LightGBM model, cut at its best iteration if training stopped early.

    Args:
        model: a Booster, or a fitted model of the scikit-learn interface.
        raw_score: take it for a regression of its margin, whatever its objective is.

    Raises:
        PackRefused: not a readable LightGBM model, or one whose objective or settings are not supported; says which.
    """
    booster = _booster(model, raw_score=raw_score)
    rounds = booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()
    text = booster.model_to_string(num_iteration=rounds)
    header = _header(text)
    _refuse_settings(header, text)
    objective, settings = _objective(header)
    task: Task = "regression"
    link: Link = "identity"
    if not raw_score:
        task, link = _task(objective, settings)
    try:
        converted = treelite.frontend.from_lightgbm(lightgbm.Booster(model_str=text))
    except treelite.TreeliteError as error:
        raise PackRefused(f"the model is damaged, it cannot be read: {error}") from error
    # The first trees hold the mean of the targets, beside which their own differences may be small.
    forest = read_treelite(converted, "data_count", thresholds=_flushed, compares_float64=True, share_with_base=True)
    n_features = booster.num_feature()
    check_forest(forest.trees, n_features, len(forest.base))
    names = booster.feature_name()
    # A random forest predicts its trees' mean, but its raw score is their sum: here the margin is the mean.
    divisor = len(forest.trees) // len(forest.base) if "average_output" in header else 1
    categorical = _categorical(header)
    return NativeModel(
        made_by={"treelite": treelite.__version__, "lightgbm": lightgbm.__version__},
        trees=forest.trees,
        base=forest.base,
        task=task,
        link=link,
        link_scale=float(settings.get("sigmoid", "1")) if link in ("logistic", "one_vs_all") else 1.0,
        cover="data_count",
        n_features=n_features,
        feature_names=None if all(re.fullmatch(r"Column_\d+", name) for name in names) else tuple(names),
        predict=_predictor(booster, rounds, divisor, raw_score=raw_score),
        class_names=class_names(model) if task.endswith("classification") else None,
        categorical=frozenset(categorical),
        categories=_categories(booster, header, categorical),
        contributions=_contributions(booster, rounds, divisor),
        contributions_by="lightgbm pred_contrib",
        hyper_parameters=scalars(booster.params),
    )


def load(path: Path) -> lightgbm.Booster:
    """Returns the Booster in a text file.

    Raises:
        PackRefused: not a file that LightGBM reads; says what to do.
    """
    try:
        text = read_text(path)
    except (DamagedFile, OSError) as error:
        raise PackRefused(
            f"{path}: is no LightGBM model, or damaged or cut short: {error}; write it again with Booster.save_model"
        ) from error
    _refuse_settings(_header(text), text)
    try:
        return lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise PackRefused(
            f"{path}: LightGBM cannot read it: {error}; write it again with Booster.save_model"
        ) from error


def _booster(model: Any, *, raw_score: bool) -> lightgbm.Booster:
    if isinstance(model, lightgbm.Booster):
        return model
    if not isinstance(model, lightgbm.LGBMModel):
        raise PackRefused(
            f"{type(model).__module__}.{type(model).__qualname__} is not supported; a lightgbm.Booster, a lightgbm "
            "model of the scikit-learn interface, or the path of a .txt file is"
        )
    if callable(model.objective) and not raw_score:
        raise unsupported("custom", _OBJECTIVES, _REASONS)
    try:
        return model.booster_
    except Exception as error:  # scikit-learn's NotFittedError
        raise PackRefused(f"the model is not fitted: {error}") from error


def _header(text: str) -> dict[str, str]:
    lines = text.split("\n\n", 1)[0].split("\n")
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _objective(header: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Returns the objective's name and settings, as in ``binary sigmoid:1``."""
    name, *settings = header.get("objective", "custom").split(" ")
    return name, {key: value for key, _, value in (setting.partition(":") for setting in settings)}


def _task(objective: str, settings: dict[str, str]) -> tuple[Task, Link]:
    if objective not in _OBJECTIVES:
        raise unsupported(objective, _OBJECTIVES, _REASONS)
    if "sqrt" in settings:
        raise PackRefused(
            "reg_sqrt is not supported: it predicts the margin's signed square; train on the root of the target "
            f"yourself, {RAW_SCORE_HINT}"
        )
    return _OBJECTIVES[objective]


def _refuse_settings(header: dict[str, str], text: str) -> None:
    if re.search(r"^is_linear=1", text, re.MULTILINE) or header.get("linear_tree") == "1":
        raise PackRefused(
            "linear_tree is not supported: its leaves are linear models, which no tree ensemble holds; train without it"
        )
    for line in re.findall(r"^decision_type=(.*)$", text, re.MULTILINE):
        for kind in map(int, line.split()):
            if not kind & _IS_CATEGORICAL and kind >> 2 & 3 == _MISSING_IS_ZERO:
                raise PackRefused(
                    "zero_as_missing is not supported: ONNX knows no trees that take 0 for a missing value; write NaN "
                    "where a value is missing, and train without it"
                )


def _flushed(threshold: Float64Array) -> Float64Array:
    """Returns thresholds that ``value <= threshold`` asks for where LightGBM takes values near 0 for 0."""
    positive = np.where((threshold >= 0) & (threshold < _ZERO), _ZERO, threshold)
    below = np.nextafter(-_ZERO, -np.inf)
    return np.where((threshold < 0) & (threshold >= -_ZERO), below, positive)


def _categorical(header: dict[str, str]) -> list[int]:
    """Returns the columns of codes: their ``feature_infos`` list codes, where others give a range."""
    infos = header.get("feature_infos", "").split(" ")
    return [column for column, info in enumerate(infos) if info != "none" and not info.startswith("[")]


def _categories(booster: lightgbm.Booster, header: dict[str, str], columns: list[int]) -> dict[int, tuple[Any, ...]]:
    """Returns the values that a DataFrame held in training, by column, where LightGBM's list tells which is which.

    The list has no names, and is of all columns of the dtype category, ordered ones among them, which LightGBM takes
    for numbers: of other columns than the categorical ones, maybe, if just as many.
    """
    known = booster.pandas_categorical or []
    infos = header.get("feature_infos", "").split(" ")
    if len(known) != len(columns):
        return {}
    found = {column: tuple(values) for column, values in zip(columns, known, strict=True)}
    fits = all(max(map(int, infos[column].split(":"))) < len(values) for column, values in found.items())
    return found if fits else {}


def _predictor(booster: lightgbm.Booster, rounds: int, divisor: int, *, raw_score: bool) -> Predict:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        given = {"num_iteration": rounds, "validate_features": False}
        margin = np.asarray(booster.predict(rows, raw_score=True, **given)).reshape(len(rows), -1) / divisor
        if raw_score:
            return margin, margin
        return margin, np.asarray(booster.predict(rows, **given)).reshape(margin.shape)

    return predict


def _contributions(booster: lightgbm.Booster, rounds: int, divisor: int) -> Contributions:
    def contributions(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        found = np.asarray(booster.predict(rows, pred_contrib=True, num_iteration=rounds, validate_features=False))
        return bias_apart(found / divisor, rows)

    return contributions
