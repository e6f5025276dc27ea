"""The threads that calls are worked on in: a queue and workers, without the futures that nobody waits for.

`concurrent.futures.ThreadPoolExecutor` makes a future, a work item and two locks for each call, a third of what an
empty one costs; all that gRPC wants of a pool is ``submit``. Told nothing back, gRPC keeps no count of calls under way,
so this pool does: `has_room` says whether one more should be taken.

How many may wait is found out (`Room`).

gRPC has a thread wait for a call's message. Callers who are slow to send theirs would hold all threads: where that
shows, further ones are started, and end again when there is nothing for them to do.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from xai_service.wire.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_MORE_WHEN_IN_TIME = 0.25
_SLOW_S = 0.05  # to send a message
_MOST_THREADS = 256  # beyond the fixed ones


class _Thread(threading.local):
    arrived_ns = 0
    key = 0  # in `LightPool._receiving`


class LightPool:
    """Runs calls in the order submitted, in a fixed number of threads.

    Args:
        threads: how many calls are worked on at once.
        max_waiting: how many may wait for a thread at the most.

    Attributes:
        room: how many may; who works here tells it whether calls are reached in time.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._queue: SimpleQueue[tuple[int, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self.room = Room(threads, max_waiting, _MORE_WHEN_IN_TIME)
        self._lock = threading.Lock()
        self._under_way = 0
        self._thread = _Thread()
        # When each call that a thread waits for the message of was begun with, by a number of the thread's own.
        self._receiving: dict[int, float] = {}
        self._numbers = itertools.count()
        self._n_fixed = threads
        self._n_threads = 0
        self._closing = False
        self._all: set[threading.Thread] = set()
        for _ in range(threads):
            self._add_thread()

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return max(0, self._under_way - self._n_threads)

    def has_room(self) -> bool:
        """Returns whether there is a thread for another call, or it may wait for one."""
        return self._under_way < self._n_threads + self.room.limit

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Queues ``call(*arguments)``. What it returns is nobody's, and what it raises is logged."""
        with self._lock:
            self._under_way += 1
        self._queue.put((time.monotonic_ns(), call, arguments))
        if self._under_way > self._n_threads and self._is_held_up():
            with self._lock:
                self._add_thread()

    def begin(self) -> int:
        """Says that the message of this thread's call is here.

        Returns:
            When the call was submitted, on the monotonic clock in nanoseconds; 0 in threads that are none of the pool.
        """
        thread = self._thread
        self._receiving.pop(thread.key, None)
        return thread.arrived_ns

    def close(self) -> None:
        """Ends the threads once all that was submitted is done."""
        with self._lock:
            self._closing = True
            threads = tuple(self._all)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()

    def _is_held_up(self) -> bool:
        """Whether a thread has waited long for a message, and there may be more threads."""
        if self._n_threads >= self._n_fixed + _MOST_THREADS:
            return False
        since = min(tuple(self._receiving.values()), default=math.inf)
        return since < time.monotonic() - _SLOW_S

    def _add_thread(self) -> None:
        """Under the lock, but at the start."""
        if self._closing:
            return
        self._n_threads += 1
        number = next(self._numbers)
        thread = threading.Thread(target=self._run, args=(number,), name=f"xai-rpc-{number}", daemon=True)
        self._all.add(thread)
        thread.start()

    def _run(self, number: int) -> None:
        thread, receiving, take = self._thread, self._receiving, self._queue.get
        thread.key = number
        while (task := take()) is not None:
            thread.arrived_ns, call, arguments = task
            receiving[number] = time.monotonic()
            try:
                call(*arguments)
            except BaseException:  # noqa: BLE001 (a worker outlives whatever one call does)
                _log.exception("a call failed outside of its handler")
            receiving.pop(number, None)
            del task, call, arguments  # else they live until the next call
            with self._lock:
                self._under_way -= 1
                if self._n_threads > self._n_fixed and self._under_way < self._n_threads and not self._closing:
                    self._n_threads -= 1
                    self._all.discard(threading.current_thread())
                    return
