"""Requests that come thick and fast are answered together, by one of their threads: a wave.

A model of some hundred trees is larger than a core's cache, and reading it costs a request more than computing with
it: eight rows in one pass cost what three cost alone. So where many requests are under way, the first one waits a
moment for others, and one of them answers all. Where few are, that moment would be lost: then nobody waits. Which of
the two it is, is found out: a wave in `_TRY_EVERY` waits in any case, and if it gathers enough, so do those after it,
for as long as they gather enough. A single caller's requests travel alone, and pay for a lock.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_MOMENT_S = 0.001
_WORTH_IT = 5.0  # requests in a wave: 5,000 a second, more than are answered one by one
_WEIGHT = 0.2  # of the latest wave in the mean
_TRY_EVERY = 256


class Rider(Protocol):
    """What travels. Its lock is held from the start, and released when it is answered."""

    answered: threading.Lock


Request = TypeVar("Request", bound=Rider)


class Waves(Generic[Request]):
    """Gathers requests. Thread-safe.

    Args:
        answer: answers the requests of a wave, and raises nothing; called by one of the threads that ride.
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
        wave: list[Request] = []
        timeout_s = -1.0  # for ever
        with self._lock:
            if not self._boarded and not self._should_wait():
                wave = [request]
            else:
                self._boarded.append(request)
                if len(self._boarded) >= self._most:
                    wave = self._depart()
                elif len(self._boarded) == 1:
                    timeout_s = _MOMENT_S
        if not wave and not request.answered.acquire(timeout=timeout_s):
            with self._lock:
                if request in self._boarded:
                    wave = self._depart()
            if not wave:
                request.answered.acquire()
        if wave:
            self._answer(wave)
            for one in wave:
                one.answered.release()

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
