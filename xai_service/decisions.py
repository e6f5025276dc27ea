"""From the arrays of one request to one record for each row, and back to what a reader of one decision sees. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from xai_service import __version__
from xai_service.ledger.entry import Decision, Explanation, Runtime, decode_decision, decode_explanation
from xai_service.ledger.store import Stored
from xai_service.model.session import INTRA_OP_THREADS
from xai_service.model.snapshot import ModelSnapshot
from xai_service.types import Explanations, ExplanationStatus, Float32Array, Prediction, Timings

RUNTIME = Runtime(service_version=__version__, onnxruntime_version=ort.__version__, intra_op_threads=INTRA_OP_THREADS)
"""What computes predictions in this process."""


def split_explanations(explanations: Explanations, explained_at_ns: int) -> list[Explanation]:
    """Returns each row's own explanation.

    Args:
        explanations: of n rows.
        explained_at_ns: nanoseconds since the Unix epoch.
    """
    return [
        Explanation(
            status=status,
            phi=explanations.phi[row]
            if status is ExplanationStatus.COMPLETE and explanations.phi is not None
            else None,
            base_values=explanations.base_values,
            residual=float(explanations.residual[row]),
            detail="" if status is ExplanationStatus.COMPLETE else explanations.detail,
            method=explanations.method,
            explained_at_ns=explained_at_ns,
            standard_error=explanations.standard_error[row]
            if status is ExplanationStatus.COMPLETE and explanations.standard_error is not None
            else None,
        )
        for row, status in enumerate(explanations.statuses)
    ]


def decisions_of(
    ids: Sequence[uuid.UUID],
    decided_at_ns: int,
    model: ModelSnapshot,
    rows: Float32Array,
    prediction: Prediction,
    explanations: Explanations,
    timings: Timings,
    strings: Mapping[int, Sequence[str | None]] = MappingProxyType({}),
) -> list[Decision]:
    """Returns the record of each of n rows, in row order; ``strings`` is of `PredictCall`."""
    manifest = model.manifest
    return [
        Decision(
            decision_id=decision_id,
            decided_at_ns=decided_at_ns,
            model_name=manifest.name,
            model_version=manifest.version,
            model_sha256=model.sha256,
            feature_names=model.feature_names,
            input=rows[row],
            margin=prediction.margin[row],
            probabilities=None if prediction.probabilities is None else prediction.probabilities[row],
            label=None if prediction.labels is None else int(prediction.labels[row]),
            prediction=None if prediction.prediction is None else prediction.prediction[row],
            classes=manifest.classes,
            threshold=manifest.threshold,
            favourable_class=manifest.favourable_class or "",
            explanation=explanation,
            runtime=RUNTIME,
            timings=timings,
            input_strings={i: text for i, texts in strings.items() if (text := texts[row]) is not None},
        )
        for row, (decision_id, explanation) in enumerate(
            zip(ids, split_explanations(explanations, decided_at_ns), strict=True)
        )
    ]


def read_decision(stored: Stored) -> tuple[Decision, Explanation]:
    """Returns the decision as it was recorded, and its explanation as it stands now."""
    decision = decode_decision(stored.data)
    if stored.amendment is None:
        return decision, decision.explanation
    return decision, decode_explanation(stored.amendment)[1]


def stack_inputs(decisions: Sequence[Decision]) -> tuple[Float32Array, Float32Array]:
    """Returns the recorded inputs, float32 (n, features), and margins, float32 (n, outputs), of n ≥ 1 decisions."""
    return np.stack([decision.input for decision in decisions]), np.stack([decision.margin for decision in decisions])
