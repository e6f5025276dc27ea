"""Trains the XGBoost models of the matrix: small, on real data, each in well under a second."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from tests.matrix.data import CATEGORICAL, NAMES, REGION, people
from tests.matrix.oracles import of_xgboost

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.oracles import Case

_COMMON: dict[str, Any] = {"max_depth": 4, "eta": 0.3, "nthread": 1, "seed": 3}
_ROUNDS = 10


def _train(matrix: xgboost.DMatrix, rounds: int = _ROUNDS, **parameters: Any) -> xgboost.Booster:
    given = {key: value for key, value in {**_COMMON, **parameters}.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that gblinear and others are deprecated
        return xgboost.train(given, matrix, rounds)


def trained(target: str, **parameters: Any) -> Callable[[], Case]:
    """Returns a function that trains a Booster with these parameters."""

    def train() -> Case:
        booster = _train(xgboost.DMatrix(people().rows, people().targets[target]), **parameters)
        vectors = parameters.get("multi_strategy") == "multi_output_tree"
        if parameters.get("booster") == "gblinear":  # no trees to list
            return of_xgboost(booster, vector_leaves=True)
        return of_xgboost(booster, vector_leaves=vectors)

    return train


def survival() -> Case:
    wage = people().targets["wage"]
    matrix = xgboost.DMatrix(people().rows)
    matrix.set_float_info("label_lower_bound", wage)
    matrix.set_float_info("label_upper_bound", np.where(wage > np.quantile(wage, 0.8), np.inf, wage))
    return of_xgboost(_train(matrix, objective="survival:aft", eval_metric="aft-nloglik"))


def ranked(objective: str, target: str = "third") -> Callable[[], Case]:
    def train() -> Case:
        order = np.argsort(people().rows[:, REGION], kind="stable")
        matrix = xgboost.DMatrix(people().rows[order], people().targets[target][order])
        matrix.set_group(np.unique(people().rows[:, REGION], return_counts=True)[1])
        return of_xgboost(_train(matrix, objective=objective))

    return train


def _fitted(model: xgboost.XGBModel, target: str, **options: Any) -> Case:
    labels = people().targets[target]
    labels = labels.astype(int) if isinstance(model, xgboost.XGBClassifier) else labels
    model.fit(people().rows, labels)
    return of_xgboost(model.get_booster(), model, **options)


def random_forest() -> Case:
    return _fitted(xgboost.XGBRFClassifier(n_estimators=12, max_depth=5, n_jobs=1), "well paid")


def classifier() -> Case:
    return _fitted(xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1), "third")


def regressor() -> Case:
    return _fitted(xgboost.XGBRegressor(n_estimators=8, max_depth=3, n_jobs=1), "log wage")


def ranker() -> Case:
    model = xgboost.XGBRanker(n_estimators=8, max_depth=3, n_jobs=1)
    order = np.argsort(people().rows[:, REGION], kind="stable")
    regions = people().rows[order, REGION].astype(int)
    model.fit(people().rows[order], people().targets["third"][order], qid=regions)
    return of_xgboost(model.get_booster(), model)


def missing_is_a_number() -> Case:
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1, missing=-1.0)
    model.fit(people().filled, people().targets["log wage"])
    return of_xgboost(model.get_booster(), model)


def custom(**options: Any) -> Callable[[], Case]:
    def objective(labels: Any, margin: Any) -> tuple[Any, Any]:
        return (margin - labels) * np.where(margin > labels, 1, 3), np.ones_like(labels)

    def train() -> Case:
        model = xgboost.XGBRegressor(n_estimators=8, max_depth=3, n_jobs=1, objective=objective)
        return _fitted(model, "log wage", options=options)

    return train


def _halves() -> tuple[xgboost.DMatrix, xgboost.DMatrix]:
    rows, target = people().rows, people().targets["well paid"]
    return xgboost.DMatrix(rows[:400], target[:400]), xgboost.DMatrix(rows[400:], target[400:])


def stopped_early() -> Case:
    fit, held_out = _halves()
    parameters = {**_COMMON, "objective": "binary:logistic", "eta": 0.6}
    booster = xgboost.train(
        parameters, fit, 60, evals=[(held_out, "held")], early_stopping_rounds=4, verbose_eval=False
    )
    assert booster.best_iteration + 1 < booster.num_boosted_rounds()
    return of_xgboost(booster)


def stopped_early_classifier() -> Case:
    rows, target = people().rows, people().targets["third"].astype(int)
    model = xgboost.XGBClassifier(n_estimators=60, learning_rate=0.6, max_depth=3, early_stopping_rounds=4, n_jobs=1)
    model.fit(rows[:400], target[:400], eval_set=[(rows[400:], target[400:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    return of_xgboost(model.get_booster(), model)


def base_scores() -> Case:
    """XGBoost fits a base score for each target; these are far apart."""
    targets = people().targets["several"] * [1.0, 100.0] + [0.0, 500.0]
    return of_xgboost(_train(xgboost.DMatrix(people().rows, targets), objective="reg:squarederror"))


def saved(suffix: str) -> Callable[[], Case]:
    def train() -> Case:
        case = trained("third", objective="multi:softprob", num_class=3)()
        path = Path(_folder().name) / f"model{suffix}"
        case.model.save_model(path)
        return of_xgboost(case.model, path)

    return train


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def categorical(**parameters: Any) -> Callable[[], Case]:
    def train() -> Case:
        kinds = ["c" if i in CATEGORICAL else "q" for i in range(len(NAMES))]
        matrix = xgboost.DMatrix(
            people().rows, people().targets["well paid"], feature_types=kinds, enable_categorical=True
        )
        return of_xgboost(_train(matrix, objective="binary:logistic", min_child_weight=0, **parameters))

    return train


def of_frame() -> Case:
    frame = people().frame()
    matrix = xgboost.DMatrix(frame, people().targets["well paid"], enable_categorical=True)
    return of_xgboost(_train(matrix, objective="binary:logistic", max_cat_to_onehot=1), X=frame)
