"""Opening: one holder at a time, and nothing that is not a ledger is touched."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xai_service.errors import Unavailable
from xai_service.ledger.file import FORMAT_VERSION
from xai_service.ledger.ids import new_id
from xai_service.ledger.store import Ledger, NewEntry

OPEN = "import sys; from xai_service.ledger.store import Ledger; Ledger(sys.argv[1]).close()"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger with one decision."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.append([NewEntry(new_id(), b"data" * 2000, pending=True)])
    return path


def edit(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(sql)


def refused_untouched(path: Path, message: str) -> None:
    before = path.read_bytes()
    with pytest.raises(Unavailable, match=message):
        Ledger(path)
    assert path.read_bytes() == before


def test_decisions_are_for_the_services_user_only_and_commits_are_synced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.append([NewEntry(new_id(), b"data", pending=False)])
        for suffix in ("", "-wal", "-shm", ".lock"):
            assert stat.S_IMODE(Path(f"{path}{suffix}").stat().st_mode) & 0o077 == 0
        assert ledger._file.writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._file.writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert sorted(p.name for p in path.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


def test_a_second_opener_is_refused_whatever_it_calls_the_file(path: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(path)
    with Ledger(path) as ledger:
        for name in (path, alias):
            with pytest.raises(Unavailable, match="in use"):
                Ledger(name)
        other = subprocess.run(
            [sys.executable, "-c", OPEN, path],
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert other.returncode == 1
        assert "Unavailable" in other.stderr
        assert "in use" in other.stderr
        ledger.append([NewEntry(new_id(), b"", pending=False)])
    Ledger(alias).close()


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0", os.urandom(8192)])
def test_a_file_that_is_not_sqlite_is_left_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    refused_untouched(path, "no ledger")


def test_another_programs_database_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    edit(path, "CREATE TABLE entries (sequence, kind, decision_id, data)")
    refused_untouched(path, "another program's")


def test_a_newer_format_is_refused(path: Path) -> None:
    edit(path, f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    refused_untouched(path, f"format {FORMAT_VERSION + 1}; this release reads {FORMAT_VERSION}")


def test_a_truncated_ledger_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in (4096, len(whole) // 2, len(whole) - 4096):
        path.write_bytes(whole[:size])
        refused_untouched(path, "cannot be opened|no ledger")


def test_a_damaged_schema_is_refused(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[100:4096] = bytes(3996)
    path.write_bytes(whole)
    refused_untouched(path, "cannot be opened")


def test_a_log_without_its_ledger_is_not_taken_for_a_new_one(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"entries that were not yet moved to the ledger")
    path.unlink()
    with pytest.raises(Unavailable, match="write-ahead log"):
        Ledger(path)
    assert not path.exists()


def test_what_a_crash_left_while_creating_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for suffix in (".new", ".new-journal", ".new-wal", ".new-shm"):
        Path(f"{path}{suffix}").write_bytes(b"half")
    with Ledger(path) as ledger:
        ledger.append([NewEntry(new_id(), b"", pending=False)])
        assert ledger.count() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


def test_places_out_of_reach_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for place in (file / "ledger.sqlite", tmp_path, fifo):
        with pytest.raises(Unavailable, match=str(place)):
            Ledger(place)


def test_a_refused_opening_lets_go_of_the_lock(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(Unavailable):
        Ledger(path)
    path.write_bytes(whole)
    with Ledger(path) as ledger:
        assert ledger.count() == 1


def test_damage_found_while_reading_is_an_error_of_the_ledger_not_an_answer(path: Path) -> None:
    with Ledger(path) as ledger:
        ((_, decision_id),) = ledger.pending(1)
    with contextlib.closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_decision'").fetchone()
    whole = bytearray(path.read_bytes())
    whole[(root - 1) * 4096 : root * 4096] = os.urandom(4096)
    path.write_bytes(whole)
    with Ledger(path) as ledger, pytest.raises(Unavailable, match="cannot be read"):
        ledger.get(decision_id)


def test_many_readers_leave_few_connections(path: Path) -> None:
    with Ledger(path) as ledger:
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(ledger._file.reading()) for _ in range(20)]
            assert len({id(reader) for reader in readers}) == 20
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                readers[0].execute("DELETE FROM entries")
        assert len(ledger._file._readers) == 8
        assert ledger.count() == 1
