"""Each library's trees become an ONNX file that computes its margins and explains as it does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bench import models
from bench.data import load
from bench.models import ModelSpec, ParityFailed
from bench.rivals import LightGBM, Shap, XGBoost
from bench.worker import Worker
from xai_service.treeshap import TreeExplainer

_LIGHTGBM = "lightgbm is an extra of the benchmark, not of the tests"


@pytest.fixture(scope="module")
def rows():
    """Binary questions on few columns, repeated values and an interaction; some values are missing."""
    rng = np.random.default_rng(7)
    X = np.round(rng.normal(size=(600, 5)), 1).astype(np.float32)
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0.2).astype(np.int64)
    return X, y


def _published(spec: ModelSpec, X, y, held_out, tmp_path):
    native = models.train(spec, X, y)
    folder = models.publish(native, held_out, tmp_path / "model", {"spec": dataclasses.asdict(spec)})
    return native, folder


def _check(native, folder, rival, X):
    explainer = TreeExplainer(folder / "model.onnx")
    margin = explainer.margin(X).reshape(len(X), -1)
    np.testing.assert_allclose(margin, native.margin(X), atol=1e-5)
    phi = explainer.shap_values(X).reshape(len(X), X.shape[1], -1)
    due = rival(folder, None).phi(X)
    assert due.shape == phi.shape
    assert np.abs(due).max() > 0.05
    np.testing.assert_allclose(phi, due, atol=2e-6 * np.abs(due).max())


def test_xgboost_binary(rows, tmp_path):
    X, y = rows
    missing = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.float32(np.nan), X)
    spec = ModelSpec("m", "m", "xgboost", "-", 20, 4)
    native, folder = _published(spec, missing, y, X, tmp_path)
    _check(native, folder, XGBoost, missing[:50])
    _check(native, folder, Shap, missing[:50])


def test_xgboost_classes(tmp_path):
    digits = load("digits")
    spec = ModelSpec("m", "m", "xgboost", "-", 3, 3, classes=10)
    native, folder = _published(spec, digits.X, digits.y, digits.held_out, tmp_path)
    assert len(native.trees.base) == 10
    _check(native, folder, XGBoost, digits.held_out[:20])
    _check(native, folder, Shap, digits.held_out[:20])


def test_forest(rows, tmp_path):
    X, y = rows
    native, folder = _published(ModelSpec("m", "m", "sklearn", "-", 10, 6), X, y, X, tmp_path)
    _check(native, folder, Shap, X[:50])


def test_lightgbm_binary(rows, tmp_path):
    pytest.importorskip("lightgbm", reason=_LIGHTGBM)
    X, y = rows
    native, folder = _published(ModelSpec("m", "m", "lightgbm", "-", 20, 8), X, y, X, tmp_path)
    assert (native.trees.inclusive == (native.trees.left >= 0)).all()
    _check(native, folder, LightGBM, X[:50])


def test_lightgbm_classes(tmp_path):
    pytest.importorskip("lightgbm", reason=_LIGHTGBM)
    digits = load("digits")
    spec = ModelSpec("m", "m", "lightgbm", "-", 2, 6, classes=10)
    native, folder = _published(spec, digits.X, digits.y, digits.held_out, tmp_path)
    _check(native, folder, LightGBM, digits.held_out[:20])


def test_lightgbm_takes_tiny_values_for_zero(tmp_path):
    pytest.importorskip("lightgbm", reason=_LIGHTGBM)
    tiny = np.float32(1e-35)
    X = np.repeat(np.array([-1, 0, 1], np.float32), 100)[:, None]
    native, folder = _published(ModelSpec("m", "m", "lightgbm", "-", 3, 4), X, (X[:, 0] < 0) * 1, X, tmp_path)
    probes = np.array([-1, -2 * tiny, -tiny, -tiny / 2, 0, tiny, 2 * tiny, 1], np.float32)[:, None]
    margin = TreeExplainer(folder / "model.onnx").margin(probes)
    np.testing.assert_allclose(margin[:, None], native.margin(probes), atol=1e-6)


def test_float64_thresholds_round_toward_minus_infinity(rows, tmp_path):
    X, y = rows
    native, _ = _published(ModelSpec("m", "m", "sklearn", "-", 10, 6), X, y, X, tmp_path)
    splits = np.flatnonzero(native.trees.left >= 0)
    at = native.trees.threshold[splits]
    # Rows on the float32 threshold and one ulp above: they part where scikit-learn's double parts them.
    for near in (at, np.nextafter(at, np.float32(np.inf))):
        probes = X[np.arange(len(splits)) % len(X)].copy()
        probes[np.arange(len(splits)), native.trees.feature[splits]] = near
        margin = TreeExplainer(tmp_path / "model" / "model.onnx").margin(probes)
        np.testing.assert_allclose(margin, native.margin(probes)[:, 0], atol=1e-6)


@pytest.mark.parametrize("field", ["threshold", "value", "base"])
def test_a_wrong_conversion_is_refused_and_leaves_nothing(rows, tmp_path, field):
    X, y = rows
    native = models.train(ModelSpec("m", "m", "xgboost", "-", 5, 3), X, y)
    wrong = getattr(native.trees, field).copy()
    wrong[0] += 0.3
    if field == "value":
        wrong[np.flatnonzero(native.trees.left < 0)[0]] += 0.3
    native = dataclasses.replace(native, trees=dataclasses.replace(native.trees, **{field: wrong}))
    with pytest.raises(ParityFailed, match=r"off by .* in row \d+ of the \w+ rows"):
        models.publish(native, X, tmp_path / "model", {})
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_default_direction_is_refused(rows, tmp_path):
    X, y = rows
    native = models.train(ModelSpec("m", "m", "xgboost", "-", 5, 3), X, y)
    turned = dataclasses.replace(native.trees, missing_left=~native.trees.missing_left & (native.trees.left >= 0))
    with pytest.raises(ParityFailed, match="of the missing rows"):
        models.publish(dataclasses.replace(native, trees=turned), X, tmp_path / "model", {})


def test_what_the_folder_says(rows, tmp_path):
    X, y = rows
    _, folder = _published(ModelSpec("m", "m", "xgboost", "-", 5, 3), X, y, X, tmp_path)
    info = json.loads((folder / "info.json").read_text())
    assert info["shape"]["trees"] == 5
    assert info["shape"]["held_out_rows"] == len(X)
    assert set(info["parity"]) == {"held_out", "on_threshold", "missing"}
    np.testing.assert_array_equal(np.load(folder / "rows.npy"), X)


def test_the_stump_and_its_cache(tmp_path):
    folder = models.prepare_stump(tmp_path)
    assert models.prepare_stump(tmp_path) == folder
    X = np.load(folder / "rows.npy")[:10]
    phi = TreeExplainer(folder / "model.onnx").shap_values(X)
    due = np.where(X[:, 3] < 0.5, -1.0, 2.0) - (0.6 * -1.0 + 0.4 * 2.0)
    np.testing.assert_allclose(phi[:, 3], due, atol=1e-6)
    assert np.count_nonzero(np.delete(phi, 3, axis=1)) == 0


def test_digits_held_out_are_not_trained_on():
    digits = load("digits")
    assert len(digits.held_out) >= 2_000
    seen = {row.tobytes() for row in digits.X}
    assert not any(row.tobytes() in seen for row in digits.held_out[:600])


class _Recorder:
    """A contestant that remembers its rows."""

    detail = "recorder"

    def __init__(self, _, background):
        self.background = background
        self.seen = []

    def prepare(self, rows):
        return rows

    def run(self, rows):
        self.seen.append(rows.copy())


@pytest.mark.parametrize(("rows", "calls"), [(1, 3_000), (100, 40)])
def test_no_row_is_timed_twice_before_all_had_their_turn(tmp_path, rows, calls):
    np.save(tmp_path / "rows.npy", np.arange(4_000, dtype=np.float32)[:, None])
    worker = Worker(_Recorder, pinned=False)
    worker.load(str(tmp_path), 0)
    assert len(worker.time(rows=rows, calls=calls, start=17)["us"]) == calls
    timed = np.concatenate(worker._contestant.seen[-calls:])[:, 0]
    first = timed[: 4_000 - 17 - rows]
    assert len(np.unique(first)) == len(first)
    assert len(np.unique(timed)) >= 2_000
    assert len(worker._contestant.seen[0]) == rows


def test_the_background_is_the_other_end(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(200, dtype=np.float32)[:, None])
    worker = Worker(_Recorder, pinned=False)
    worker.load(str(tmp_path), 100)
    np.testing.assert_array_equal(worker._contestant.background[:, 0], np.arange(100, 200))
