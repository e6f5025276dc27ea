"""ONNX files of other converters, of small models on real data; and the same trees in operators that few write yet."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import catboost
import lightgbm
import numpy as np
import onnx
import xgboost
from onnx import TensorProto, helper, numpy_helper
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.matrix.data import NAMES, REGION, people
from tests.matrix.oracles import Case
from xai_service.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array

COUNT: dict[str, Any] = {"covers": "count"}
BACKGROUND: dict[str, Any] = {"background": people().filled[:40]}
_INPUT = [("input", FloatTensorType([None, len(NAMES)]))]
_OPSET = {"": 18, "ai.onnx.ml": 3}


def quietly(convert: Callable[..., Any], *given: Any, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # converters use what others deprecate
        return convert(*given, **options)


def sklearn(model: Any, target: str, options: dict[str, Any], **converter: Any) -> Callable[[], Case]:
    """Returns a function that trains the model and converts it by skl2onnx."""

    def train() -> Case:
        labels = people().targets[target]
        if hasattr(model, "predict_proba"):
            labels = labels.astype(int)
        fitted = model.fit(people().filled, labels)
        file = quietly(to_onnx, fitted, people().filled[:1], target_opset=_OPSET, options=converter or None)
        return of_onnx(file, **options)

    return train


def light(target: str, options: dict[str, Any], *, zipmap: bool = True, **parameters: Any) -> Callable[[], Case]:
    def train() -> Case:
        return of_onnx(converted_lightgbm(target, zipmap=zipmap, **parameters), **options)

    return train


@functools.cache
def _light_booster(target: str, **parameters: Any) -> lightgbm.Booster:
    common = {"num_leaves": 9, "min_data_in_leaf": 5, "num_threads": 1, "seed": 3, "verbosity": -1}
    data = lightgbm.Dataset(people().filled, people().targets[target])
    return lightgbm.train({**common, **parameters}, data, 10)


def converted_lightgbm(target: str, *, zipmap: bool = True, **parameters: Any) -> onnx.ModelProto:
    booster = _light_booster(target, **parameters)
    return quietly(convert_lightgbm, booster, initial_types=_INPUT, zipmap=zipmap, target_opset=15)


def light_counted() -> Case:
    """LightGBM's covers are counts of rows: counting gives its own attributions back, on rows without a gap."""
    booster = _light_booster("log wage", objective="regression")
    case = of_onnx(converted_lightgbm("log wage", objective="regression"), **COUNT)

    def contributions(rows: Float32Array) -> Any:
        found = booster.predict(rows, pred_contrib=True)
        return found[:, :-1, None]

    return Case(**{**vars(case), "contributions": contributions, "X": people().filled})


def light_categorical() -> Case:
    """One-hot splits on regions, which the converter writes as BRANCH_EQ."""
    data = lightgbm.Dataset(people().filled, people().targets["well paid"], categorical_feature=[REGION])
    parameters = {"objective": "binary", "num_leaves": 9, "verbosity": -1, "num_threads": 1, "min_data_per_group": 5}
    booster = lightgbm.train({**parameters, "cat_smooth": 1.0, "max_cat_to_onehot": 2}, data, 20)
    file = quietly(convert_lightgbm, booster, initial_types=_INPUT, zipmap=False, target_opset=15)
    (trees,) = (node for node in file.graph.node if node.op_type == "TreeEnsembleClassifier")
    modes = next(one.strings for one in trees.attribute if one.name == "nodes_modes")
    assert b"BRANCH_EQ" in modes
    return of_onnx(file, categorical=(REGION,), **BACKGROUND)


def xg(target: str, options: dict[str, Any], **parameters: Any) -> Callable[[], Case]:
    def train() -> Case:
        data = xgboost.DMatrix(people().filled, people().targets[target])
        booster = xgboost.train({"max_depth": 3, "nthread": 1, **parameters}, data, 10)
        return of_onnx(quietly(convert_xgboost, booster, initial_types=_INPUT, target_opset=15), **options)

    return train


def cat(model: Any, target: str, options: dict[str, Any]) -> Callable[[], Case]:
    """Returns a function that trains, and converts by CatBoost's own export."""

    def train() -> Case:
        labels = people().targets[target]
        fitted = model(iterations=10, depth=3, verbose=0, thread_count=1, allow_writing_files=False)
        fitted.fit(people().filled, labels if model is catboost.CatBoostRegressor else labels.astype(int))
        return of_onnx(catboost_file(fitted), **options)

    return train


def catboost_file(model: Any) -> onnx.ModelProto:
    import tempfile  # noqa: PLC0415 - CatBoost writes files only
    from pathlib import Path  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.save_model(str(path), format="onnx")
        return onnx.load(path)


