"""Trains the LightGBM models of the matrix: small, on real data, each in well under a second."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np

from tests.matrix.data import CATEGORICAL, NAMES, REGION, people
from tests.matrix.oracles import of_lightgbm

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.oracles import Case

_COMMON: dict[str, Any] = {
    "num_leaves": 9, "min_data_in_leaf": 5, "num_threads": 1, "seed": 3, "verbosity": -1, "min_data_per_group": 5,
    "cat_smooth": 1.0,
}  # fmt: skip
_ROUNDS = 10


def _train(data: lightgbm.Dataset, rounds: int = _ROUNDS, **parameters: Any) -> lightgbm.Booster:
    return lightgbm.train({**_COMMON, **parameters}, data, rounds)


def trained(target: str, **parameters: Any) -> Callable[[], Case]:
    """Returns a function that trains a Booster with these parameters."""

    def train() -> Case:
        return of_lightgbm(_train(lightgbm.Dataset(people().rows, people().targets[target]), **parameters))

    return train


def forest(target: str, **parameters: Any) -> Callable[[], Case]:
    def train() -> Case:
        data = lightgbm.Dataset(people().rows, people().targets[target])
        booster = _train(data, boosting="rf", bagging_fraction=0.5, bagging_freq=1, **parameters)
        return of_lightgbm(booster, averaged=_ROUNDS)

    return train


def ranked(objective: str) -> Callable[[], Case]:
    def train() -> Case:
        order = np.argsort(people().rows[:, REGION], kind="stable")
        groups = np.unique(people().rows[:, REGION], return_counts=True)[1]
        data = lightgbm.Dataset(people().rows[order], people().targets["third"][order], group=groups)
        return of_lightgbm(_train(data, objective=objective))

    return train


def near_zero() -> Case:
    """Splits whose thresholds are ±1e-35: there LightGBM takes what is nearer to 0 for 0."""
    rows = people().rows - np.nanmedian(people().rows, axis=0)
    booster = _train(lightgbm.Dataset(rows, people().targets["log wage"]), objective="regression", rounds=20)
    case = of_lightgbm(booster, X=rows)
    assert {abs(threshold) < 2e-35 for _, threshold in case.thresholds} == {False, True}
    return case


def stopped_early() -> Case:
    rows, target = people().rows, people().targets["well paid"]
    fit = lightgbm.Dataset(rows[:400], target[:400])
    stop = lightgbm.early_stopping(4, verbose=False)
    booster = lightgbm.train(
        {**_COMMON, "objective": "binary", "learning_rate": 0.6},
        fit,
        60,
        valid_sets=[fit.create_valid(rows[400:], target[400:])],
        callbacks=[stop],
        keep_training_booster=True,  # else LightGBM cuts it itself
    )
    assert booster.best_iteration < booster.num_trees()
    return of_lightgbm(booster)


def stopped_early_classifier() -> Case:
    rows, target = people().rows, people().targets["third"].astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=60, learning_rate=0.6, n_jobs=1, verbosity=-1)
    stop = lightgbm.early_stopping(4, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of eval_set, whose heir LightGBM 4.6 does not have
        model.fit(rows[:400], target[:400], eval_set=[(rows[400:], target[400:])], callbacks=[stop])
    return of_lightgbm(model.booster_, model)


def classifier() -> Case:
    names = np.array(["badly", "well"])[people().targets["well paid"].astype(int)]
    model = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, n_jobs=1, verbosity=-1).fit(people().rows, names)
    return of_lightgbm(model.booster_, model)


def ranker() -> Case:
    order = np.argsort(people().rows[:, REGION], kind="stable")
    groups = np.unique(people().rows[:, REGION], return_counts=True)[1]
    model = lightgbm.LGBMRanker(n_estimators=8, num_leaves=7, n_jobs=1, verbosity=-1)
    model.fit(people().rows[order], people().targets["third"][order], group=groups)
    return of_lightgbm(model.booster_, model)


def custom(**options: Any) -> Callable[[], Case]:
    def objective(labels: Any, margin: Any) -> tuple[Any, Any]:
        return (margin - labels) * np.where(margin > labels, 1, 3), np.ones_like(labels)

    def train() -> Case:
        model = lightgbm.LGBMRegressor(n_estimators=8, num_leaves=7, n_jobs=1, verbosity=-1, objective=objective)
        model.fit(people().rows, people().targets["log wage"])
        return of_lightgbm(model.booster_, model, options=options)

    return train


def saved() -> Case:
    booster = trained("third", objective="multiclass", num_class=3)().model
    path = Path(_folder().name) / "model.txt"
    booster.save_model(path)
    return of_lightgbm(booster, path)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def names_with_spaces() -> Case:
    frame = people().frame().assign(region=people().rows[:, REGION], married=people().rows[:, -1])
    frame = frame.rename(columns={"educ": "years of schooling"})
    booster = _train(lightgbm.Dataset(frame, people().targets["log wage"]), objective="regression")
    return of_lightgbm(booster, X=frame)


def categorical() -> Case:
    data = lightgbm.Dataset(people().rows, people().targets["well paid"], categorical_feature=list(CATEGORICAL))
    return of_lightgbm(_train(data, objective="binary", max_cat_to_onehot=2), categorical=CATEGORICAL)


def of_frame() -> Case:
    frame = people().frame()
    booster = _train(lightgbm.Dataset(frame, people().targets["well paid"]), objective="binary")
    assert booster.feature_name() == list(NAMES)
    return of_lightgbm(booster, X=frame, categorical=CATEGORICAL)
