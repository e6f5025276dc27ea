"""Whether native work lets other Python threads run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


def seen_at_work(work: Callable[[], object]) -> bool:
    """Whether this thread gets to run while another is inside ``work``: only if ``work`` drops the GIL.

    Threads are never made to switch here, so this one runs when the worker gives up the GIL: inside ``work``, or else
    after its last call. Several calls, as the system may be slow to wake a thread.
    """
    started = threading.Event()
    inside = False

    def worker() -> None:
        nonlocal inside
        inside = True
        started.set()
        for _ in range(100):
            work()
        inside = False

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=worker)
        thread.start()
        started.wait()
        seen = inside
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return seen
