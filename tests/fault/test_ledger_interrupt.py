"""A caller that is interrupted while it waits leaves alone: the others get their answers."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from xai_service.ledger.ids import new_id
from xai_service.ledger.store import Ledger, NewEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Interrupted(BaseException):
    pass


@pytest.fixture
def interruptible() -> Iterator[None]:
    def interrupt(_signal: int, _frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_waiter_does_not_break_the_others(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    mine = NewEntry(new_id(), b"mine", pending=False)
    others = [NewEntry(new_id(), b"theirs", pending=False) for _ in range(8)]
    main = threading.get_ident()
    with Ledger(path, max_queued_entries=9) as ledger, ThreadPoolExecutor(9) as pool:

        def interrupt_once_all_wait() -> None:
            while ledger._queued + ledger._in_flight < 9:
                time.sleep(0.001)
            # The main thread is past the queue; give it time to reach its wait.
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGUSR1)

        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            calls = [pool.submit(ledger.append, [entry]) for entry in others]
            interrupter = pool.submit(interrupt_once_all_wait)
            with pytest.raises(Interrupted):
                ledger.append([mine])
            interrupter.result()
            holder.execute("ROLLBACK")
        for call in calls:
            call.result(10)
        # The queue is as roomy as before, and what the interrupted caller sent was stored like any other entry.
        ledger.append([NewEntry(new_id(), b"later", pending=False) for _ in range(9)])
        assert ledger.count() == 18
        assert ledger.get(mine.decision_id).data == b"mine"
