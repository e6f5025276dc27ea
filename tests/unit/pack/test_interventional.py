"""Explained against a background: right by the definition, served, recorded, and refused where it cannot be."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from tests import forests, oracles
from tests.matrix import lightgbm_models, xgboost_models
from tests.matrix.data import CATEGORICAL, NAMES, people
from xai_service import _treeshap
from xai_service.errors import ModelError, PackRefused
from xai_service.model.manifest import Manifest
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import interventional, pack, readers
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array


def brute_force(predict: Any, row: Float32Array, background: Float32Array) -> Float64Array:
    """Shapley's formula over all subsets; v(S) is the mean prediction of the background with the row's values on S."""
    n = len(row)
    subsets = [subset for size in range(n + 1) for subset in itertools.combinations(range(n), size)]
    mixed = np.repeat(background[None], len(subsets), axis=0)
    for rows, subset in zip(mixed, subsets, strict=True):
        rows[:, list(subset)] = row[list(subset)]
    values = predict(mixed.reshape(-1, n)).reshape(len(subsets), len(background)).mean(axis=1)
    return oracles.shapley(n, dict(zip(subsets, values.tolist(), strict=True)).__getitem__)


def test_lightgbm_with_categories_equals_brute_force_over_subsets(tmp_path: Path) -> None:
    """LightGBM's own predictions are all that the reference knows. shap is wrong here, or refuses."""
    booster = lightgbm_models.categorical().model
    splits = booster.trees_to_dataframe()["decision_type"]
    assert (splits == "==").any()
    background = people().rows[::60]
    bundle = pack(booster, people().rows, name="m", out=tmp_path, background=background)
    snapshot = ModelSnapshot.load(bundle)
    rows = people().rows[[3, 77, 400]].copy()
    rows[2, list(CATEGORICAL)] = [5, np.nan]
    pool = _treeshap.WorkerPool(1)
    job = snapshot.explain(pool, rows)
    assert job.wait(60)
    phi = job.result()[:, :, 0]
    for row, found in zip(rows, phi, strict=True):
        due = brute_force(lambda mixed: booster.predict(mixed, raw_score=True), row, background)
        np.testing.assert_allclose(found, due, rtol=0, atol=1e-6 * np.abs(due).max())
    assert snapshot.base_values[0] == pytest.approx(booster.predict(background, raw_score=True).mean(), abs=1e-6)
    assert snapshot.method_for(3).algorithm == "interventional_treeshap"


def test_leaf_by_leaf_equals_brute_force() -> None:
    rng = np.random.default_rng(4)
    tree = ("split", 3, (0.0, 2.0), "in", True, forests.random_tree(rng, 4, 3), forests.random_tree(rng, 4, 2))
    background = rng.normal(size=(5, 4)).astype(np.float32)
    background[:, 3] = [0, 1, 2, np.nan, 7]
    row = np.array([0.1, np.nan, -0.4, 2], np.float32)
    native = readers.read(lightgbm_models.trained("log wage", objective="regression")().model)
    ours = dataclasses.replace(native.trees[0], **neutral(tree))
    phi, base = interventional.contributions([ours], np.array([0.5]), background)(row[None])
    due = brute_force(lambda rows: np.array([oracles.margin([tree], one) for one in rows]), row, background)
    np.testing.assert_allclose(phi[0, :, 0], due, atol=1e-6)
    assert base[0] == pytest.approx(0.5 + np.mean([oracles.margin([tree], one) for one in background]), abs=1e-6)


def neutral(tree: Any) -> dict[str, Any]:
    """The arrays of `xai_service.pack.forest.Tree` for a tree of `tests.oracles`."""
    a = forests.arrays([tree], 4)
    parent = np.full(len(a["kind"]), -1)
    for side in ("left", "right"):
        inner = np.flatnonzero(a[side] >= 0)
        parent[a[side][inner]] = inner
    leaf = np.zeros((len(parent), 1), np.float32)
    leaf[np.diff(a["weight_begin"]) > 0, 0] = a["weight"]
    return {
        "left": a["left"], "right": a["right"], "parent": parent, "feature": a["feature"],
        "threshold": a["threshold"].astype(np.float32), "inclusive": a["kind"] == 2,
        "missing_left": a["nan_left"].astype(bool), "leaf": leaf, "outputs": np.zeros(1, np.int64),
        "cover": a["cover"], "set_begin": a["set_begin"], "set_value": a["set_value"],
    }  # fmt: skip


def test_several_classes(tmp_path: Path) -> None:
    booster = lightgbm_models.trained("third", objective="multiclass", num_class=3)().model
    background = people().rows[:30]
    bundle = pack(booster, people().rows, name="m", out=tmp_path, background=background)
    phi = TreeExplainer(bundle / "model.onnx", background).shap_values(people().rows[:1])
    for output in range(3):
        due = brute_force(
            lambda mixed, k=output: booster.predict(mixed, raw_score=True)[:, k], people().rows[0], background
        )
        np.testing.assert_allclose(phi[0, :, output], due, rtol=0, atol=1e-6 * np.abs(due).max())


