"""The guard's Locust run: one user for whom kinds of calls take turns. `bench/guard.py` starts it.

Turns are short, so that all kinds of a round meet the same machine, and of a fixed number of requests each, by one
caller or by several at once, each of whom sends the next when the last is answered: for ratios of throughput that is
what is wanted. What a turn cost the server in CPU time is read from the clock that its process has for that.
"""

from __future__ import annotations

# First of all: gRPC must know of gevent before it is used, and importing locust patches the standard library.
import grpc.experimental.gevent

grpc.experimental.gevent.init_gevent()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Locust puts this file's own folder there
    sys.path.append(str(ROOT))

import itertools  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import grpc  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from locust import User, events, task  # noqa: E402

from bench import echo_server, traffic  # noqa: E402
from bench.guard_ratios import TURNS, Turn  # noqa: E402
from bench.tally import Outcome  # noqa: E402
from bench.traffic import Wanted  # noqa: E402
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb  # noqa: E402

_TIMEOUT_S = 30.0
_CONNECTIONS = 8


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    add = parser.add_argument
    add("--guard-model", required=True, help="model to ask")
    add("--guard-rows", required=True, help="float32 (n, features), .npy")
    add("--guard-servers", required=True, help="JSON: {server of a turn: [address, process]}")
    add("--guard-seconds", type=float, required=True, help="rounds begin for as long")
    add("--guard-rounds", type=int, required=True, help="but so many at least")
    add("--guard-out", required=True, help="file to write")


class Turns(User):
    """Plays all rounds, writes what each turn took, and ends the run."""

    fixed_count = 1

    def on_start(self) -> None:
        """Connects: a connection for each caller."""
        options = self.environment.parsed_options
        self.servers: dict[str, tuple[str, int]] = json.loads(options.guard_servers)
        rows = np.load(options.guard_rows)
        modes = {"predict": pb.EXPLANATION_MODE_NONE, "explain": pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED}
        self.requests: dict[tuple[str, int], Iterator[bytes]] = {}
        self.clocks = {name: _cpu_clocks(process) for name, (_, process) in self.servers.items()}
        self.turns = [turn for turn in TURNS if turn.server in self.servers]
        for turn in self.turns:
            wanted = Wanted(modes.get(turn.asks, pb.EXPLANATION_MODE_NONE), turn.rows)
            made = traffic.requests(options.guard_model, "", rows, wanted)
            prepared = [next(made).SerializeToString() for _ in range(traffic.PREPARED)]
            self.requests[turn.asks, turn.rows] = itertools.cycle(prepared)
        self.calls = {
            name: [self._connect(name, at) for _ in range(_CONNECTIONS)] for name, (at, _) in self.servers.items()
        }

    def _connect(self, server: str, address: str) -> Callable[..., Any]:
        channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        if server == "echo":
            return channel.unary_unary(echo_server.METHOD)
        return channel.unary_unary(f"{traffic.SERVICE}/Predict", None, pb.PredictResponse.FromString)

    @task
    def play(self) -> None:
        """All rounds, the first not counted."""
        options = self.environment.parsed_options
        rounds: list[dict[str, Any]] = []
        ends = time.monotonic() + options.guard_seconds
        while time.monotonic() < ends or len(rounds) <= options.guard_rounds:
            # Forwards and backwards by turns: what a turn leaves behind falls on both of its neighbours.
            order = self.turns if len(rounds) % 2 else self.turns[::-1]
            rounds.append({turn.name: self._turn(turn) for turn in order})
        Path(options.guard_out).write_text(json.dumps(rounds[1:]))
        gevent.spawn(self.environment.runner.quit)
        gevent.sleep(_TIMEOUT_S)

    def _turn(self, turn: Turn) -> dict[str, float]:
        server = turn.server
        clocks = self.clocks[server]
        times: list[float] = []
        callers = [
            gevent.spawn(self._caller, turn, call, turn.requests // turn.callers, times)
            for call in self.calls[server][: turn.callers]
        ]
        cpu_s, began_s = sum(map(time.clock_gettime, clocks)), time.perf_counter()
        gevent.joinall(callers, raise_error=True)
        seconds, cpu_s = time.perf_counter() - began_s, sum(map(time.clock_gettime, clocks)) - cpu_s
        return {"seconds": seconds, "cpu_s": cpu_s, "requests": len(times), "p50_s": median(times)}

    def _caller(self, turn: Turn, call: Callable[..., Any], count: int, times: list[float]) -> None:
        requests, due = self.requests[turn.asks, turn.rows], turn.outcome
        for _ in range(count):
            request, began_s = next(requests), time.perf_counter()
            response = call(request, timeout=_TIMEOUT_S)
            taken_s = time.perf_counter() - began_s
            times.append(taken_s)
            if due is not None and traffic.outcome_of(response) is not Outcome(due):
                raise RuntimeError(f"{turn.name}: {traffic.outcome_of(response)}, {response.explanations.detail}")
            self.environment.events.request.fire(
                request_type="grpc",
                name=turn.name,
                response_time=taken_s * 1e3,
                response_length=0,
                exception=None,
                context={},
            )


def _cpu_clocks(process: int) -> list[int]:
    """The clocks that count the CPU time of a process and its children in nanoseconds (clock_getcpuclockid(3))."""
    pids = [process, *(child.pid for child in psutil.Process(process).children(recursive=True))]
    return [(~pid << 3) | 2 for pid in pids]