def doubles() -> Case:
    """Thresholds, most of which lie between two floats, and weights as doubles."""
    old = {one.name: one for node in regressor().graph.node for one in node.attribute}
    thresholds = np.array(old["nodes_values"].floats)
    thresholds *= 1 + np.resize([1e-9, -1e-9, 0], len(thresholds))
    tensors = {
        "nodes_values_as_tensor": numpy_helper.from_array(thresholds),
        "target_weights_as_tensor": numpy_helper.from_array(np.array(old["target_weights"].floats)),
    }
    file = regressor(nodes_values=None, target_weights=None, nodes_hitrates=None, **tensors)
    file.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    del file.opset_import[:]
    file.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in _OPSET.items())
    return of_onnx(file, **COUNT)


def regressor(**changed: Any) -> onnx.ModelProto:
    """LightGBM's regression as onnxmltools writes it, with some attributes changed or, by ``None``, left out."""
    file = converted_lightgbm("log wage", objective="regression")
    (trees,) = (node for node in file.graph.node if node.op_type == "TreeEnsembleRegressor")
    kept = [one for one in trees.attribute if one.name not in changed]
    del trees.attribute[:]
    trees.attribute.extend([*kept, *(helper.make_attribute(*one) for one in changed.items() if one[1] is not None)])
    return file


def average() -> Case:
    return of_onnx(regressor(aggregate_function="AVERAGE", base_values=[6.25]), **COUNT)


def opset_5(**changed: Any) -> onnx.ModelProto:
    """The same trees as a TreeEnsemble of opset 5."""
    (trees,) = (node for node in regressor().graph.node if node.op_type == "TreeEnsembleRegressor")
    old = {one.name: helper.get_attribute_value(one) for one in trees.attribute}
    places = list(zip(old["nodes_treeids"], old["nodes_nodeids"], strict=True))
    owners = zip(old["target_treeids"], old["target_nodeids"], strict=True)
    weight = dict(zip(owners, old["target_weights"], strict=True))
    inner = [i for i, mode in enumerate(old["nodes_modes"]) if mode != b"LEAF"]
    split_of = {places[i]: n for n, i in enumerate(inner)}
    leaf_of = {place: n for n, place in enumerate(weight)}
    new: dict[str, Any] = {"n_targets": 1, "leaf_targetids": [0] * len(weight)}
    for side in ("true", "false"):
        to = [(old["nodes_treeids"][i], old[f"nodes_{side}nodeids"][i]) for i in inner]
        new[f"nodes_{side}leafs"] = [int(place in leaf_of) for place in to]
        new[f"nodes_{side}nodeids"] = [leaf_of.get(place, split_of.get(place)) for place in to]
    modes = {b"BRANCH_LEQ": 0, b"BRANCH_LT": 1}
    floats = {"leaf_weights": list(weight.values()), "nodes_splits": [old["nodes_values"][i] for i in inner]}
    node = helper.make_node(
        "TreeEnsemble",
        ["input"],
        ["variable"],
        domain="ai.onnx.ml",
        **{
            **new,
            "nodes_featureids": [old["nodes_featureids"][i] for i in inner],
            "nodes_missing_value_tracks_true": [old["nodes_missing_value_tracks_true"][i] for i in inner],
            "tree_roots": [split_of[place] for place in places if place[1] == 0],
            "nodes_modes": numpy_helper.from_array(np.array([modes[old["nodes_modes"][i]] for i in inner], np.uint8)),
            **{name: numpy_helper.from_array(np.array(values, np.float32)) for name, values in floats.items()},
            **changed,
        },
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def of_opset_5() -> Case:
    return of_onnx(opset_5(), **COUNT)


def scaled() -> Case:
    model = make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=3))
    return sklearn(model, "log wage", COUNT)()


def no_trees() -> Case:
    return sklearn(LogisticRegression(max_iter=5000), "well paid", COUNT)()


