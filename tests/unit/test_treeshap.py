"""TreeExplainer keeps shap's conventions, takes what numpy and pandas users hand it, and agrees with shap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import shap
import xgboost

from tests import forests, oracles
from xai_service.errors import InvalidModel, MissingCovers
from xai_service.pack import pack
from xai_service.treeshap import TreeExplainer

N = 4
RNG = np.random.default_rng(2)
TREES = [forests.random_tree(RNG, N, 3) for _ in range(5)]
MODEL = forests.onnx_model(forests.ensemble_attributes(TREES, N), N)
ROWS = RNG.normal(size=(7, N)).astype(np.float32)
ROWS[0, 1], ROWS[1] = np.nan, np.inf


def several_outputs() -> onnx.ModelProto:
    """Each tree adds to the one output of its own number, modulo 3."""
    attributes = forests.ensemble_attributes(TREES, N)
    attributes |= {"n_targets": 3, "base_values": [1.0, 2.0, 3.0]}
    attributes["target_ids"] = [tree % 3 for tree in attributes["target_treeids"]]
    return forests.onnx_model(attributes, N)


def test_one_output() -> None:
    explainer = TreeExplainer(MODEL)
    phi = explainer.shap_values(ROWS)
    assert (phi.shape, phi.dtype) == ((7, N), np.float64)
    assert isinstance(explainer.expected_value, float)
    assert (explainer.n_features, explainer.n_outputs) == (N, 1)
    assert explainer.method_for(7).algorithm == "path_dependent_treeshap"
    assert explainer.expected_value == pytest.approx(oracles.base_value(TREES, N))
    for row, got in zip(ROWS, phi, strict=True):
        np.testing.assert_allclose(got, oracles.brute_force(TREES, row), rtol=0, atol=1e-5)  # float32 weights and lanes
    margin = explainer.margin(ROWS)
    assert margin.shape == (7,)
    np.testing.assert_allclose(phi.sum(axis=1) + explainer.expected_value, margin, rtol=0, atol=1e-5)


def test_several_outputs() -> None:
    explainer = TreeExplainer(several_outputs())
    phi = explainer.shap_values(ROWS)
    assert (phi.shape, explainer.n_outputs) == ((7, N, 3), 3)
    assert isinstance(explainer.expected_value, np.ndarray)
    assert explainer.margin(ROWS).shape == (7, 3)
    for output in range(3):
        alone = TreeExplainer(forests.onnx_model(forests.ensemble_attributes(TREES[output::3], N), N))
        np.testing.assert_allclose(phi[:, :, output], alone.shap_values(ROWS), rtol=0, atol=1e-5)
        assert explainer.expected_value[output] == pytest.approx(alone.expected_value + output + 1)
        np.testing.assert_allclose(explainer.margin(ROWS)[:, output], alone.margin(ROWS) + output + 1)


def test_models_as_path_bytes_and_message(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.SerializeToString())
    expected = TreeExplainer(MODEL).shap_values(ROWS).tobytes()
    for model in (path, str(path), path.read_bytes()):
        assert TreeExplainer(model).shap_values(ROWS).tobytes() == expected
    with pytest.raises(FileNotFoundError):
        TreeExplainer(tmp_path / "nothing.onnx")
    path.write_bytes(b"not a model")
    with pytest.raises(InvalidModel, match="not an ONNX file"):
        TreeExplainer(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_, object, ">f4"])
def test_rows_of_any_number_type(dtype: Any, order: Any) -> None:
    whole = RNG.integers(0, 2, size=(9, N)).astype(np.float32)
    explainer = TreeExplainer(MODEL)
    expected = explainer.shap_values(whole).tobytes()
    assert explainer.shap_values(np.array(whole, dtype=dtype, order=order)).tobytes() == expected
    assert explainer.shap_values(whole.repeat(2, axis=0)[::2]).tobytes() == expected
    assert explainer.shap_values(whole.tolist()).tobytes() == expected
    assert explainer.shap_values(pd.DataFrame(whole).astype("float64")).tobytes() == expected
    assert explainer.shap_values(whole[:0]).shape == (0, N)


def test_what_float32_cannot_hold() -> None:
    explainer = TreeExplainer(MODEL)
    wide = np.array([[1e300, -1e300, 1e-300, None]], object)
    seen = np.array([[np.inf, -np.inf, 0, np.nan]], np.float32)
    assert explainer.shap_values(wide).tobytes() == explainer.shap_values(seen).tobytes()
    assert explainer.shap_values(wide[:, :3].astype(float).repeat(2, axis=1)[:, :N]).shape == (1, N)


def test_rows_are_not_changed() -> None:
    rows = ROWS.copy()
    rows.flags.writeable = False
    TreeExplainer(MODEL).shap_values(rows)
    unaligned = np.frombuffer(b"\0" + ROWS.tobytes(), np.float32, offset=1).reshape(ROWS.shape)
    assert TreeExplainer(MODEL).shap_values(unaligned).tobytes() == TreeExplainer(MODEL).shap_values(ROWS).tobytes()


@pytest.mark.parametrize(
    ("X", "says"),
    [
        (ROWS[0], r"X has shape \(4,\); the model takes \(n, 4\)"),
        (ROWS[:, :3], r"X has shape \(7, 3\)"),
        (ROWS[None], r"X has shape \(1, 7, 4\)"),
        (1.0, r"X has shape \(\)"),
        (None, r"X has shape \(\)"),
        ([[1, 2, 3, 4], [1]], "inhomogeneous"),
        ([["a", "b", "c", "d"]], "<U1, which are no real numbers"),
        ([["1", "2", "3", "4"]], "no real numbers"),
        ([[1, 2, 3, 4j]], "complex128, which are no real numbers"),
        (np.zeros((1, N), "datetime64[D]"), "datetime64"),
        (np.zeros((1, N), "timedelta64[s]"), "timedelta64"),
        (np.array([["a", 1, 2, 3]], object), "could not convert"),
        (np.array([[{}, 1, 2, 3]], object), "no real numbers"),
        (np.array([[10**400, 1, 2, 3]], object), "no real numbers"),
        (pd.DataFrame({c: pd.array([1, None], dtype="Int64") for c in "abcd"}), "no real numbers"),
        (pd.DataFrame({c: pd.Categorical(["u", "v"]) for c in "abcd"}), "could not convert|no real numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_are_none(X: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TreeExplainer(MODEL).shap_values(X)
    with pytest.raises(ValueError, match=says):
        TreeExplainer(MODEL).margin(X)


def test_missing_covers_tell_the_way_out() -> None:
    attributes = forests.ensemble_attributes(TREES, N)
    del attributes["nodes_hitrates"]
    with pytest.raises(
        MissingCovers, match=r"no covers \(nodes_hitrates .*pack the native model again with `xai pack`"
    ):
        TreeExplainer(forests.onnx_model(attributes, N))


def test_trees_without_a_split_need_no_covers() -> None:
    attributes = forests.ensemble_attributes([("leaf", 2.5, 0.0)], N)
    del attributes["nodes_hitrates"]
    explainer = TreeExplainer(forests.onnx_model(attributes, N))
    assert explainer.expected_value == 2.5
    assert not explainer.shap_values(ROWS).any()


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson"])
def test_agrees_with_shap_and_xgboost(objective: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(500, 8)).astype(np.float32)
    X[rng.random(X.shape) < 0.15] = np.nan
    X[:, 7] = rng.integers(0, 3, size=500)
    y = np.nan_to_num(X[:, 0] * 2 + X[:, 1] * X[:, 2]) + X[:, 7]
    target = {"binary:logistic": y > 1, "reg:squarederror": y, "count:poisson": np.exp(y / 4).round()}[objective]
    booster = xgboost.train(
        {"objective": objective, "max_depth": 5, "eta": 0.3, "nthread": 1, "seed": 3}, xgboost.DMatrix(X, target), 30
    )
    task = {"classes": ("no", "yes")} if objective == "binary:logistic" else {}
    pack(booster, X, name="m", out=tmp_path, **task)
    (file,) = tmp_path.glob("m/*/model.onnx")

    explainer = TreeExplainer(file)
    phi = explainer.shap_values(X)
    contributions = booster.predict(xgboost.DMatrix(X), pred_contribs=True).astype(np.float64)
    np.testing.assert_allclose(phi, contributions[:, :-1], rtol=0, atol=2e-5)
    assert explainer.expected_value == pytest.approx(contributions[0, -1], abs=2e-5)

    theirs = shap.TreeExplainer(booster, feature_perturbation="tree_path_dependent")
    np.testing.assert_allclose(phi, theirs.shap_values(X), rtol=0, atol=2e-5)
    assert explainer.expected_value == pytest.approx(float(theirs.expected_value), abs=2e-5)


@pytest.fixture(scope="module")
def regression() -> tuple[np.ndarray, xgboost.Booster]:
    """Rows with missing values and an XGBoost regression on them."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(600, 6)).astype(np.float32)
    X[rng.random(X.shape) < 0.05] = np.nan
    y = np.nan_to_num(X[:, 0] * X[:, 1] + np.abs(X[:, 2])) + rng.normal(size=600) / 10
    return X, xgboost.train({"max_depth": 4, "nthread": 1, "seed": 1}, xgboost.DMatrix(X, y), 30)


