"""Bounded lanes: how much is under way at once, who is shed when it is too much, and what is finished later.

Three kinds of work, each with its bound: requests under way (`Admission`, in rows), their explanations (the native
pool, bounded by the admission), and deferred explanations (`DeferredLane`), whose queue is the ledger itself, so that
none is lost with the process.

An overload shows as waiting. A request that waited for two fifths of its budget is answered without its explanation,
which is deferred; one that waited for three fifths of it is refused, since it would be late. Those with a low
priority, and those of callers who take more than their share, are refused sooner, so that the queue gets no longer than
the others have patience for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from xai_service.errors import Overloaded, Unavailable, XaiError
from xai_service.types import LOWEST_PRIORITY

_log = logging.getLogger(__name__)

_PATIENCE = 0.6  # of the budget: who waited longer is refused
_EXPLAINED = 0.4  # of the budget: who waited longer is not explained in time
_NO_BUDGET_MS = 1000.0  # what counts as the budget of requests without one
_LEAST_BUDGET_MS = 10.0  # and of those with a smaller one: a few milliseconds of waiting are no overload
_REMEMBERED = 256  # requests, to see who takes more than a share
_MORE_THAN_A_SHARE = 1.5


class Admission:
    """Counts the rows under way in all requests and refuses what would be too many. Thread-safe.

    Args:
        max_rows: under way at once.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._rows = 0
        self._closed = False
        self._latest: deque[str] = deque(maxlen=_REMEMBERED)
        self._of_caller: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """Rows under way."""
        return self._rows

    def enter(
        self, rows: int, *, caller: str = "", priority: int = 0, waited_ms: float = 0.0, budget_ms: float | None = None
    ) -> bool:
        """Takes a place for ``rows`` rows, which `leave` gives back.

        Args:
            rows: of the request.
            caller: whose it is.
            priority: 0, shed last, to 9, shed first.
            waited_ms: since it was taken from the wire, milliseconds.
            budget_ms: its budget, milliseconds, ``None`` without one.

        Returns:
            Whether there is time to explain it now.

        Raises:
            Overloaded: there is no place now, or it waited too long.
            Unavailable: closed.
        """
        counted_ms = max(budget_ms or _NO_BUDGET_MS, _LEAST_BUDGET_MS)
        with self._lock:
            if self._closed:
                raise Unavailable("the service is shutting down")
            if self._rows + rows > self._max_rows:
                raise Overloaded(
                    f"{self._rows} rows are under way and {rows} more would pass the limit of {self._max_rows}"
                )
            patience_ms = _PATIENCE * counted_ms * (1 - priority / (LOWEST_PRIORITY + 1))
            if waited_ms > patience_ms / 2 and (waited_ms > patience_ms or self._has_more_than_a_share(caller)):
                raise Overloaded(
                    f"the request waited {waited_ms:.3g} ms, too long for its budget and priority: "
                    "send fewer at a time",
                    retry_after_s=waited_ms / 1e3,
                )
            self._rows += rows
            self._remember(caller)
        return waited_ms <= _EXPLAINED * counted_ms

    def leave(self, rows: int) -> None:
        """Gives back the place of ``rows`` rows."""
        with self._lock:
            self._rows -= rows

    def close(self) -> None:
        """Admits nothing more."""
        with self._lock:
            self._closed = True

    def _remember(self, caller: str) -> None:
        if len(self._latest) == _REMEMBERED:
            oldest = self._latest[0]
            self._of_caller[oldest] -= 1
            if not self._of_caller[oldest]:
                del self._of_caller[oldest]
        self._latest.append(caller)
        self._of_caller[caller] += 1

    def _has_more_than_a_share(self, caller: str) -> bool:
        """Whether this caller had more than an equal share and a half of the latest requests that were admitted."""
        return self._of_caller[caller] * len(self._of_caller) > _MORE_THAN_A_SHARE * len(self._latest)


class DeferredLane:
    """One background thread that finishes deferred explanations, oldest first, whenever it is woken.

    Args:
        work: finishes up to a batch of them and returns whether it should be called again at once. It is called
            until it says no, then again after `wake`. Its errors are logged and it is tried again after a pause.
        is_busy: whether requests are under way. While they are it rests between batches, so as to take a quarter of the
            time, but no longer than a second.
    """

    _PAUSE_S = 1.0
    _REST = 3.0  # of the time that a batch took

    def __init__(self, work: Callable[[], bool], is_busy: Callable[[], bool] = lambda: False) -> None:
        self._work = work
        self._is_busy = is_busy
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xai-deferred", daemon=True)

    def start(self) -> None:
        """Starts with what an earlier process left."""
        self._wanted.set()
        self._thread.start()

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wanted.set()

    def close(self) -> None:
        """Ends after the batch under way; the rest waits in the ledger for the next start."""
        self._closing.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            more = True
            while more and not self._closing.is_set():
                began = time.monotonic()
                try:
                    more = self._work()
                    rested_at = time.monotonic() + min(self._PAUSE_S, self._REST * (time.monotonic() - began))
                    while self._is_busy() and time.monotonic() < rested_at and not self._closing.is_set():
                        self._closing.wait(0.01)
                except XaiError as error:
                    _log.warning("deferred explanations wait %.0f s: %s", self._PAUSE_S, error)
                    self._closing.wait(self._PAUSE_S)
                except Exception:  # noqa: BLE001 (the lane outlives a bug in one batch; it is logged whole)
                    _log.exception("deferred explanations wait %.0f s", self._PAUSE_S)
                    self._closing.wait(self._PAUSE_S)
            if self._closing.is_set():
                return


def wait_until(job_wait: Callable[[float], bool], remaining_s: Callable[[], float | None]) -> bool:
    """Waits for a job until it is over (True) or no time remains (False); ``remaining_s`` is asked again each time."""
    while True:
        remaining = remaining_s()
        if job_wait(60.0 if remaining is None else min(remaining, 60.0)):
            return True
        if remaining is not None and remaining <= 0:
            return False