def of_onnx(file: onnx.ModelProto, categorical: tuple[int, ...] = (), **options: Any) -> Case:
    """Describes a file by ONNX Runtime: the file itself, and with its tree operator's post_transform taken out."""
    (trees,) = (node for node in file.graph.node if node.op_type.startswith("TreeEnsemble"))
    has_labels = trees.op_type == "TreeEnsembleClassifier"
    plain = onnx.ModelProto()
    plain.CopyFrom(file)
    cut = next(i for i, node in enumerate(plain.graph.node) if node.op_type == trees.op_type)
    del plain.graph.node[cut + 1 :]
    del plain.graph.output[:]
    plain.graph.output.append(onnx.ValueInfoProto(name=trees.output[-1]))
    for attribute in plain.graph.node[cut].attribute:
        if attribute.name == "post_transform" and attribute.s:
            softmax = attribute.s == b"SOFTMAX"
            attribute.s = b"NONE"
    raw, whole = open_session(plain.SerializeToString()), open_session(file.SerializeToString())
    is_double = file.graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    n_sets = 0 if not has_labels else len({i for one in trees.attribute if one.name == "class_ids" for i in one.ints})

    def run(session: Any, rows: Float32Array) -> list[Any]:
        given = rows.astype(np.float64) if is_double else rows
        return list(session.run(None, {file.graph.input[0].name: given}))

    def margin(rows: Float32Array) -> Any:
        found = run(raw, rows)[0].reshape(len(rows), -1)
        if has_labels and n_sets <= 2:
            return found[:, 1:] - found[:, :1] if n_sets == 2 and softmax else found[:, 1:]
        scale = next((numpy_helper.to_array(one) for one in file.graph.initializer if one.name == "raw_prediction"), 1)
        return found + np.log(scale)  # onnxmltools multiplies exp(trees) by XGBoost's base_score

    def outputs(rows: Float32Array) -> Any:
        found = run(whole, rows)[-1]
        if isinstance(found, list):
            found = np.array([list(one.values()) for one in found])
        found = found.reshape(len(rows), -1)
        return found[:, 1:] if has_labels and n_sets <= 2 and found.shape[1] == 2 else found

    names = {one.name: helper.get_attribute_value(one) for one in trees.attribute}
    values = names.get("nodes_values", names.get("nodes_values_as_tensor", names.get("nodes_splits")))
    values = numpy_helper.to_array(values) if isinstance(values, TensorProto) else values
    splits = names["nodes_modes"] if isinstance(names["nodes_modes"], list) else [b""] * len(values)
    return Case(
        model=file,
        margin=margin,
        outputs=outputs,
        contributions=None,
        thresholds=[
            (feature, float(value))
            for feature, value, mode in zip(names["nodes_featureids"], values, splits, strict=True)
            if mode not in (b"LEAF", b"BRANCH_EQ")
        ],
        categorical=categorical,
        options=options,
    )


_FOREST = RandomForestClassifier(8, max_depth=5, random_state=0)
_BOOSTING = GradientBoostingClassifier(n_estimators=6, random_state=0)
_HISTOGRAMS = HistGradientBoostingClassifier(max_iter=6, max_leaf_nodes=9)
_REGRESSION = RandomForestRegressor(8, max_depth=5, random_state=0)
_OF_TWO, _OF_MORE = {"objective": "binary"}, {"objective": "multiclass", "num_class": 3}
_SOFTPROB = {"objective": "multi:softprob", "num_class": 3}

SETTINGS: tuple[tuple[Any, ...], ...] = (
    ("skl2onnx, forest of two classes, background", sklearn(_FOREST, "well paid", BACKGROUND)),
    ("skl2onnx, forest of several classes, background", sklearn(_FOREST, "third", BACKGROUND, zipmap=False)),
    ("skl2onnx, forest for a regression, background", sklearn(_REGRESSION, "log wage", BACKGROUND)),
    ("skl2onnx, gradient boosting of two classes, counted", sklearn(_BOOSTING, "well paid", COUNT, zipmap=False)),
    ("skl2onnx, gradient boosting of several classes, counted", sklearn(_BOOSTING, "third", COUNT)),
    ("skl2onnx, histogram gradient boosting, background", sklearn(_HISTOGRAMS, "third", BACKGROUND)),
    ("onnxmltools, LightGBM for a regression, counted", light_counted),
    ("onnxmltools, LightGBM `binary` with `ZipMap`, background", light("well paid", BACKGROUND, **_OF_TWO)),
    ("onnxmltools, LightGBM `multiclass`, background", light("third", BACKGROUND, zipmap=False, **_OF_MORE)),
    ("onnxmltools, LightGBM `poisson`, background", light("whole dollars", BACKGROUND, objective="poisson")),
    ("onnxmltools, LightGBM with categories, background", light_categorical),
    ("onnxmltools, XGBoost `binary:logistic`, background", xg("well paid", BACKGROUND, objective="binary:logistic")),
    ("onnxmltools, XGBoost `multi:softprob`, background", xg("third", BACKGROUND, **_SOFTPROB)),
    ("onnxmltools, XGBoost `count:poisson`, background", xg("whole dollars", BACKGROUND, objective="count:poisson")),
    ("CatBoost's export of two classes, background", cat(catboost.CatBoostClassifier, "well paid", BACKGROUND)),
    ("CatBoost's export of several classes, background", cat(catboost.CatBoostClassifier, "third", BACKGROUND)),
    ("CatBoost's export of a regression, counted", cat(catboost.CatBoostRegressor, "log wage", COUNT)),
    ("`TreeEnsembleRegressor` that takes the average, counted", average),
    ("`TreeEnsembleRegressor` of doubles (opset 3), counted", doubles),
    ("`TreeEnsemble` of opset 5, counted", of_opset_5),
    (
        "no covers, no background",
        light("log wage", {}, objective="regression"),
        "converters write no covers; give a background, or count the training rows",
        r"carries no covers .*pack the model that the file was made from; give a background.*covers='count'",
    ),
    (
        "scaling before the trees",
        scaled,
        "the trees do not read the rows themselves",
        r"operator 0 .*Scaler\).* cannot be explained: pack the model that the file was made from",
    ),
)
