"""kill -9 at any moment: what was acknowledged is there, nothing is torn, and the ledger goes on.

Run as a program, this file is the victim: it appends and amends from several threads and notes each acknowledgement in
a file (one write each, so that a kill leaves no half lines that count).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from xai_service.ledger.ids import new_ids
from xai_service.ledger.store import Ledger, NewEntry

ROUNDS = 12
THREADS = 6
RANDOM = random.SystemRandom()


def payload(decision_id: uuid.UUID, what: bytes) -> bytes:
    """Bytes that follow from the id, 1 … 4096 of them: a torn or mixed-up entry cannot pass."""
    size = 1 + int.from_bytes(hashlib.sha256(decision_id.bytes).digest()[:2], "big") % 4096
    return hashlib.shake_128(what + decision_id.bytes).digest(size)


def work(path: str, acknowledged: int) -> None:
    def client(ledger: Ledger) -> None:
        while True:
            call = new_ids(RANDOM.randint(1, 5))
            # The id of the call's first entry and the call's size travel along: stored whole or not at all.
            head = call[0].bytes + bytes([len(call)])
            ledger.append([NewEntry(key, head + payload(key, b"decision"), pending=key == call[0]) for key in call])
            os.write(acknowledged, "".join(f"decision {key}\n" for key in call).encode())
            if RANDOM.random() < 0.5:
                assert ledger.amend(call[0], payload(call[0], b"explanation"))
                os.write(acknowledged, f"explanation {call[0]}\n".encode())

    ledger = Ledger(path)
    for _ in range(THREADS):
        threading.Thread(target=client, args=(ledger,)).start()


def verify(path: Path, notes: Path) -> int:
    with Ledger(path) as ledger:
        for line in notes.read_text().splitlines():
            what, name = line.split()
            stored = ledger.get(uuid.UUID(name))
            assert what == "decision" or stored.amendment is not None
        pending = dict(ledger.pending(10**9))
        assert ledger.pending_count() == len(pending)
        count = ledger.count()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        entries = db.execute("SELECT sequence, kind, decision_id, data FROM entries ORDER BY sequence").fetchall()
    assert [sequence for sequence, *_ in entries] == list(range(1, len(entries) + 1))
    calls: dict[bytes, list[int]] = {}
    sizes: dict[bytes, int] = {}
    waiting: dict[int, uuid.UUID] = {}
    numbers: dict[uuid.UUID, int] = {}
    for sequence, kind, raw, data in entries:
        key = uuid.UUID(bytes=raw)
        if kind == 1:
            call, size = data[:16], data[16]
            assert data[17:] == payload(key, b"decision")
            calls.setdefault(call, []).append(sequence)
            sizes[call] = size
            numbers[key] = sequence
            if raw == call:
                waiting[sequence] = key
        else:
            assert data == payload(key, b"explanation")
            assert waiting.pop(numbers[key]) == key
    for call, sequences in calls.items():
        assert sequences == list(range(sequences[0], sequences[0] + sizes[call]))
    assert pending == waiting
    assert count == len(numbers)
    return len(entries)


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path, notes = tmp_path / "ledger.sqlite", tmp_path / "acknowledged"
    notes.touch()
    entries = 0
    for _ in range(ROUNDS):
        before = notes.stat().st_size
        with notes.open("ab") as file:
            victim = subprocess.Popen(
                [sys.executable, __file__, path], stdout=file, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
            )
            try:
                while notes.stat().st_size == before:
                    assert victim.poll() is None
                    time.sleep(0.001)
                time.sleep(RANDOM.uniform(0, 0.15))
            finally:
                victim.kill()
        assert victim.wait() == -signal.SIGKILL
        after = verify(path, notes)
        assert after > entries
        entries = after


if __name__ == "__main__":
    work(sys.argv[1], sys.stdout.fileno())
