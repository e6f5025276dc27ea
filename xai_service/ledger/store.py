"""Append decisions durably, many callers at once.

Group commit: callers put their entries in a bounded queue and wait; one writer thread takes all that is waiting (up to
`_GROUP` entries), stores it in one transaction, and answers each caller. A lone caller is committed at once; while one
commit is under way the next group gathers by itself. No timer: a fixed one would make the lone caller wait for nobody.

What is promised: when `append` or `amend` returns, the bytes survive kill -9 and power loss; one call is stored whole
or not at all; a call that raises stored nothing, with one exception that no database can avoid: when the process dies
amid a failing commit, an entry that nobody was told of may be found later. The writer outlives every failure and tries
anew with each call, so it works again once there is space.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from xai_service.errors import DecisionNotFound, InternalError, Overloaded, Unavailable, XaiError
from xai_service.histogram import Histogram, one_two_five
from xai_service.ledger.file import DECISION, EXPLANATION, LedgerFile

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

# Entries in one transaction: beyond some dozens the sync is paid for, and a longer commit only keeps callers waiting.
_GROUP = 256
# Rows in one INSERT. Each statement gives up the GIL and has to win it back, at worst 5 ms under load: a group of 64
# in one statement is several times faster than row by row.
_ROWS = 64
_COMMIT_BOUNDS_US = one_two_five(2, 7)
_COMMIT_BOUNDS_ENTRIES = tuple(float(2**power) for power in range(15))

# The kinds stand as literals (1: DECISION, 2: EXPLANATION), or SQLite could not use their partial indexes.
_FIND = "SELECT sequence FROM entries WHERE decision_id = ? AND kind = 1"
# One statement, so decision and explanation are of one moment.
GET = """
SELECT decision.sequence, decision.data, explanation.data
FROM entries AS decision
LEFT JOIN entries AS explanation ON explanation.decision_id = decision.decision_id AND explanation.kind = 2
WHERE decision.decision_id = ? AND decision.kind = 1
"""
# Sequence numbers have no gaps, so the last one is the number of entries; explanations that came later are few.
_COUNT = """
SELECT coalesce((SELECT max(sequence) FROM entries), 0) - (SELECT count(*) FROM entries WHERE kind = 2)
"""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A decision to store: its bytes from `encode_decision`, and whether its explanation is still to come."""

    decision_id: uuid.UUID
    data: bytes
    pending: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """A decision in the ledger.

    Attributes:
        sequence: its place in the order of commit, ≥ 1. Amendments are entries too and take numbers of their own.
        data: the bytes as appended.
        amendment: the bytes of the explanation that came later, if there is one.
    """

    sequence: int
    data: bytes
    amendment: bytes | None


class Ticket:
    """One caller's entries on their way through the writer, which answers exactly once. `wait` once.

    The writer never waits for the caller: one that was interrupted and left changes nothing for the others.
    """

    def __init__(self, kind: int, entries: Sequence[NewEntry]) -> None:
        self.kind = kind
        self.entries = entries
        self._answer: bool | Exception = False
        # A bare lock is the cheapest thing in Python that one thread can wait on and another can open.
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self, answer: bool | Exception) -> None:
        self._answer = answer
        self._answered.release()

    def wait(self) -> bool:
        """Returns once the entries are durable: ``True``, or for `Ledger.amend` whether they were stored.

        Raises:
            Overloaded, Unavailable, InternalError: as `Ledger.append`; nothing was stored.
        """
        self._answered.acquire()
        if isinstance(self._answer, Exception):
            raise _refusal(self._answer) from self._answer
        return self._answer


