"""Streams of requests and answers, each answered as soon as it is ready, on a few threads of their own.

gRPC hands a stream to one thread and has it read, and send, one message at a time. Here a few threads take turns: each
reads a request, lets the next one read, works on its own, and sends its answer, with those that others left, or leaves
it to the one who is sending. No request changes hands, which would cost more than much of what is done with it. A
stream begins with one thread, and gets a further one whenever a request was read and none is free to read the next.

A caller who sends without reading stops its own threads, and so its own sending, and nobody else's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from xai_service.errors import Overloaded, Unavailable
from xai_service.wire.status import to_status

_log = logging.getLogger(__name__)

STREAMS = 32
"""Open at once; a further one is refused."""
IN_FLIGHT = 16
"""Requests of one stream that are worked on, or whose answers wait to be sent. With as many, no further one is read."""
_REFUSING = 4  # threads beyond those of the streams: to say so

Answer = Callable[[Any, Any], Any]
"""Answers one request of a stream, given its context; says what is wrong with it in the answer, and raises nothing."""


class Streams:
    """The streams of one server. Thread-safe.

    Args:
        at_once: requests of all streams that are worked on at once.
        streams: see `STREAMS`.
        in_flight: see `IN_FLIGHT`.
    """

    def __init__(self, at_once: int, *, streams: int = STREAMS, in_flight: int = IN_FLIGHT) -> None:
        self._turns = threading.Semaphore(at_once)
        self._most = streams
        self._in_flight = in_flight
        self._threads = ThreadPoolExecutor(streams + _REFUSING, thread_name_prefix="xai-stream")
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._draining = False

    def handler(self, answer: Answer) -> Callable[..., Any]:
        """Returns what gRPC calls with a bidirectional stream: a servicer's method, or a method handler's behaviour."""

        def handle(requests: Iterator[Any], context: Any, send: Callable[[Any], None]) -> None:
            stream = _Stream(requests, context, send, answer, self._turns, self._in_flight)
            with self._opened(stream) as refusal:
                if refusal is None:
                    stream.run()
                else:
                    stream.refuse(refusal)

        # gRPC looks for these: whether answers are sent by calling `send`, and which threads such a stream may hold.
        handle.experimental_non_blocking = True  # type: ignore[attr-defined]
        handle.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return handle

    def drain(self) -> None:
        """Reads no further request; each stream ends with UNAVAILABLE once what was read is answered."""
        with self._lock:
            self._draining = True
            streams = tuple(self._open)
        for stream in streams:
            stream.end(_shutting_down())

    @contextlib.contextmanager
    def _opened(self, stream: _Stream) -> Iterator[Exception | None]:
        """Holds a place for a stream, or says why there is none."""
        with self._lock:
            refusal: Exception | None = None
            if self._draining:
                refusal = _shutting_down()
            elif len(self._open) >= self._most:
                refusal = Overloaded(f"{self._most} streams are open, as many as may be", retry_after_s=1.0)
            else:
                self._open.add(stream)
        try:
            yield refusal
        finally:
            with self._lock:
                self._open.discard(stream)


class _Stream:
    """One stream while it lasts."""

    def __init__(
        self,
        requests: Iterator[Any],
        context: Any,
        send: Callable[[Any], None],
        answer: Answer,
        turns: threading.Semaphore,
        in_flight: int,
    ) -> None:
        self._requests = requests
        self._context = context
        self._send = send
        self._answer = answer
        self._turns = turns
        self._in_flight = in_flight
        self._reading = threading.Lock()
        self._places = threading.Semaphore(in_flight)
        # What follows is guarded by `_lock`.
        self._lock = threading.Lock()
        self._answers: deque[Any] = deque()  # that wait to be sent
        self._sending = False
        self._threads: list[threading.Thread] = []
        self._free = 0  # threads that wait for their turn to read, or read
        self._under_way = 0  # requests read, whose answer was not sent yet
        self._ending = False
        self._ended = False
        self._reason: Exception | None = None

    def run(self) -> None:
        """Answers until the caller or the server ends the stream. Returns when all its threads have."""
        self._context.add_callback(self._gone)
        self._free = 1
        self._take_turns()
        for thread in self._threads:  # none is added any more: who adds one was free itself, and ended since
            thread.join()

    def refuse(self, reason: Exception) -> None:
        """Ends the stream before it began."""
        self._ending = True
        self.end(reason)

    def end(self, reason: Exception | None = None) -> None:
        """Reads nothing more; the stream ends when what was read is answered.

        Args:
            reason: what it ends with; ``None``: the caller has said that there is no more.
        """
        with self._lock:
            self._ending = True
            self._reason = self._reason or reason
        self._finish_if_done()

    def _gone(self) -> None:
        """The call is over, whoever ended it."""
        with self._lock:
            self._ending = self._ended = True

    def _take_turns(self) -> None:
        while (request := self._read()) is not None:
            self._deliver(self._work(request))
            with self._lock:
                self._free += 1

    def _read(self) -> Any:
        """Returns the next request to be worked on, ``None`` when there is none any more."""
        with self._reading:
            self._places.acquire()
            request = None
            if not self._ending:
                try:
                    request = next(self._requests, None)
                except grpc.RpcError:  # the caller is gone
                    self._gone()
                if request is None:
                    self.end()
            with self._lock:
                self._free -= 1
                if self._ending:  # maybe since: then it was not begun, and the reason says so
                    self._places.release()
                    return None
                self._under_way += 1
                if not self._free and len(self._threads) + 1 < self._in_flight:
                    self._add_thread()
            return request

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._take_turns, name="xai-stream-turn", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the machine has none left: those there are go on
            return
        self._threads.append(thread)
        self._free += 1

    def _work(self, request: Any) -> Any:
        """Returns the answer, ``None`` where there is nobody to give it to."""
        try:
            with self._turns:
                return None if self._ended else self._answer(request, self._context)
        except Exception as error:  # noqa: BLE001 (logged whole, and told to the caller)
            _log.exception("a stream ends")
            self.end(error)
            return None

    def _deliver(self, answer: Any) -> None:
        """Sends an answer, with those left since; leaves it to who is sending."""
        with self._lock:
            self._answers.append(answer)
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                if not self._answers:
                    self._sending = False
                    return
                answer = self._answers.popleft()
            if answer is not None:
                self._send(answer)
            self._places.release()
            with self._lock:
                self._under_way -= 1
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        with self._lock:
            if self._ended or not self._ending or self._under_way:
                return
            self._ended = True
        if self._reason is not None:
            status = to_status(self._reason)
            self._context.set_code(status.code)
            self._context.set_details(status.details)
            self._context.set_trailing_metadata(status.trailing_metadata)
        if self._context.is_active():
            self._send(None)


def _shutting_down() -> Unavailable:
    return Unavailable("the service is shutting down; requests of this stream that have no answer were not begun")