def test_what_the_manifest_says(tmp_path: Path) -> None:
    booster = xgboost_models.trained("well paid", objective="binary:logistic")().model
    given = {"name": "m", "out": tmp_path, "feature_names": NAMES}
    frame = pd.DataFrame(people().rows, columns=list(NAMES))
    drawn = pack(booster, people().rows, **given, background=frame, background_rows=25)
    manifest = Manifest.parse((drawn / "manifest.json").read_bytes())
    assert manifest.explanation.algorithm == "interventional"
    assert manifest.explanation.background_drawn == "25 rows: of 900 rows given, at random, without replacement"
    assert set(manifest.files) == {"model.onnx", "background.npy"}
    assert manifest.parity.attribution_reference == "interventional, leaf by leaf"
    assert manifest.parity.max_attribution_difference < 1e-6
    again = pack(booster, people().rows, **given, background=frame, background_rows=25)
    assert (again / "background.npy").read_bytes() == (drawn / "background.npy").read_bytes()
    rows = np.load(drawn / "background.npy")
    assert len(np.unique(rows, axis=0)) > 20
    assert all((people().rows == row)[:, 1].any() for row in rows)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"background": np.zeros((3, 4))}, r"background, read as X is: .*4"),
        ({"background": np.full((3, 10), np.inf)}, r"background, read as X is: X\[0, 0\] is inf"),
        ({"background": np.zeros((0, 10))}, r"background, read as X is: X has shape \(0, 10\)"),
        ({"background": np.zeros((10_001, 10))}, r"10001 rows; at most 10000 .*\(background_rows=200"),
        ({"background": np.zeros((3, 10)), "background_rows": 4}, "background_rows is 4, and the background has 3"),
        ({"background": np.zeros((3, 10)), "background_rows": 0}, "background_rows is 0; a whole number"),
        ({"background_rows": 5}, "there is no background to draw them from"),
        ({"covers": "count"}, r"the model carries its own covers \(sum_hessian\)"),
        ({"covers": "all"}, "covers is 'all'; 'model' or 'count'"),
    ],
)
def test_refused(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    booster = xgboost_models.trained("well paid", objective="binary:logistic")().model
    with pytest.raises(PackRefused, match=match):
        pack(booster, people().rows, name="m", out=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_attributions_that_are_wrong_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TreeExplainer.shap_values

    def exchanged(self: TreeExplainer, X: Any) -> Any:  # they still add up
        phi = original(self, X).copy()
        phi[:, [0, 4]] = phi[:, [4, 0]]
        return phi

    monkeypatch.setattr(TreeExplainer, "shap_values", exchanged)
    booster = xgboost_models.trained("well paid", objective="binary:logistic")().model
    with pytest.raises(PackRefused, match=r"attributions are not those .*interventional, leaf by leaf -?\d"):
        pack(booster, people().rows, name="m", out=tmp_path, background=people().rows[:20])


def change_manifest(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m["explanation"].update(algorithm="path_dependent"), r"explanation\.algorithm: is path_dependent"),
        (lambda m: m["files"].pop("background.npy"), r"explanation\.algorithm: is interventional, and"),
        (lambda m: m["explanation"].update(background_drawn=None), r"explanation\.background_drawn: must be given"),
        (lambda m: m["explanation"].update(algorithm="guess"), "must be .*interventional.*guess"),
        (
            lambda m: (m["files"].pop("background.npy"),
                       m.update(explanation={"algorithm": "path_dependent", "background_drawn": None})),
            "manifest.json says that algorithm is .*path_dependent.*the model file says .*interventional",
        ),
    ],
)  # fmt: skip
def test_manifests_that_contradict_their_model(change: Any, match: str, tmp_path: Path) -> None:
    booster = xgboost_models.trained("well paid", objective="binary:logistic")().model
    bundle = pack(booster, people().rows, name="m", out=tmp_path, background=people().rows[:20])
    ModelSnapshot.load(bundle)
    change_manifest(bundle, change)
    if "says that algorithm" in match:
        (bundle / "background.npy").unlink()  # else it is refused for that alone, being listed no more
    with pytest.raises(ModelError, match=match):
        ModelSnapshot.load(bundle)


def test_another_background_is_noticed(tmp_path: Path) -> None:
    booster = xgboost_models.trained("well paid", objective="binary:logistic")().model
    bundle = pack(booster, people().rows, name="m", out=tmp_path, background=people().rows[:20])
    other = pack(booster, people().rows, name="m", out=tmp_path, background=people().rows[20:40])
    (bundle / "background.npy").write_bytes((other / "background.npy").read_bytes())
    with pytest.raises(ModelError, match=r"background\.npy: expected SHA-256"):
        ModelSnapshot.load(bundle)
    digests = json.loads((other / "manifest.json").read_text())["files"]["background.npy"]
    change_manifest(bundle, lambda manifest: manifest["files"].update({"background.npy": digests}))
    with pytest.raises(ModelError, match=r"manifest\.json says that background is"):
        ModelSnapshot.load(bundle)
