"""Trains the scikit-learn models of the matrix, and asks scikit-learn and shap about them: small, on real data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import shap
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.matrix.data import CATEGORICAL, MARRIED, REGION, people
from tests.matrix.oracles import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array, Float64Array

    Split = Callable[[int], tuple[Any, str]]

SHAP = "shap TreeExplainer"
TRIED_CODES = (-3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 70, 1_000_000)
_FORESTS = (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor)


def fitted(model: Any, target: str, *, filled: bool = False, **options: Any) -> Callable[[], Case]:
    """Returns a function that fits the model, to rows without a gap if ``filled``."""

    def train() -> Case:
        rows = people().filled if filled else people().rows
        model.fit(rows, people().targets[target])
        return of_sklearn(model, X=rows, options=options)

    return train


def of_sklearn(model: Any, **given: Any) -> Case:
    """Describes a model by what its methods answer, and shap where it reads such models."""
    found: dict[str, Any] = {
        "takes_missing": not isinstance(model, (GradientBoostingClassifier, GradientBoostingRegressor))
    }
    if isinstance(model, IsolationForest):
        found["margin"], found["outputs"], found["contributions"] = _of_isolation(model)
    else:
        found |= {"margin": _margin(model), "outputs": _outputs(model), "contributions": _by_shap(model)}
    if isinstance(model, GradientBoostingClassifier) and (model.estimators_.shape[1] > 1 or model.init == "zero"):
        # shap reads those of two classes only, and none that start at zero.
        found |= {"contributions": None, "trees": lambda: _boosted_trees(model)}
    return Case(**{"model": model, "reference": SHAP, "thresholds": _thresholds(model), **found, **given})


def _margin(model: Any) -> Callable[[Float32Array], Any]:
    def margin(rows: Float32Array) -> Any:
        if hasattr(model, "decision_function"):
            return model.decision_function(rows).reshape(len(rows), -1)
        found = _outputs(model)(rows)
        log = isinstance(model, HistGradientBoostingRegressor) and model.loss in ("poisson", "gamma")
        return np.log(found) if log else found

    return margin


def _outputs(model: Any) -> Callable[[Float32Array], Any]:
    def outputs(rows: Float32Array) -> Any:
        if not hasattr(model, "predict_proba"):
            return model.predict(rows).reshape(len(rows), -1)
        shares = model.predict_proba(rows)
        if isinstance(shares, list):
            return np.column_stack([one[:, 1] for one in shares])
        return shares[:, 1:] if shares.shape[1] == 2 else shares

    return outputs


def _by_shap(model: Any) -> Callable[[Float32Array], Float64Array]:
    def contributions(rows: Float32Array) -> Float64Array:
        explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
        found = np.asarray(explainer.shap_values(rows, check_additivity=False)).reshape(*rows.shape, -1)
        if isinstance(getattr(model, "n_classes_", None), list):  # shap makes the shares of all labels add up to 1
            return found[:, :, 1::2] * len(model.n_classes_)
        if hasattr(model, "predict_proba") and found.shape[2] == 2:
            return found[:, :, 1:]
        return found

    return contributions


def _of_isolation(model: IsolationForest) -> tuple[Any, Any, Any]:
    """Returns what a forest says, by the definition of its score, and shap's attributions of the mean path length."""
    n = model.max_samples_
    usual = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n

    def outputs(rows: Float32Array) -> Any:
        return -model.score_samples(rows)[:, None]

    def margin(rows: Float32Array) -> Any:
        return np.log(outputs(rows))

    def contributions(rows: Float32Array) -> Float64Array:
        found = shap.TreeExplainer(model).shap_values(rows, check_additivity=False)
        return np.asarray(found)[:, :, None] * -np.log(2) / usual

    return margin, outputs, contributions


def _thresholds(model: Any) -> list[tuple[int, float]]:
    if isinstance(model, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)):
        nodes = np.concatenate([tree.nodes for trees in model._predictors for tree in trees])
        nodes = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]
        numeric = np.arange(model.n_features_in_)
        if model.is_categorical_ is not None:
            numeric = np.r_[np.flatnonzero(model.is_categorical_), np.flatnonzero(~model.is_categorical_)]
        return list(zip(numeric[nodes["feature_idx"]].tolist(), nodes["num_threshold"].tolist(), strict=True))
    trees = np.ravel(getattr(model, "estimators_", model)).tolist()
    subsets = getattr(model, "estimators_features_", None) if getattr(model, "max_features", 1) != 1 else None
    found = []
    for number, one in enumerate(trees):
        tree, columns = one.tree_, range(one.n_features_in_) if subsets is None else subsets[number]
        found += [
            (int(columns[feature]), float(threshold))
            for feature, threshold in zip(tree.feature, tree.threshold, strict=True)
            if feature >= 0
        ]
    return found


