"""Load on a running server, with Locust: real rows, at a constant arrival rate, timed from the intended start.

::

    python bench/serve_model.py                                          # a server to aim at, in another terminal
    locust -f bench/locustfile.py                                        # web page on http://localhost:8089
    locust -f bench/locustfile.py --headless -u 16 -r 16 -t 60s --xai-rate 500 --xai-json var/locust.json Explained
    python bench/locustfile.py                                           # what the --xai-… options do

Name the kinds of callers that should run (`-u` users are spread over them), or none for all: PredictOnly, Explained,
Batch, Stream, Inference, Deferred, MustHave. `--host` is the server, 127.0.0.1:8001 by default. Arrivals begin once all
users are there. At the end stands a table with latencies finer than Locust's, shares of what was explained, deferred
and shed, and how many requests nobody was free to send (`unsent`): with many of those, raise `-u`, or the server is
past saturation.
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

import argparse  # noqa: E402
import logging  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import gevent.lock  # noqa: E402
import gevent.pool  # noqa: E402
import gevent.queue  # noqa: E402
import grpc  # noqa: E402
from locust import User, constant, events, task  # noqa: E402
from locust.exception import StopUser  # noqa: E402
from locust.runners import MasterRunner, WorkerRunner  # noqa: E402

from bench import inference, traffic  # noqa: E402
from bench.session import HOST, TIMEOUT_S, Session  # noqa: E402
from bench.tally import Outcome, Tally  # noqa: E402
from bench.traffic import Wanted  # noqa: E402
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb  # noqa: E402

_log = logging.getLogger("xai")
_OUTCOMES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.SHED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.MISSED,
}
_POLLS_AT_ONCE, _FIRST_POLL_S, _LONGEST_POLL_S = 256, 0.002, 0.1


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    add = parser.add_argument  # not of a group: the web page shows only what stands alone
    add("--xai-model", default="", help="model to ask; default: the only one that is served")
    add("--xai-rows", default="", metavar="FILE.npy", help="rows to send, for models not the bench's or the demo's")
    add(
        "--xai-rate",
        type=float,
        default=100.0,
        help="arrivals a second of each kind; 0: each sends when answered (100)",
    )
    add("--xai-budget-ms", type=float, default=10.0, help="latency budget that is sent, and held against (10)")
    add("--xai-deadline-ms", type=float, default=100.0, help="gRPC deadline of MustHave (100)")
    add(
        "--xai-tiny-budget-ms", type=float, default=0.01, help="budget of Deferred: too little to explain within (0.01)"
    )
    add("--xai-batch", type=int, default=100, help="rows of a request of Batch (100)")
    add("--xai-in-flight", type=int, default=16, help="requests under way in a stream of Stream, at most (16)")
    add("--xai-json", default="", metavar="FILE", help="where to write the figures, with machine and commit")


class Caller(User):
    """What all kinds share: a connection of its own, prepared requests, a schedule, a tally."""

    abstract = True
    host = HOST
    wait_time = constant(0)  # `Session.start_of_next` waits

    def on_start(self) -> None:
        """Connects, and prepares the requests."""
        if self.environment.xai is None:  # there is nothing to ask; `due` ends this user
            return
        session = self.session = self.environment.xai
        wanted = self.wanted(session.options)
        in_time_ms = 0.0 if wanted.mode == pb.EXPLANATION_MODE_NONE else session.options.xai_budget_ms
        session.tallies.setdefault(self.kind, Tally(in_time_ms, wanted.rows))
        model = session.model
        self.requests = traffic.requests(model.model_name, model.model_version, session.rows, wanted)
        # Without its own pool, gRPC would let all channels to one address share a connection.
        self.channel = grpc.insecure_channel(self.host, options=[("grpc.use_local_subchannel_pool", 1)])
        self.prepare()

    def prepare(self) -> None:
        """What else the kind needs before its first request."""

    def on_stop(self) -> None:
        """Disconnects."""
        if hasattr(self, "channel"):
            self.finish()
            self.channel.close()

    def finish(self) -> None:
        """What the kind leaves behind."""

    def due(self) -> float:
        """Waits until the next request is meant to start, and returns when that was; ends a user that cannot run."""
        if self.environment.xai is None or self.kind in self.session.unsupported:
            raise StopUser
        return self.session.start_of_next(self.kind)

    @property
    def kind(self) -> str:
        """As it is called on the command line."""
        return type(self).__name__

    def wanted(self, options: Any) -> Wanted:
        """Returns what this kind asks."""
        raise NotImplementedError

    def failed(self, error: grpc.RpcError, intended_s: float) -> None:
        """Counts a call that ended with an error; one that the server does not know ends this user."""
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            self.session.cannot(self.kind, f"the server says UNIMPLEMENTED: {error.details()}")
            raise StopUser
        self.session.ended(self.kind, _OUTCOMES.get(error.code(), Outcome.ERROR), intended_s, error)


class Unary(Caller):
    """A kind that calls Predict."""

    abstract = True
    timeout_s = TIMEOUT_S

    def prepare(self) -> None:
        """Finds the call."""
        self.predict = self.channel.unary_unary(
            f"{traffic.SERVICE}/Predict", pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString
        )

    @task
    def call(self) -> None:
        """One request."""
        intended_s = self.due()
        try:
            response = self.predict(next(self.requests), timeout=self.timeout_s)
        except grpc.RpcError as error:
            self.failed(error, intended_s)
            return
        self.session.ended(self.kind, traffic.outcome_of(response), intended_s, None, response.ByteSize())
        self.answered(response, intended_s)

    def answered(self, response: pb.PredictResponse, intended_s: float) -> None:
        """What the kind does with a reply."""


class PredictOnly(Unary):
    """Wants no explanations."""

    def wanted(self, options: Any) -> Wanted:  # noqa: ARG002
        """One row."""
        return Wanted(pb.EXPLANATION_MODE_NONE)


class Explained(Unary):
    """Wants explanations within the budget."""

    def wanted(self, options: Any) -> Wanted:
        """One row."""
        return Wanted(pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED, budget_ms=options.xai_budget_ms)


class Batch(Unary):
    """As Explained, many rows at a time. Its rate is of requests."""

    def wanted(self, options: Any) -> Wanted:
        """Many rows."""
        return Wanted(pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED, rows=options.xai_batch, budget_ms=options.xai_budget_ms)


class MustHave(Unary):
    """Wants no reply without its explanation: the deadline is the error, and counts as missed."""

    def prepare(self) -> None:
        """As above, with the deadline."""
        super().prepare()
        self.timeout_s = self.session.options.xai_deadline_ms / 1e3

    def wanted(self, options: Any) -> Wanted:  # noqa: ARG002
        """One row, without a budget: the deadline counts."""
        return Wanted(pb.EXPLANATION_MODE_REQUIRED)


class Deferred(Unary):
    """Leaves too little time to explain, then asks for the explanation until it is there.

    Two lines in the table: the reply, and "Deferred, explained", from the intended start to the poll that had it.
    """

    LATER = "Deferred, explained"

    def prepare(self) -> None:
        """As above, and finds the call to poll with."""
        super().prepare()
        self.session.tallies.setdefault(self.LATER, Tally(self.session.options.xai_budget_ms))
        self.polls = gevent.pool.Pool(_POLLS_AT_ONCE)
        self.waiting: dict[str, float] = {}
        self.explanation = self.channel.unary_unary(
            f"{traffic.SERVICE}/GetExplanation",
            pb.GetExplanationRequest.SerializeToString,
            pb.GetExplanationResponse.FromString,
        )

    def finish(self) -> None:
        """Gives up what is not explained yet: missed in the table, but no failure in Locust's, which the end is not."""
        self.polls.kill()
        for intended_s in self.waiting.values():
            self.session.tallies[self.LATER].add(Outcome.MISSED, intended_s, time.perf_counter())

    def wanted(self, options: Any) -> Wanted:
        """One row."""
        return Wanted(pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED, budget_ms=options.xai_tiny_budget_ms)

    def answered(self, response: pb.PredictResponse, intended_s: float) -> None:
        """Polls beside the arrivals, which do not wait for it."""
        if traffic.outcome_of(response) is Outcome.DEFERRED:
            self.waiting[response.decision_ids[0]] = intended_s
            self.polls.spawn(self._poll, response.decision_ids[0], intended_s)

    def _poll(self, decision_id: str, intended_s: float) -> None:
        request, pause_s = pb.GetExplanationRequest(decision_id=decision_id), _FIRST_POLL_S
        while time.perf_counter() < intended_s + TIMEOUT_S:
            gevent.sleep(pause_s)
            try:
                status = self.explanation(request, timeout=TIMEOUT_S).explanation.status
            except grpc.RpcError as error:
                outcome: Outcome = _OUTCOMES.get(error.code(), Outcome.ERROR)
                failure: Exception | None = error
                break
            if status != pb.EXPLANATION_STATUS_DEFERRED:
                complete = status == pb.EXPLANATION_STATUS_COMPLETE
                outcome, failure = Outcome.EXPLAINED if complete else Outcome.FAILED, None
                break
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)
        else:
            outcome, failure = Outcome.MISSED, TimeoutError(f"not explained within {TIMEOUT_S:g} s")
        del self.waiting[decision_id]
        self.session.ended(self.LATER, outcome, intended_s, failure)


