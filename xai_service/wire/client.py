"""Client of the `xai.v1` API, blocking and asyncio: arrays in, arrays out.

::

    with Client("127.0.0.1:8001") as client:
        reply = client.predict(rows, "loan-approval", latency_budget_ms=20)
        reply.probabilities, reply.attributions, reply.decision_ids
        client.explanation(reply.decision_ids[0], wait_s=2.0)

Each call is a `_Call`: which RPC, which message, how to read the answer. Both clients only send it, so that neither
knows anything the other does not. Nothing is retried: a prediction is a recorded decision, and a second one is the
caller's to ask for.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from xai_service.errors import FieldViolation, InvalidInput
from xai_service.model.raw_features import is_missing
from xai_service.types import ExplanationStatus, Float32Array, Float64Array, Method, Timings
from xai_service.wire.client_stream import PredictRequest, exchange, exchange_async
from xai_service.wire.columns import to_columns
from xai_service.wire.credentials import Credentials
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1.decision_service_pb2_grpc import DecisionServiceStub
from xai_service.wire.results import Decision, Explanation, ModelStatus, Reply
from xai_service.wire.tensors import from_tensor, to_tensor

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

MAX_MESSAGE_BYTES = 256 * 2**20
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # a sidecar is beside its caller, never behind the proxy of the environment
)
_STATUSES = {
    pb.EXPLANATION_STATUS_COMPLETE: ExplanationStatus.COMPLETE,
    pb.EXPLANATION_STATUS_DEFERRED: ExplanationStatus.DEFERRED,
    pb.EXPLANATION_STATUS_FAILED: ExplanationStatus.FAILED,
    pb.EXPLANATION_STATUS_NOT_REQUESTED: ExplanationStatus.NOT_REQUESTED,
}
# gRPC's own refusal of a request too many carries no details. Its other RESOURCE_EXHAUSTED is of a message too large,
# for which trying again is no help.
_TOO_MANY_RPCS, _RETRY_AFTER_S = "Concurrent RPC limit exceeded", 0.1
IN_FLIGHT = 16
"""Requests of one stream under way at once: the service works on no more."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.25
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


