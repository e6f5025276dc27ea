"""Looking at folders that others write to: bounded listings, and stamps that tell whether files may have changed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from xai_service.errors import BundleMismatch

MAX_ENTRIES = 10_000

# A write in the same tick as a look leaves no trace in the times; so younger files are looked at again (as git does).
_SETTLED_NS = 2_000_000_000


def list_folder(folder: Path) -> list[str]:
    """Returns the names in a folder, sorted, without those that begin with a dot.

    Raises:
        OSError: it cannot be listed.
        BundleMismatch: it holds more than `MAX_ENTRIES`.
    """
    names: list[str] = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count == MAX_ENTRIES:
                raise BundleMismatch(f"{folder}: holds more than {MAX_ENTRIES} entries, the most that is looked at")
            if not entry.name.startswith("."):
                names.append(entry.name)
    return sorted(names)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a bundle's files without reading them.

    Attributes:
        facts: which files there are, of which device, inode, size and times, or why they could not be listed.
        settled: they were last changed long enough ago for any later change to show in ``facts``.
    """

    facts: tuple[object, ...]
    settled: bool

    @staticmethod
    def of(folder: Path) -> Stamp:
        """Returns the stamp of a folder as it is now."""
        newest = 0
        facts: list[object] = []
        try:
            for name in ("", *list_folder(folder)):
                found = (folder / name).stat()  # follows links: Kubernetes changes where they lead, not them
                facts.append((name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
                newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        except (OSError, BundleMismatch) as error:
            return Stamp((str(error),), settled=False)
        return Stamp(tuple(facts), settled=not 0 <= time.time_ns() - newest < _SETTLED_NS)

    def shows_no_change_since(self, earlier: Stamp) -> bool:
        """Whether the files are those of ``earlier``, as surely as times can tell."""
        return earlier.settled and self.facts == earlier.facts

    def unsettled(self) -> Stamp:
        """Returns a stamp that no later one equals for sure."""
        return Stamp(self.facts, settled=False)
