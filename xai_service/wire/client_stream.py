"""The client's side of a stream: requests out, answers in, each with the request that it answers.

Not more than a window of requests is under way, so that neither side keeps what the other cannot take yet.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from xai_service.types import ExplanationMode
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb


@dataclass(frozen=True, slots=True, eq=False)
class PredictRequest:
    """One request, with what `Client.predict` takes."""

    rows: Any
    model: str
    version: str | int = ""
    feature_names: Sequence[str] | None = None
    latency_budget_ms: float | None = None
    explanation: ExplanationMode | str = ExplanationMode.COMPLETE_OR_DEFERRED
    priority: int = 0


A = TypeVar("A")
Encode: TypeAlias = Callable[[PredictRequest], tuple[pb.PredictRequest, Callable[[Any], A]]]
"""Makes of a request its message, and what reads the `PredictStreamResponse` that answers it."""


class _Window(Generic[A]):
    """The requests under way: what was sent and not answered. Each side is called by one thread."""

    def __init__(self, encode: Encode[A]) -> None:
        self._encode = encode
        self._pending: dict[str, tuple[PredictRequest, Callable[[Any], A]]] = {}
        self._sent = 0
        self.failure: Exception | None = None
        self.closed = False

    def send(self, request: PredictRequest) -> pb.PredictStreamRequest:
        message, read = self._encode(request)
        key = str(self._sent)
        self._sent += 1
        self._pending[key] = request, read
        return pb.PredictStreamRequest(id=key, request=message)

    def take(self, response: Any) -> tuple[PredictRequest, A]:
        request, read = self._pending.pop(response.id)
        return request, read(response)


def exchange(
    method: Any,
    requests: Iterable[PredictRequest],
    encode: Encode[A],
    in_flight: int,
    timeout_s: float | None,
    metadata: Any = None,
) -> Iterator[tuple[PredictRequest, A]]:
    """Yields each request with its answer, in the order of the answers.

    What ``requests`` or ``encode`` raise is raised here, after the answers to what was sent before.
    """
    window, places = _Window(encode), threading.Semaphore(in_flight)

    def outgoing() -> Iterator[pb.PredictStreamRequest]:  # in a thread of gRPC's
        try:
            for request in requests:
                places.acquire()
                if window.closed:
                    return
                yield window.send(request)
        except Exception as error:  # noqa: BLE001 (raised below)
            window.failure = error

    call = method(outgoing(), timeout=timeout_s, metadata=metadata)
    try:
        for response in call:
            places.release()
            yield window.take(response)
        if window.failure is not None:
            raise window.failure
    finally:
        window.closed = True
        places.release()
        call.cancel()


async def exchange_async(
    method: Any,
    requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
    encode: Encode[A],
    in_flight: int,
    timeout_s: float | None,
    metadata: Any = None,
) -> AsyncIterator[tuple[PredictRequest, A]]:
    """As `exchange`, for asyncio."""
    window, places = _Window(encode), asyncio.Semaphore(in_flight)

    async def outgoing() -> AsyncIterator[pb.PredictStreamRequest]:
        try:
            async for request in _awaited(requests):
                await places.acquire()
                yield window.send(request)
        except Exception as error:  # noqa: BLE001 (raised below)
            window.failure = error

    call = method(outgoing(), timeout=timeout_s, metadata=metadata)
    try:
        async for response in call:
            places.release()
            yield window.take(response)
        if window.failure is not None:
            raise window.failure
    finally:
        call.cancel()


async def _awaited(requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest]) -> AsyncIterator[PredictRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
