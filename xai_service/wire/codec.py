"""`xai.v1` messages to plain values and back. Nothing is decided here."""

from __future__ import annotations

import functools
import math
import uuid
import weakref
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from xai_service import _wire
from xai_service.errors import FieldViolation, InvalidInput
from xai_service.ledger.entry import Decision, Explanation
from xai_service.model.repository import ModelEntry
from xai_service.model.snapshot import ModelSnapshot
from xai_service.types import (
    HERE,
    LOWEST_PRIORITY,
    Arrival,
    ExplanationMode,
    ExplanationStatus,
    Float32Array,
    Method,
    PredictCall,
    Timings,
)
from xai_service.waves import PredictReply
from xai_service.wire.columns import from_columns
from xai_service.wire.fields import parse
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.results import ModelStatus
from xai_service.wire.tensors import from_tensor, to_tensor

STATUSES = {
    ExplanationStatus.COMPLETE: pb.EXPLANATION_STATUS_COMPLETE,
    ExplanationStatus.DEFERRED: pb.EXPLANATION_STATUS_DEFERRED,
    ExplanationStatus.FAILED: pb.EXPLANATION_STATUS_FAILED,
    ExplanationStatus.NOT_REQUESTED: pb.EXPLANATION_STATUS_NOT_REQUESTED,
}
MODES: dict[int, ExplanationMode] = {
    pb.EXPLANATION_MODE_UNSPECIFIED: ExplanationMode.COMPLETE_OR_DEFERRED,
    pb.EXPLANATION_MODE_NONE: ExplanationMode.NONE,
    pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED: ExplanationMode.COMPLETE_OR_DEFERRED,
    pb.EXPLANATION_MODE_REQUIRED: ExplanationMode.REQUIRED,
}


def decode_predict(request: pb.PredictRequest, arrival: Arrival = HERE) -> PredictCall:
    """Returns the call that a request holds.

    Args:
        request: as it was received.
        arrival: how.

    Raises:
        InvalidInput: no model name, or an input that is not a float matrix of the size it claims, or columns that are
            not of one length.
    """
    if not request.model_name:
        raise InvalidInput(FieldViolation("model_name", "is empty; name the model"))
    if request.explanation_mode not in MODES:
        raise InvalidInput(FieldViolation("explanation_mode", f"{request.explanation_mode} is none that is known"))
    if request.priority > LOWEST_PRIORITY:
        raise InvalidInput(FieldViolation("priority", f"{request.priority} is not from 0 to {LOWEST_PRIORITY}"))
    columns = from_columns(request)
    return PredictCall(
        model_name=request.model_name,
        model_version=request.model_version or None,
        rows=np.empty((len(columns[0].values), 0), np.float32) if columns else _rows(request),
        columns=columns,
        feature_names=tuple(request.feature_names) or None,
        latency_budget_ms=request.latency_budget_ms if request.HasField("latency_budget_ms") else None,
        mode=MODES[request.explanation_mode],
        priority=request.priority,
        arrival=arrival,
    )


def read_predict(message: bytes, arrival: Arrival = HERE) -> PredictCall:
    """Returns the call that an encoded request holds; see `decode_predict`.

    Raises:
        InvalidInput: as `decode_predict`, or the bytes are no request.
    """
    usual = _wire.read_predict(message)
    if usual is not None:
        name, version, rows, budget_ms, mode, priority = usual
        if name and mode in MODES and priority <= LOWEST_PRIORITY:
            return PredictCall(
                name,
                version or None,
                rows,
                latency_budget_ms=budget_ms,
                mode=MODES[mode],
                priority=priority,
                arrival=arrival,
            )
    request = parse(pb.PredictRequest, message)
    return decode_predict(request, arrival)


def named_in(message: bytes) -> tuple[str, str | None]:
    """Returns the model and version that an encoded request names, as far as it can be read."""
    try:
        request = parse(pb.PredictRequest, message)
    except InvalidInput:
        return "", None
    return request.model_name, request.model_version or None


