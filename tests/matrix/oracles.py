"""What the libraries themselves say of a model, asked as their users ask: apart from `xai_service.pack`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import xgboost

from tests.matrix.data import people

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array, Float64Array

    Ask = Callable[[Float32Array], Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A trained model and what its library says of it.

    Attributes:
        model: as a user hands it to `pack`.
        margin: float32 (n, features) rows to margins (n, outputs).
        outputs: the rows to probabilities (of class 1, of two) or predictions, (n, outputs).
        contributions: the rows to attributions (n, features, outputs), or ``None`` where the library has none.
        reference: what `pack` is to compare attributions with, as the certificate names it.
        thresholds: (feature, threshold) of all its numeric splits, as the library lists them.
        trees: returns its trees as `tests.oracles` has them, by output, where brute force is to explain them.
        takes_missing: whether it predicts for rows with gaps.
        asks_again: whether splits ask what those above have answered, so that no row goes both ways.
        X: to pack with; the people's rows, unless it is a DataFrame.
        categorical: columns of codes.
        options: of `pack`.
    """

    model: Any
    margin: Ask
    outputs: Ask
    contributions: Ask | None
    thresholds: list[tuple[int, float]]
    reference: str | None = None
    X: Any = None
    categorical: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    trees: Callable[[], list[list[Any]]] | None = None
    takes_missing: bool = True
    asks_again: bool = False

    @property
    def rows_to_pack(self) -> Any:
        return people().rows if self.X is None else self.X


def of_xgboost(booster: xgboost.Booster, model: Any = None, **given: Any) -> Case:
    """Describes a Booster, or a model of the scikit-learn interface by its Booster."""
    best = booster.attr("best_iteration")
    rounds = (0, 0) if best is None else (0, int(best) + 1)
    kinds = booster.feature_types

    def ask(rows: Float32Array, **how: Any) -> Any:
        matrix = xgboost.DMatrix(
            rows, feature_names=booster.feature_names, feature_types=kinds, enable_categorical=True
        )
        return booster.predict(matrix, iteration_range=rounds, **how)

    def margin(rows: Float32Array) -> Any:
        return ask(rows, output_margin=True).reshape(len(rows), -1)

    def outputs(rows: Float32Array) -> Any:
        found = ask(rows)
        return found.reshape(len(rows), -1) if found.size == margin(rows).size else None  # multi:softmax gives labels

    def contributions(rows: Float32Array) -> Float64Array:
        found = ask(rows, pred_contribs=True).astype(np.float64)
        return found.reshape(len(rows), -1, rows.shape[1] + 1)[:, :, :-1].transpose(0, 2, 1)

    names = booster.feature_names or [f"f{i}" for i in range(booster.num_features())]
    vectors = given.pop("vector_leaves", False)
    thresholds = []
    if not vectors:  # of which XGBoost makes no table
        splits = booster.trees_to_dataframe().dropna(subset=["Split"])
        thresholds = [(names.index(f), float(t)) for f, t in zip(splits["Feature"], splits["Split"], strict=True)]
    return Case(
        model=booster if model is None else model,
        margin=margin,
        outputs=outputs,
        contributions=None if vectors else contributions,
        reference=None if vectors else "xgboost pred_contribs",
        thresholds=thresholds,
        trees=(lambda: vector_leaf_trees(booster)) if vectors else None,
        categorical=tuple(i for i, kind in enumerate(kinds or ()) if kind == "c"),
        **given,
    )


def vector_leaf_trees(booster: xgboost.Booster) -> list[list[Any]]:
    """Returns a `multi_output_tree` Booster's trees as `tests.oracles` has them, by output."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    found = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        width = int(tree["tree_param"]["size_leaf_vector"])
        values = np.array(tree["base_weights"]).reshape(-1, width)

        def nested(node: int, output: int, tree: Any = tree, values: Any = values) -> Any:
            if tree["left_children"][node] < 0:
                return ("leaf", values[node, output], tree["sum_hessian"][node])
            children = (nested(tree[f"{side}_children"][node], output) for side in ("left", "right"))
            threshold, nan_left = tree["split_conditions"][node], bool(tree["default_left"][node])
            return ("split", tree["split_indices"][node], np.float32(threshold), "<", nan_left, *children)

        found.append([nested(0, output) for output in range(width)])
    return [list(one) for one in zip(*found, strict=True)]


def of_lightgbm(booster: lightgbm.Booster, model: Any = None, *, averaged: int = 1, **given: Any) -> Case:
    """Describes a Booster, or a model of the scikit-learn interface by its Booster.

    ``averaged`` is a random forest's number of rounds: LightGBM predicts the mean, and calls the sum the raw score.
    """

    def margin(rows: Float32Array) -> Any:
        return booster.predict(rows, raw_score=True).reshape(len(rows), -1) / averaged

    def outputs(rows: Float32Array) -> Any:
        return booster.predict(rows).reshape(len(rows), -1)

    def contributions(rows: Float32Array) -> Float64Array:
        found = booster.predict(rows, pred_contrib=True).reshape(len(rows), -1, rows.shape[1] + 1)
        return np.asarray(found[:, :, :-1].transpose(0, 2, 1) / averaged)

    splits = booster.trees_to_dataframe()
    splits = splits[splits["decision_type"] == "<="]
    names = booster.feature_name()
    return Case(
        model=booster if model is None else model,
        margin=margin,
        outputs=outputs,
        contributions=contributions,
        reference="lightgbm pred_contrib",
        thresholds=[
            (names.index(f), float(t)) for f, t in zip(splits["split_feature"], splits["threshold"], strict=True)
        ],
        **given,
    )
