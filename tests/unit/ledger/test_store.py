"""What the ledger promises to callers, one at a time and many at once."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from xai_service.errors import DecisionNotFound, InternalError, Overloaded, Unavailable
from xai_service.ledger.ids import new_id, new_ids
from xai_service.ledger.store import Ledger, NewEntry, Stored, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "deep" / "down" / "ledger.sqlite", max_queued_entries=2000) as ledger:
        yield ledger


def entries(n: int, *, pending: bool = False) -> list[NewEntry]:
    return [NewEntry(key, b"data of " + key.bytes, pending=pending) for key in new_ids(n)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextlib.contextmanager
def stalled(ledger: Ledger) -> Iterator[None]:
    """Let the writer get as far as its next transaction, and no further: somebody else holds the write lock."""
    with contextlib.closing(sqlite3.connect(ledger._file._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def load(ledger: Ledger) -> int:
    return ledger._queued + ledger._in_flight


def test_what_was_appended_is_there_in_order(ledger: Ledger) -> None:
    first, second = entries(3), entries(1, pending=True)
    ledger.append(first)
    ledger.append([])
    ledger.append(second)
    for sequence, entry in enumerate([*first, *second], start=1):
        assert ledger.get(entry.decision_id) == Stored(sequence, entry.data, None)
    assert ledger.count() == 4
    with pytest.raises(DecisionNotFound):
        ledger.get(uuid.uuid4())


def test_a_batch_of_many_rows_is_one_transaction(ledger: Ledger) -> None:
    old = entries(1)
    ledger.append(old)
    with pytest.raises(InternalError, match="already"):
        ledger.append([*entries(1000), *old])
    assert ledger.count() == 1
    batch = entries(1000, pending=True)
    ledger.append(batch)
    assert [ledger.get(entry.decision_id).sequence for entry in batch] == list(range(2, 1002))
    assert ledger.pending_count() == 1000


def test_an_amendment_completes_a_pending_decision_once(ledger: Ledger) -> None:
    late, done = entries(2, pending=True), entries(1)
    ledger.append([*late, *done])
    assert ledger.pending(10) == [(1, late[0].decision_id), (2, late[1].decision_id)]
    assert ledger.amend(late[0].decision_id, b"explained")
    assert not ledger.amend(late[0].decision_id, b"again")
    assert not ledger.amend(done[0].decision_id, b"was never pending")
    with pytest.raises(DecisionNotFound):
        ledger.amend(uuid.uuid4(), b"nobody's")
    assert ledger.get(late[0].decision_id) == Stored(1, late[0].data, b"explained")
    assert ledger.get(done[0].decision_id).amendment is None
    assert (ledger.count(), ledger.pending_count(), ledger.pending(10)) == (3, 1, [(2, late[1].decision_id)])
    # The amendment took number 4 of the log.
    more = entries(1)
    ledger.append(more)
    assert ledger.get(more[0].decision_id).sequence == 5


def test_pending_comes_in_pages(ledger: Ledger) -> None:
    batch = entries(10, pending=True)
    ledger.append(batch)
    seen: list[tuple[int, uuid.UUID]] = []
    while page := ledger.pending(3, after_sequence=seen[-1][0] if seen else 0):
        assert len(page) <= 3
        seen += page
    assert seen == [(n, entry.decision_id) for n, entry in enumerate(batch, start=1)]
    assert ledger.pending(0) == ledger.pending(-1) == []


def test_of_racing_amendments_one_wins(ledger: Ledger) -> None:
    batch = entries(20, pending=True)
    ledger.append(batch)
    start = threading.Barrier(8)

    def work(me: int) -> list[bool]:
        start.wait()
        return [ledger.amend(entry.decision_id, bytes([me])) for entry in batch]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(work, range(8)))
    for n, entry in enumerate(batch):
        (winner,) = [me for me in range(8) if won[me][n]]
        assert ledger.get(entry.decision_id).amendment == bytes([winner])
    assert ledger.pending_count() == 0


def test_sixteen_threads_append_and_read(ledger: Ledger) -> None:
    def work(_: int) -> list[NewEntry]:
        mine = []
        for size in range(1, 21):
            batch = entries(size % 4 + 1)
            ledger.append(batch)
            assert [ledger.get(entry.decision_id).data for entry in batch] == [entry.data for entry in batch]
            mine += batch
        return mine

    with ThreadPoolExecutor(16) as pool:
        stored = [entry for mine in pool.map(work, range(16)) for entry in mine]
    sequences = sorted(ledger.get(entry.decision_id).sequence for entry in stored)
    assert sequences == list(range(1, len(stored) + 1))
    assert ledger.count() == len(stored)


def test_callers_that_wait_together_are_committed_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    transact = ledger._transact

    def counted(group: list[Ticket]) -> list[bool | Exception]:
        groups.append(len(group))
        return transact(group)

    monkeypatch.setattr(ledger, "_transact", counted)
    with ThreadPoolExecutor(16) as pool:
        with stalled(ledger):
            calls = [pool.submit(ledger.append, entries(2)) for _ in range(16)]
            until(lambda: load(ledger) == 32)
            assert ledger.queued == 32
        for call in calls:
            call.result()
    # Who came first went alone; all the others gathered meanwhile.
    assert sum(groups) == 16
    assert len(groups) <= 2
    assert ledger.count() == ledger.last_sequence() == 32
    until(lambda: ledger.queued == 0)
    assert ledger.commit_entries.sum == 32
    assert ledger.commit_entries.count == ledger.commit_us.count == len(groups)
    assert ledger.commit_us.sum > 0


def test_a_call_at_fault_does_not_harm_its_neighbours(ledger: Ledger) -> None:
    old = entries(1)
    ledger.append(old)
    good = [entries(2) for _ in range(4)]
    not_bytes = [NewEntry(new_id(), "text", pending=False)]  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        with stalled(ledger):
            calls: list[Future[None]] = [pool.submit(ledger.append, batch) for batch in good[:2]]
            bad = [pool.submit(ledger.append, batch) for batch in ([*entries(1), *old], not_bytes)]
            unknown = pool.submit(ledger.amend, uuid.uuid4(), b"")
            calls += [pool.submit(ledger.append, batch) for batch in good[2:]]
            until(lambda: load(ledger) == 12)
        for call in calls:
            call.result()
        for call in bad:
            with pytest.raises(InternalError, match="nothing was stored"):
                call.result()
        with pytest.raises(DecisionNotFound):
            unknown.result()
    assert ledger.count() == 9
    assert sorted(ledger.get(entry.decision_id).sequence for batch in good for entry in batch) == list(range(2, 10))


def test_a_full_queue_pushes_back(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", max_queued_entries=4) as ledger, ThreadPoolExecutor(2) as pool:
        refused = entries(1)
        with stalled(ledger):
            calls = [pool.submit(ledger.append, entries(1)), pool.submit(ledger.append, entries(3))]
            until(lambda: load(ledger) == 4)
            with pytest.raises(Overloaded) as caught:
                ledger.append(refused)
            assert caught.value.retry_after_s > 0
        for call in calls:
            call.result()
        assert ledger.count() == 4
        ledger.append(refused)
        ledger.append(entries(4))
        # More than ever fits is refused too, rather than waited for.
        with pytest.raises(Overloaded, match="5 more do not fit"):
            ledger.append(entries(5))
        assert ledger.count() == 9


def test_what_is_not_committed_is_not_seen(ledger: Ledger) -> None:
    at_commit, go_on = threading.Event(), threading.Event()

    def trace(sql: str) -> None:
        if sql == "COMMIT":
            at_commit.set()
            go_on.wait(10)

    ledger._file.writer.set_trace_callback(trace)
    (entry,) = entries(1, pending=True)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ledger.append, [entry])
        assert at_commit.wait(10)
        with pytest.raises(DecisionNotFound):
            ledger.get(entry.decision_id)
        assert (ledger.count(), ledger.pending_count()) == (0, 0)
        assert not call.done()
        go_on.set()
        call.result()
    assert ledger.get(entry.decision_id).data == entry.data


def test_close_stores_what_was_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    batches = [entries(2) for _ in range(6)]
    with ThreadPoolExecutor(8) as pool:
        with stalled(ledger):
            calls = [pool.submit(ledger.append, batch) for batch in batches]
            until(lambda: load(ledger) == 12)
            closing = [pool.submit(ledger.close), pool.submit(ledger.close)]
            until(lambda: ledger._closing)
            with pytest.raises(Unavailable, match="closed"):
                ledger.append(entries(1))
        for call in [*calls, *closing]:
            call.result()
    ledger.close()
    refused: list[Callable[[], object]] = [
        lambda: ledger.append(entries(1)),
        lambda: ledger.append([]),
        lambda: ledger.amend(new_id(), b""),
        lambda: ledger.get(new_id()),
        lambda: ledger.pending(1),
        ledger.pending_count,
        ledger.count,
    ]
    for operation in refused:
        with pytest.raises(Unavailable, match="closed"):
            operation()
    with Ledger(path) as again:
        assert again.count() == 12
        assert all(again.get(entry.decision_id).data == entry.data for batch in batches for entry in batch)


def test_numbers_go_on_after_reopening(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            (entry,) = entries(1)
            ledger.append([entry])
            assert ledger.get(entry.decision_id).sequence == expected
