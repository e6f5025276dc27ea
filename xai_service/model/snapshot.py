"""One version of one model, ready to serve. Never mutates: a reload is a new snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xai_service import _treeshap
from xai_service.errors import InvalidModel
from xai_service.model.agreement import check_agreement
from xai_service.model.bundle import Bundle
from xai_service.model.costs import Costs, calibrate, calibrate_asked
from xai_service.model.explainers import Explainer, Job, read_core
from xai_service.model.manifest import Manifest
from xai_service.model.onnx_trees import parse_model
from xai_service.model.raw_features import RawFeatures
from xai_service.model.session import OUTPUTS, OrtPredictor
from xai_service.types import Attributions, Float32Array, Float64Array, Int64Array, Method, Prediction

_SMALL_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ModelSnapshot:
    """A bundle whose file is both served by ONNX Runtime and explained.

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
    _explainer: Explainer
    _method_for: Callable[[int], Method]
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
        # What computes the margin first: the reader of trees refuses cycles, on which ONNX Runtime might run for ever.
        core = read_core(model, manifest.explanation.algorithm, bundle.files)
        if core.n_features != len(manifest.features):
            raise InvalidModel(
                f"the model takes {core.n_features} features, its manifest names {len(manifest.features)}"
            )
        due = _margins_due(manifest)
        if due is not None and core.n_outputs != due:
            raise InvalidModel(
                f"the model computes {core.n_outputs} margins; "
                + ("a binary classifier has one" if due == 1 else f"there are {due} classes, with a margin each")
            )
        predictor = OrtPredictor(
            model,
            bundle.onnx_bytes,
            OUTPUTS[manifest.task],
            len(manifest.classes),
            (core.nodes, core.constants),
            core.most_rows,
        )
        explainer = core.explainer(lambda rows: predictor.predict(rows).margin)
        missing = np.full_like(core.rows[:1], np.nan)
        check_agreement(manifest, model, predictor.predict, np.concatenate([core.rows, missing]), explainer.base_values)
        names = tuple(feature.name for feature in manifest.features)
        costs = (
            calibrate(predictor.predict, explainer.explain, core.rows)
            if not core.evaluations
            else calibrate_asked(predictor.predict, core.evaluations, core.rows)
        )
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
            _method_for=core.method_for,
        )

    @property
    def n_outputs(self) -> int:
        """Margins computed for a row."""
        return self._explainer.n_outputs

    def method_for(self, rows: int) -> Method:
        """Returns how the attributions of a batch of so many rows are computed."""
        method = self._methods.get(rows)
        if method is None:
            method = self._method_for(rows)
            if rows <= _SMALL_BATCH:
                self._methods[rows] = method
        return method

    def predict(self, rows: Float32Array) -> Prediction:
        """Returns ONNX Runtime's answer for float32 (n, features) rows, n ≥ 1. Drops the GIL."""
        return self._predictor.predict(rows)

    @property
    def explains_by_asking(self) -> bool:
        """Whether explanations are estimated by asking the model, for which a row takes long."""
        return self.manifest.explanation.algorithm == "permutation"

    def attributions(self, job: Job) -> Attributions:
        """Returns what a job that is over found. Raises RuntimeError or MemoryError where it found nothing."""
        error = getattr(job, "standard_error", None) if self.explains_by_asking else None
        return Attributions(job.result(), job.started_ns, job.finished_ns, error)

    def explain(self, pool: _treeshap.WorkerPool, rows: Float32Array, *, deferred: bool = False) -> Job:
        """Queues the rows' attributions on ``pool``, behind all live work when ``deferred``, and returns at once."""
        return self._explainer.submit(pool, rows, deferred=deferred)

    def explain_here(self, rows: Float32Array) -> Float64Array:
        """Returns the rows' attributions, float64 (n, features, outputs), computed by the calling thread."""
        return self._explainer.explain(rows)


def _margins_due(manifest: Manifest) -> int | None:
    """Returns how many margins the task has, ``None`` where that is the model's own affair."""
    if manifest.task in ("binary_classification", "ranking"):
        return 1
    return len(manifest.classes) or None
