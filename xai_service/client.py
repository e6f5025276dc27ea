"""Client of a running service: `Client` blocks, `AsyncClient` awaits; both speak arrays and raise `RequestFailed`."""

from xai_service.types import ExplanationStatus, Method, Timings
from xai_service.wire.client import AsyncClient, Client
from xai_service.wire.client_messages import RequestFailed
from xai_service.wire.client_stream import PredictRequest
from xai_service.wire.results import Decision, Explanation, ModelStatus, Reply

__all__ = [
    "AsyncClient",
    "Client",
    "Decision",
    "Explanation",
    "ExplanationStatus",
    "Method",
    "ModelStatus",
    "PredictRequest",
    "Reply",
    "RequestFailed",
    "Timings",
]
