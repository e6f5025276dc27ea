"""How many calls may wait: found out, as nobody can know beforehand how long one takes.

A call that was reached too late for its budget halves the number, each that was in time adds a little. A queue that is
as long as callers have patience for loses none of them by age, and refusing at the door costs less than after the wait.
"""

from __future__ import annotations


class Room:
    """No lock: an update lost is one of many.

    Args:
        least: that may wait in any case.
        most: that may wait at the most.
        more: by how many a call that was in time raises the limit.

    Attributes:
        limit: how many may wait now.
    """

    def __init__(self, least: int, most: int, more: float) -> None:
        self._more = more
        self._least, self._most = min(least, most), most
        self.limit = float(most)

    def in_time(self) -> None:
        """Takes note that a call was reached early enough."""
        if self.limit < self._most:
            self.limit = min(float(self._most), self.limit + self._more)

    def late(self, waiting: int) -> None:
        """Takes note that a call had waited too long when it was reached, and ``waiting`` more wait."""
        self.limit = max(float(self._least), min(self.limit, waiting / 2))
