"""What one decision says, and its bytes (``xai.record.v1``).

Pure: no clock, no file. Bytes are made once, stored, and never made again from the fields: protobuf's deterministic
serialisation is stable within one version of its library only, so whoever wants to prove a record uses its stored
bytes. Arrays travel as raw little-endian IEEE 754 bits; NaN payloads and -0.0 survive.

Both directions hold a record to the same rules, so whatever was written can be read: at least one feature and one
output, array lengths that follow from the counts, attributions exactly when the explanation is complete.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from xai_service.errors import InternalError
from xai_service.ledger.gen.xai.record.v1 import record_pb2
from xai_service.types import ExplanationStatus, Float32Array, Float64Array, Method, Timings

_F32 = np.dtype("<f4")
_F64 = np.dtype("<f8")
_SHA256_BYTES = 32

_STATUS_TO_WIRE = {
    ExplanationStatus.COMPLETE: record_pb2.ExplanationRecord.STATUS_COMPLETE,
    ExplanationStatus.DEFERRED: record_pb2.ExplanationRecord.STATUS_DEFERRED,
    ExplanationStatus.FAILED: record_pb2.ExplanationRecord.STATUS_FAILED,
    ExplanationStatus.NOT_REQUESTED: record_pb2.ExplanationRecord.STATUS_NOT_REQUESTED,
}
_STATUS_FROM_WIRE = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The explanation of one decision, as far as it has come. Compared by identity, as its arrays are.

    Attributes:
        status: how far it has come.
        phi: float64 (features, outputs) when complete, else ``None``.
        base_values: float64 (outputs,).
        residual: |base + Σφ - margin|, the worst output's; NaN where not computed.
        detail: why it is deferred or failed; empty when complete.
        method: how it was, or will be, computed.
        explained_at_ns: nanoseconds since the Unix epoch.
        standard_error: float64 (features, outputs) of attributions that are estimates; ``None`` where they are exact.
    """

    status: ExplanationStatus
    phi: Float64Array | None
    base_values: Float64Array
    residual: float
    detail: str
    method: Method
    explained_at_ns: int
    standard_error: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computed the prediction."""

    service_version: str
    onnxruntime_version: str
    intra_op_threads: int


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """One row, one decision. Compared by identity, as its arrays are.

    Attributes:
        decision_id: UUIDv7.
        decided_at_ns: nanoseconds since the Unix epoch.
        model_name, model_version: as in the repository.
        model_sha256: 32 bytes, of the model file.
        feature_names: one for each feature.
        input: float32 (features,), the bits fed to the model; a string as the place of its category.
        margin: float32 (outputs,).
        probabilities: float32 (classes,) of a classifier, else ``None``.
        label: index of the class decided, of a classifier that decides for one, else ``None``.
        prediction: float32 (outputs,) of a regressor, else ``None``.
        classes: names, in the order of ``probabilities``; empty for a regressor.
        threshold: of the decision, if the model has one.
        favourable_class: the outcome people hope for; may be empty.
        explanation: as it stood at the reply.
        runtime: what computed the prediction.
        timings: of the request. Its ``record_us`` and ``total_us`` lie after the recording: not stored.
            ``None`` is stored as 0: a budget is > 0, and so is what an explanation took.
        input_strings: what was sent for features that are strings, by the feature's place; none where it was missing.
    """

    decision_id: uuid.UUID
    decided_at_ns: int
    model_name: str
    model_version: str
    model_sha256: bytes
    feature_names: tuple[str, ...]
    input: Float32Array
    margin: Float32Array
    probabilities: Float32Array | None
    label: int | None
    prediction: Float32Array | None
    classes: tuple[str, ...]
    threshold: float | None
    favourable_class: str
    explanation: Explanation
    runtime: Runtime
    timings: Timings
    input_strings: Mapping[int, str] = field(default_factory=dict)


def encode_decision(decision: Decision) -> bytes:
    """The bytes to store for a decision.

    Raises:
        InternalError: the decision contradicts itself (see the module) or has a value that the format cannot hold.
    """
    if len(decision.model_sha256) != _SHA256_BYTES:
        raise InternalError(f"model_sha256 has {len(decision.model_sha256)} bytes; SHA-256 has {_SHA256_BYTES}")
    timings, runtime = decision.timings, decision.runtime
    try:
        features, outputs, classes = len(decision.feature_names), len(decision.margin), len(decision.classes)
        record = record_pb2.DecisionRecord(
            decision_id=decision.decision_id.bytes,
            decided_at_ns=decision.decided_at_ns,
            model_name=decision.model_name,
            model_version=decision.model_version,
            model_sha256=decision.model_sha256,
            feature_names=decision.feature_names,
            input_f32=_pack(decision.input, _F32, (features,), "input"),
            margin_f32=_pack(decision.margin, _F32, (outputs,), "margin"),
            probabilities_f32=_pack_optional(decision.probabilities, _F32, (classes,), "probabilities"),
            label=decision.label,
            prediction_f32=_pack_optional(decision.prediction, _F32, (outputs,), "prediction"),
            classes=decision.classes,
            threshold=decision.threshold,
            favourable_class=decision.favourable_class,
            explanation=_explanation_record(decision.explanation, (features, outputs)),
            runtime=record_pb2.RuntimeRecord(
                service_version=runtime.service_version,
                onnxruntime_version=runtime.onnxruntime_version,
                intra_op_threads=runtime.intra_op_threads,
            ),
            timings=record_pb2.TimingsRecord(
                predict_us=timings.predict_us,
                explain_us=timings.explain_us or 0.0,
                overlap_us=timings.overlap_us or 0.0,
                budget_ms=timings.budget_ms,
            ),
            input_strings=_checked_places(decision.input_strings, features),
        )
        return record.SerializeToString(deterministic=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise InternalError(f"decision {decision.decision_id} cannot be recorded: {error}") from error


def decode_decision(data: bytes) -> Decision:
    """The decision that `encode_decision` made these bytes of. Its arrays are read-only views.

    Raises:
        InternalError: the bytes are not a whole, consistent record.
    """
    record = _parse(record_pb2.DecisionRecord, data, "decision record")
    for part in ("explanation", "runtime", "timings"):
        if not record.HasField(part):
            raise InternalError(f"decision record: no {part}")
    if len(record.model_sha256) != _SHA256_BYTES:
        raise InternalError(f"decision record: model_sha256 has {len(record.model_sha256)} bytes, not {_SHA256_BYTES}")
    if record.explanation.decision_id:
        raise InternalError("decision record: its explanation names a decision; only amendments do")
    features, outputs, classes = len(record.feature_names), len(record.margin_f32) // _F32.itemsize, len(record.classes)
    timings, runtime = record.timings, record.runtime
    return Decision(
        decision_id=_decision_id(record.decision_id, "decision record"),
        decided_at_ns=record.decided_at_ns,
        model_name=record.model_name,
        model_version=record.model_version,
        model_sha256=record.model_sha256,
        feature_names=tuple(record.feature_names),
        input=_unpack(record.input_f32, _F32, (features,), "input"),
        margin=_unpack(record.margin_f32, _F32, (outputs,), "margin"),
        probabilities=_unpack_optional(record.probabilities_f32, _F32, (classes,), "probabilities"),
        label=record.label if record.HasField("label") else None,
        prediction=_unpack_optional(record.prediction_f32, _F32, (outputs,), "prediction"),
        classes=tuple(record.classes),
        threshold=record.threshold if record.HasField("threshold") else None,
        favourable_class=record.favourable_class,
        explanation=_explanation(record.explanation, (features, outputs)),
        runtime=Runtime(runtime.service_version, runtime.onnxruntime_version, runtime.intra_op_threads),
        timings=Timings(
            predict_us=timings.predict_us,
            explain_us=timings.explain_us or None,
            overlap_us=timings.overlap_us if timings.explain_us else None,
            budget_ms=timings.budget_ms or None,
        ),
        input_strings=_checked_places(dict(record.input_strings), features),
    )


def encode_explanation(decision_id: uuid.UUID, explanation: Explanation) -> bytes:
    """The bytes of an amendment: the explanation that a pending decision was waiting for.

    Raises:
        InternalError: the explanation contradicts itself or has a value that the format cannot hold.
    """
    try:
        outputs = len(explanation.base_values)
        features = 0 if explanation.phi is None else len(explanation.phi)
        record = _explanation_record(explanation, (features, outputs))
        record.decision_id = decision_id.bytes
        return record.SerializeToString(deterministic=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise InternalError(f"explanation of decision {decision_id} cannot be recorded: {error}") from error


def decode_explanation(data: bytes) -> tuple[uuid.UUID, Explanation]:
    """Decision id and explanation that `encode_explanation` made these bytes of.

    The feature count follows from the lengths; whether it is the decision's is for the caller to compare.

    Raises:
        InternalError: the bytes are not a whole, consistent record.
    """
    record = _parse(record_pb2.ExplanationRecord, data, "explanation record")
    outputs = len(record.base_values_f64) // _F64.itemsize
    features = len(record.attributions_f64) // (_F64.itemsize * max(outputs, 1))
    return _decision_id(record.decision_id, "explanation record"), _explanation(record, (features, outputs))


def _explanation_record(explanation: Explanation, shape: tuple[int, int]) -> record_pb2.ExplanationRecord:
    if (explanation.phi is not None) != (explanation.status is ExplanationStatus.COMPLETE):
        raise InternalError(f"an explanation has attributions exactly when complete; this one is {explanation.status}")
    return record_pb2.ExplanationRecord(
        status=_STATUS_TO_WIRE[explanation.status],
        attributions_f64=_pack_optional(explanation.phi, _F64, shape, "attributions"),
        base_values_f64=_pack(explanation.base_values, _F64, shape[1:], "base values"),
        additivity_residual=explanation.residual,
        detail=explanation.detail,
        algorithm=explanation.method.algorithm,
        variant=explanation.method.variant,
        isa=explanation.method.isa,
        explained_at_ns=explanation.explained_at_ns,
        standard_error_f64=_pack_optional(explanation.standard_error, _F64, shape, "standard errors"),
    )


def _explanation(record: record_pb2.ExplanationRecord, shape: tuple[int, int]) -> Explanation:
    status = _STATUS_FROM_WIRE.get(record.status)
    if status is None:
        raise InternalError(f"explanation record: unknown status {record.status}")
    phi = _unpack_optional(record.attributions_f64, _F64, shape, "attributions")
    if (phi is not None) != (status is ExplanationStatus.COMPLETE):
        raise InternalError(f"explanation record: status {status.value} does not go with its attributions")
    return Explanation(
        status=status,
        phi=phi,
        base_values=_unpack(record.base_values_f64, _F64, shape[1:], "base values"),
        residual=record.additivity_residual,
        detail=record.detail,
        method=Method(record.algorithm, record.variant, record.isa),
        explained_at_ns=record.explained_at_ns,
        standard_error=_unpack_optional(record.standard_error_f64, _F64, shape, "standard errors"),
    )


def _checked_places(strings: Mapping[int, str], features: int) -> Mapping[int, str]:
    if any(not 0 <= place < features for place in strings):
        raise InternalError(f"input strings: for feature {max(strings)} of {features}")
    return strings


def _parse(kind: type[Any], data: bytes, what: str) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InternalError(f"{what}: {len(data)} bytes that are not one: {error}") from error


def _decision_id(data: bytes, what: str) -> uuid.UUID:
    if len(data) != 16:
        raise InternalError(f"{what}: decision_id has {len(data)} bytes, not 16")
    return uuid.UUID(bytes=data)


def _pack(array: np.ndarray[Any, Any], dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> bytes:
    # No cast here: a cast would record other bits than those that were used.
    if array.dtype != dtype or array.shape != shape or not array.size:
        raise InternalError(f"{what}: expected {dtype} {shape}, at least one value; got {array.dtype} {array.shape}")
    return array.tobytes()


def _pack_optional(
    array: np.ndarray[Any, Any] | None, dtype: np.dtype[Any], shape: tuple[int, ...], what: str
) -> bytes:
    return b"" if array is None else _pack(array, dtype, shape, what)


def _unpack(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> np.ndarray[Any, Any]:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected or not data:
        raise InternalError(f"{what}: {len(data)} bytes recorded where {dtype} {shape} takes {expected}, at least one")
    return np.frombuffer(data, dtype).reshape(shape)


def _unpack_optional(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str
) -> np.ndarray[Any, Any] | None:
    return _unpack(data, dtype, shape, what) if data else None
