"""What the client hands back: the answers of `xai.v1` as numpy arrays and Python values, and on request as shap's."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.types import ExplanationStatus, Float32Array, Float64Array, Int64Array, Method, Timings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from xai_service.model.repository import ModelEntry

_MAX_ROWS_NAMED = 10


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The answer for n rows; every row is a decision of its own.

    Attributes:
        model_sha256: digest of the ONNX file that was served and explained, hex.
        decision_ids: (n,), for `Client.decision` and `Client.explanation`.
        margin: float32 (n, outputs), the raw score that the attributions explain.
        probabilities: float32 (n, classes) of a classifier, else ``None``.
        labels: int64 (n,), indices into ``classes``, of a classifier that decides for one, else ``None``.
        prediction: float32 (n, outputs), margin through the link, of a regressor, else ``None``.
        rows: (n, features), in the model's order: float32 or float64 as sent, or objects where there are strings among
            them, NaN where missing.
        statuses: (n,), how far each explanation has come.
        attributions: float64 (n, features, outputs), NaN in rows that are not complete; ``None`` when no row is.
        base_values: float64 (outputs,), the margin expected before any feature is known.
        additivity_residual: float64 (n,), |base + Σφ - margin|; NaN where not computed.
        detail: why rows are deferred or failed.
        standard_error: float64 (n, features, outputs), of attributions that are estimates; ``None`` of exact ones.
    """

    model_name: str
    model_version: str
    model_sha256: str
    decision_ids: tuple[str, ...]
    margin: Float32Array
    probabilities: Float32Array | None
    labels: Int64Array | None
    prediction: Float32Array | None
    classes: tuple[str, ...]
    feature_names: tuple[str, ...]
    rows: NDArray[Any]
    statuses: tuple[ExplanationStatus, ...]
    attributions: Float64Array | None
    base_values: Float64Array
    additivity_residual: Float64Array
    detail: str
    method: Method
    timings: Timings
    standard_error: Float64Array | None = None

    def to_shap(self) -> Any:
        """Returns a `shap.Explanation` of all rows; ``values`` is (n, features) when the model has one output.

        Raises:
            ImportError: shap is not installed.
            ValueError: rows are not `ExplanationStatus.COMPLETE`; names them.
        """
        open_rows = [row for row, status in enumerate(self.statuses) if status is not ExplanationStatus.COMPLETE]
        if open_rows or self.attributions is None:
            shown = ", ".join(map(str, open_rows[:_MAX_ROWS_NAMED]))
            more = f" and {len(open_rows) - _MAX_ROWS_NAMED} more" if len(open_rows) > _MAX_ROWS_NAMED else ""
            raise ValueError(
                f"no explanation for {len(open_rows)} of {len(self.statuses)} rows, [{shown}]{more}: "
                f"{self.detail or 'ask explanation() for them later'}"
            )
        base_values = np.tile(self.base_values, (len(self.rows), 1))
        return _shap(self.attributions, base_values, self.rows, self.feature_names, self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The explanation of one decision.

    Attributes:
        attributions: float64 (features, outputs), or ``None`` unless complete.
        base_values: float64 (outputs,).
        additivity_residual: |base + Σφ - margin|, the worst output's.
        detail: why it is deferred or failed.
        explained_at: when it was finished, UTC, or ``None`` while it is not.
        standard_error: float64 (features, outputs) of attributions that are estimates; ``None`` where they are exact.
    """

    decision_id: str
    status: ExplanationStatus
    attributions: Float64Array | None
    base_values: Float64Array
    additivity_residual: float
    detail: str
    method: Method
    explained_at: datetime | None
    standard_error: Float64Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """One decision as it was recorded; without the leading row axis, arrays are as in `Reply`.

    Attributes:
        decided_at: UTC.
        input: float32 (features,), the very bits that were fed to the model; a string as the place of its category.
        input_strings: the strings that were sent, by the feature's place; none where one was missing.
        label: index into ``classes``, or ``None`` where no one class is decided.
        threshold: the probability above which class 1 is decided, or ``None``.
        favourable_class: the class that is good for the person decided about, or ``None`` where not named.
        runtime: versions that computed the prediction.
    """

    decision_id: str
    decided_at: datetime
    model_name: str
    model_version: str
    model_sha256: str
    feature_names: tuple[str, ...]
    input: Float32Array
    margin: Float32Array
    probabilities: Float32Array | None
    label: int | None
    prediction: Float32Array | None
    classes: tuple[str, ...]
    threshold: float | None
    favourable_class: str | None
    explanation: Explanation
    timings: Timings
    runtime: tuple[str, ...]
    input_strings: Mapping[int, str] = field(default_factory=dict)

    @property
    def values(self) -> list[float | str]:
        """The raw values, one for each feature, NaN where missing."""
        return [self.input_strings.get(i, value) for i, value in enumerate(self.input.tolist())]

    def to_shap(self) -> Any:
        """Returns a `shap.Explanation` of this one row; ``values`` is (features,) when the model has one output.

        Raises:
            ImportError: shap is not installed.
            ValueError: the explanation is not `ExplanationStatus.COMPLETE`.
        """
        one = self.explanation
        if one.attributions is None:
            raise ValueError(
                f"decision {self.decision_id} has no explanation: {one.status.value} {one.detail}".rstrip()
            )
        values, base_values, rows = one.attributions[None], one.base_values[None], self.input[None]
        if self.input_strings:
            rows = np.array([self.values], object)
        return _shap(values, base_values, rows, self.feature_names, self.classes)[0]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model in the repository.

    Attributes:
        reason: why it is not ready, or what is wrong with the files of one that serves as it was loaded; else empty.
        allows_missing: of each feature, whether a row may hold NaN there.
        feature_kinds: of each feature ``numeric``, ``categorical`` (codes of categories) or ``string``.
        task: what it predicts; empty where it is not ready.
        signed_by: id of the trusted key that signed it; empty where no signature was required.
        loaded_at: UTC, or ``None`` where it is not ready.
    """

    model_name: str
    model_version: str
    ready: bool
    reason: str
    model_sha256: str
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    allows_missing: tuple[bool, ...]
    task: str
    signed_by: str
    loaded_at: datetime | None
    feature_kinds: tuple[str, ...] = ()

    @staticmethod
    def of(entry: ModelEntry) -> ModelStatus:
        """Returns what a service with this entry in its repository would say."""
        snapshot = entry.snapshot
        manifest = None if snapshot is None else snapshot.manifest
        return ModelStatus(
            model_name=entry.name,
            model_version=entry.version,
            ready=snapshot is not None,
            reason="" if entry.error is None else str(entry.error),
            model_sha256="" if snapshot is None else snapshot.sha256.hex(),
            feature_names=() if snapshot is None else snapshot.feature_names,
            classes=() if manifest is None else manifest.classes,
            allows_missing=() if manifest is None else tuple(one.allows_missing for one in manifest.features),
            task="" if manifest is None else manifest.task,
            signed_by=entry.signed_by or "",
            loaded_at=None if snapshot is None else datetime.fromtimestamp(entry.loaded_at_ns / 1e9, UTC),
            feature_kinds=() if manifest is None else tuple(one.kind for one in manifest.features),
        )


def _shap(
    values: Float64Array, base_values: Float64Array, rows: Any, names: Sequence[str], classes: Sequence[str]
) -> Any:
    """shap.Explanation of (n, features, outputs) ``values``, in the shapes that shap's own explainers give."""
    try:
        shap = importlib.import_module("shap")  # the caller's choice, never a dependency of what serves
    except ImportError as error:
        raise ImportError("to_shap() gives a shap.Explanation, which needs shap: pip install shap") from error
    outputs = values.shape[2]
    if outputs == 1:
        values, base_values = values[:, :, 0], base_values[:, 0]
    output_names = list(classes) if outputs == len(classes) else None
    return shap.Explanation(
        values, base_values=base_values, data=np.asarray(rows), feature_names=list(names), output_names=output_names
    )