def _rows(request: pb.PredictRequest) -> Float32Array:
    if not request.HasField("input"):
        raise InvalidInput(FieldViolation("input", "is absent; send a FLOAT32 tensor [rows, features]"))
    array = from_tensor(request.input, "input")
    if array.dtype.kind != "f":
        name = pb.DataType.Name(request.input.dtype).removeprefix("DATA_TYPE_")
        raise InvalidInput(FieldViolation("input.dtype", f"{name} was sent, the model takes FLOAT32 or FLOAT64"))
    if array.ndim != 2:
        raise InvalidInput(
            FieldViolation("input.shape", f"{list(array.shape)} was sent, two dimensions are due: [rows, features]")
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf and is refused as such
        return np.ascontiguousarray(array, dtype=np.float32)


def decode_decision_id(text: str) -> uuid.UUID:
    """Returns the id.

    Raises:
        InvalidInput: not a UUID.
    """
    try:
        return uuid.UUID(text)
    except ValueError:
        raise InvalidInput(FieldViolation("decision_id", f"{text[:64]!r} is not a UUID")) from None


def encode_predict(reply: PredictReply) -> pb.PredictResponse:
    """Returns the response to one request."""
    manifest, prediction, explanations = reply.model.manifest, reply.prediction, reply.explanations
    return pb.PredictResponse(
        model_name=manifest.name,
        model_version=manifest.version,
        model_sha256=reply.model.sha256.hex(),
        decision_ids=[str(decision_id) for decision_id in reply.decision_ids],
        margin=to_tensor(prediction.margin),
        probabilities=_optional(prediction.probabilities),
        labels=_optional(prediction.labels),
        prediction=_optional(prediction.prediction),
        classes=manifest.classes,
        feature_names=reply.model.feature_names,
        explanations=pb.Explanations(
            statuses=[STATUSES[status] for status in explanations.statuses],
            attributions=_optional(explanations.phi),
            base_values=to_tensor(explanations.base_values),
            additivity_residual=to_tensor(explanations.residual),
            detail=explanations.detail,
            method=_method(explanations.method),
            standard_error=_optional(explanations.standard_error),
        ),
        timings=_timings(reply.timings),
    )


def write_predict(reply: PredictReply) -> bytes:
    """Returns the encoded response to one request: `encode_predict`, without the objects in between."""
    prediction, explanations, timings = reply.prediction, reply.explanations, reply.timings
    if explanations.standard_error is not None:  # of what took far longer than protobuf does
        return encode_predict(reply).SerializeToString()
    n = len(reply.decision_ids)
    return _parts(reply.model).write(
        0,
        n,
        b"".join([one.bytes for one in reply.decision_ids]),
        prediction.margin,
        prediction.probabilities,
        prediction.labels,
        prediction.prediction,
        _status_bytes(explanations.statuses),
        explanations.phi,
        explanations.residual,
        explanations.detail.encode(),
        _encoded_method(explanations.method),
        timings.predict_us,
        _or_nan(timings.explain_us),
        _or_nan(timings.overlap_us),
        _or_nan(timings.record_us),
        _or_nan(timings.total_us),
        timings.budget_ms or 0.0,
    )


def _status_bytes(statuses: tuple[ExplanationStatus, ...]) -> bytes:
    # Comparing an enumeration's values is cheap, hashing them is not.
    if statuses.count(statuses[0]) == len(statuses):
        return bytes((STATUSES[statuses[0]],)) * len(statuses)
    return bytes(STATUSES[status] for status in statuses)


_parts_of: weakref.WeakKeyDictionary[ModelSnapshot, _wire.ReplyParts] = weakref.WeakKeyDictionary()


def _parts(model: ModelSnapshot) -> _wire.ReplyParts:
    parts = _parts_of.get(model)
    if parts is None:
        manifest = model.manifest
        head = pb.PredictResponse(
            model_name=manifest.name, model_version=manifest.version, model_sha256=model.sha256.hex()
        )
        names = pb.PredictResponse(classes=manifest.classes, feature_names=model.feature_names)
        base = pb.Explanations(base_values=to_tensor(model.base_values))
        parts = _wire.ReplyParts(head.SerializeToString(), names.SerializeToString(), base.SerializeToString())
        _parts_of[model] = parts
    return parts


@functools.lru_cache(maxsize=256)
def _encoded_method(method: Method) -> bytes:
    return _method(method).SerializeToString()


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def encode_decision(decision: Decision, explanation: Explanation) -> pb.Decision:
    """Returns one decision as it was recorded, with its explanation as it stands now."""
    runtime = decision.runtime
    return pb.Decision(
        decision_id=str(decision.decision_id),
        decided_at=_timestamp(decision.decided_at_ns),
        model_name=decision.model_name,
        model_version=decision.model_version,
        model_sha256=decision.model_sha256.hex(),
        feature_names=decision.feature_names,
        input=to_tensor(decision.input),
        input_strings=decision.input_strings,
        margin=to_tensor(decision.margin),
        probabilities=_optional(decision.probabilities),
        label=decision.label,
        prediction=_optional(decision.prediction),
        classes=decision.classes,
        threshold=decision.threshold,
        favourable_class=decision.favourable_class,
        explanation=encode_explanation(explanation),
        timings=_timings(decision.timings),
        runtime=[
            f"xai-service {runtime.service_version}",
            f"onnxruntime {runtime.onnxruntime_version}",
            f"intra-op threads {runtime.intra_op_threads}",
        ],
    )


def encode_explanation(explanation: Explanation) -> pb.Explanation:
    """Returns one decision's explanation."""
    return pb.Explanation(
        status=STATUSES[explanation.status],
        attributions=_optional(explanation.phi),
        base_values=to_tensor(explanation.base_values),
        additivity_residual=explanation.residual,
        detail=explanation.detail,
        method=_method(explanation.method),
        standard_error=_optional(explanation.standard_error),
        explained_at=(
            None if explanation.status is ExplanationStatus.DEFERRED else _timestamp(explanation.explained_at_ns)
        ),
    )


def encode_model(entry: ModelEntry) -> pb.ModelStatus:
    """Returns what the repository knows of one version."""
    status = ModelStatus.of(entry)
    fields = {name: getattr(status, name) for name in ModelStatus.__slots__ if name != "loaded_at"}
    return pb.ModelStatus(**fields, loaded_at=_timestamp(entry.loaded_at_ns) if status.loaded_at else None)


def _optional(array: NDArray[Any] | None) -> pb.Tensor | None:
    return None if array is None else to_tensor(array)


def _method(method: Method) -> pb.Method:
    return pb.Method(algorithm=method.algorithm, variant=method.variant, isa=method.isa)


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        predict_us=timings.predict_us,
        explain_us=timings.explain_us,
        overlap_us=timings.overlap_us,
        record_us=timings.record_us,
        total_us=timings.total_us,
        budget_ms=timings.budget_ms or 0.0,
    )


def _timestamp(ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp
