"""The disk is full, read-only, or refuses to write: calls are refused, nothing is lost, and it heals by itself.

Run as a program, this file fills a disk of its own: a limit on file sizes, which holds for a whole process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xai_service.errors import DecisionNotFound, Unavailable
from xai_service.ledger.ids import new_id, new_ids
from xai_service.ledger.store import Ledger, NewEntry


def entries(n: int, *, size: int = 2000) -> list[NewEntry]:
    return [NewEntry(key, key.bytes * (size // 16), pending=True) for key in new_ids(n)]


def all_there(ledger: Ledger, stored: list[NewEntry], refused: list[NewEntry]) -> None:
    for entry in stored:
        assert ledger.get(entry.decision_id).data == entry.data
    for entry in refused:
        with pytest.raises(DecisionNotFound):
            ledger.get(entry.decision_id)
    assert ledger.count() == ledger.pending_count() == len(stored)


def try_to_append(ledger: Ledger, batch: list[NewEntry]) -> BaseException | None:
    """The cause of the refusal, or None when the batch was stored."""
    try:
        ledger.append(batch)
    except Unavailable as error:
        return error.__cause__
    return None


def test_a_full_database_refuses_and_recovers(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stored = entries(10)
        ledger.append(stored)
        (pages,) = ledger._file.writer.execute("PRAGMA page_count").fetchone()
        ledger._file.writer.execute(f"PRAGMA max_page_count = {pages + 20}")
        refused = entries(1000)
        assert str(try_to_append(ledger, refused)) == "database or disk is full"
        # What still fits is stored: the refusal left nothing behind.
        more = entries(2)
        ledger.append(more)
        all_there(ledger, stored + more, refused)
        with pytest.raises(Unavailable):
            ledger.amend(stored[0].decision_id, bytes(1_000_000))
        ledger._file.writer.execute("PRAGMA max_page_count = 1000000")
        ledger.append(refused)
        all_there(ledger, stored + more + refused, [])
        assert ledger.get(refused[-1].decision_id).sequence == 1012
        assert ledger.amend(stored[0].decision_id, bytes(1_000_000))


def test_a_read_only_file_refuses_and_recovers(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stored, refused = entries(1), entries(1)
        ledger.append(stored)
        ledger._file.writer.execute("PRAGMA query_only = ON")
        assert "readonly" in str(try_to_append(ledger, refused))
        with pytest.raises(Unavailable):
            ledger.amend(stored[0].decision_id, b"")
        all_there(ledger, stored, refused)
        ledger._file.writer.execute("PRAGMA query_only = OFF")
        ledger.append(refused)
        all_there(ledger, stored + refused, [])


def test_a_transaction_left_open_by_a_failed_rollback_is_undone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stored = entries(1)
        ledger.append(stored)
        writer = ledger._file.writer
        writer.execute("BEGIN")
        writer.execute("INSERT INTO entries VALUES (2, 1, ?, ?)", (new_id().bytes, b"never committed"))
        # This call finds number 2 taken and fails; the next one starts from what the file says.
        refused, more = entries(1), entries(1)
        with contextlib.suppress(Exception):
            ledger.append(refused)
        ledger.append(more)
        assert ledger.get(more[0].decision_id).sequence == 2
        all_there(ledger, stored + more, refused)


def test_a_write_that_the_system_refuses_is_survived_under_load(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, __file__, tmp_path / "ledger.sqlite"],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        check=True,
        timeout=60,
    )


def fill(path: Path) -> None:
    # Python ignores SIGXFSZ, so a write beyond the limit fails with EFBIG, in the middle of a page where it falls so.
    for limit in (400_000, 1_000_001, 2_222_222):
        with Ledger(path) as ledger, ThreadPoolExecutor(16) as pool:
            before = ledger.count()
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            batches = [entries(n % 3 + 1) for n in range(1000)]
            causes = list(pool.map(lambda batch: try_to_append(ledger, batch), batches))
            stored = [batch for batch, cause in zip(batches, causes, strict=True) if cause is None]
            refused = [batch for batch, cause in zip(batches, causes, strict=True) if cause is not None]
            assert refused
            assert {type(cause) for cause in causes} <= {type(None), sqlite3.OperationalError}
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert ledger.count() == before + sum(map(len, stored))
            assert list(pool.map(lambda batch: try_to_append(ledger, batch), refused)) == [None] * len(refused)
        with Ledger(path) as ledger:
            assert ledger.count() == before + sum(map(len, batches))
            for batch in batches:
                for entry in batch:
                    assert ledger.get(entry.decision_id).data == entry.data
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("SELECT max(sequence) = count(*) FROM entries").fetchone() == (1,)
        path.unlink()


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
