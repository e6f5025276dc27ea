"""The servers of one run, started when they are first asked, and the generator that loads them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import serving_load
from bench import serving_results as r
from bench.contest import Failed
from bench.serving_load import Generator, Load, Plan
from bench.serving_model import AMPLE_MS, Bodies, Served
from bench.serving_process import ServerProcess
from bench.serving_servers import ECHO, PREDICT
from xai_service.config import ServiceConfig
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

WARMUP_S = 0.2  # of a turn
_MAX_CONNECTIONS = 4
_ECHOES = 200
_CHECKED_ROWS = 20
_FLOOD_AHEAD_S = 0.5
_FLOOD_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who answers, and what it is asked.

    Attributes:
        server: a kind of `bench.serving_servers`; "ours" with what it sets of ``record``.
        record: "off" or "durable", for ours.
        method: the gRPC method.
        mode: of `bench.serving_model.MODES`, or "echo".
        detail: for the report.
    """

    server: str
    record: str
    method: str
    mode: str
    detail: str


CONTESTANTS = {
    r.ECHO: Contestant(
        *("ours", "off", ECHO, "echo"),
        "raw bytes in and out, of the size of a predict-only reply, by the service's own gRPC server and pool",
    ),
    r.PREDICT: Contestant("ours", "off", PREDICT, "none", "the service, explanation mode NONE, nothing recorded"),
    r.EXPLAINED: Contestant("ours", "off", PREDICT, "explained", "the service, each row explained, nothing recorded"),
    r.RECORDED: Contestant(
        "ours", "durable", PREDICT, "explained", "the service, each row explained and stored durably"
    ),
    r.AIO: Contestant("aio", "", ECHO, "echo", "the same bytes, by a plain grpc.aio server"),
    r.NAIVE: Contestant(
        *("naive", "", PREDICT, "explained"),
        "sync grpcio with 8 threads, ONNX Runtime with one, shap.TreeExplainer of the native model; nothing recorded",
    ),
}
_SETTINGS = {setting.name for setting in dataclasses.fields(ServiceConfig)}
# What would have servers of one machine get in each other's way, or do other work during a turn.
_APART = {"reload_every_s": 0.0, "metrics_listen": "off"}
CAN_SWITCH_RECORD_OFF = "record" in _SETTINGS
NO_SWITCH = "this version has no setting `record`: nothing can be served without recording it"


