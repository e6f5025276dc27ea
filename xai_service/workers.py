"""Several processes that serve as one: started, watched, restarted and ended by a supervisor, which serves nothing.

Each is a process of its own from the start (gRPC does not survive a fork), on a CPU of its own, with a ledger of its
own, for one writes to a log. They share the TCP ports, over which the kernel spreads connections (SO_REUSEPORT); a Unix
socket cannot be shared, so each has one. A worker knows its number by the environment, and goes when its supervisor is
gone, however that ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xai_service.config import ServiceConfig, is_unix
from xai_service.errors import Unavailable

_log = logging.getLogger(__name__)

VARIABLE = "XAI_WORKER"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_WELL_AFTER_S = 60.0  # having served for so long, it did not die of its start


def this_worker() -> int | None:
    """Returns which worker this process is, from 0, or ``None`` where it is the only one.

    Whatever is one for each process (a port of metrics, a file) is made distinct by it.
    """
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdecimal() else None


def ledger_of(path: Path, worker: int | None) -> Path:
    """Returns a worker's ledger: ``ledger.3.sqlite`` for ``ledger.sqlite``."""
    return path if worker is None else path.with_name(f"{path.stem}.{worker}{path.suffix}")


def addresses_of(addresses: Sequence[str], worker: int | None) -> tuple[str, ...]:
    """Returns what a worker listens on: Unix sockets get its number, ``unix:/run/xai.sock.3``."""
    if worker is None:
        return tuple(addresses)
    return tuple(f"{one}.{worker}" if is_unix(one) else one for one in addresses)


def beside(address: str, worker: int | None) -> str:
    """Returns what a worker listens on for itself alone: its number is added to the port, unless any will do."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + (worker or 0)}" if port != "0" else address


def settle(config: ServiceConfig, worker: int | None) -> None:
    """Binds this process to its CPU, if it is to be, and to its supervisor. Before any thread is started."""
    if config.pin if config.pin is not None else config.workers > 1:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[(worker or 0) % len(cpus)]})
    if worker is not None:
        threading.Thread(target=_end_with_supervisor, name="xai-supervised", daemon=True).start()


def _end_with_supervisor() -> None:
    """The supervisor holds the other end of stdin, and writes nothing."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def shared_ports(addresses: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the addresses with port 0 resolved; each TCP port is held for workers to share while the block lasts.

    Raises:
        Unavailable: a port is taken, maybe by workers of another supervisor, whose requests would be shared silently.
    """
    with contextlib.ExitStack() as held:
        yield tuple(one if is_unix(one) else _reserve(one, held) for one in addresses)


def _reserve(address: str, held: contextlib.ExitStack) -> str:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as alone:  # an error where another listens, by SO_REUSEPORT or not
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
            where = alone.getsockname()
        shared = held.enter_context(socket.socket(family, kind, protocol))
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(where)  # and never listens: no connection comes here
    except OSError as error:
        raise Unavailable(f"cannot listen on {address!r}: is it host:port, and free? ({error})") from None
    return f"{host}:{where[1]}"


@dataclass(slots=True)
class _Worker:
    """One place, and the process in it."""

    process: subprocess.Popen[bytes] | None = None
    addresses: tuple[str, ...] = ()  # once it is ready
    started_s: float = 0.0
    failures: int = 0
    restart_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Event:
    """What the supervisor waits for: a signal, or that a worker is ready or has ended."""

    worker: int = -1
    signal: int = 0
    addresses: tuple[str, ...] = ()
    code: int | None = None


@dataclass(slots=True)
class Supervisor:
    """Runs workers until SIGTERM or SIGINT. Make and `run` it in the main thread.

    Args:
        command: starts a worker, which prints one line of JSON, ``{"listening": [...]}``, once it serves.
        workers: how many.
        on_ready: is given all addresses once every worker serves.
        environment: of the workers; each gets its number besides.
    """

    command: Sequence[str]
    workers: int
    on_ready: Callable[[tuple[str, ...]], None]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    # Its put is reentrant, unlike a Queue's: signal handlers put too.
    _events: queue.SimpleQueue[_Event] = field(default_factory=queue.SimpleQueue)
    _places: list[_Worker] = field(default_factory=list)
    _told: bool = False
    _ending: bool = False
    _failed: bool = False

    def run(self) -> int:
        """Returns the exit code: 0 after an ordinary end, 1 where a worker could not start or did not end well."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: self._events.put(_Event(signal=received)))
        self._places = [_Worker() for _ in range(self.workers)]
        for index in range(self.workers):
            self._start(index)
        while any(place.process for place in self._places) or not self._ending:
            try:
                self._handle(self._events.get(timeout=self._pause_s()))
            except queue.Empty:
                self._restart_those_due()
        return int(self._failed)

    def _start(self, index: int) -> None:
        place = self._places[index]
        place.addresses, place.started_s, place.restart_at_s = (), time.monotonic(), None
        place.process = subprocess.Popen(  # noqa: S603 - our own program, with our own arguments
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**self.environment, VARIABLE: str(index)},
            # Ctrl-C goes to the whole group: the supervisor alone is to hear it, and tells them once.
            process_group=0,
        )
        threading.Thread(target=self._follow, args=(index, place.process), daemon=True).start()

    def _follow(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 (it is a pipe)
        with process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._events.put(_Event(index, addresses=tuple(json.loads(line)["listening"])))
        code = process.wait()
        assert process.stdin is not None  # noqa: S101 (it is a pipe)
        process.stdin.close()
        self._events.put(_Event(index, code=code))

    def _handle(self, event: _Event) -> None:
        if event.signal == signal.SIGHUP:
            for place in self._places:
                if place.process is not None and place.addresses:  # one that still starts reads everything anyway
                    place.process.send_signal(signal.SIGHUP)
        elif event.signal:
            self._end()  # a second one goes on to the workers too, which then end at once
        elif event.code is not None:
            self._ended(event.worker, event.code)
        else:
            self._ready(event.worker, event.addresses)

    def _ready(self, index: int, addresses: tuple[str, ...]) -> None:
        self._places[index].addresses = addresses
        if not self._told and all(place.addresses for place in self._places):
            self._told = True
            self.on_ready(tuple(dict.fromkeys(one for place in self._places for one in place.addresses)))

    def _ended(self, index: int, code: int) -> None:
        place = self._places[index]
        place.process = None
        if self._ending:
            # The first moments of a process are before its handlers.
            if code and not (code == -signal.SIGTERM and not place.addresses):
                _log.error("worker %d ended %s", index, _how(code))
                self._failed = True
            return
        if not self._told and not place.addresses:
            _log.error("worker %d could not start, it ended %s", index, _how(code))
            self._failed = True
            self._end()
            return
        served_s = time.monotonic() - place.started_s
        place.failures = 0 if served_s > _WELL_AFTER_S else place.failures + 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(place.failures - 1, 10)) if place.failures else 0.0
        place.restart_at_s = time.monotonic() + pause_s
        _log.error("worker %d ended %s; it is started again in %.1f s", index, _how(code), pause_s)

    def _end(self) -> None:
        self._ending = True
        for place in self._places:
            place.restart_at_s = None
            if place.process is not None:
                place.process.send_signal(signal.SIGTERM)

    def _pause_s(self) -> float | None:
        due = [place.restart_at_s for place in self._places if place.restart_at_s is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _restart_those_due(self) -> None:
        now = time.monotonic()
        for index, place in enumerate(self._places):
            if place.restart_at_s is not None and place.restart_at_s <= now:
                self._start(index)


def _how(code: int) -> str:
    return f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
