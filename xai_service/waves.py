"""Requests that come thick and fast are answered together, by one of their threads: a wave.

A model of some hundred trees is larger than a core's cache, and reading it costs a request more than computing with
it: eight rows in one pass cost what three cost alone. So where many requests are under way, the first one waits a
moment for others, and one of them answers all. Where few are, that moment would be lost: then nobody waits. Which of
the two it is, is found out: a wave in `_TRY_EVERY` waits in any case, and if it gathers enough, so do those after it,
for as long as they gather enough. A single caller's requests travel alone, and pay for a lock.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_GAP_S = 0.0004
_LONGEST_S = 0.004
_WORTH_IT = 6.0  # requests in a wave: what one pass saves them outweighs the last gap
_WEIGHT = 0.2  # of the latest wave in the mean
_TRY_EVERY = 256


class Rider(Protocol):
    """What travels. Its lock is held from the start, and released when it is answered."""

    answered: threading.Lock


Request = TypeVar("Request", bound=Rider)


class Waves(Generic[Request]):
    """Gathers requests. Thread-safe.

    Args:
        answer: answers the requests of a wave, and should raise nothing; called by one of the threads that ride.
        most: requests in a wave.
    """

    def __init__(self, answer: Callable[[list[Request]], None], most: int) -> None:
        self._answer = answer
        self._most = most
        self._lock = threading.Lock()
        self._boarded: list[Request] = []
        self._mean = 0.0  # size of the waves that waited, of late
        self._alone = 0  # requests since one waited

    def ride(self, request: Request) -> None:
        """Returns when the request is answered, by this thread or another."""
        with self._lock:
            wave = [request] if not self._boarded and not self._should_wait() else self._board(request)
            is_first = self._boarded[:1] == [request]
        if is_first:
            wave = self._wait_for_others(request)
        elif not wave:
            request.answered.acquire()
        if wave:
            try:
                self._answer(wave)
            finally:  # whatever happened, nobody is left waiting
                for one in wave:
                    one.answered.release()

    def _board(self, request: Request) -> list[Request]:
        """Returns the wave if the request makes it full."""
        self._boarded.append(request)
        return self._depart() if len(self._boarded) >= self._most else []

    def _wait_for_others(self, first: Request) -> list[Request]:
        """Returns the wave once nobody came for a while, or nothing once another has answered it."""
        end = time.monotonic() + _LONGEST_S
        seen = 1
        while not first.answered.acquire(timeout=_GAP_S):
            with self._lock:
                if first not in self._boarded:
                    break  # it is being answered
                if len(self._boarded) == seen or time.monotonic() >= end:
                    return self._depart()
                seen = len(self._boarded)
        else:
            return []
        first.answered.acquire()
        return []

    def _should_wait(self) -> bool:
        if self._mean >= _WORTH_IT:
            return True
        self._alone += 1
        return self._alone >= _TRY_EVERY

    def _depart(self) -> list[Request]:
        wave, self._boarded = self._boarded, []
        size = len(wave)
        # The first of its kind tells most: it is what the mean begins with.
        self._mean = float(size) if self._alone else self._mean + _WEIGHT * (size - self._mean)
        self._alone = 0
        return wave
