"""Trains the CatBoost models of the matrix, and asks CatBoost about them: small, on real data."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import catboost
import numpy as np

from tests.matrix.data import NAMES, REGION, people
from tests.matrix.oracles import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array, Float64Array

REFERENCE = "catboost ShapValues"
_COMMON: dict[str, Any] = {
    "iterations": 8, "depth": 4, "thread_count": 1, "random_seed": 3, "verbose": False, "allow_writing_files": False,
}  # fmt: skip
_EXPONENTIAL = ("Poisson", "Tweedie")
_CLASSIFIERS = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")


def trained(target: str, loss: str, **parameters: Any) -> Callable[[], Case]:
    """Returns a function that trains a CatBoost object with this loss and these parameters."""

    def train() -> Case:
        model = catboost.CatBoost({**_COMMON, "loss_function": loss, **parameters})
        labels = people().targets[target]
        if loss in ("Logloss", "MultiClass", "MultiClassOneVsAll"):
            labels = labels.astype(int)
        return of_catboost(model.fit(catboost.Pool(people().rows, labels)))

    return train


def of_catboost(model: catboost.CatBoost, **given: Any) -> Case:
    """Describes a model by what CatBoost itself answers; of attributions, what it answers once loaded from JSON."""
    path = Path(_folder().name) / f"{len(list(Path(_folder().name).iterdir()))}.json"
    model.save_model(str(path), format="json")
    copy = catboost.CatBoost().load_model(str(path), format="json")
    description = json.loads(path.read_text())
    loss = description["model_info"]["params"]["loss_function"]["type"]

    def ask(rows: Float32Array, kind: str) -> Any:
        return catboost.CatBoost.predict(model, rows, kind)  # a CatBoostRanker's own offers no kinds

    def margin(rows: Float32Array) -> Any:
        return ask(rows, "RawFormulaVal").reshape(len(rows), -1)

    def outputs(rows: Float32Array) -> Any:
        if loss in _EXPONENTIAL:
            return ask(rows, "Exponent").reshape(len(rows), -1)
        if loss not in _CLASSIFIERS:
            return model.predict(rows).reshape(len(rows), -1)
        shares = ask(rows, "Probability")
        return shares[:, 1:] if margin(rows).shape[1] == 1 else shares

    def contributions(rows: Float32Array) -> Float64Array:
        found = np.asarray(copy.get_feature_importance(catboost.Pool(rows), type="ShapValues"))
        return found.reshape(len(rows), -1, rows.shape[1] + 1)[:, :, :-1].transpose(0, 2, 1)

    columns = {one["feature_index"]: one for one in description["features_info"]["float_features"]}
    return Case(
        **{
            "model": model,
            "margin": margin,
            "outputs": outputs,
            "contributions": contributions,
            "reference": REFERENCE,
            "thresholds": [
                (one["flat_feature_index"], border) for one in columns.values() for border in one["borders"] or ()
            ],
            # Symmetric trees ask each question of all rows, also where it is answered; others do so now and then.
            "asks_again": True,
            "trees": lambda: _symmetric_trees(description),
            **given,
        }
    )


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _symmetric_trees(description: dict[str, Any]) -> list[list[Any]]:
    """Returns the trees as `tests.oracles` has them, by output."""
    outputs = np.size(description["scale_and_bias"][1])
    columns = {one["feature_index"]: one for one in description["features_info"]["float_features"]}

    def nested(tree: Any, output: int, level: int, leaf: int = 0) -> Any:
        if level < 0:
            return ("leaf", tree["leaf_values"][leaf * outputs + output], tree["leaf_weights"][leaf])
        split = tree["splits"][level]
        column = columns[split["float_feature_index"]]
        children = (nested(tree, output, level - 1, leaf | side << level) for side in (0, 1))
        nan_left = column["nan_value_treatment"] != "AsTrue"
        return ("split", column["flat_feature_index"], split["border"], "<=", nan_left, *children)

    trees = description["oblivious_trees"]
    return [[nested(tree, output, len(tree["splits"]) - 1) for tree in trees] for output in range(outputs)]


def ranked(loss: str) -> Callable[[], Case]:
    def train() -> Case:
        order = np.argsort(people().rows[:, REGION], kind="stable")
        groups = people().rows[order, REGION].astype(int)
        pool = catboost.Pool(people().rows[order], people().targets["third"][order] / 2, group_id=groups)
        return of_catboost(catboost.CatBoostRanker(**_COMMON, loss_function=loss).fit(pool))

    return train


def monotone() -> Case:
    """Constraints leave values in leaves that no training row reached, which CatBoost cannot explain on its own."""
    model = catboost.CatBoostRegressor(**_COMMON, monotone_constraints={0: 1})
    model.fit(people().rows, people().targets["wage"])
    return of_catboost(model, contributions=None, reference=None)


def weighted() -> Case:
    weight = np.linspace(0.1, 3, len(people().rows))
    pool = catboost.Pool(people().rows, people().targets["well paid"], weight=weight)
    parameters = {"auto_class_weights": "Balanced", "bootstrap_type": "Bernoulli", "subsample": 0.5}
    return of_catboost(catboost.CatBoost({**_COMMON, "loss_function": "Logloss", **parameters}).fit(pool))


def stopped_early() -> Case:
    rows, target = people().rows, people().targets["well paid"]
    model = catboost.CatBoostClassifier(**{**_COMMON, "iterations": 80}, learning_rate=0.9, early_stopping_rounds=4)
    model.fit(rows[:400], target[:400], eval_set=(rows[400:], target[400:]))
    assert model.tree_count_ == model.get_best_iteration() + 1 < 80
    return of_catboost(model)


def classifier() -> Case:
    names = np.array(["badly", "well"])[people().targets["well paid"].astype(int)]
    return of_catboost(catboost.CatBoostClassifier(**_COMMON).fit(people().rows, names))


def named() -> Case:
    frame = people().frame().assign(region=people().rows[:, REGION], married=people().rows[:, -1])
    model = catboost.CatBoostRegressor(**_COMMON).fit(frame, people().targets["log wage"])
    assert tuple(model.feature_names_) == NAMES
    return of_catboost(model, X=frame)


def no_gaps() -> Case:
    model = catboost.CatBoostRegressor(**_COMMON, nan_mode="Forbidden")
    return of_catboost(model.fit(people().filled, people().targets["log wage"]), X=people().filled)


def saved(suffix: str) -> Callable[[], Case]:
    def train() -> Case:
        case = trained("third", "MultiClass")()
        path = Path(_folder().name) / f"saved{suffix}"
        case.model.save_model(str(path), format=suffix.removeprefix("."))
        return Case(**{**vars(case), "model": path})

    return train


def raw_score() -> Case:
    case = trained("wage", "RMSEWithUncertainty")()
    return Case(**{**vars(case), "contributions": None, "reference": None, "options": {"raw_score": True}})


class _Pinball:
    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> list[tuple[float, float]]:  # noqa: ARG002
        found = []
        for i in range(len(targets)):  # CatBoost has numba compile it
            found.append(((targets[i] - approxes[i]) * (3.0 if targets[i] > approxes[i] else 1.0), -1.0))  # noqa: PERF401
        return found


def custom(**options: Any) -> Callable[[], Case]:
    def train() -> Case:
        parameters = {"loss_function": _Pinball(), "eval_metric": "RMSE", "leaf_estimation_iterations": 1}
        model = catboost.CatBoost({**_COMMON, **parameters, "leaf_estimation_method": "Gradient"})
        return of_catboost(model.fit(catboost.Pool(people().rows, people().targets["log wage"])), options=options)

    return train


def _unread(model: Any, X: Any = None) -> Case:
    return Case(model, model.predict, model.predict, None, [], X=X)


def categorical() -> Case:
    frame = people().frame().assign(married=people().rows[:, -1])
    model = catboost.CatBoostClassifier(**_COMMON, cat_features=["region"])
    return _unread(model.fit(frame, people().targets["well paid"]), frame)


def text() -> Case:
    frame = people().frame().assign(married=people().rows[:, -1]).astype({"region": str})
    model = catboost.CatBoostClassifier(**_COMMON, text_features=["region"])
    return _unread(model.fit(frame, people().targets["well paid"]), frame)


def other_threshold() -> Case:
    model = catboost.CatBoostClassifier(**_COMMON).fit(people().rows, people().targets["well paid"])
    model.set_probability_threshold(0.3)
    return _unread(model)


def through_onnx() -> Case:
    path = Path(_folder().name) / "through.onnx"
    model = trained("log wage", "RMSE")().model
    model.save_model(str(path), format="onnx")
    return _unread(catboost.CatBoost().load_model(str(path), format="onnx"))
