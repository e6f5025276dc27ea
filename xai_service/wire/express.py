"""Calls of one message that ask for predictions, taken from gRPC's own queue of events and answered many at once.

gRPC for Python hands each call to a thread, has that wait for the call's message, and wakes it again: three times the
cost of the call itself. Here gRPC's polling thread takes the events of such calls itself: a call, then its message.
What has come when the queue is empty is answered together, in that thread, with no other in between; under load more
comes meanwhile, and so the next wave is larger. Nobody waits for others to come. Requests that take long, and messages
that take long to read, go to the pool.

All other calls, and what gRPC does when it stops, take the way that they always do. To get at the queue this uses what
gRPC keeps to itself; it is asked for at the start, and where it is not found the server does not start.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from xai_service import trace_context
from xai_service.errors import BudgetExhausted, Overloaded
from xai_service.wire.express_call import Call, check_internals, core, internals, status_of
from xai_service.wire.questions import Question, Read, arrival_of
from xai_service.wire.room import Room

if TYPE_CHECKING:
    from xai_service.service import Answers, ExplainService
    from xai_service.waves import PredictReply
    from xai_service.wire.access import Access
    from xai_service.wire.gate import Gate
    from xai_service.wire.pool import LightPool

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = (
    16  # requests in a wave: twice as many cost each a tenth less, and keep those behind waiting twice as long
)
_LARGE = 1 << 16  # bytes of a message: from here on it is read elsewhere
_LONGEST_LOOK_NS = 10_000_000  # at what has come, before what is there is answered
_LEAST_WAITING = 16  # calls that may wait beside a wave in any case
# As RFC 8289 has it: that calls wait for longer than the first is an overload once it has lasted for the second.
_TARGET_NS, _INTERVAL_NS = 3_000_000, 100_000_000
_IDLE_S, _SHUT_S, _HOLD_S = 1.0, 0.005, 0.001
_MOST_UNSETTLED = 16  # waves on their way to the ledger: what one commit takes
_MOST_RECEIVING = 8192  # calls whose message has not come
_MORE_WHEN_IN_TIME = 0.02

_Wave = Sequence[tuple[Call, Question]]


class Express:
    """The calls of some methods of a server. `start` in place of the server's own, `close` when it has stopped.

    Args:
        server: made by `grpc.server`; not started.
        methods: how to read the request of each, by the method's full name, ``/package.Service/Method``.
        service: answers.
        pool: where requests that take long are worked on.
        gate: in front of it.
        access: says who may call; ``None``: everybody.
        most_waiting: calls that may wait at most; see `Room`.

    Raises:
        Unavailable: this version of grpcio is built otherwise.
    """

    def __init__(
        self,
        server: Any,
        methods: Mapping[str, Read],
        service: ExplainService,
        pool: LightPool,
        gate: Gate,
        access: Access | None,
        most_waiting: int,
    ) -> None:
        check_internals(server)
        self._state = server._state  # noqa: SLF001 (see the head of this file)
        self._methods = {name.encode(): (name, read) for name, read in methods.items()}
        self._service, self._pool, self._gate, self._access = service, pool, gate, access
        self._room = Room(_LEAST_WAITING, most_waiting, _MORE_WHEN_IN_TIME)
        self._waiting: deque[tuple[Call, Question]] = deque()
        self._shed: list[Call] = []
        self._no_room = Overloaded("too many calls wait already; try again")
        self._no_room_status = status_of(self._no_room)  # once: there is no time for it when it is needed
        self._taken = 0
        self._receiving = 0
        self._is_empty = False
        self._look_until_ns = 0
        self._empty_ns = time.monotonic_ns()  # when the queue was last found empty
        self._clear_ns = self._empty_ns  # and nobody had waited for long
        self._shut = False
        self._unsettled: SimpleQueue[tuple[_Wave, Answers] | None] = SimpleQueue()
        self._replier = threading.Thread(target=self._reply_when_recorded, name="xai-replies", daemon=True)
        self._poller = threading.Thread(target=self._run, name="xai-express", daemon=True)

    def start(self) -> None:
        """Starts the server."""
        state = self._state
        with state.lock:
            state.server.start()
            state.stage = internals._ServerStage.STARTED  # noqa: SLF001
            for method in state.registered_method_handlers:
                internals._request_registered_call(state, method)  # noqa: SLF001
            internals._request_call(state)  # noqa: SLF001
        self._replier.start()
        self._poller.start()

    def close(self) -> None:
        """Ends what is left once the server has stopped."""
        if self._poller.ident is None:
            return
        self._poller.join()
        self._unsettled.put(None)
        self._replier.join()

    def shut(self) -> None:
        """Keeps what comes from now on (see `xai_service.wire.gate`)."""
        self._shut = True

    def open(self) -> None:
        """Answers again, first what has come meanwhile."""
        self._shut = False

    @property
    def taken(self) -> int:
        """How many calls have come."""
        return self._taken

    # In gRPC's polling thread.

    def _run(self) -> None:
        go_on = True
        while go_on:
            try:
                go_on = self._turn()
            except Exception:  # noqa: BLE001 (one call's failure is not the server's)
                _log.exception("gRPC's events")

    def _turn(self) -> bool:
        """Looks once at what has come, and answers when there is nothing more; returns whether there will be more."""
        waits = not self._shut and bool(self._waiting or self._shed)
        holds = self._unsettled.qsize() >= _MOST_UNSETTLED  # the ledger is behind: calls had better wait here, and age
        began_ns = time.monotonic_ns()
        if waits and not self._look_until_ns:
            self._look_until_ns = began_ns + _LONGEST_LOOK_NS
        # Only what is known to be empty is waited at.
        pause_s = _SHUT_S if self._shut else _HOLD_S if waits else _IDLE_S
        is_idle = self._is_empty and (holds or not waits)
        event = self._state.completion_queue.poll(time.time() + pause_s if is_idle else 0.0)
        now_ns = time.monotonic_ns()
        nothing = event.completion_type == core.CompletionType.queue_timeout
        self._is_empty = nothing
        if nothing or is_idle:
            self._empty_ns = now_ns
            if self._shut or not self._waiting or now_ns - self._waiting[0][0].arrived_ns < _TARGET_NS:
                self._clear_ns = now_ns
        if not nothing and not self._take(event):
            return False
        del event  # a finished call is to go before the next look, says gRPC
        if self._shed and (nothing or len(self._shed) >= _MOST_AT_ONCE):
            self._refuse_shed()
        if nothing or now_ns >= self._look_until_ns:
            if waits and self._waiting and not holds:
                self._answer()
                self._is_empty = False
            self._look_until_ns = 0
        if nothing and self._state.server_deallocated:
            internals._begin_shutdown_once(self._state)  # noqa: SLF001
        return True

    def _take(self, event: Any) -> bool:
        """Does what is to be done about an event; returns whether there will be more."""
        state, tag = self._state, internals._REQUEST_CALL_TAG  # noqa: SLF001
        if event.tag is not tag:
            return bool(internals._process_event_and_continue(state, event))  # noqa: SLF001
        method = self._methods.get(event.call_details.method) if event.success else None
        if method is not None:
            self._accept(event, *method)
            return True
        try:
            return bool(internals._process_event_and_continue(state, event))  # noqa: SLF001
        except Exception:
            with state.lock:  # or nothing would come any more
                if state.stage is internals._ServerStage.STARTED and tag not in state.due:  # noqa: SLF001
                    internals._request_call(state)  # noqa: SLF001
            raise

    def _accept(self, event: Any, method: str, read: Read) -> None:
        """Takes a call, and waits for its message."""
        state, now_ns = self._state, time.monotonic_ns()
        # It came while nobody looked: nobody knows when, so in the middle of that time.
        blind_ns = min(now_ns - self._empty_ns, 2 * _LONGEST_LOOK_NS)
        call = Call(event, read, now_ns - blind_ns // 2, self._received)
        with state.lock:
            state.due.remove(event.tag)
            state.rpc_states.add(call)
            if state.stage is internals._ServerStage.STARTED:  # noqa: SLF001
                internals._request_call(state)  # noqa: SLF001
        self._taken += 1
        if not self._has_room() or self._receiving >= _MOST_RECEIVING:
            self._refuse_for_room(call)
            return
        with _answered([call]):
            if self._access is not None:
                call.context.xai_caller = self._access.check(method, call.context)
            call.receive()
            self._receiving += 1

    def _received(self, call: Call, message: bytes | None) -> None:
        """A call's message has come, or it will have none."""
        self._receiving -= 1
        if message is None:
            return
        question = None
        with _answered([call]):
            trace_context.enter(trace_context.NONE)
            if len(message) < _LARGE:
                behind = len(self._waiting) if time.monotonic_ns() - self._clear_ns > _INTERVAL_NS else 0
                question = call.read(message, arrival_of(call.context, call.arrived_ns, behind))
                if self._service.is_short(question.call):
                    if self._has_room():
                        self._waiting.append((call, question))
                    else:
                        self._refuse_for_room(call)
                    return
            if self._pool.has_room():
                self._gate.submit(self._answer_long, call, message, question)
            else:
                self._refuse_for_room(call)

    def _has_room(self) -> bool:
        return self._shut or len(self._waiting) < _MOST_AT_ONCE + self._room.limit

    def _refuse_for_room(self, call: Call) -> None:
        self._shed.append(call)
        self._service.telemetry.refused("", None, self._no_room)

    def _refuse_shed(self) -> None:
        """Refuses calls for want of room: several in a row cost half of what they cost one by one."""
        shed, self._shed = self._shed, []
        for call in shed:
            with _answered([call]):
                call.end(None, self._no_room_status)

    def _answer(self) -> None:
        """Answers what waits, or as much of it as makes a wave."""
        wave = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        wave = [(call, question) for call, question in wave if _is_in_time(call)]
        with _answered(call for call, _ in wave):
            answers = self._service.begin([question.call for _, question in wave])
            if answers.is_settled:
                self._reply(wave, answers.wait())
            else:
                self._unsettled.put((wave, answers))

    # In other threads.

    def _reply_when_recorded(self) -> None:
        while (begun := self._unsettled.get()) is not None:
            wave, answers = begun
            with _answered(call for call, _ in wave):
                self._reply(wave, answers.wait())

    def _reply(self, wave: _Wave, outcomes: Sequence[PredictReply | Exception]) -> None:
        for (call, question), outcome in zip(wave, outcomes, strict=True):
            _reply(call, question, outcome, self._room, len(self._waiting))

    def _answer_long(self, call: Call, message: bytes, question: Question | None) -> None:
        self._pool.begin()
        if not _is_in_time(call):
            return
        with _answered([call]):
            arrival = arrival_of(call.context, call.arrived_ns, self._pool.waiting)
            trace_context.enter(arrival.trace)
            if question is None:
                question = call.read(message, arrival)
            else:
                question.call = replace(question.call, arrival=arrival)
            (outcome,) = self._service.begin([question.call]).wait()
            _reply(call, question, outcome, self._pool.room, self._pool.waiting)


def _is_in_time(call: Call) -> bool:
    """Whether the caller still waits; if not it is told so."""
    if call.context.time_remaining() > 0:
        return True
    with _answered([call]):
        call.refuse(BudgetExhausted("the deadline passed before the request was looked at"))
    return False


def _reply(call: Call, question: Question, outcome: PredictReply | Exception, room: Room, waiting: int) -> None:
    """Tells a caller what came of its question, and the room whether it was reached in time."""
    with _answered([call]):
        trace_context.enter(question.call.arrival.trace)
        if not isinstance(outcome, Exception):
            room.in_time()
            try:
                body = question.write(outcome)
            except Exception as error:  # noqa: BLE001 (the caller is told)
                call.refuse(question.in_their_terms(error))
            else:
                call.answer(body)
            return
        if isinstance(outcome, Overloaded):
            room.late(waiting)
        call.refuse(question.in_their_terms(outcome))


@contextlib.contextmanager
def _answered(calls: Iterable[Call]) -> Iterator[None]:
    """Whatever happens, nobody is left waiting."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (`to_status` logs what was not expected, and the callers are told)
        for call in calls:
            call.refuse(error)
