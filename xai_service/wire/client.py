"""Client of the `xai.v1` API, blocking and asyncio: arrays in, arrays out.

::

    with Client("127.0.0.1:8001") as client:
        reply = client.predict(rows, "loan-approval", latency_budget_ms=20)
        reply.probabilities, reply.attributions, reply.decision_ids
        client.explanation(reply.decision_ids[0], wait_s=2.0)

Each call is a `Call`: which RPC, which message, how to read the answer. Both clients only send it, so that neither
knows anything the other does not. Nothing is retried: a prediction is a recorded decision, and a second one is the
caller's to ask for.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from xai_service.types import ExplanationMode, ExplanationStatus
from xai_service.wire.client_messages import (
    Call,
    RequestFailed,
    decision_call,
    explanation_call,
    failure,
    models_call,
    predict_call,
    streamed,
)
from xai_service.wire.client_stream import PredictRequest, exchange, exchange_async
from xai_service.wire.credentials import Credentials
from xai_service.wire.gen.xai.v1.decision_service_pb2_grpc import DecisionServiceStub
from xai_service.wire.results import Decision, Explanation, ModelStatus, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
    from types import TracebackType


MAX_MESSAGE_BYTES = 256 * 2**20
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # a sidecar is beside its caller, never behind the proxy of the environment
)
IN_FLIGHT = 16
"""Requests of one stream under way at once: the service works on no more."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.25
T = TypeVar("T")


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
        explanation: ExplanationMode | str = ExplanationMode.COMPLETE_OR_DEFERRED,
        priority: int = 0,
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
            explanation: "complete or deferred"; "none", for predictions alone; or "required", for none without.
            priority: 0, the default, to 9: in an overload the greatest number is shed first.
            timeout_s: of this call, instead of the client's.

        Raises:
            ValueError: ``rows`` is not a table of real numbers and strings.
            RequestFailed: the service refused, or did not answer in time.
        """
        return self._run(
            predict_call(PredictRequest(rows, model, version, feature_names, latency_budget_ms, explanation, priority)),
            timeout_s,
        )

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
            yield from exchange(self._stub.PredictStream, requests, streamed, in_flight, timeout_s, self._metadata)
        except grpc.RpcError as error:
            raise failure(error) from error

    def decision(self, decision_id: str | uuid.UUID) -> Decision:
        """Returns the decision as recorded. Raises `RequestFailed`, ``NOT_FOUND`` for an unknown id."""
        return self._run(decision_call(decision_id))

    def explanation(self, decision_id: str | uuid.UUID, *, wait_s: float = 0.0) -> Explanation:
        """Returns the decision's explanation, asking again for up to ``wait_s`` seconds while it is deferred."""
        explanation = self._run(explanation_call(decision_id))
        for pause_s in _pauses(wait_s):
            if explanation.status is not ExplanationStatus.DEFERRED:
                break
            time.sleep(pause_s)
            explanation = self._run(explanation_call(decision_id))
        return explanation

    def models(self) -> list[ModelStatus]:
        """Returns every version of every model in the repository, served or refused."""
        return self._run(models_call())

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T], timeout_s: float | None = None) -> T:
        try:
            response = getattr(self._stub, call.method)(
                call.request,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            raise failure(error) from error
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
        explanation: ExplanationMode | str = ExplanationMode.COMPLETE_OR_DEFERRED,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Reply:
        """As `Client.predict`."""
        return await self._run(
            predict_call(PredictRequest(rows, model, version, feature_names, latency_budget_ms, explanation, priority)),
            timeout_s,
        )

    async def predict_stream(
        self,
        requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
        *,
        in_flight: int = IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> AsyncIterator[tuple[PredictRequest, Reply | RequestFailed]]:
        """As `Client.predict_stream`; requests may be awaited too."""
        try:
            async for answered in exchange_async(
                self._stub.PredictStream, requests, streamed, in_flight, timeout_s, self._metadata
            ):
                yield answered
        except grpc.RpcError as error:
            raise failure(error) from error

    async def decision(self, decision_id: str | uuid.UUID) -> Decision:
        """As `Client.decision`."""
        return await self._run(decision_call(decision_id))

    async def explanation(self, decision_id: str | uuid.UUID, *, wait_s: float = 0.0) -> Explanation:
        """As `Client.explanation`."""
        explanation = await self._run(explanation_call(decision_id))
        for pause_s in _pauses(wait_s):
            if explanation.status is not ExplanationStatus.DEFERRED:
                break
            await asyncio.sleep(pause_s)
            explanation = await self._run(explanation_call(decision_id))
        return explanation

    async def models(self) -> list[ModelStatus]:
        """As `Client.models`."""
        return await self._run(models_call())

    async def close(self) -> None:
        """As `Client.close`."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T], timeout_s: float | None = None) -> T:
        try:
            response = await getattr(self._stub, call.method)(
                call.request,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            raise failure(error) from error
        return call.read(response)


def _pauses(wait_s: float) -> Iterator[float]:
    """Pauses between polls, doubling, none of which ends later than ``wait_s`` from the first."""
    end = time.monotonic() + wait_s
    pause_s = _FIRST_PAUSE_S
    while (left_s := end - time.monotonic()) > 0:
        yield min(pause_s, left_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