class Lab:
    """Starts servers and loads them; `close` ends all of them.

    Args:
        program: the generator.
        served: the model and its rows.
        folder: for ledgers, sockets and requests; emptied by who made it.
        server_cpu, load_cpu: two different CPUs.
        unix: whether to serve on Unix sockets; else TCP on the loopback.
        settings: of the service, beside those that the benchmark needs.
        say: is told of progress.
    """

    def __init__(
        self,
        program: Path,
        served: Served,
        folder: Path,
        *,
        server_cpu: int,
        load_cpu: int,
        unix: bool,
        settings: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.results = r.Results()
        self.say = say
        self.served = served
        self.folder = folder
        self._program, self._unix, self._settings = program, unix, settings
        self._cpus = {r.SPARE: (server_cpu, load_cpu), r.ONE: (server_cpu,)}
        self._load_cpu = load_cpu
        self._bodies = Bodies(folder, served.rows)
        self._echo: Path | None = None
        self._servers: dict[tuple[str, str, str], ServerProcess] = {}
        self._sent = 0
        self._numbers = itertools.count()
        self._saw_agreement: set[str] = set()

    def close(self) -> None:
        """Ends the servers."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()

    def skip(self, case: str, who: str, why: str) -> None:
        """Notes why something is not measured."""
        if not {("", who), (case, who)} & self.results.skipped.keys():
            self.say(f"without {who}{f', {case}' if case else ''}: {why}")
            self.results.skipped[case, who] = why

    def server(self, who: str, where: str) -> ServerProcess:
        """Returns the server that this contestant answers with, started if need be.

        Raises:
            Failed: it does not start, or was found unable before.
        """
        one = self._contestant(who)
        key = (one.server, one.record, where)
        if key not in self._servers:
            self._servers[key] = self.start(who, where)
        if not self._servers[key].alive:
            raise Failed(f"its server died: {self._servers[key].said()}")
        return self._servers[key]

    def start(self, who: str, where: str, **settings: Any) -> ServerProcess:
        """Starts a server of its own for this contestant. The caller stops it."""
        one = self._contestant(who)
        number = next(self._numbers)
        listen = f"unix:{self.folder / f'{number}.sock'}" if self._unix else "127.0.0.1:0"
        options: dict[str, Any] = {"listen": [listen]}
        if one.server == "naive":
            options |= {"onnx": str(self.served.onnx), "native": str(self.served.native)}
        elif one.server == "ours":
            options |= {"repository": str(self.served.repository), "ledger": str(self.folder / f"{number}.sqlite")}
            options |= {name: value for name, value in _APART.items() if name in _SETTINGS}
            options |= {**self._settings, **settings}
            if CAN_SWITCH_RECORD_OFF:
                options["record"] = one.record
        return ServerProcess(one.server, self._cpus[where], options)

    def _contestant(self, who: str) -> Contestant:
        one = CONTESTANTS[who]
        if one.record == "off" and not CAN_SWITCH_RECORD_OFF:
            if who != r.ECHO:  # an echo is not recorded anyhow
                self.skip("", who, NO_SWITCH)
                raise Failed(NO_SWITCH)
            one = dataclasses.replace(one, record="durable")
        return one

    @contextlib.contextmanager
    def fresh(self, who: str, where: str, **settings: Any) -> Iterator[ServerProcess]:
        """A server of its own for as long as the block lasts."""
        server = self.start(who, where, **settings)
        try:
            yield server
        finally:
            server.stop()

    def load(
        self,
        who: str,
        where: str,
        *,
        seconds: float,
        callers: int | None = None,
        rate: float | None = None,
        rows: int = 1,
        budget_ms: float = AMPLE_MS,
        timeout_ms: float | None = None,
        warmup_s: float = WARMUP_S,
        server: ServerProcess | None = None,
        settle: bool = True,
    ) -> Load:
        """Loads a contestant and returns what came of it; after an open loop, waits until the server rests again.

        Raises:
            Failed, LoadFailed: the server, or the generator, cannot.
        """
        to = server or self.server(who, where)
        plan = self.plan(who, to, rows=rows, budget_ms=budget_ms, timeout_ms=timeout_ms, seconds=seconds)
        connections = min(callers or _MAX_CONNECTIONS, _MAX_CONNECTIONS)
        self._sent += 131  # so that turns begin with other rows
        plan = dataclasses.replace(
            plan, callers=callers, rate=rate, connections=connections, warmup_s=warmup_s, first_body=self._sent
        )
        load = serving_load.run(self._program, plan, self._load_cpu)
        if rate is not None and settle:
            to.settle()
        return load

    def plan(
        self, who: str, server: ServerProcess, *, rows: int, budget_ms: float, timeout_ms: float | None, seconds: float
    ) -> Plan:
        """Returns what a generator does to this contestant, but for who calls how often."""
        one = CONTESTANTS[who]
        self._check(who, server)
        extra: dict[str, Any] = {"--budget-ms": budget_ms}
        if one.mode == "echo":
            bodies = self._echo_bodies()
        else:
            bodies = self._bodies.of(one.mode, rows, budget_ms)
            extra["--explained"] = None
        if timeout_ms is not None:
            extra["--timeout-ms"] = timeout_ms
        return Plan(server.target, one.method, bodies, seconds, extra=extra)

    def generator(self, plan: Plan) -> Generator:
        """Starts a generator; a context manager."""
        return Generator(self._program, plan, self._load_cpu)

    @contextlib.contextmanager
    def flood(self, who: str, where: str, rows: int) -> Iterator[None]:
        """One caller that sends batch after batch, from a moment before the block until its end.

        Raises:
            Failed: not one of them was answered, or one was answered with an error.
        """
        server = self.server(who, where)
        plan = self.plan(who, server, rows=rows, budget_ms=AMPLE_MS, timeout_ms=None, seconds=_FLOOD_LIMIT_S)
        with self.generator(dataclasses.replace(plan, callers=1, warmup_s=0.0)) as generator:
            time.sleep(_FLOOD_AHEAD_S)
            yield
            generator.stop()
            load = generator.result()
        server.settle()
        if not load.answered or load.wrong:
            raise Failed(f"batches of {rows:,} rows: {load.answered} answered, {load.why_wrong() or 'none went wrong'}")

    def call(self, server: ServerProcess, method: str, message: bytes) -> bytes:
        """Makes one call by gRPC's own client. Raises `Failed`."""
        grpc: Any = importlib.import_module("grpc")
        with grpc.insecure_channel(server.target, options=[("grpc.max_receive_message_length", -1)]) as channel:
            try:
                return bytes(channel.unary_unary(method)(message, timeout=60.0))
            except grpc.RpcError as error:
                raise Failed(f"{error.code().name}: {error.details()}") from None

    def _echo_bodies(self) -> Path:
        if self._echo is None:
            server = self.server(r.ECHO, r.SPARE)
            requests = _messages(self._bodies.of("none"))
            replies = (self.call(server, PREDICT, request) for request in itertools.islice(requests, _ECHOES))
            self._echo = self._bodies.echo(replies)
        return self._echo

    def _check(self, who: str, server: ServerProcess) -> None:
        """Once: compares the attributions and margins of a few rows with those of our service."""
        if CONTESTANTS[who].mode != "explained" or who in self._saw_agreement:
            return
        self._saw_agreement.add(who)
        if who == r.RECORDED:
            return
        request = next(_messages(self._bodies.of("explained", _CHECKED_ROWS)))
        ours = _answer(self.call(self.server(r.RECORDED, r.SPARE), PREDICT, request))
        theirs = _answer(self.call(server, PREDICT, request))
        worst = max(
            float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else np.inf
            for a, b in zip(ours, theirs, strict=True)
        )
        self.results.agreement[who] = worst
        self.say(f"{who}: attributions and margins differ from the recorded ones by {worst:.2g} of the largest")


def _messages(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _answer(message: bytes) -> tuple[Any, Any]:
    """Returns a reply's attributions, flat, and its margins."""
    reply = pb.PredictResponse.FromString(message)
    phi = np.frombuffer(reply.explanations.attributions.data, np.float64)
    return phi, np.frombuffer(reply.margin.data, np.float32)


@contextlib.contextmanager
def lab(program: Path, served: Served, cache: Path, **options: Any) -> Iterator[Lab]:
    """A lab whose files and servers are gone when the block ends."""
    # Sockets' paths must be short; ledgers should be on the disk of the cache, not in memory.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        made = Lab(program, served, Path(name), **options)
        try:
            yield made
        finally:
            made.close()