class Stream(Caller):
    """As Explained, over one stream for each user, with several requests under way (`--xai-in-flight`)."""

    def prepare(self) -> None:
        """Opens the stream."""
        self.slots = gevent.lock.BoundedSemaphore(max(1, self.session.options.xai_in_flight))
        self._open()

    def finish(self) -> None:
        """Ends the stream."""
        self.sending.put(StopIteration)
        self.reader.kill()

    def wanted(self, options: Any) -> Wanted:
        """One row."""
        return Wanted(pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED, budget_ms=options.xai_budget_ms)

    @task
    def call(self) -> None:
        """Sends one request, once fewer than `--xai-in-flight` are under way. `_read` counts it."""
        intended_s = self.due()
        self.slots.acquire()
        if self.reader.dead:
            self._open()
        number = self.number = self.number + 1
        self.under_way[str(number)] = intended_s
        self.sending.put(pb.PredictStreamRequest(id=str(number), request=next(self.requests)))

    def _open(self) -> None:
        self.number, self.under_way = 0, {}
        self.sending: Any = gevent.queue.Queue()
        stream = self.channel.stream_stream(
            f"{traffic.SERVICE}/PredictStream",
            pb.PredictStreamRequest.SerializeToString,
            pb.PredictStreamResponse.FromString,
        )
        self.reader = gevent.spawn(self._read, stream(iter(self.sending)), self.under_way)

    def _read(self, answers: Iterator[pb.PredictStreamResponse], under_way: dict[str, float]) -> None:
        error: grpc.RpcError | None = None
        try:
            for answer in answers:
                intended_s = under_way.pop(answer.id, None)
                if intended_s is None:
                    why = RuntimeError(f"an answer to {answer.id!r}, which nobody waits for")
                    self.session.ended(self.kind, Outcome.ERROR, time.perf_counter(), why)
                    continue
                self.slots.release()
                if answer.HasField("error"):
                    outcome = _outcome_of_code(answer.error.code)
                    self.session.ended(self.kind, outcome, intended_s, RuntimeError(answer.error.message))
                else:
                    outcome = traffic.outcome_of(answer.response)
                    self.session.ended(self.kind, outcome, intended_s, None, answer.ByteSize())
        except grpc.RpcError as failed:
            error = failed
        # The stream is over: so are the requests that were under way in it.
        for intended_s in list(under_way.values()):
            self.slots.release()
            if error is not None:
                try:
                    self.failed(error, intended_s)
                except StopUser:
                    continue
            else:
                self.session.ended(self.kind, Outcome.ERROR, intended_s, RuntimeError("the server ended the stream"))


