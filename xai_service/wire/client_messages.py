"""Messages of the `xai.v1` API as the clients send and read them: no channel, no waiting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from xai_service.errors import FieldViolation, InvalidInput
from xai_service.model.raw_features import is_missing
from xai_service.types import ExplanationMode, ExplanationStatus, Float32Array, Float64Array, Method, Timings
from xai_service.wire.client_stream import PredictRequest
from xai_service.wire.columns import to_columns
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.results import Decision, Explanation, ModelStatus, Reply
from xai_service.wire.tensors import from_tensor, to_tensor

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_STATUSES = {
    pb.EXPLANATION_STATUS_COMPLETE: ExplanationStatus.COMPLETE,
    pb.EXPLANATION_STATUS_DEFERRED: ExplanationStatus.DEFERRED,
    pb.EXPLANATION_STATUS_FAILED: ExplanationStatus.FAILED,
    pb.EXPLANATION_STATUS_NOT_REQUESTED: ExplanationStatus.NOT_REQUESTED,
}
# gRPC's own refusal of a request too many carries no details. Its other RESOURCE_EXHAUSTED is of a message too large,
# for which trying again is no help.
_TOO_MANY_RPCS, _RETRY_AFTER_S = "Concurrent RPC limit exceeded", 0.1
T = TypeVar("T")


class RequestFailed(Exception):
    """The service refused a request, or could not be reached.

    Attributes:
        code: the gRPC status' name, such as ``INVALID_ARGUMENT``, ``NOT_FOUND`` or ``UNAVAILABLE``.
        message: what was wrong, in the service's words.
        violations: the fields that were wrong, for ``INVALID_ARGUMENT``.
        retry_after_s: seconds after which to try again where that helps (`_RETRY_AFTER_S` where gRPC itself refused a
            request too many, which it does without advice), or ``None``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, violations, retry_after_s)
        self.code, self.message, self.violations, self.retry_after_s = code, message, violations, retry_after_s

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One RPC of DecisionService: its name, its request and how its response is decoded."""

    method: str
    request: Any
    decode: Callable[[Any], T]

    def read(self, response: Any) -> T:
        """Returns what a response says. Raises RequestFailed where it cannot be read."""
        try:
            return self.decode(response)
        except (InvalidInput, KeyError, ValueError) as error:
            raise RequestFailed("INTERNAL", f"the service's answer to {self.method} cannot be read: {error}") from error


def predict_call(asked: PredictRequest) -> Call[Reply]:
    """Returns the call of a request.

    Raises:
        ValueError: its rows are no table of real numbers and strings, or its explanation is no `ExplanationMode`.
    """
    rows, feature_names = asked.rows, asked.feature_names
    if feature_names is None and hasattr(rows, "columns"):
        feature_names = [str(name) for name in rows.columns]
    array = np.asarray(rows)
    has_strings = array.dtype.kind in "UT" or (
        array.dtype.kind == "O" and any(isinstance(one, str) for one in array.ravel().tolist())
    )
    table = array.astype(object) if has_strings else _numbers(array)
    if table.ndim != 2:
        raise ValueError(f"rows must be a table (n, features), not of shape {table.shape}; a single row is rows[None]")
    mode = ExplanationMode(asked.explanation).name
    request = pb.PredictRequest(
        model_name=asked.model,
        model_version=str(asked.version),
        latency_budget_ms=asked.latency_budget_ms,
        explanation_mode=getattr(pb, f"EXPLANATION_MODE_{mode}"),
        priority=asked.priority,
    )
    if not has_strings:
        request.input.CopyFrom(to_tensor(table))
        request.feature_names.extend(feature_names or ())
        return Call("Predict", request, lambda response: _read_reply(response, table))
    names = list(feature_names or ())
    if len(names) != table.shape[1]:
        raise ValueError(
            "rows hold strings, which are no real numbers, and are sent by name: a DataFrame's columns have names, for "
            f"an array pass feature_names ({len(names)} were given for {table.shape[1]} columns)"
        )
    request.columns.extend(to_columns(table, names))
    return Call("Predict", request, lambda response: _read_reply(response, _in_order(table, names, response)))


def _in_order(table: NDArray[Any], names: list[str], response: Any) -> NDArray[Any]:
    """The rows in the model's order, NaN for what is missing."""
    rows = table[:, [names.index(name) for name in response.feature_names]]
    rows[np.array([[is_missing(one) for one in row] for row in rows.tolist()], np.bool_)] = np.nan
    return rows


def _numbers(array: NDArray[Any]) -> Float32Array | Float64Array:
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "biufO":  # else complex numbers would lose a part, and dates become numbers
        raise ValueError(f"rows hold {array.dtype}, which are no real numbers")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"rows hold values that are no real numbers: {error}") from error


def decision_call(decision_id: str | uuid.UUID) -> Call[Decision]:
    """Returns the call for one decision."""
    return Call("GetDecision", pb.GetDecisionRequest(decision_id=str(decision_id)), _read_decision)


def explanation_call(decision_id: str | uuid.UUID) -> Call[Explanation]:
    """Returns the call for one decision's explanation."""
    text = str(decision_id)
    request = pb.GetExplanationRequest(decision_id=text)
    return Call("GetExplanation", request, lambda response: _read_explanation(response.explanation, text))


