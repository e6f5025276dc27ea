"""The threads that calls are worked on in: a queue and workers, without the futures that nobody waits for.

`concurrent.futures.ThreadPoolExecutor` makes a future, a work item and two locks for each call, a third of what an
empty one costs; all that gRPC wants of a pool is ``submit``. Told nothing back, gRPC keeps no count of calls under way,
so this pool does: `has_room` says whether one more should be taken.

How many may wait is found out: a call that was reached too late for its budget halves the number (`note_late`), each
that was in time adds a little (`note_in_time`). A queue that is as long as callers have patience for loses none of them
by age, and refusing at the door costs a third of refusing after the wait.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_MORE_WHEN_IN_TIME = 0.25


class _Thread(threading.local):
    arrived_ns = 0


class LightPool:
    """Runs calls in the order submitted, in a fixed number of threads.

    Args:
        threads: how many calls are worked on at once.
        max_waiting: how many may wait for a thread at the most.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._queue: SimpleQueue[tuple[int, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._most = max_waiting
        self._least = min(threads, max_waiting)
        self._limit = float(max_waiting)
        self._lock = threading.Lock()
        self._under_way = 0
        self._thread = _Thread()
        self._threads = [threading.Thread(target=self._run, name=f"xai-rpc-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return max(0, self._under_way - len(self._threads))

    def has_room(self) -> bool:
        """Returns whether there is a thread for another call, or it may wait for one."""
        return self._under_way < len(self._threads) + self._limit

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Queues ``call(*arguments)``. What it returns is nobody's, and what it raises is logged."""
        with self._lock:
            self._under_way += 1
        self._queue.put((time.monotonic_ns(), call, arguments))

    def arrived_ns(self) -> int:
        """Returns when the call that this thread works on was submitted, on the monotonic clock; 0 in other threads."""
        return self._thread.arrived_ns

    def note_in_time(self) -> None:
        """Takes note that a call was reached early enough. No lock: an update lost is one of many."""
        if self._limit < self._most:
            self._limit = min(float(self._most), self._limit + _MORE_WHEN_IN_TIME)

    def note_late(self) -> None:
        """Takes note that a call had waited too long when it was reached."""
        self._limit = max(float(self._least), min(self._limit, self.waiting / 2))

    def close(self) -> None:
        """Ends the threads once all that was submitted is done."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        thread, take = self._thread, self._queue.get
        while (task := take()) is not None:
            thread.arrived_ns, call, arguments = task
            try:
                call(*arguments)
            except BaseException:  # noqa: BLE001 (a worker outlives whatever one call does)
                _log.exception("a call failed outside of its handler")
            with self._lock:
                self._under_way -= 1
            del task, call, arguments  # else they live until the next call
