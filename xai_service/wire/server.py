"""The gRPC server: decode, call the service, encode; listeners, health, reflection, drain.

Synchronous on purpose (docs/adr/0003, 0015): small requests are predicted in the thread that takes gRPC's events, which
costs no hop, and ONNX Runtime, the kernel and the ledger all drop the GIL meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from xai_service import workers
from xai_service.config import ServiceConfig, is_loopback
from xai_service.errors import Unavailable
from xai_service.ledger.siblings import Siblings
from xai_service.ledger.store import Ledger
from xai_service.metrics.families import families
from xai_service.metrics.http import MetricsServer
from xai_service.metrics.text import render
from xai_service.model.repository import Repository
from xai_service.perch import Perch
from xai_service.service import ExplainService
from xai_service.wire import health, inference, listeners
from xai_service.wire.access import Access, Guard
from xai_service.wire.express import Express
from xai_service.wire.gate import Gate, wait_until_quiet
from xai_service.wire.handlers import PREDICT, SERVICE_NAME, Handlers, decision_methods, reader
from xai_service.wire.pool import LightPool
from xai_service.wire.streams import Streams

_log = logging.getLogger(__name__)

_MIB = 1 << 20
# A caller that fell silent amid a call, maybe amid a message that a thread waits for, is found out by pings. gRPC would
# send the first after two hours.
_PING_AFTER_MS = 30_000
_PING_TIMEOUT_MS = 20_000
_SWITCH_S = 0.0005


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
        status: what it says of its health; its own by default.
        worker: its number, where several share the ports.

    Attributes:
        addresses: where it listens, ports resolved.
        metrics_address: likewise for metrics; ``None`` without.

    Raises:
        Unavailable: an address cannot be listened on.
        InvalidSetting: certificates, or the file that says who may call, cannot be used.
    """

    def __init__(
        self,
        config: ServiceConfig,
        service: ExplainService,
        status: health.ServiceHealth | None = None,
        worker: int | None = None,
    ) -> None:
        self._config = config
        self._service = service
        self._health = status or health.ServiceHealth()
        guarded = config.access is not None or config.tls_client_ca is not None
        access = Access(config.access) if guarded else None
        # Without reuse_port a second server on the same port is an error, not a silent sharer of its requests.
        options = [
            ("grpc.so_reuseport", int(worker is not None)),
            ("grpc.max_receive_message_length", config.max_message_mib * _MIB),
            # Of replies there is no limit: they are bounded by their request (`checks`), and what is recorded is sent.
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", _PING_AFTER_MS),
            ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ]
        self._pool = LightPool(config.rpc_threads, config.max_waiting_rpcs)
        self._gate = Gate(self._pool)
        self._streams = Streams(config.rpc_threads)
        servicer = inference.InferenceServicer(service)
        methods = {
            **decision_methods(service, self._pool, self._streams),
            **inference.methods(servicer, self._pool, self._streams),
        }
        self._server = grpc.server(
            self._gate,
            handlers=[Handlers(self._pool, methods, service.telemetry)],
            interceptors=(Guard(access),) if access else (),
            options=options,
        )
        self._express = Express(
            self._server,
            {PREDICT: reader(service), inference.MODEL_INFER: servicer.read},
            service,
            self._pool,
            self._gate,
            access,
            config.max_waiting_rpcs,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection:
            names = (SERVICE_NAME, inference.SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(names), self._server)
        self.addresses = self._listen(workers.addresses_of(config.listen, worker))
        self._metrics = (
            None
            if config.metrics_address is None
            else MetricsServer(workers.beside(config.metrics_address, worker), lambda: render(families(service)))
        )
        self.metrics_address = None if self._metrics is None else self._metrics.address

    def _listen(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        config, credentials = self._config, None
        if config.tls_certificate is not None and config.tls_key is not None:
            from xai_service.wire.tls import server_credentials  # noqa: PLC0415 - cryptography is loaded by who uses it

            credentials = server_credentials(config.tls_certificate, config.tls_key, config.tls_client_ca)
        for one in addresses:
            if not is_loopback(one) and (credentials is None or (config.access or config.tls_client_ca) is None):
                lacks = "unencrypted" if credentials is None else "to anyone"
                _log.warning("%s is open %s beyond this machine; see --tls-certificate and --access", one, lacks)
        mode = int(config.unix_mode, 8)
        return tuple(listeners.listen(self._server, one, credentials=credentials, unix_mode=mode) for one in addresses)

    def start(self) -> None:
        """Serves; the health service says so."""
        self._service.start()
        self._service.on_models(self._health.show_models)
        self._express.start()
        if self._metrics is not None:
            self._metrics.start()
        self._health.ready((SERVICE_NAME, inference.SERVICE_NAME))

    def stop(self) -> None:
        """Says NOT_SERVING, takes no new request, lets those under way end, closes the service."""
        self._health.drain()
        time.sleep(self._config.drain_delay_s)
        self._health.enter_graceful_shutdown()
        self._streams.drain()
        self._gate.shut()
        self._express.shut()
        wait_until_quiet(lambda: self._gate.kept + self._express.taken)
        stopped = self._server.stop(self._config.drain_s)
        self._express.open()
        self._gate.open()
        stopped.wait()
        self._express.close()
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


def serve(
    config: ServiceConfig,
    on_ready: Callable[[tuple[str, ...]], None] | None = None,
    worker: int | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; looks at the repository at SIGHUP. Call it in the main thread.

    A signal while models load ends it there; a second one while it drains ends the process at once.

    Args:
        config: its settings.
        on_ready: is given the addresses once requests are answered, ports resolved.
        worker: its number, where several serve as one (`xai_service.workers`).

    Raises:
        XaiError: the repository, a key, the ledger or an address cannot be used.
    """
    wanted = threading.Event()
    _on_signals(end_loading)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    with contextlib.ExitStack() as undo:
        status = health.ServiceHealth()
        undo.callback(status.enter_graceful_shutdown)
        if config.health_listen is not None:
            checks = health.HealthServer(config.health_listen, status, shared=worker is not None)
            undo.callback(checks.stop)
            _log.info("answering health checks on %s", checks.address)
        service, server = _load(config, status, worker)
        _on_signals(lambda number, _: _end_now(number) if wanted.is_set() else wanted.set())
        # Threads that compute in Python, such as over batches, let go of the interpreter sooner for small requests.
        sys.setswitchinterval(_SWITCH_S)
        # What was loaded lasts: the collector need not look through it, which took 20 to 40 ms each time.
        gc.collect()
        gc.freeze()
        server.start()
        if worker is None and config.pin is None:
            perch = Perch(frozenset(os.sched_getaffinity(0)))
            undo.callback(perch.close)
            perch.start()
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


def _load(config: ServiceConfig, status: health.ServiceHealth, worker: int | None) -> tuple[ExplainService, Server]:
    repository = open_repository(config)
    if not any(entry.snapshot for entry in repository.entries()):
        reasons = "; ".join(f"{e.name} {e.version}: {e.error}" for e in repository.entries()) or "it is empty"
        raise Unavailable(f"no model in {config.repository} can be served: {reasons}")
    path = workers.ledger_of(config.ledger, worker)
    siblings = Siblings(config.ledger, path)
    if not worker:
        everyone = [None] if worker is None else range(config.workers)
        siblings.warn_of_unattended({workers.ledger_of(config.ledger, one) for one in everyone})
    ledger = Ledger(path, max_queued_entries=config.max_unrecorded_decisions, others=siblings)
    try:
        service = ExplainService(config, repository, ledger)
        return service, Server(config, service, status, worker)
    except BaseException:
        ledger.close()
        raise


def _on_signals(handler: Callable[..., object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def end_loading(*_: object) -> NoReturn:
    """Handles a signal while nothing is served yet: ends the process, which has nothing to lose, with 0."""
    raise SystemExit(0)


def _end_now(number: int) -> NoReturn:
    """Nothing acknowledged is lost: the ledger is made for that."""
    _log.warning("told to stop again: ending at once")
    os._exit(128 + number)
