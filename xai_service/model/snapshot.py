"""One version of one model, ready to serve. Never mutates: a reload is a new snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xai_service import _treeshap
from xai_service.errors import InvalidModel
from xai_service.model.agreement import check_agreement
from xai_service.model.background import read_background
from xai_service.model.bundle import Bundle
from xai_service.model.costs import Costs, calibrate
from xai_service.model.manifest import BACKGROUND_FILE, Manifest
from xai_service.model.onnx_trees import parse_model, read_forest
from xai_service.model.probe_rows import rows_near_thresholds
from xai_service.model.raw_features import RawFeatures
from xai_service.model.session import OUTPUTS, OrtPredictor
from xai_service.treeshap import (
    InterventionalPlan,
    PathDependentExplainer,
    compile_explainer,
    compile_interventional,
    method_for,
)
from xai_service.types import Float32Array, Float64Array, Int64Array, Method, Prediction

_SMALL_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ModelSnapshot:
    """A bundle whose file is both served by ONNX Runtime and explained by the kernel.

    Attributes:
        manifest: what the bundle says of itself.
        sha256: digest of the ONNX file, 32 bytes.
        feature_names: in the order of the columns.
        categorical: int64, the columns that hold codes of categories.
        raw: what strings and numbers the features take.
        base_values: float64 (outputs,), the margin expected before any feature is known.
        costs: what predicting and explaining take here, as timed when it was loaded.
    """

    manifest: Manifest
    sha256: bytes
    feature_names: tuple[str, ...]
    categorical: Int64Array
    raw: RawFeatures
    base_values: Float64Array
    costs: Costs
    _predictor: OrtPredictor
    _explainer: PathDependentExplainer | InterventionalPlan
    _n_trees: int
    _methods: dict[int, Method] = field(default_factory=dict)  # of small batches, which are asked for again and again

    @classmethod
    def load(cls, folder: Path) -> ModelSnapshot:
        """Returns the bundle in ``folder``, checked. Raises as `Bundle.load` and `of` do."""
        return cls.of(Bundle.load(folder))

    @classmethod
    def of(cls, bundle: Bundle) -> ModelSnapshot:
        """Returns the bundle, ready to serve.

        Raises:
            ModelError: it cannot be served and explained; says why.
        """
        manifest = bundle.manifest
        model = parse_model(bundle.onnx_bytes)
        # The forest first: it refuses cycles, on which ONNX Runtime might run for ever.
        forest = read_forest(model)
        if forest.n_features != len(manifest.features):
            raise InvalidModel(
                f"the model takes {forest.n_features} features, its manifest names {len(manifest.features)}"
            )
        due = _margins_due(manifest)
        if due is not None and forest.n_outputs != due:
            raise InvalidModel(
                f"the model computes {forest.n_outputs} margins; "
                + ("a binary classifier has one" if due == 1 else f"there are {due} classes, with a margin each")
            )
        explainer = _explainer_of(bundle, forest)
        predictor = OrtPredictor(model, bundle.onnx_bytes, OUTPUTS[manifest.task], len(manifest.classes))
        rows = rows_near_thresholds(model, forest.n_features, forest.n_outputs)
        missing = np.full_like(rows[:1], np.nan)
        check_agreement(manifest, model, predictor.predict, np.concatenate([rows, missing]), explainer.base_values)
        names = tuple(feature.name for feature in manifest.features)
        costs = calibrate(predictor.predict, explainer.explain, rows)
        categorical = np.flatnonzero([feature.kind == "categorical" for feature in manifest.features])
        return cls(
            manifest=manifest,
            sha256=bundle.onnx_sha256,
            feature_names=names,
            categorical=categorical,
            raw=RawFeatures(manifest.features),
            base_values=explainer.base_values,
            costs=costs,
            _predictor=predictor,
            _explainer=explainer,
            _n_trees=forest.n_trees,
        )

    @property
    def n_outputs(self) -> int:
        """Margins computed for a row."""
        return self._explainer.n_outputs

    def method_for(self, rows: int) -> Method:
        """Returns how the attributions of a batch of so many rows are computed."""
        method = self._methods.get(rows)
        if method is None:
            method = method_for(self._explainer, self._n_trees, rows)
            if rows <= _SMALL_BATCH:
                self._methods[rows] = method
        return method

    def predict(self, rows: Float32Array) -> Prediction:
        """Returns ONNX Runtime's answer for float32 (n, features) rows, n ≥ 1. Drops the GIL."""
        return self._predictor.predict(rows)

    def explain(
        self, pool: _treeshap.WorkerPool, rows: Float32Array, *, deferred: bool = False
    ) -> _treeshap.ExplainJob:
        """Queues the rows' attributions on ``pool``, behind all live work when ``deferred``, and returns at once."""
        return self._explainer.submit(pool, rows, deferred=deferred)

    def explain_here(self, rows: Float32Array) -> Float64Array:
        """Returns the rows' attributions, float64 (n, features, outputs), computed by the calling thread."""
        return self._explainer.explain(rows)


def _explainer_of(bundle: Bundle, forest: _treeshap.Forest) -> PathDependentExplainer | InterventionalPlan:
    if bundle.manifest.explanation.algorithm == "path_dependent":
        return compile_explainer(forest)
    return compile_interventional(forest, read_background(bundle.files[BACKGROUND_FILE], forest.n_features))


def _margins_due(manifest: Manifest) -> int | None:
    """Returns how many margins the task has, ``None`` where that is the model's own affair."""
    if manifest.task in ("binary_classification", "ranking"):
        return 1
    return len(manifest.classes) or None
