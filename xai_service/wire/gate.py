"""The door between gRPC and the threads that work: shut for a moment at the end, so that nobody is shut out.

When a gRPC server stops, calls that it has received and not yet handed out are broken off: the caller sees CANCELLED,
which no client takes for "ask elsewhere". So just before, the door is shut: calls are taken and kept, those under way
are answered, and soon every caller that waits for an answer before it asks again waits at the door. Then nothing is on
its way, gRPC says on each connection that it goes away, the door opens, and what was kept is answered as ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# So many looks in a row at which no further call has come: all wait. Several short ones rather than a long one: on a
# busy machine, where callers are slow to ask again, looks are late too.
_LOOKS, _LOOK_EVERY_S = 6, 0.005
_LONGEST_S = 0.2  # deadlines run on meanwhile


class Gate:
    """An executor behind a door. While the door is open it is the executor's own ``submit`` that is called.

    Args:
        executor: does the work.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._kept: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.submit: Callable[..., Any] = executor.submit

    def shut(self) -> None:
        """Keeps what comes from now on, and returns when nothing more does, or soon after all the same."""
        self.submit = self._keep
        end = time.monotonic() + _LONGEST_S
        seen, quiet = 0, 0
        while quiet < _LOOKS and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
            quiet = quiet + 1 if len(self._kept) == seen else 0
            seen = len(self._kept)

    def open(self) -> None:
        """Hands on what was kept, in order, and what comes."""
        with self._lock:
            self.submit = self._executor.submit
            kept, self._kept = self._kept, []
        for future, work, arguments, named in kept:
            done = self._executor.submit(work, *arguments, **named)
            done.add_done_callback(lambda _, future=future: future.set_result(None))

    def _keep(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        with self._lock:
            if self.submit != self._keep:
                return self._executor.submit(work, *arguments, **named)
            future: Future[Any] = Future()
            self._kept.append((future, work, arguments, named))
            return future