def models_call() -> Call[list[ModelStatus]]:
    """Returns the call for all models."""
    return Call("ListModels", pb.ListModelsRequest(), lambda response: [_read_model(one) for one in response.models])


def streamed(request: PredictRequest) -> tuple[pb.PredictRequest, Callable[[Any], Reply | RequestFailed]]:
    """Returns the message of one request of a stream, and what reads its answer."""
    call = predict_call(request)

    def read(answer: Any) -> Reply | RequestFailed:
        if answer.HasField("error"):
            return _refusal(code_pb2.Code.Name(answer.error.code), answer.error.message, answer.error.details)
        try:
            return call.read(answer.response)
        except RequestFailed as failed:
            return failed

    return call.request, read


def failure(error: Any) -> RequestFailed:
    """Returns `RequestFailed` with the details of google.rpc.Status, as far as they can be read."""
    details: Sequence[Any] = ()
    try:
        status = rpc_status.from_call(error)
        details = () if status is None else status.details
    except (ValueError, DecodeError):
        pass  # damaged details must not hide the code and the message
    return _refusal(error.code().name, error.details() or "", details)


def _refusal(code: str, message: str, details: Sequence[Any]) -> RequestFailed:
    violations: list[FieldViolation] = []
    retry_after_s = None
    try:
        for detail in details:
            bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad):
                violations += [FieldViolation(one.field, one.description) for one in bad.field_violations]
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    except (ValueError, DecodeError):
        pass  # likewise
    if retry_after_s is None and code == "RESOURCE_EXHAUSTED" and _TOO_MANY_RPCS in message:
        retry_after_s = _RETRY_AFTER_S
    return RequestFailed(code, message, tuple(violations), retry_after_s)


def _read_reply(response: Any, rows: NDArray[Any]) -> Reply:
    explanations = response.explanations
    return Reply(
        model_name=response.model_name,
        model_version=response.model_version,
        model_sha256=response.model_sha256,
        decision_ids=tuple(response.decision_ids),
        margin=from_tensor(response.margin, "margin"),
        probabilities=_optional(response, "probabilities"),
        labels=_optional(response, "labels"),
        prediction=_optional(response, "prediction"),
        classes=tuple(response.classes),
        feature_names=tuple(response.feature_names),
        rows=rows,
        statuses=tuple(_STATUSES[status] for status in explanations.statuses),
        attributions=_optional(explanations, "attributions"),
        base_values=from_tensor(explanations.base_values, "base_values"),
        additivity_residual=from_tensor(explanations.additivity_residual, "additivity_residual"),
        detail=explanations.detail,
        method=_read_method(explanations.method),
        timings=_read_timings(response.timings),
        standard_error=_optional(explanations, "standard_error"),
    )


def _read_decision(response: Any) -> Decision:
    decision = response.decision
    return Decision(
        decision_id=decision.decision_id,
        decided_at=decision.decided_at.ToDatetime(tzinfo=UTC),
        model_name=decision.model_name,
        model_version=decision.model_version,
        model_sha256=decision.model_sha256,
        feature_names=tuple(decision.feature_names),
        input=from_tensor(decision.input, "input"),
        input_strings=dict(decision.input_strings),
        margin=from_tensor(decision.margin, "margin"),
        probabilities=_optional(decision, "probabilities"),
        label=decision.label if decision.HasField("label") else None,
        prediction=_optional(decision, "prediction"),
        classes=tuple(decision.classes),
        threshold=decision.threshold if decision.HasField("threshold") else None,
        favourable_class=decision.favourable_class or None,
        explanation=_read_explanation(decision.explanation, decision.decision_id),
        timings=_read_timings(decision.timings),
        runtime=tuple(decision.runtime),
    )


def _read_explanation(message: Any, decision_id: str) -> Explanation:
    return Explanation(
        decision_id=decision_id,
        status=_STATUSES[message.status],
        attributions=_optional(message, "attributions"),
        base_values=from_tensor(message.base_values, "base_values"),
        additivity_residual=message.additivity_residual,
        detail=message.detail,
        method=_read_method(message.method),
        explained_at=message.explained_at.ToDatetime(tzinfo=UTC) if message.HasField("explained_at") else None,
        standard_error=_optional(message, "standard_error"),
    )


def _read_model(message: Any) -> ModelStatus:
    return ModelStatus(
        model_name=message.model_name,
        model_version=message.model_version,
        ready=message.ready,
        reason=message.reason,
        model_sha256=message.model_sha256,
        feature_names=tuple(message.feature_names),
        classes=tuple(message.classes),
        allows_missing=tuple(message.allows_missing),
        feature_kinds=tuple(message.feature_kinds),
        task=message.task,
        signed_by=message.signed_by,
        loaded_at=message.loaded_at.ToDatetime(tzinfo=UTC) if message.HasField("loaded_at") else None,
    )


def _read_method(message: Any) -> Method:
    return Method(message.algorithm, message.variant, message.isa)


def _read_timings(message: Any) -> Timings:
    return Timings(
        predict_us=message.predict_us,
        budget_ms=message.budget_ms or None,
        **{
            stage: getattr(message, stage) if message.HasField(stage) else None
            for stage in ("explain_us", "overlap_us", "record_us", "total_us")
        },
    )


def _optional(message: Any, field: str) -> Any:
    """The array of a tensor field, ``None`` when it was not sent."""
    return from_tensor(getattr(message, field), field) if message.HasField(field) else None