class Ledger:
    """The store of decisions. Thread-safe; not to be carried across a fork.

    Args:
        path: the SQLite file; it and its directory are created when missing. Beside it live ``-wal`` and ``-shm``
            (SQLite's) and ``.lock``.
        max_queued_entries: entries that may wait to become durable, ≥ 1; also the most that one call may bring.
        others: is asked by `get` for decisions that are not here (`xai_service.ledger.siblings`).

    Attributes:
        commit_us: what commits took, in microseconds, the failed ones too. Written by one thread; read a copy.
        commit_entries: how many entries each had. Likewise.

    Raises:
        Unavailable: see `LedgerFile`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_queued_entries: int = 8192,
        others: Callable[[uuid.UUID], Stored | None] = lambda _: None,
    ) -> None:
        self._max_queued = max_queued_entries
        self._others = others
        self._file = LedgerFile(path)
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        # Entries in the queue, and in the transaction under way; the bound is on their sum.
        self._queued = 0
        self._in_flight = 0
        self.commit_us = Histogram(_COMMIT_BOUNDS_US)
        self.commit_entries = Histogram(_COMMIT_BOUNDS_ENTRIES)
        # Number of the last committed entry; None: ask the file, because it is new to us or a transaction failed.
        self._last: int | None = None
        # A daemon, so that a program which forgets close() can end: what it was told is stored is stored.
        self._writer = threading.Thread(target=self._write, name="ledger-writer", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, entries: Sequence[NewEntry]) -> None:
        """Store decisions, all or none, and return once they are durable. They get successive sequence numbers.

        Raises:
            Overloaded: the queue is full; nothing was stored.
            Unavailable: closed, or the disk is full, read-only or failing; nothing was stored.
            InternalError: an id is in the ledger already; nothing was stored.
        """
        self.begin(entries).wait()

    def begin(self, entries: Sequence[NewEntry]) -> Ticket:
        """Hands decisions to the writer and returns at once what to wait on until they are durable; see `append`.

        Raises:
            Overloaded: the queue is full; nothing is stored.
            Unavailable: closed.
        """
        return self._submit(Ticket(DECISION, entries))

    def amend(self, decision_id: uuid.UUID, data: bytes) -> bool:
        """Store the explanation of a pending decision, durably and once.

        Args:
            decision_id: the decision.
            data: the bytes from `encode_explanation`.

        Returns:
            Whether these bytes were stored; ``False`` when the decision already had its explanation.

        Raises:
            DecisionNotFound: no such decision.
            Overloaded, Unavailable: as for `append`.
        """
        return self.begin_amend(decision_id, data).wait()

    def begin_amend(self, decision_id: uuid.UUID, data: bytes) -> Ticket:
        """Hands the explanation of a pending decision to the writer and returns what to wait on; see `amend`.

        Raises:
            Overloaded: the queue is full; nothing is stored.
            Unavailable: closed.
        """
        return self._submit(Ticket(EXPLANATION, (NewEntry(decision_id, data, pending=False),)))

    def get(self, decision_id: uuid.UUID) -> Stored:
        """A committed decision and its amendment, of this ledger or of the others.

        Raises:
            DecisionNotFound: no such decision.
            Unavailable: closed, or the file cannot be read.
        """
        rows = self._read(GET, decision_id.bytes)
        stored = Stored(*rows[0]) if rows else self._others(decision_id)
        if stored is None:
            raise _not_found(decision_id)
        return stored

    def pending(self, limit: int, after_sequence: int = 0) -> list[tuple[int, uuid.UUID]]:
        """Sequence and id of at most ``limit`` decisions without explanation, oldest first, past ``after_sequence``."""
        sql = "SELECT sequence, decision_id FROM pending WHERE sequence > ? ORDER BY sequence LIMIT ?"
        return [(sequence, uuid.UUID(bytes=key)) for sequence, key in self._read(sql, after_sequence, max(limit, 0))]

    def pending_count(self) -> int:
        """How many decisions wait for their explanation. Costs time in proportion to the answer."""
        ((count,),) = self._read("SELECT count(*) FROM pending")
        return int(count)

    def count(self) -> int:
        """How many decisions there are. Costs time in proportion to the explanations that came later."""
        ((count,),) = self._read(_COUNT)
        return int(count)

    @property
    def queued(self) -> int:
        """Entries that wait to become durable, or are just becoming so."""
        return self._queued + self._in_flight

    def last_sequence(self) -> int:
        """The number of the last committed entry, which is how many there are.

        Raises:
            Unavailable: closed, or the file cannot be read.
        """
        ((last,),) = self._read("SELECT coalesce(max(sequence), 0) FROM entries")
        return int(last)

    def close(self) -> None:
        """Store what was accepted, answer its callers, and let go of the file. Idempotent; other calls then raise."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        with self._changed:
            self._file.close()

    # Callers' side.

    def _submit(self, call: Ticket) -> Ticket:
        size = len(call.entries)
        with self._changed:
            self._check_open()
            if not size:
                call.answer(answer=True)
                return call
            load = self._queued + self._in_flight
            if load + size > self._max_queued:
                raise Overloaded(
                    f"the ledger has {load} entries waiting and room for {self._max_queued}; {size} more do not fit: "
                    "send less at once or try again later"
                )
            self._queue.append(call)
            self._queued += size
            self._changed.notify()
        return call

    def _read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        self._check_open()
        try:
            with self._file.reading() as db:
                # To the end, at once: a statement left open would keep the write-ahead log from being emptied.
                return db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger cannot be read: {error}") from error

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("the ledger is closed")

    # Writer's side: everything below runs in its thread only.

    def _write(self) -> None:
        while group := self._take():
            entries, started_ns = self._in_flight, time.monotonic_ns()
            answers = self._settle(group)
            self.commit_us.observe((time.monotonic_ns() - started_ns) / 1e3)
            self.commit_entries.observe(entries)
            # First, for a caller that was answered may come again at once.
            self._in_flight = 0
            for call, answer in zip(group, answers, strict=True):
                call.answer(answer)

    def _take(self) -> list[Ticket]:
        """Wait for calls and take a group of them; empty once closed and drained."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            group: list[Ticket] = []
            size = 0
            while self._queue and (not group or size + len(self._queue[0].entries) <= _GROUP):
                group.append(self._queue.popleft())
                size += len(group[-1].entries)
            self._in_flight = size
            # Counted anew, not subtracted: a caller interrupted between two steps of _submit cannot skew it for long.
            self._queued = sum(len(call.entries) for call in self._queue)
            return group

    def _settle(self, group: list[Ticket]) -> list[bool | Exception]:
        """An answer for each call."""
        try:
            return self._transact(group)
        except Exception as error:  # noqa: BLE001 the writer must outlive whatever goes wrong; the callers are told
            self._last = None
            if len(group) == 1 or isinstance(error, sqlite3.OperationalError):
                return [error] * len(group)
            # Not the disk but one of the calls is at fault: the others must not pay for it.
            return [answer for call in group for answer in self._settle([call])]

    def _transact(self, group: list[Ticket]) -> list[bool | Exception]:
        """Store a group in one transaction; an error means that nothing of it was stored."""
        db = self._file.writer
        last = self._recover() if self._last is None else self._last
        entries: list[tuple[object, ...]] = []
        pending: list[tuple[object, ...]] = []
        for call in group:
            if call.kind == DECISION:
                for entry in call.entries:
                    last += 1
                    key = entry.decision_id.bytes
                    entries.append((last, DECISION, key, entry.data))
                    if entry.pending:
                        pending.append((last, key))
        inserts = [*_inserts("entries", entries), *_inserts("pending", pending)]
        answers: list[bool | Exception] = [True] * len(group)
        if len(inserts) == 1 and all(call.kind == DECISION for call in group):
            # A lone statement is a transaction by itself: one trip through the GIL instead of three.
            db.execute(*inserts[0])
        else:
            db.execute("BEGIN IMMEDIATE")
            for sql, parameters in inserts:
                db.execute(sql, parameters)
            for index, call in enumerate(group):
                if call.kind == EXPLANATION:
                    answers[index] = self._amend(call.entries[0], last + 1)
                    last += answers[index] is True
            db.execute("COMMIT")
        self._last = last
        return answers

    def _amend(self, entry: NewEntry, sequence: int) -> bool | Exception:
        db = self._file.writer
        key = entry.decision_id.bytes
        decision = db.execute(_FIND, (key,)).fetchone()
        if decision is None:
            return _not_found(entry.decision_id)
        if not db.execute("DELETE FROM pending WHERE sequence = ?", decision).rowcount:
            return False
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (sequence, EXPLANATION, key, entry.data))
        return True

    def _recover(self) -> int:
        """Undo what a failure may have left open, and learn the last number from the file."""
        db = self._file.writer
        if db.in_transaction:
            db.execute("ROLLBACK")
        (last,) = db.execute("SELECT coalesce(max(sequence), 0) FROM entries").fetchone()
        return int(last)


def _inserts(table: str, rows: list[tuple[object, ...]]) -> Iterator[tuple[str, list[object]]]:
    for start in range(0, len(rows), _ROWS):
        chunk = rows[start : start + _ROWS]
        yield _insert_sql(table, len(chunk[0]), len(chunk)), [value for row in chunk for value in row]


@functools.cache
def _insert_sql(table: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * rows)}"  # noqa: S608 names and counts are our own


def _not_found(decision_id: uuid.UUID) -> DecisionNotFound:
    return DecisionNotFound(f"no decision {decision_id} in the ledger")


def _refusal(cause: Exception) -> XaiError:
    """What the caller is told when its entries were not stored."""
    if isinstance(cause, XaiError):
        return cause
    if isinstance(cause, sqlite3.IntegrityError):
        return InternalError(f"a decision of this call is in the ledger already; nothing was stored: {cause}")
    if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.DataError | sqlite3.ProgrammingError):
        return Unavailable(f"the ledger cannot store decisions now; nothing was stored: {cause}")
    return InternalError(f"the ledger cannot take this call; nothing was stored: {type(cause).__name__}: {cause}")
