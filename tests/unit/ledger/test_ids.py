"""UUIDv7 by RFC 9562: layout, order, a clock that goes backwards, threads, forks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from xai_service.ledger.ids import IdSequence, new_id, new_ids

# RFC 9562, appendix A.6: the fields of the example UUIDv7.
RFC_MS = 0x017F22E279B0
RFC_RAND_A = 0xCC3
RFC_RAND_B = 0x18C4DC0C0C07398F


def fields(value: uuid.UUID) -> tuple[int, int, int, int, int]:
    """unix_ts_ms, ver, rand_a, var, rand_b, cut from the text form, apart from the arithmetic under test."""
    bits = f"{int(value.hex, 16):0128b}"
    cuts = (0, 48, 52, 64, 66, 128)
    ms, ver, a, var, b = (int(bits[i:j], 2) for i, j in itertools.pairwise(cuts))
    return ms, ver, a, var, b


def test_the_rfc_example() -> None:
    entropy = (RFC_RAND_A << 62 | RFC_RAND_B).to_bytes(10, "big") + bytes(4)
    (value,) = IdSequence().take(1, now_ms=RFC_MS, entropy=entropy)
    # As in the RFC, except that our highest random bit is kept clear for the counter: cc3 becomes 4c3.
    assert str(value) == "017f22e2-79b0-74c3-98c4-dc0c0c07398f"


@given(
    st.lists(
        st.tuples(st.integers(0, 2**47), st.integers(0, 5), st.sampled_from([b"\0", b"\xff", b"\x5a"])), max_size=20
    )
)
def test_every_id_is_greater_than_all_before_whatever_the_clock_does(calls: list[tuple[int, int, bytes]]) -> None:
    sequence = IdSequence()
    made: list[uuid.UUID] = []
    latest = 0
    for now_ms, n, byte in calls:
        ids = sequence.take(n, now_ms=now_ms, entropy=byte * IdSequence.entropy_bytes(n))
        assert len(ids) == n
        latest = max(latest, now_ms) if n else latest
        for value in ids:
            ms, ver, _, var, _ = fields(value)
            assert (ms, ver, var) == (latest, 7, 0b10)
            assert (value.version, value.variant) == (7, uuid.RFC_4122)
        made += ids
    assert all(a.int < b.int and a.hex < b.hex for a, b in itertools.pairwise(made))


def test_a_counter_that_overflows_carries_into_the_timestamp() -> None:
    sequence = IdSequence()
    sequence.take(1, now_ms=1000, entropy=b"\xff" * IdSequence.entropy_bytes(1))
    sequence._last = (1000 << 74) + (1 << 74) - 1
    (value,) = sequence.take(1, now_ms=1000, entropy=bytes(IdSequence.entropy_bytes(1)))
    assert fields(value) == (1001, 7, 0, 0b10, 0)


def test_ids_carry_the_current_time() -> None:
    before = time.time_ns() // 1_000_000
    value = new_id()
    # Other tests of this process may have pushed the counter into the next millisecond; not further.
    assert before <= fields(value)[0] <= time.time_ns() // 1_000_000 + 1


def test_threads_get_distinct_ids_each_in_increasing_order() -> None:
    start = threading.Barrier(8)

    def work(_: int) -> list[uuid.UUID]:
        start.wait()
        return [value for _ in range(100) for value in new_ids(7)]

    with ThreadPoolExecutor(8) as pool:
        lists = list(pool.map(work, range(8)))
    assert all(ids == sorted(ids, key=lambda value: value.int) for ids in lists)
    assert len({value for ids in lists for value in ids}) == 8 * 100 * 7


def test_a_forked_child_makes_its_own_ids_though_the_lock_was_held() -> None:
    program = """
import os, signal
from xai_service.ledger import ids
first = ids.new_id()
ids._shared.lock.acquire()
child = os.fork()
if child == 0:
    signal.alarm(5)
    os._exit(0 if ids._shared.ids._last == 0 and ids.new_id() != first else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status) != 0)
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=20, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )
