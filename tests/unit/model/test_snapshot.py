"""A snapshot explains the very file it serves, or does not load."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from tests import forests, oracles
from tests.unit.model.conftest import TREES
from xai_service.errors import BundleMismatch, InvalidModel, MissingCovers
from xai_service.model.snapshot import ModelSnapshot
from xai_service.treeshap import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = np.array([[a, b] for a in (*forests.VALUES, np.nan) for b in (*forests.VALUES, np.nan)], np.float32)
CLASSES = ("denied", "approved")


def change(model: onnx.ModelProto, name: str, values: list[Any]) -> onnx.ModelProto:
    (attribute,) = [a for a in model.graph.node[0].attribute if a.name == name]
    attribute.CopyFrom(onnx.helper.make_attribute(name, values))
    return model


def test_what_is_explained_is_what_is_served(
    classifier: onnx.ModelProto, regression: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    pool = WorkerPool(2)
    for model, classes in ((classifier, CLASSES), (regression, ())):
        folder = write_bundle(model, f"m{len(classes)}", classes=classes)
        snapshot = ModelSnapshot.load(folder)
        prediction = snapshot.predict(ROWS)
        job = snapshot.explain(pool, ROWS)
        assert job.wait(60)
        phi = job.result()
        assert phi.shape == (len(ROWS), 2, 1)
        np.testing.assert_allclose(snapshot.base_values + phi.sum(axis=1), prediction.margin, rtol=0, atol=1e-5)
        for row, got in zip(ROWS, phi, strict=True):
            np.testing.assert_allclose(got[:, 0], oracles.brute_force(TREES, row), rtol=0, atol=1e-5)
        assert (prediction.labels is None, prediction.prediction is None) == (not classes, bool(classes))


def test_what_a_snapshot_says(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    folder = write_bundle(regression)
    snapshot = ModelSnapshot.load(folder)
    assert snapshot.feature_names == ("x0", "x1")
    assert snapshot.n_outputs == 1
    assert snapshot.method_for(5).algorithm == "path_dependent_treeshap"
    assert snapshot.base_values == pytest.approx([oracles.base_value(TREES, 2)])
    assert snapshot.sha256.hex() == json.loads((folder / "manifest.json").read_bytes())["files"]["model.onnx"]["sha256"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.sha256 = b""  # type: ignore[misc]


def test_a_snapshot_survives_its_files(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    folder = write_bundle(regression)
    snapshot = ModelSnapshot.load(folder)
    before = snapshot.predict(ROWS).margin.tobytes()
    for file in folder.iterdir():
        file.write_bytes(b"changed")
    assert snapshot.predict(ROWS).margin.tobytes() == before
    with pytest.raises(InvalidModel):
        ModelSnapshot.load(folder)


def test_manifest_and_model_must_agree(
    classifier: onnx.ModelProto, regression: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    with pytest.raises(InvalidModel, match="takes 2 features, its manifest names 3"):
        ModelSnapshot.load(write_bundle(regression, "features", n_features=3))
    with pytest.raises(InvalidModel, match=r"lacks the outputs \['label', 'probabilities'\]"):
        ModelSnapshot.load(write_bundle(regression, "task", classes=CLASSES))
    with pytest.raises(InvalidModel, match=r"lacks the outputs \['prediction'\]"):
        ModelSnapshot.load(write_bundle(classifier, "task2"))
    several = change(change(classifier, "base_values", [0.0, 0.0]), "target_ids", [0, 0, 1, 1, 1])
    change(several, "n_targets", 2)  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match="computes 2 margins; a binary classifier has one"):
        ModelSnapshot.load(write_bundle(several, "several", classes=CLASSES))


def test_trees_are_checked_before_onnx_runtime_sees_them(
    regression: onnx.ModelProto, write_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime might walk a cycle for ever."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("ONNX Runtime was started"))
    cycle = change(regression, "nodes_truenodeids", [1, 0, 0, 0, 0, 1, 0, 0])
    with pytest.raises(InvalidModel, match="tree 0"):
        ModelSnapshot.load(write_bundle(cycle))


def test_models_that_cannot_be_explained(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    with pytest.raises(MissingCovers, match="xai pack"):
        ModelSnapshot.load(write_bundle(change(regression, "nodes_hitrates", [1.0] * 8)))


def test_bundles_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BundleMismatch, match=r"manifest\.json: cannot be read"):
        ModelSnapshot.load(tmp_path / "nothing")