def _outcome_of_code(number: int) -> Outcome:
    return next((outcome for code, outcome in _OUTCOMES.items() if code.value[0] == number), Outcome.ERROR)


class Inference(Caller):
    """As Explained, over the Open Inference Protocol: ModelInfer with raw contents, all outputs."""

    def prepare(self) -> None:
        """Finds the call."""
        try:
            protocol = inference.Protocol()
        except ImportError as error:
            self.session.cannot(self.kind, str(error))
            return
        self.infer = self.channel.unary_unary(*protocol.method)
        self.protocol = protocol
        self.requests = map(protocol.request, self.requests)

    def wanted(self, options: Any) -> Wanted:
        """One row."""
        return Wanted(pb.EXPLANATION_MODE_COMPLETE_OR_DEFERRED, budget_ms=options.xai_budget_ms)

    @task
    def call(self) -> None:
        """One request."""
        intended_s = self.due()
        try:
            response = self.infer(next(self.requests), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            self.failed(error, intended_s)
            return
        self.session.ended(self.kind, self.protocol.outcome_of(response), intended_s, None, response.ByteSize())


@events.init.add_listener
def _prepare(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner | WorkerRunner):
        _log.error(
            "one process only: rates and shares would be of one worker each (no --processes, --master, --worker)"
        )
        sys.exit(2)

    def all_there(**_: Any) -> None:
        if environment.xai is not None:
            environment.xai.spawned.set()

    environment.events.spawning_complete.add_listener(all_there)
    environment.xai = None
    if environment.web_ui is None and not _begin(environment):  # before the run's time counts
        sys.exit(2)


@events.test_start.add_listener
def _begin_from_page(environment: Any, **_: Any) -> None:
    if environment.web_ui is not None and not _begin(environment):
        gevent.spawn(environment.runner.stop)  # from elsewhere, since this is part of what is stopped


def _begin(environment: Any) -> bool:
    environment.xai = None
    try:
        environment.xai = Session(environment)
    except (RuntimeError, ValueError, OSError, ImportError, traffic.NoRows) as error:
        _log.error("%s", error)
    return environment.xai is not None


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    if environment.xai is not None:
        environment.xai.report()


if __name__ == "__main__":
    described = argparse.ArgumentParser(
        prog="locust -f bench/locustfile.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _options(described)
    described.print_help()
