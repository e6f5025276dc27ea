"""Decision ids: UUIDv7 (RFC 9562, section 5.7), increasing within a process.

Layout, most significant bit first: 48 bits of milliseconds since the Unix epoch, version 7 (4 bits), ``rand_a``
(12 bits), variant 2 (2 bits), ``rand_b`` (62 bits).

Monotonicity is RFC 9562 section 6.2, method 2: ``rand_a`` and ``rand_b`` are one 74-bit number. A new millisecond
draws it afresh, its highest bit clear to leave room; within a millisecond it grows by a random step of 1 … 2³², which
keeps neighbours hard to guess. When the clock stands still or goes backwards the last timestamp stays in use, and a
number that outgrows its 74 bits carries into the timestamp, as the RFC's "counter rollover" allows.

Order holds within one process. Between processes, and across a restart with the clock set back, ids are still
distinct (74 random bits); the order of commit is the ledger's sequence number.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import uuid

_RANDOM_BITS = 74
_RAND_B_BITS = 62
_RAND_B = (1 << _RAND_B_BITS) - 1
_RAND_A = (1 << 12) - 1
_SEED_BYTES = 10
_STEP_BYTES = 4
_AT_ONCE = 64
_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << _RAND_B_BITS


class IdSequence:
    """Increasing UUIDv7s out of a clock and entropy that the caller brings. Not thread-safe by itself."""

    def __init__(self) -> None:
        # Timestamp and random number as one integer of 48 + 74 bits, so that order and carry are plain arithmetic.
        self._last = 0

    @staticmethod
    def entropy_bytes(n: int) -> int:
        """How many random bytes `take` uses up for n ids."""
        return _SEED_BYTES + _STEP_BYTES * n

    def take(self, n: int, *, now_ms: int, entropy: bytes) -> list[uuid.UUID]:
        """The next n ids, each greater than every one before.

        Args:
            n: how many, ≥ 0.
            now_ms: milliseconds since the Unix epoch, < 2⁴⁸; may go backwards.
            entropy: `entropy_bytes(n)` bytes from a cryptographic source.
        """
        seed = int.from_bytes(entropy[:_SEED_BYTES], "big") & ((1 << (_RANDOM_BITS - 1)) - 1)
        steps = struct.unpack_from(f"<{n}I", entropy, _SEED_BYTES)
        last = self._last
        if now_ms > last >> _RANDOM_BITS and n:
            # The first id of this millisecond is the seed itself: stand its own step before it.
            last = (now_ms << _RANDOM_BITS | seed) - steps[0] - 1
        ids = []
        for step in steps:
            last += step + 1
            ids.append(
                uuid.UUID(
                    int=last >> _RANDOM_BITS << 80
                    | (last >> _RAND_B_BITS & _RAND_A) << 64
                    | last & _RAND_B
                    | _VERSION_AND_VARIANT
                )
            )
        self._last = last
        return ids


class _Shared:
    """The process's one sequence and its lock, and entropy drawn ahead: a system call lets go of the interpreter."""

    _AHEAD_BYTES = 4096

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ids = IdSequence()
        self._entropy = b""
        self._used = 0

    def entropy(self, n: int) -> bytes:
        """Returns so many random bytes, each handed out once. Under the lock."""
        begin = self._used
        if begin + n > len(self._entropy):
            self._entropy, begin = os.urandom(max(n, self._AHEAD_BYTES)), 0
        self._used = begin + n
        return self._entropy[begin : self._used]


_shared = _Shared()
# A forked child starts afresh: another thread of the parent may have held the lock at that moment.
os.register_at_fork(after_in_child=_shared.__init__)  # type: ignore[misc]


def new_ids(n: int) -> list[uuid.UUID]:
    """Make n ids in increasing order, greater than all that this process made before. Thread-safe."""
    ids: list[uuid.UUID] = []
    while len(ids) < n:
        some = min(n - len(ids), _AT_ONCE)  # others wait for the lock
        with _shared.lock:
            entropy = _shared.entropy(IdSequence.entropy_bytes(some))
            ids += _shared.ids.take(some, now_ms=time.time_ns() // 1_000_000, entropy=entropy)
    return ids


def new_id() -> uuid.UUID:
    """One new id; see `new_ids`."""
    return new_ids(1)[0]
