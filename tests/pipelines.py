"""Pipelines on real flights, and what they say themselves: apart from `xai_service.pack`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.flights import COLUMNS, flights


def preprocessing(**given: Any) -> ColumnTransformer:
    """Imputes, scales, encodes one-hot with rare and unknown categories as their own, and by numbers."""
    carriers = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="unknown"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=60, sparse_output=False),
    )
    return ColumnTransformer(
        [
            ("carrier", carriers, ["carrier"]),
            ("origin", OneHotEncoder(drop="first", sparse_output=False), ["origin"]),
            ("dest", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["dest"]),
            (
                "delay",
                make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
                ["dep_delay"],
            ),
            ("far", StandardScaler(), ["distance"]),
        ],
        remainder="passthrough",
        **given,
    )


def fitted(model: Any, **given: Any) -> Pipeline:
    """Returns the preprocessing with ``model`` behind it, fitted on flights that are late or not."""
    return Pipeline([("columns", preprocessing(**given)), ("model", model)]).fit(flights().train, flights().late)


def players(pipeline: Pipeline) -> list[int]:
    """Returns the raw column of each column that the model sees, told by the names that scikit-learn gives them."""
    names = pipeline[:-1].get_feature_names_out().tolist()
    found = []
    for name in names:
        rest = name.split("__", 1)[1].removeprefix("missingindicator_")
        found.append(
            max((i for i, column in enumerate(COLUMNS) if rest.startswith(column)), key=lambda i: len(COLUMNS[i]))
        )
    return found


def xgboost_trees(booster: xgboost.Booster) -> list[Any]:
    """Returns a Booster's trees as `tests.oracles` has them."""
    learner = json.loads(booster.save_raw("json"))["learner"]

    def nested(tree: Any, node: int) -> Any:
        if tree["left_children"][node] < 0:
            return ("leaf", tree["split_conditions"][node], tree["sum_hessian"][node])
        children = (nested(tree, tree[f"{side}_children"][node]) for side in ("left", "right"))
        threshold, nan_left = np.float32(tree["split_conditions"][node]), bool(tree["default_left"][node])
        return ("split", tree["split_indices"][node], threshold, "<", nan_left, *children)

    return [nested(tree, 0) for tree in learner["gradient_booster"]["model"]["trees"]]


def lightgbm_trees(booster: Any) -> list[Any]:
    """Returns a Booster's trees as `tests.oracles` has them."""

    def nested(node: Any) -> Any:
        if "leaf_value" in node:
            return ("leaf", node["leaf_value"], node.get("leaf_count", 1))
        children = (nested(node[f"{side}_child"]) for side in ("left", "right"))
        if node["decision_type"] == "==":
            values = tuple(float(code) for code in str(node["threshold"]).split("||"))
            return ("split", node["split_feature"], values, "in", False, *children)
        nan_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
        return ("split", node["split_feature"], node["threshold"], "<=", nan_left, *children)

    return [nested(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


def ranked(trees: list[Any], rows: Any) -> tuple[list[Any], Any]:
    """Returns trees and float64 rows with each value and threshold as its place among the column's thresholds.

    The oracles compare float32, LightGBM compares float64: places are the same in both.
    """
    cuts: dict[int, set[float]] = {}

    def collect(node: Any) -> None:
        if node[0] == "split":
            if node[3] == "<=":
                cuts.setdefault(node[1], set()).add(node[2])
            collect(node[5])
            collect(node[6])

    for tree in trees:
        collect(tree)
    places = {feature: sorted(found) for feature, found in cuts.items()}

    def placed(node: Any) -> Any:
        if node[0] == "leaf":
            return node
        _, feature, threshold, how, nan_left, left, right = node
        if how == "<=":
            threshold = places[feature].index(threshold)
        return ("split", feature, threshold, how, nan_left, placed(left), placed(right))

    rows = rows.copy()
    for feature, found in places.items():
        rows[:, feature] = np.where(np.isnan(rows[:, feature]), np.nan, np.searchsorted(found, rows[:, feature]))
    return [placed(tree) for tree in trees], rows


def raw_columns(pipeline: Pipeline, names: list[str], used: list[str]) -> list[int]:
    """Returns which of ``used`` each column that the model sees is made of, told by scikit-learn's names."""
    if len(pipeline) == 1:
        return [used.index(name) for name in names]
    spoken = [f"x{i}" for i in range(len(names))] if names[0] == "f0" else names
    made = pipeline[:-1].get_feature_names_out().tolist()

    def raw(name: str) -> str:  # which it is, or goes on from, with a category
        parts = name.rsplit("__", maxsplit=1)[-1].removeprefix("missingindicator_")
        fitting = [one for one in spoken if parts == one or parts.startswith(f"{one}_")]
        return names[spoken.index(max(fitting, key=len))]

    return [used.index(raw(name)) for name in made]
