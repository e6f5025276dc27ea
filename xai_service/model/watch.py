"""A thread that looks at something again and again, and at once when it is rung."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Watch:
    """Calls ``look`` in a thread of its own, one call at a time.

    Args:
        look: its errors are logged, and it is called again when its time comes.
        every_s: seconds from the end of one call to the next; 0 to call it only when rung.
    """

    def __init__(self, look: Callable[[], object], every_s: float) -> None:
        self._look = look
        self._every_s = every_s or None
        # Its put is reentrant, unlike an Event's set: `ring` is called by signal handlers, maybe one amid another.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="xai-watch", daemon=True)

    @property
    def closing(self) -> bool:
        """Whether `close` was called: ``look`` may ask, to end early."""
        return self._closing

    def start(self) -> None:
        """Begins to wait."""
        self._thread.start()

    def ring(self) -> None:
        """Has it look now. May be called by a signal handler."""
        self._bell.put(None)

    def close(self) -> None:
        """Ends after the call under way."""
        self._closing = True
        self.ring()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._bell.get(timeout=self._every_s)
                while True:  # however often it was rung, one look is enough
                    self._bell.get_nowait()
            except queue.Empty:
                pass
            if self._closing:
                return
            try:
                self._look()
            except Exception:  # noqa: BLE001 (the watch outlives a bug in one look; it is logged whole)
                _log.exception("looking failed")
