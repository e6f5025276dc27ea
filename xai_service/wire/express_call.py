"""One call taken from gRPC's queue of events by `xai_service.wire.express`, and what it uses of gRPC's own."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import grpc

from xai_service.errors import Unavailable
from xai_service.wire.status import to_status

try:
    from grpc import _server
    from grpc._cython import cygrpc
except ImportError:  # `check_internals` says so
    _server = cygrpc = None
internals: Any = _server
core: Any = cygrpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.wire.questions import Read

_log = logging.getLogger(__name__)

_INTERNALS = (
    *("_REQUEST_CALL_TAG", "_ServerStage", "_begin_shutdown_once", "_process_event_and_continue", "_request_call"),
    "_request_registered_call",
)
_CORE = (
    *("CompletionType", "ReceiveCloseOnServerOperation", "ReceiveMessageOperation", "SendInitialMetadataOperation"),
    *("SendMessageOperation", "SendStatusFromServerOperation", "peer_identities"),
)
_STATE = (
    *("completion_queue", "due", "lock", "registered_method_handlers", "rpc_states", "server", "server_deallocated"),
    "stage",
)

Status = tuple[int, bytes, Any]
"""Code, details and trailing metadata."""
_OK: Status = (0, b"", None)
_NO_MESSAGE: Status = (grpc.StatusCode.UNIMPLEMENTED.value[0], b"exactly one request message is due", None)


def status_of(error: Exception) -> Status:
    """Returns what a caller is told of an error."""
    status = to_status(error)
    return status.code.value[0], status.details.encode(), status.trailing_metadata


def check_internals(server: Any) -> None:
    """Says so where this version of grpcio is built otherwise than those known here.

    Args:
        server: made by `grpc.server`.

    Raises:
        Unavailable: it is.
    """
    parts = ((internals, _INTERNALS), (core, _CORE), (getattr(server, "_state", None), _STATE))
    lacks = [name for part, names in parts for name in names if not hasattr(part, name)]
    if lacks:
        raise Unavailable(
            f"grpcio {grpc.__version__} is built otherwise than the versions known here (it lacks {', '.join(lacks)}); "
            "install one that xai-service declares: pip install --upgrade --force-reinstall xai-service"
        )


class Call:
    """One call. gRPC's state keeps it from when it came to when its status was sent.

    Args:
        event: gRPC's, of its coming.
        read: reads its message.
        arrived_ns: when it came, on the monotonic clock.
        received: is given it and its message, ``None`` where there will be none: then the caller has its status.

    Attributes:
        context: what gRPC's context is asked for.
    """

    __slots__ = ("_call", "_received", "_statused", "arrived_ns", "context", "read")

    def __init__(self, event: Any, read: Read, arrived_ns: int, received: Callable[[Call, bytes | None], None]) -> None:
        self._call = event.call
        self._received = received
        self._statused = False
        self.arrived_ns = arrived_ns
        self.context = Context(event)
        self.read = read

    def receive(self) -> None:
        """Waits for the message, holding no thread."""
        self._call.start_server_batch((core.ReceiveMessageOperation(0),), self._on_message)

    def answer(self, body: bytes) -> None:
        """Sends the answer."""
        self.end(body, _OK)

    def refuse(self, error: Exception) -> None:
        """Says why there is none."""
        self.end(None, status_of(error))

    def end(self, body: bytes | None, status: Status) -> None:
        """Sends the answer, if there is one, and the status; the first time it is called."""
        if self._statused:
            return
        number, details, trailers = status
        operations = [
            core.SendInitialMetadataOperation(None, 0),
            core.SendStatusFromServerOperation(trailers, number, details, 0),
            core.ReceiveCloseOnServerOperation(0),
        ]
        if body is not None:
            operations.insert(1, core.SendMessageOperation(body, 0))
        code = self._call.start_server_batch(operations, self._on_end)
        self._statused = True
        if code:  # then there is no event either: at least the caller does not wait for ever
            _log.error("gRPC took no answer (%s)", code)
            self._call.cancel()

    # What gRPC's loop calls with an event: returns the state that is over, and what to call then.

    def _on_message(self, event: Any) -> tuple[None, tuple[()]]:
        message = event.batch_operations[0].message()
        if message is None:  # the caller sent none, or is gone
            self.end(None, _NO_MESSAGE)
        self._received(self, message)
        return None, ()

    def _on_end(self, _event: Any) -> tuple[Call, tuple[()]]:
        return self, ()


class Context:
    """What is asked of gRPC's context, without the rest of it."""

    __slots__ = ("_event", "xai_caller")

    def __init__(self, event: Any) -> None:
        self._event = event
        self.xai_caller: Any = None

    def time_remaining(self) -> float:
        """Seconds until the caller's deadline, ≥ 0; infinite without one."""
        return max(float(self._event.call_details.deadline) - time.time(), 0.0)

    def invocation_metadata(self) -> Any:
        """(key, value) pairs."""
        return self._event.invocation_metadata

    def peer(self) -> str:
        """Where the call comes from."""
        peer = self._event.call.peer()
        return peer.decode(errors="replace") if isinstance(peer, bytes) else str(peer)

    def peer_identities(self) -> Any:
        """The names in the caller's certificate, ``None`` without one."""
        return core.peer_identities(self._event.call)
