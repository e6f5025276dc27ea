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
from typing import Any

# So many looks in a row at which no further call has come: all wait. Several short ones rather than a long one: on a
# busy machine, where callers are slow to ask again, looks are late too.
_LOOKS, _LOOK_EVERY_S = 6, 0.005
_LONGEST_S = 0.2  # deadlines run on meanwhile


class Gate:
    """A pool behind a door. While the door is open it is the pool's own ``submit`` that is called.

    Args:
        pool: does the work; what its ``submit`` returns is passed over.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._kept: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.submit: Callable[..., Any] = pool.submit

    @property
    def kept(self) -> int:
        """How many calls wait at the door."""
        return len(self._kept)

    def shut(self) -> None:
        """Keeps what comes from now on."""
        self.submit = self._keep

    def open(self) -> None:
        """Hands on what was kept, in order, and what comes."""
        with self._lock:
            self.submit = self._pool.submit
            kept, self._kept = self._kept, []
        for work, arguments in kept:
            self._pool.submit(work, *arguments)

    def _keep(self, work: Callable[..., Any], *arguments: Any) -> None:
        with self._lock:
            if self.submit == self._keep:
                self._kept.append((work, arguments))
                return
        self._pool.submit(work, *arguments)


def wait_until_quiet(came: Callable[[], int]) -> None:
    """Returns when no call has come for a while, or soon all the same.

    Args:
        came: counts them.
    """
    end = time.monotonic() + _LONGEST_S
    seen, quiet = came(), 0
    while quiet < _LOOKS and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
        now = came()
        quiet = quiet + 1 if now == seen else 0
        seen = now
