"""grpc.health.v1: the library's servicer, with watches that cannot stall the server and that end when it drains."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpc_health.v1 import health

SERVICE_NAME = health.SERVICE_NAME
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

    def enter_graceful_shutdown(self) -> None:
        """Says NOT_SERVING for good, and ends every watch once it was told."""
        with self._lock:
            super().enter_graceful_shutdown()
            self._ending = True
            for watch in tuple(self._watches):
                watch.close()
