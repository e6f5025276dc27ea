"""grpc.health.v1: what is asked, by whom, and what is answered while loading, serving and draining.

=====================  =======  =======  ========
service                loading  serving  draining
=====================  =======  =======  ========
``liveness``           yes      yes      yes
``startup``            no       yes      yes
``""`` and each API    no       yes      no
``model/NAME``         no       if it can be served  no
=====================  =======  =======  ========
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from xai_service.model.repository import ModelEntry
from xai_service.wire.listeners import listen

SERVICE_NAME = health.SERVICE_NAME
LIVENESS, STARTUP, MODEL = "liveness", "startup", "model/"
_CHECKERS = 2
_WATCHES = 32  # at once, a thread each while it lasts; a further one waits for its turn


class HealthServicer(health.HealthServicer):  # type: ignore[misc]  # no types there
    """Health of named services, thread-safe.

    The library would send to its watches under the lock that checks take, and that gRPC's own thread takes when a watch
    ends: a watcher that reads nothing, or leaves as the status changes, would stop both for good. Here each watch sends
    from a thread of its own and holds nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            experimental_non_blocking=False,
            experimental_thread_pool=ThreadPoolExecutor(_WATCHES, thread_name_prefix="xai-health"),
        )
        self._watches: set[Any] = set()
        self._ending = False

    def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC's name)
        """Yields the status of ``request.service``, and each new one, until the caller or the server ends."""
        with self._lock:
            watch = super().Watch(request, context)
            self._watches.add(watch)
            if self._ending:
                watch.close()
        context.add_callback(lambda: self._watches.discard(watch))
        return watch

    def set(self, service: str, status: Any) -> None:
        """Sets a service's status; its watches are told if it is another one."""
        with self._lock:
            if self._server_status.get(service) != status:
                super().set(service, status)

    def enter_graceful_shutdown(self) -> None:
        """Says NOT_SERVING for good, and ends every watch once it was told."""
        with self._lock:
            super().enter_graceful_shutdown()
            self._ending = True
            for watch in tuple(self._watches):
                watch.close()


class ServiceHealth(HealthServicer):
    """What this service says of itself; see the table above. Begins as loading."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = threading.Lock()
        self._apis: tuple[str, ...] = ("",)
        self._models: set[str] = set()
        self._said: dict[str, bool] = {}
        self._draining = False
        self._say(LIVENESS, serving=True)
        for name in (STARTUP, *self._apis):
            self._say(name, serving=False)

    def ready(self, apis: Iterable[str]) -> None:
        """Says that the APIs of these names answer."""
        with self._turn:
            self._apis = ("", *apis)
            for name in (STARTUP, *self._apis):
                self._say(name, serving=True)

    def show_models(self, entries: Iterable[ModelEntry]) -> None:
        """Says which models can be served: those of which any version can."""
        with self._turn:
            if self._draining:
                return
            served: dict[str, bool] = dict.fromkeys(self._models, False)
            for entry in entries:
                served[entry.name] = served.get(entry.name, False) or entry.snapshot is not None
            self._models.update(served)
            for name, serving in served.items():
                self._say(MODEL + name, serving=serving)

    def drain(self) -> None:
        """Says that it is going to end: nothing new should be sent. It is still alive."""
        with self._turn:
            self._draining = True
            for name in (*self._apis, *(MODEL + name for name in self._models)):
                self._say(name, serving=False)

    def enter_graceful_shutdown(self) -> None:
        """Ends every watch, and lets nothing change any more; what is under way may take its time, alive."""
        super().enter_graceful_shutdown()
        with self._lock:
            for name in (LIVENESS, STARTUP):
                if self._said[name]:
                    self._server_status[name] = health_pb2.HealthCheckResponse.SERVING

    def _say(self, name: str, *, serving: bool) -> None:
        if self._said.get(name) is not serving:  # who watches is told of changes only
            self._said[name] = serving
            status = health_pb2.HealthCheckResponse
            self.set(name, status.SERVING if serving else status.NOT_SERVING)


class HealthServer:
    """Answers health checks at an address of its own, in plaintext, and nothing else.

    Args:
        address: host:port.
        servicer: whose answers; shared with the server that works.
        shared: whether other workers listen there too.

    Raises:
        Unavailable: it cannot be listened on.
    """

    def __init__(self, address: str, servicer: HealthServicer, *, shared: bool = False) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(_CHECKERS, thread_name_prefix="xai-checks"),
            maximum_concurrent_rpcs=_WATCHES + 4 * _CHECKERS,
            options=[("grpc.so_reuseport", int(shared)), ("grpc.max_receive_message_length", 4096)],
        )
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.address = listen(self._server, address)
        self._server.start()

    def stop(self) -> None:
        """Ends."""
        self._server.stop(1.0).wait()
