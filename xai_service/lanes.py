"""Bounded lanes: how much is under way at once, and the explanations that are finished later.

Three kinds of work, each with its bound: requests under way (`Admission`, in rows), their explanations (the native
pool, bounded by the admission), and deferred explanations (`DeferredLane`), whose queue is the ledger itself, so that
none is lost with the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from xai_service.errors import Overloaded, Unavailable, XaiError

_log = logging.getLogger(__name__)


class Admission:
    """Counts the rows under way in all requests and refuses what would be too many. Thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._rows = 0
        self._closed = False

    @property
    def rows(self) -> int:
        """Rows under way."""
        return self._rows

    @contextlib.contextmanager
    def admit(self, rows: int) -> Iterator[None]:
        """Holds a place for ``rows`` rows.

        Raises:
            Overloaded: there is none now.
            Unavailable: closed.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("the service is shutting down")
            if self._rows + rows > self._max_rows:
                raise Overloaded(
                    f"{self._rows} rows are under way and {rows} more would pass the limit of {self._max_rows}"
                )
            self._rows += rows
        try:
            yield
        finally:
            with self._lock:
                self._rows -= rows

    def close(self) -> None:
        """Admits nothing more."""
        with self._lock:
            self._closed = True


class DeferredLane:
    """One background thread that finishes deferred explanations, oldest first, whenever it is woken.

    Args:
        work: finishes up to a batch of them and returns whether it should be called again at once. It is called
            until it says no, then again after `wake`. Its errors are logged and it is tried again after a pause.
    """

    _PAUSE_S = 1.0

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
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
                try:
                    more = self._work()
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
