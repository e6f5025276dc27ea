"""A manifest that contradicts its model is refused; what a foreign file leaves unsaid is not held against it."""

from __future__ import annotations

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