@pytest.fixture(scope="module")
def packed(regression: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    X, booster = regression
    return pack(booster, X, name="regression", out=tmp_path_factory.mktemp("repository")) / "model.onnx"


def test_a_background_gives_shaps_interventional_values(regression: Any, packed: Path) -> None:
    X, booster = regression
    background, rows = np.nan_to_num(X[:50]), np.nan_to_num(X[50:80])
    theirs = shap.TreeExplainer(booster, background, feature_perturbation="interventional")
    ours = TreeExplainer(packed, background=background)
    np.testing.assert_allclose(ours.shap_values(rows), theirs.shap_values(rows), rtol=0, atol=1e-5)
    assert ours.expected_value == pytest.approx(theirs.expected_value, abs=1e-5)
    assert ours.method_for(1).algorithm == "interventional_treeshap"
    total = ours.expected_value + ours.shap_values(X).sum(axis=1)
    np.testing.assert_allclose(total, ours.margin(X), rtol=0, atol=1e-5)  # missing values among them


def test_a_background_needs_no_covers() -> None:
    attributes = forests.ensemble_attributes(TREES, N)
    del attributes["nodes_hitrates"]
    explainer = TreeExplainer(forests.onnx_model(attributes, N), background=ROWS)
    total = explainer.expected_value + explainer.shap_values(ROWS).sum(axis=1)
    np.testing.assert_allclose(total, explainer.margin(ROWS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("background", "text"),
    [
        (np.zeros((3, N + 1)), "background has shape"),
        (np.zeros(N), "background has shape"),
        (np.zeros((0, N)), "background"),
        (np.zeros((10_001, N)), "background"),
        ([["a"] * N], "background holds"),
    ],
)
def test_wrong_backgrounds(background: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TreeExplainer(MODEL, background=background)


def test_interaction_values_are_shaps(regression: Any, packed: Path) -> None:
    X, booster = regression
    ours = TreeExplainer(packed)
    values = ours.shap_interaction_values(X[:40])
    theirs = booster.predict(xgboost.DMatrix(X[:40]), pred_interactions=True)[:, :-1, :-1]
    np.testing.assert_allclose(values, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(values.sum(axis=2), ours.shap_values(X[:40]), rtol=0, atol=1e-5)


def test_interaction_values_of_several_outputs_and_of_a_background() -> None:
    explainer = TreeExplainer(several_outputs())
    values = explainer.shap_interaction_values(ROWS)
    assert values.shape == (len(ROWS), N, N, 3)
    np.testing.assert_allclose(values.sum(axis=2), explainer.shap_values(ROWS), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="without a background"):
        TreeExplainer(MODEL, background=ROWS).shap_interaction_values(ROWS)


def test_columns_of_one_player_get_one_value() -> None:
    explainer = TreeExplainer(MODEL, players=[1, 0, 1, 1])
    assert (explainer.n_features, explainer.n_players) == (N, 2)
    phi = explainer.shap_values(ROWS)
    assert phi.shape == (len(ROWS), 2)
    for row, got in zip(ROWS, phi, strict=True):
        np.testing.assert_allclose(got, oracles.brute_force(TREES, row, [1, 0, 1, 1]), rtol=0, atol=1e-5)
    assert explainer.shap_interaction_values(ROWS).shape == (len(ROWS), 2, 2)
    against = TreeExplainer(MODEL, background=ROWS[2:], players=np.array([1, 0, 1, 1]))
    assert against.shap_values(ROWS).shape == (len(ROWS), 2)


@pytest.mark.parametrize("players", [[0, 1, 2], [0, 1, 3, 3], [-1, 0, 1, 2], [0.0, 1.0, 2.0, 3.0], [[0, 1, 2, 3]], 5])
def test_players_that_make_no_sense(players: Any) -> None:
    with pytest.raises(ValueError, match="players"):
        TreeExplainer(MODEL, players=players)
