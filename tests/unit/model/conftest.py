"""Bundles around any ONNX file: the digest is right, so that only what the file itself says can be refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests import forests
from xai_service.model.manifest import Feature, FileDigest, Manifest, Parity

if TYPE_CHECKING:
    from collections.abc import Callable

TREES = [
    ("split", 0, 0.5, "<", True, ("leaf", 1.0, 2.0),
     ("split", 1, -1.5, "<=", False, ("leaf", 4.0, 3.0), ("leaf", -2.0, 1.0))),
    ("split", 1, 0.0, "<", False, ("leaf", -1.0, 3.0), ("leaf", 0.5, 3.0)),
]  # fmt: skip


@pytest.fixture
def regression() -> onnx.ModelProto:
    """Two trees, two features, ``prediction`` through exp."""
    model = forests.onnx_model(forests.ensemble_attributes(TREES, 2), 2)
    model.graph.node.append(helper.make_node("Exp", ["margin"], ["prediction"]))
    model.graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1]))
    return model


@pytest.fixture
def classifier() -> onnx.ModelProto:
    """The same trees, with label and probabilities as `xai pack` writes them."""
    model = forests.onnx_model(forests.ensemble_attributes(TREES, 2), 2)
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Sigmoid", ["margin"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
            helper.make_node("Greater", ["positive", "threshold"], ["above"]),
            helper.make_node("Cast", ["above"], ["label_column"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["label_column", "axes"], ["label"]),
        ]
    )
    graph.initializer.extend(
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("threshold", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]))
    return model


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a model into a repository and returns the bundle's folder."""

    def write(
        model: onnx.ModelProto, name: str = "m", version: str = "1", *, n_features: int = 2, classes: Any = ()
    ) -> Path:
        data = model.SerializeToString()
        manifest = Manifest(
            schema="xai.bundle/2",
            name=name,
            version=version,
            created_at="2030-01-31T12:00:00Z",
            task="binary_classification" if classes else "regression",
            link="logistic" if classes else "exponential",
            link_scale=1.0,
            cover="sum_hessian",
            features=tuple(
                Feature(f"x{i}", allows_missing=True, minimum=None, maximum=None) for i in range(n_features)
            ),
            classes=tuple(classes),
            threshold=0.5 if classes else None,
            favourable_class=None,
            latency_budget_ms=None,
            files={"model.onnx": FileDigest(hashlib.sha256(data).hexdigest(), len(data))},
            parity=Parity(1, 1, 1, 1, 1, 1e-5, 0.0, 0.0),
            made_by={},
        )
        folder = tmp_path / "repository" / name / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(data)
        (folder / "manifest.json").write_bytes(manifest.to_json())
        return folder

    return write
