"""The ledger's file: SQLite, format version 1.

``entries`` is the log: rows are only ever added, numbered 1, 2, 3 … in the order of commit, and their bytes are never
rewritten. A decision is one entry; the explanation that comes later is another. All that changes is ``pending``, the
decisions whose explanation is still to come: it could be made again from the log.

Opening promises: a file that is not a whole ledger of this version is refused and left as it is; a new ledger appears
at its path complete or not at all; one process holds a ledger at a time, until it closes or dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from xai_service.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

DECISION = 1
EXPLANATION = 2

FORMAT_VERSION = 1
# "xail": tells a ledger from any other SQLite file.
APPLICATION_ID = 0x7861696C

# One partial index for each kind, since other kinds to come may have many entries for one decision.
_SCHEMA = f"""
PRAGMA synchronous = FULL;
BEGIN;
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    decision_id BLOB NOT NULL CHECK (typeof(decision_id) = 'blob' AND length(decision_id) = 16),
    data BLOB NOT NULL CHECK (typeof(data) = 'blob')
);
CREATE UNIQUE INDEX entries_decision ON entries (decision_id) WHERE kind = {DECISION};
CREATE UNIQUE INDEX entries_explanation ON entries (decision_id) WHERE kind = {EXPLANATION};
CREATE TABLE pending (
    sequence INTEGER PRIMARY KEY REFERENCES entries,
    decision_id BLOB NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
PRAGMA journal_mode = WAL;
"""

_HEADER_BYTES = 100
_MAX_IDLE_READERS = 8
# Another program that reads or copies the file may hold a lock for a moment.
_BUSY_TIMEOUT_S = 5.0


class LedgerFile:
    """An open ledger: one connection that writes, and as many as there are concurrent readers.

    Attributes:
        writer: autocommit connection for the one writing thread.

    Raises:
        Unavailable: the file is held by another ledger, damaged, not a ledger, of a newer version, or out of reach.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Resolved, so that two names of one file share one lock.
        self._path = Path(os.path.realpath(path))
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        with contextlib.ExitStack() as undo:
            try:
                parents = _make_parents(self._path)
                undo.callback(os.close, _lock(self._path))
                if not self._path.exists():
                    _create(self._path, parents)
                _check_header(self._path)
                # Looked at without the right to write first: what is not ours stays untouched.
                reader = self._open_reader()
                undo.callback(self._close_readers)
                self._readers.append(reader)
                _check_format(reader, self._path)
                self.writer = _connect(self._path, "rw")
                undo.callback(self.writer.close)
                _set_up_writer(self.writer, self._path)
            except (OSError, sqlite3.Error) as error:
                raise Unavailable(f"the ledger {self._path} cannot be opened: {error}") from error
            self._undo = undo.pop_all()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees what is committed, and cannot write. Thread-safe."""
        with self._readers_lock:
            reader = self._readers.pop() if self._readers else None
        if reader is None:
            reader = self._open_reader()
        try:
            yield reader
        finally:
            with self._readers_lock:
                keep = not self._closed and len(self._readers) < _MAX_IDLE_READERS
                if keep:
                    self._readers.append(reader)
            if not keep:
                reader.close()

    def close(self) -> None:
        """Close all connections, then let go of the lock. Idempotent."""
        # The writer last: it then empties the write-ahead log into the file, which a reader may not.
        self._close_readers()
        self._undo.close()

    def _open_reader(self) -> sqlite3.Connection:
        return _connect(self._path, "ro")

    def _close_readers(self) -> None:
        with self._readers_lock:
            self._closed = True
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a ledger that another process may hold, to read what is committed; whoever calls closes it.

    Raises:
        Unavailable: it is not a ledger of this version.
        OSError, sqlite3.Error: it cannot be read.
    """
    _check_header(path)
    reader = _connect(path.resolve(), "ro")
    try:
        _check_format(reader, path)
    except BaseException:
        reader.close()
        raise
    return reader


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Autocommit (isolation_level None): the store says itself where transactions begin and end. mode "rw" never creates
    # a file. Connections pass between threads, one at a time.
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_S,
        cached_statements=256,
    )


def _set_up_writer(writer: sqlite3.Connection, path: Path) -> None:
    # WAL: a commit is one sequential write and one sync, and readers neither wait for the writer nor stop it.
    if writer.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise Unavailable(f"the ledger {path} cannot be opened: its file system has no shared memory, as WAL needs")
    # FULL: a commit returns after fsync of the log. NORMAL, usual with WAL, may lose the last commits with the power.
    writer.execute("PRAGMA synchronous = FULL")
    # After a burst, or a reader that stayed long, give the space of the write-ahead log back.
    writer.execute("PRAGMA journal_size_limit = 67108864")


def _make_parents(path: Path) -> list[Path]:
    """Create missing directories; return those whose own entries must be synced for `path` to survive a power cut."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return [path.parent, *(directory.parent for directory in missing)]


def _lock(path: Path) -> int:
    # flock on a file of its own: the kernel frees it when the process dies, however it dies, and SQLite's own locks on
    # the ledger (POSIX, dropped with any descriptor of the file) are not disturbed. The file stays: to remove it is a
    # race against the next opener.
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Unavailable(
            f"the ledger {path} is in use: one process writes at a time; stop it or use another path"
        ) from None
    return descriptor


def _create(path: Path, parents: list[Path]) -> None:
    """Build an empty ledger beside its place and move it there, so that no crash leaves half of one."""
    if Path(f"{path}-wal").exists():
        # A new file would take the old log's entries for its own.
        raise Unavailable(
            f"the ledger {path} is gone but its write-ahead log is there: restore it, or move the log away"
        )
    draft = Path(f"{path}.new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{draft}{suffix}").unlink(missing_ok=True)
    # Decisions are personal data: for the service's own user only. SQLite gives its side files the same mode.
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(_connect(draft, "rw")) as db:
        db.executescript(_SCHEMA)
    draft.rename(path)
    for directory in parents:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_header(path: Path) -> None:
    """Refuse what is not a ledger by its first bytes (https://sqlite.org/fileformat2.html, section 1.3)."""
    if not path.is_file():
        raise Unavailable(f"the ledger {path} is not a regular file")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        raise Unavailable(
            f"{path} is no ledger, or a damaged one; it was left as it is: restore it or use another path"
        )
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise Unavailable(f"{path} is another program's SQLite file; it was left as it is: use another path")


def _check_format(reader: sqlite3.Connection, path: Path) -> None:
    # The first read also finds a file shorter than its header says.
    (version,) = reader.execute("PRAGMA user_version").fetchone()
    if version != FORMAT_VERSION:
        raise Unavailable(
            f"the ledger {path} has format {version}; this release reads {FORMAT_VERSION}: use a newer one"
        )
    reader.execute("SELECT (SELECT max(sequence) FROM entries), (SELECT max(sequence) FROM pending)").fetchone()
