"""The other ledgers beside one: of the workers that serve with it, or did before. Read, never written."""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import uuid
from pathlib import Path

from xai_service.errors import Unavailable
from xai_service.ledger.file import open_read_only
from xai_service.ledger.store import GET, Stored

_log = logging.getLogger(__name__)


class Siblings:
    """Finds decisions in the ledgers ``NAME.sqlite`` and ``NAME.0.sqlite``, ``NAME.1.sqlite`` ... of a folder.

    Each is opened for one question and closed: they come and go with the number of workers, and questions are few.

    Args:
        base: the ledger that the settings name.
        own: the one among them that this process writes.
    """

    def __init__(self, base: Path, own: Path) -> None:
        self._folder = base.parent
        self._name = re.compile(re.escape(base.stem) + r"(\.[0-9]{1,4})?" + re.escape(base.suffix))
        self._own = own.name

    def __call__(self, decision_id: uuid.UUID) -> Stored | None:
        """Returns a decision that another ledger has, ``None`` where none has it.

        Raises:
            Unavailable: it was not found, and not all of them could be read.
        """
        unread: list[str] = []
        for path in self.paths():
            try:
                with contextlib.closing(open_read_only(path)) as db:
                    row = db.execute(GET, (decision_id.bytes,)).fetchone()
            except (OSError, sqlite3.Error, Unavailable) as error:
                _log.warning("the ledger %s beside this one cannot be read: %s", path, error)
                unread.append(path.name)
                continue
            if row is not None:
                return Stored(*row)
        if unread:
            raise Unavailable(f"it is not in the ledgers that can be read, and these cannot be: {', '.join(unread)}")
        return None

    def warn_of_unattended(self, attended: set[Path]) -> None:
        """Logs which ledgers owe explanations and have no process that would finish them.

        Args:
            attended: the ledgers of all workers that serve now.
        """
        for path in self.paths():
            if path in attended:
                continue
            with contextlib.suppress(OSError, sqlite3.Error, Unavailable):
                with contextlib.closing(open_read_only(path)) as db:
                    ((owed,),) = db.execute("SELECT count(*) FROM pending").fetchall()
                if owed:
                    _log.warning(
                        "%s owes %d explanations, and no worker has it now: serve once with as many workers as before",
                        path,
                        owed,
                    )

    def paths(self) -> list[Path]:
        """Returns those there are, the one of this process left out."""
        if not self._folder.is_dir():  # it is made with the first ledger
            return []
        return sorted(
            path
            for path in self._folder.iterdir()
            if path.name != self._own and self._name.fullmatch(path.name) and path.is_file()
        )
