"""The gRPC server: decode, call the service, encode; listeners, health, reflection, drain.

Synchronous on purpose (docs/adr/0003): a request predicts in the thread that gRPC hands it to, which costs no hop, and
ONNX Runtime, the kernel and the ledger all drop the GIL while they work.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from xai_service.config import ServiceConfig
from xai_service.errors import Unavailable
from xai_service.ledger.store import Ledger
from xai_service.metrics.families import families
from xai_service.metrics.http import MetricsServer
from xai_service.metrics.text import render
from xai_service.model.repository import Repository
from xai_service.service import ExplainService
from xai_service.wire import health
from xai_service.wire.handlers import SERVICE_NAME, Handlers, decision_methods
from xai_service.wire.pool import LightPool

_log = logging.getLogger(__name__)

_MIB = 1 << 20
# A caller that fell silent amid a call, maybe amid a message that a thread waits for, is found out by pings. gRPC would
# send the first after two hours.
_PING_AFTER_MS = 30_000
_PING_TIMEOUT_MS = 20_000


class _Reflection(reflection.ReflectionServicer):  # type: ignore[misc]  # no types there
    """With a few threads of its own: a stream holds one for as long as its caller pleases."""

    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return super().ServerReflectionInfo(request_iterator, context)

    ServerReflectionInfo.experimental_thread_pool = ThreadPoolExecutor(  # type: ignore[attr-defined]  # gRPC looks here
        2, thread_name_prefix="xai-reflection"
    )


class Server:
    """A service behind its listeners.

    Args:
        config: its settings.
        service: what it serves; started by `start`, closed by `stop`.

    Attributes:
        addresses: where it listens, ports resolved.
        metrics_address: likewise for metrics; ``None`` without.

    Raises:
        Unavailable: an address cannot be listened on.
    """

    def __init__(self, config: ServiceConfig, service: ExplainService) -> None:
        self._config = config
        self._service = service
        self._health = health.HealthServicer()
        # Without reuse_port a second server on the same port is an error, not a silent sharer of its requests.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", config.max_message_mib * _MIB),
            # Of replies there is no limit: they are bounded by their request (`checks`), and what is recorded is sent.
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", _PING_AFTER_MS),
            ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ]
        self._pool = LightPool(config.rpc_threads, config.max_waiting_rpcs)
        self._server = grpc.server(
            self._pool, handlers=[Handlers(self._pool, decision_methods(service, self._pool))], options=options
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(names), self._server)
        self.addresses = tuple(self._listen(address) for address in config.listen)
        self._metrics = (
            None
            if config.metrics_address is None
            else MetricsServer(config.metrics_address, lambda: render(families(service)))
        )
        self.metrics_address = None if self._metrics is None else self._metrics.address

    def _listen(self, address: str) -> str:
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address!r}: is it host:port or unix:PATH, and free? ({error})"
            ) from None
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        """Serves; the health service says so."""
        self._service.start()
        for name in ("", SERVICE_NAME):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        if self._metrics is not None:
            self._metrics.start()

    def stop(self) -> None:
        """Says NOT_SERVING, takes no new request, lets those under way end, closes the service."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._config.drain_s).wait()
        self._pool.close()
        if self._metrics is not None:
            self._metrics.close()
        self._service.close()


def open_repository(config: ServiceConfig) -> Repository:
    """Returns the models to serve, held to the keys that the settings name.

    Raises:
        ModelError, ModelNotFound: the folder cannot be listed.
        InvalidKey: a key cannot be used.
    """
    if not config.require_signed:
        return Repository(config.repository)
    from xai_service.keys import load_trusted  # noqa: PLC0415 - cryptography is loaded by who uses a key

    return Repository(config.repository, load_trusted(config.require_signed))


def serve(config: ServiceConfig, on_ready: Callable[[tuple[str, ...]], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains; looks at the repository at SIGHUP. Call it in the main thread.

    Args:
        config: its settings.
        on_ready: is given the addresses once requests are answered, ports resolved.

    Raises:
        XaiError: the repository, a key, the ledger or an address cannot be used.
    """
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    repository = open_repository(config)
    if not any(entry.snapshot for entry in repository.entries()):
        reasons = "; ".join(f"{e.name} {e.version}: {e.error}" for e in repository.entries()) or "it is empty"
        raise Unavailable(f"no model in {config.repository} can be served: {reasons}")
    ledger = Ledger(config.ledger, max_queued_entries=config.max_unrecorded_decisions)
    try:
        service = ExplainService(config, repository, ledger)
        server = Server(config, service)
    except BaseException:
        ledger.close()
        raise
    server.start()
    signal.signal(signal.SIGHUP, lambda *_: service.reload())
    try:
        _log.info("listening on %s", ", ".join(server.addresses))
        if server.metrics_address is not None:
            _log.info("metrics at http://%s/metrics", server.metrics_address)
        if on_ready is not None:
            on_ready(server.addresses)
        wanted.wait()
        _log.info("draining")
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        server.stop()
