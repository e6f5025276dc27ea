"""A manifest that contradicts its model is refused; what a foreign file leaves unsaid is not held against it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import xgboost
from onnx import helper

from xai_service.errors import BundleMismatch, InvalidModel
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = ("denied", "approved")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    rows[::9, 0] = np.nan
    table = xgboost.DMatrix(rows, label=rows[:, 1] > 0, nthread=1)
    model = xgboost.train({"objective": "binary:logistic", "max_depth": 2, "nthread": 1}, table, num_boost_round=5)
    return pack(model, rows, name="m", out=tmp_path, feature_names=["a", "b", "c"], classes=CLASSES)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(threshold=0.9), r"threshold is 0\.9, the model file says 0\.5 \(xai\.threshold\)"),
        (lambda m: m["features"].reverse(), r'feature_names\[0\] is "c", the model file says "a"'),
        (lambda m: m["classes"].reverse(), r'classes\[0\] is "approved", the model file says "denied"'),
        (lambda m: m["features"][0].update(allows_missing=False), r"allows_missing\[0\] is false, .* says true"),
        (lambda m: m["features"][1].update(allows_missing=True), r"allows_missing\[1\] is true, .* says false"),
        (lambda m: m.update(favourable_class="denied"), 'favourable_class is "denied", the model file says null'),
    ],
)
def test_a_manifest_edited_after_packing(change: Any, says: str, packed: Path) -> None:
    assert ModelSnapshot.load(packed).manifest.classes == CLASSES
    edit(packed, change)
    with pytest.raises(BundleMismatch, match=says):
        ModelSnapshot.load(packed)


def test_what_concerns_no_decision_may_be_edited(packed: Path) -> None:
    edit(packed, lambda m: m.update(latency_budget_ms=20.0))
    assert ModelSnapshot.load(packed).manifest.latency_budget_ms == 20


def test_a_foreign_file_is_held_to_what_it_says(classifier: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    assert ModelSnapshot.load(write_bundle(classifier, "silent", classes=CLASSES)).manifest.threshold == 0.5
    helper.set_model_props(classifier, {"author": "x", "xai.feature_names": '[ "x0", "x1" ]', "xai.threshold": "5e-1"})
    assert ModelSnapshot.load(write_bundle(classifier, "alike", classes=CLASSES)).manifest.threshold == 0.5
    for key, value, says in (
        ("xai.feature_names", '["x0"]', r'feature_names is \["x0", "x1"\], the model file says \["x0"\]'),
        ("xai.link", "exponential", 'link is "logistic", the model file says "exponential"'),
        ("xai.cover", "rows", 'cover is "sum_hessian", the model file says "rows"'),
        ("xai.threshold", "NaN", r"threshold is 0\.5, the model file says NaN"),
    ):
        helper.set_model_props(classifier, {key: value})
        with pytest.raises(BundleMismatch, match=says):
            ModelSnapshot.load(write_bundle(classifier, key, classes=CLASSES))
    helper.set_model_props(classifier, {"xai.classes": "[" * 100_000})
    with pytest.raises(InvalidModel, match=r"xai\.classes is not JSON"):
        ModelSnapshot.load(write_bundle(classifier, "json", classes=CLASSES))


def test_a_key_that_stands_twice(classifier: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    for names in ('["x0","x1"]', '["x1","x0"]'):
        classifier.metadata_props.add(key="xai.feature_names", value=names)
    with pytest.raises(BundleMismatch, match="feature_names"):
        ModelSnapshot.load(write_bundle(classifier, classes=CLASSES))


def _with_threshold(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "threshold":
            tensor.CopyFrom(helper.make_tensor("threshold", onnx.TensorProto.FLOAT, [], [0.9]))


def _with_link(operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = operator

    return change


def _exchanged(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.input[:] = list(node.input)[::-1]


def _twice(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.input[0] = "positive"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_with_threshold, r"label is 0 where probabilities\[:, 1\] is 0\.\d+, .* threshold is 0\.5"),
        (_with_link("Exp"), "not the logistic function of the margin"),
        (_exchanged, "not the logistic function of the margin"),
        (_twice, "probabilities do not add up to 1"),
    ],
)
def test_a_classifier_that_computes_otherwise(
    change: Any, says: str, classifier: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    change(classifier)
    with pytest.raises(InvalidModel, match=says):
        ModelSnapshot.load(write_bundle(classifier, classes=CLASSES))


def test_a_regression_that_computes_otherwise(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    regression.graph.node[-1].op_type = "Identity"
    with pytest.raises(InvalidModel, match="prediction is not the margin's exponential link"):
        ModelSnapshot.load(write_bundle(regression))


def _with_leaf(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    (weights,) = [a for a in model.graph.node[0].attribute if a.name == "target_weights"]
    weights.floats[0] = value
    return model


def test_a_damaged_leaf_of_a_logarithm(
    classifier: onnx.ModelProto, regression: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    """Its attributions of 1e36 would add up to a margin of 4 within any share of themselves."""
    with pytest.raises(InvalidModel, match=r"the expected margin is .*, which is no logarithm"):
        ModelSnapshot.load(write_bundle(_with_leaf(classifier, -2.6e38), classes=CLASSES))
    assert ModelSnapshot.load(write_bundle(_with_leaf(classifier, -500.0), "strong", classes=CLASSES)).n_outputs == 1
    # Of a regression the unit is its own: nanoseconds since 1970 are a target like any other.
    _with_leaf(regression, 1.6e18).graph.node[-1].op_type = "Identity"
    folder = write_bundle(regression, "time")
    edit(folder, lambda m: m.update(link="identity"))
    assert ModelSnapshot.load(folder).base_values[0] > 1e17


@pytest.fixture
def of_three(tmp_path: Path) -> Path:
    """A bundle of three classes, packed."""
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    table = xgboost.DMatrix(rows, label=np.digitize(rows[:, 1], [-0.5, 0.5]), nthread=1)
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "nthread": 1}
    return pack(xgboost.train(parameters, table, num_boost_round=5), rows, name="m", out=tmp_path)


def _rewrite(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Changes the model file, with its digest."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    digest = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit(folder, lambda m: m["files"].update({"model.onnx": digest}))


def _operator(old: str, new: onnx.NodeProto) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == old)
        new.output[:] = node.output
        node.CopyFrom(new)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_operator("Softmax", helper.make_node("Sigmoid", ["margin"], [""])), "probabilities are not the softmax of"),
        (_operator("Softmax", helper.make_node("Identity", ["margin"], [""])), "probabilities are not the softmax of"),
        (
            _operator("Softmax", helper.make_node("Softmax", ["margin"], [""], axis=0)),
            "probabilities are not the softmax of",
        ),
        (
            _operator("ArgMax", helper.make_node("ArgMax", ["margin"], [""], axis=1, keepdims=0, select_last_index=1)),
            None,
        ),
        (_operator("ArgMax", helper.make_node("ArgMax", ["margin"], [""], axis=0, keepdims=0)), "label is int64"),
    ],
)
def test_three_classes_that_are_computed_otherwise(change: Any, says: str | None, of_three: Path) -> None:
    assert ModelSnapshot.load(of_three).n_outputs == 3
    _rewrite(of_three, change)
    if says is None:  # where no two margins are equal, it is the same
        assert ModelSnapshot.load(of_three).n_outputs == 3
        return
    with pytest.raises(InvalidModel, match=says):
        ModelSnapshot.load(of_three)


def test_another_label_than_the_greatest_margin(of_three: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "ArgMax")
        node.input[0] = "opposite"
        model.graph.node.insert(1, helper.make_node("Neg", ["margin"], ["opposite"]))

    _rewrite(of_three, change)
    with pytest.raises(InvalidModel, match=r"label is \d where the greatest margin is that of \d"):
        ModelSnapshot.load(of_three)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda m: m.update(link="one_vs_all"), BundleMismatch, 'link is "one_vs_all", the model file says "softmax"'),
        (lambda m: m["classes"].append("3"), InvalidModel, "computes 3 margins; there are 4 classes"),
        (lambda m: m["features"][1].update(kind="categorical"), BundleMismatch, r"categorical\[1\] is true"),
        (
            lambda m: m.update(task="multilabel_classification", link="logistic", link_scale=2.0),
            BundleMismatch,
            'task is "multilabel_classification", the model file says "multiclass_classification"',
        ),
    ],
)
def test_a_manifest_of_three_classes_edited(change: Any, error: Any, says: str, of_three: Path) -> None:
    edit(of_three, change)
    with pytest.raises(error, match=says):
        ModelSnapshot.load(of_three)