def _boosted_trees(model: GradientBoostingClassifier) -> list[list[Any]]:
    """Returns the trees as `tests.oracles` has them, by class."""

    def nested(tree: Any, node: int) -> Any:
        if tree.children_left[node] < 0:
            return ("leaf", model.learning_rate * tree.value[node, 0, 0], tree.weighted_n_node_samples[node])
        children = (nested(tree, side[node]) for side in (tree.children_left, tree.children_right))
        return ("split", tree.feature[node], tree.threshold[node], "<=", False, *children)

    return [[nested(one.tree_, 0) for one in column] for column in model.estimators_.T]


def _categorical_trees(model: Any, categories: dict[int, list[float]]) -> list[list[Any]]:
    """Returns the trees as `tests.oracles` has them, by output: sets list each tried code that goes left."""
    order = np.r_[np.flatnonzero(model.is_categorical_), np.flatnonzero(~model.is_categorical_)]

    def nested(tree: Any, number: int) -> Any:
        node = tree.nodes[number]
        if node["is_leaf"]:
            return ("leaf", float(node["value"]), float(node["count"]))
        feature, missing_left = int(order[node["feature_idx"]]), bool(node["missing_go_to_left"])
        children = (nested(tree, int(node[side])) for side in ("left", "right"))
        if not node["is_categorical"]:
            return ("split", feature, float(node["num_threshold"]), "<=", missing_left, *children)
        words = tree.raw_left_cat_bitsets[node["bitset_idx"]]
        known = {code: place for place, code in enumerate(categories[feature])}
        left = tuple(
            code
            for code in TRIED_CODES
            if (int(words[known[code] // 32]) >> known[code] % 32 & 1 if code in known else missing_left)
        )
        return ("split", feature, left, "in", missing_left, *children)

    return [[nested(trees[k], 0) for trees in model._predictors] for k in range(len(model._predictors[0]))]


def categorical(target: str, model: Any) -> Callable[[], Case]:
    """Returns a function that fits the model to codes of regions and marital states."""

    def train() -> Case:
        rows = people().rows
        model.set_params(categorical_features=list(CATEGORICAL)).fit(rows, people().targets[target])
        known = {column: sorted(set(rows[~np.isnan(rows[:, column]), column].tolist())) for column in CATEGORICAL}
        assert known[MARRIED][0] == 1  # so that codes and their places differ
        return of_sklearn(
            model,
            categorical=CATEGORICAL,
            contributions=None,
            reference=None,
            trees=lambda: _categorical_trees(model, known),
        )

    return train


def of_frame() -> Case:
    """Texts and numbers as categories: served as their places in the sorted list."""
    frame = people().frame()
    model = HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=7).fit(frame, people().targets["well paid"])
    categories = {column: sorted(frame.iloc[:, column].dropna().unique().tolist()) for column in CATEGORICAL}

    def asked(method: Any) -> Callable[[Float32Array], Any]:
        def ask(rows: Float32Array) -> Any:
            given = people().frame().iloc[:0].astype(object).reindex(range(len(rows)))
            for place, name in enumerate(given.columns):
                values: list[Any] = rows[:, place].tolist()
                if place in CATEGORICAL:
                    other: Any = "elsewhere" if place == REGION else 99
                    known = dict(enumerate(categories[place]))
                    values = [np.nan if np.isnan(code) else known.get(code, other) for code in values]
                given[name] = values
            return method(given)[:, None]

        return ask

    return of_sklearn(
        model,
        X=frame,
        categorical=CATEGORICAL,
        margin=asked(model.decision_function),
        outputs=asked(lambda given: model.predict_proba(given)[:, 1]),
        contributions=None,
        reference=None,
        trees=lambda: _categorical_trees(model, {one: list(range(len(of))) for one, of in categories.items()}),
    )


def names_for_classes() -> Case:
    names = np.array(["badly", "middling", "well"])[people().targets["third"].astype(int)]
    return of_sklearn(
        RandomForestClassifier(8, max_depth=5, random_state=0).fit(people().filled, names), X=people().filled
    )


def weighted() -> Case:
    weights = np.linspace(0.1, 3, len(people().rows))
    model = RandomForestClassifier(8, max_depth=5, random_state=0, class_weight="balanced")
    return of_sklearn(
        model.fit(people().filled, people().targets["well paid"], sample_weight=weights), X=people().filled
    )


def columns_by_name() -> Case:
    frame = people().frame().assign(region=people().rows[:, REGION], married=people().rows[:, MARRIED]).fillna(-1)
    case = of_sklearn(RandomForestRegressor(8, max_depth=5, random_state=0).fit(frame, people().targets["wage"]))
    asked = {name: _named(getattr(case, name), list(frame.columns)) for name in ("margin", "outputs")}
    return Case(**{**vars(case), **asked, "X": frame})


def _named(ask: Any, names: list[str]) -> Callable[[Float32Array], Any]:
    import pandas as pd  # noqa: PLC0415 - only some settings want it

    return lambda rows: ask(pd.DataFrame(rows, columns=names))


def isolated(**parameters: Any) -> Callable[[], Case]:
    def train() -> Case:
        return of_sklearn(IsolationForest(n_estimators=12, random_state=0, **parameters).fit(people().rows))

    return train


def boosting(target: str, **parameters: Any) -> Callable[[], Case]:
    """Returns a function that trains a GradientBoosting model; a classifier for classes."""
    kind = GradientBoostingClassifier if target in ("well paid", "third") else GradientBoostingRegressor
    model = kind(**{"n_estimators": 8, "max_depth": 3, "random_state": 0, **parameters})
    return fitted(model, target, filled=True)


def histogram(target: str, **parameters: Any) -> Callable[[], Case]:
    """Returns a function that trains a HistGradientBoosting model; a classifier for classes."""
    kind = HistGradientBoostingClassifier if target in ("well paid", "third") else HistGradientBoostingRegressor
    return fitted(kind(**{"max_iter": 8, "max_leaf_nodes": 9, "random_state": 0, **parameters}), target)


def histogram_stopped_early() -> Case:
    case = histogram("well paid", max_iter=80, learning_rate=0.6, early_stopping=True, n_iter_no_change=3)()
    assert case.model.n_iter_ < 80
    return case


def boosting_stopped_early() -> Case:
    case = boosting("well paid", n_estimators=80, learning_rate=0.6, n_iter_no_change=3)()
    assert case.model.n_estimators_ < 80
    return case


def refused(model: Any, target: str = "well paid") -> Callable[[], Case]:
    """Returns a function that fits what is no model of ours."""

    def train() -> Case:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.fit(people().filled, people().targets[target])
        return Case(model, model.predict, model.predict, None, [], X=people().filled)

    return train


def gaps_in_boosting() -> Case:
    case = boosting("well paid")()
    return Case(**{**vars(case), "X": people().rows})


def several_targets_of_several_classes() -> Case:
    targets = np.column_stack([people().targets["third"], people().targets["well paid"]])
    return of_sklearn(DecisionTreeClassifier(max_depth=3).fit(people().rows, targets), contributions=None)


def one_class() -> Case:
    model = RandomForestClassifier(3).fit(people().rows, np.ones(len(people().rows)))
    return of_sklearn(model, contributions=None)


def tree(**parameters: Any) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(**{"max_depth": 5, "random_state": 0, **parameters})


def regression_tree(**parameters: Any) -> DecisionTreeRegressor:
    return DecisionTreeRegressor(**{"max_depth": 5, "random_state": 0, **parameters})


def forest(kind: type, **parameters: Any) -> Any:
    assert kind in _FORESTS
    return kind(**{"n_estimators": 10, "max_depth": 5, "random_state": 0, **parameters})


def ensembles() -> dict[str, Callable[[], Case]]:
    """Returns those that are refused by name."""
    members = [("one", tree()), ("other", tree(max_depth=2))]
    return {
        "AdaBoostClassifier": refused(AdaBoostClassifier(n_estimators=3)),
        "AdaBoostRegressor": refused(AdaBoostRegressor(n_estimators=3), "wage"),
        "BaggingClassifier": refused(BaggingClassifier(n_estimators=3)),
        "VotingClassifier": refused(VotingClassifier(members)),
        "StackingClassifier": refused(StackingClassifier(members, cv=2)),
        "CalibratedClassifierCV": refused(CalibratedClassifierCV(tree(), cv=2)),
    }