class Client:
    """Blocking client; may be shared between threads.

    Args:
        target: ``host:port`` or ``unix:/path``.
        timeout_s: of a call, in seconds.
        token: says who calls, where the service asks for it; from `xai token`.
        root_certificates: PEM or a path, whom to trust; with it the connection is TLS (never on ``unix:``).
        certificate: PEM or a path, shown to the service, where it asks for one.
        key: PEM or a path, its private key.

    Raises:
        ValueError: these do not go together.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        timeout_s: float = 10.0,
        token: str | None = None,
        root_certificates: bytes | str | os.PathLike[str] | None = None,
        certificate: bytes | str | os.PathLike[str] | None = None,
        key: bytes | str | os.PathLike[str] | None = None,
    ) -> None:
        credentials = Credentials.of(target, token, root_certificates, certificate, key)
        self._metadata = credentials.metadata
        self._channel = credentials.connect(grpc, target, _OPTIONS)
        self._stub = DecisionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s

    def predict(
        self,
        rows: Any,
        model: str,
        *,
        version: str | int = "",
        feature_names: Sequence[str] | None = None,
        latency_budget_ms: float | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Predicts and explains ``rows``, (n, features): array-like or DataFrame, NaN where a value is missing.

        Args:
            rows: float32 is sent as it is, anything else numeric as float64. A table with strings is sent column by
                column, by name, in any order; None stands for a missing string, as NaN does.
            model: its name in the repository.
            version: empty for the highest served.
            feature_names: checked by the service against the model's; a DataFrame's column names by default. Needed
                for an array with strings.
            latency_budget_ms: how long explanations are awaited; those not ready are deferred.
            timeout_s: of this call, instead of the client's.

        Raises:
            ValueError: ``rows`` is not a table of real numbers and strings.
            RequestFailed: the service refused, or did not answer in time.
        """
        return self._run(_predict(rows, model, version, feature_names, latency_budget_ms), timeout_s)

    def predict_stream(
        self, requests: Iterable[PredictRequest], *, in_flight: int = IN_FLIGHT, timeout_s: float | None = None
    ) -> Iterator[tuple[PredictRequest, Reply | RequestFailed]]:
        """Sends requests over one stream, which costs less than a call for each, and yields each with its answer.

        ::

            requests = [PredictRequest(batch, "loan-approval") for batch in batches]
            for request, reply in client.predict_stream(requests):
                if isinstance(reply, RequestFailed): ...  # that request alone

        Args:
            requests: taken one by one as answers come, in a thread of its own.
            in_flight: how many are under way at most.
            timeout_s: of the whole stream; ``None``: no limit.

        Yields:
            In any order: the request, and its reply or why the service refused it.

        Raises:
            ValueError: a request's rows are not a table; after the answers to those before it.
            RequestFailed: the stream broke off; what was not answered may have been recorded.
        """
        try:
            yield from exchange(self._stub.PredictStream, requests, _streamed, in_flight, timeout_s)
        except grpc.RpcError as error:
            raise _failure(error) from error

    def decision(self, decision_id: str | uuid.UUID) -> Decision:
        """Returns the decision as recorded. Raises `RequestFailed`, ``NOT_FOUND`` for an unknown id."""
        return self._run(_decision(decision_id))

    def explanation(self, decision_id: str | uuid.UUID, *, wait_s: float = 0.0) -> Explanation:
        """Returns the decision's explanation, asking again for up to ``wait_s`` seconds while it is deferred."""
        explanation = self._run(_explanation(decision_id))
        for pause_s in _pauses(wait_s):
            if explanation.status is not ExplanationStatus.DEFERRED:
                break
            time.sleep(pause_s)
            explanation = self._run(_explanation(decision_id))
        return explanation

    def models(self) -> list[ModelStatus]:
        """Returns every version of every model in the repository, served or refused."""
        return self._run(_models())

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: _Call[T], timeout_s: float | None = None) -> T:
        try:
            response = getattr(self._stub, call.method)(
                call.request,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            raise _failure(error) from error
        return call.read(response)


class AsyncClient:
    """`Client` for asyncio: the same arguments, and the same methods, awaited. Make it inside a running event loop."""

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        timeout_s: float = 10.0,
        token: str | None = None,
        root_certificates: bytes | str | os.PathLike[str] | None = None,
        certificate: bytes | str | os.PathLike[str] | None = None,
        key: bytes | str | os.PathLike[str] | None = None,
    ) -> None:
        credentials = Credentials.of(target, token, root_certificates, certificate, key)
        self._metadata = credentials.metadata
        self._channel = credentials.connect(grpc.aio, target, _OPTIONS)
        self._stub = DecisionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s

    async def predict(
        self,
        rows: Any,
        model: str,
        *,
        version: str | int = "",
        feature_names: Sequence[str] | None = None,
        latency_budget_ms: float | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """As `Client.predict`."""
        return await self._run(_predict(rows, model, version, feature_names, latency_budget_ms), timeout_s)

    async def predict_stream(
        self,
        requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
        *,
        in_flight: int = IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> AsyncIterator[tuple[PredictRequest, Reply | RequestFailed]]:
        """As `Client.predict_stream`; requests may be awaited too."""
        try:
            async for answered in exchange_async(self._stub.PredictStream, requests, _streamed, in_flight, timeout_s):
                yield answered
        except grpc.RpcError as error:
            raise _failure(error) from error

    async def decision(self, decision_id: str | uuid.UUID) -> Decision:
        """As `Client.decision`."""
        return await self._run(_decision(decision_id))

    async def explanation(self, decision_id: str | uuid.UUID, *, wait_s: float = 0.0) -> Explanation:
        """As `Client.explanation`."""
        explanation = await self._run(_explanation(decision_id))
        for pause_s in _pauses(wait_s):
            if explanation.status is not ExplanationStatus.DEFERRED:
                break
            await asyncio.sleep(pause_s)
            explanation = await self._run(_explanation(decision_id))
        return explanation

    async def models(self) -> list[ModelStatus]:
        """As `Client.models`."""
        return await self._run(_models())

    async def close(self) -> None:
        """As `Client.close`."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: _Call[T], timeout_s: float | None = None) -> T:
        try:
            response = await getattr(self._stub, call.method)(
                call.request,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            raise _failure(error) from error
        return call.read(response)


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One RPC of DecisionService: its name, its request and how its response is decoded."""

    method: str
    request: Any
    decode: Callable[[Any], T]

    def read(self, response: Any) -> T:
        try:
            return self.decode(response)
        except (InvalidInput, KeyError, ValueError) as error:
            raise RequestFailed("INTERNAL", f"the service's answer to {self.method} cannot be read: {error}") from error


def _predict(
    rows: Any, model: str, version: str | int, feature_names: Sequence[str] | None, latency_budget_ms: float | None
) -> _Call[Reply]:
    if feature_names is None and hasattr(rows, "columns"):
        feature_names = [str(name) for name in rows.columns]
    array = np.asarray(rows)
    has_strings = array.dtype.kind in "UT" or (
        array.dtype.kind == "O" and any(isinstance(one, str) for one in array.ravel().tolist())
    )
    table = array.astype(object) if has_strings else _numbers(array)
    if table.ndim != 2:
        raise ValueError(f"rows must be a table (n, features), not of shape {table.shape}; a single row is rows[None]")
    request = pb.PredictRequest(model_name=model, model_version=str(version), latency_budget_ms=latency_budget_ms)
    if not has_strings:
        request.input.CopyFrom(to_tensor(table))
        request.feature_names.extend(feature_names or ())
        return _Call("Predict", request, lambda response: _read_reply(response, table))
    names = list(feature_names or ())
    if len(names) != table.shape[1]:
        raise ValueError(
            "rows hold strings, which are no real numbers, and are sent by name: a DataFrame's columns have names, for "
            f"an array pass feature_names ({len(names)} were given for {table.shape[1]} columns)"
        )
    request.columns.extend(to_columns(table, names))
    return _Call("Predict", request, lambda response: _read_reply(response, _in_order(table, names, response)))


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


def _decision(decision_id: str | uuid.UUID) -> _Call[Decision]:
    return _Call("GetDecision", pb.GetDecisionRequest(decision_id=str(decision_id)), _read_decision)


def _explanation(decision_id: str | uuid.UUID) -> _Call[Explanation]:
    text = str(decision_id)
    request = pb.GetExplanationRequest(decision_id=text)
    return _Call("GetExplanation", request, lambda response: _read_explanation(response.explanation, text))


def _models() -> _Call[list[ModelStatus]]:
    return _Call("ListModels", pb.ListModelsRequest(), lambda response: [_read_model(one) for one in response.models])


def _pauses(wait_s: float) -> Iterator[float]:
    """Pauses between polls, doubling, none of which ends later than ``wait_s`` from the first."""
    end = time.monotonic() + wait_s
    pause_s = _FIRST_PAUSE_S
    while (left_s := end - time.monotonic()) > 0:
        yield min(pause_s, left_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _streamed(request: PredictRequest) -> tuple[pb.PredictRequest, Callable[[Any], Reply | RequestFailed]]:
    """The message of one request of a stream, and how its answer is read."""
    call = _predict(request.rows, request.model, request.version, request.feature_names, request.latency_budget_ms)

    def read(answer: Any) -> Reply | RequestFailed:
        if answer.HasField("error"):
            return _refusal(code_pb2.Code.Name(answer.error.code), answer.error.message, answer.error.details)
        try:
            return call.read(answer.response)
        except RequestFailed as failed:
            return failed

    return call.request, read


def _failure(error: Any) -> RequestFailed:
    """`RequestFailed` with the details of google.rpc.Status, as far as they can be read."""
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
