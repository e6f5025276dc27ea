"""How many calls may wait: fewer when they are late, more again when they are not, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xai_service.wire.room import Room


def test_it_begins_with_all_there_is():
    assert Room(4, 64, 0.05).limit == 64


def test_one_that_is_late_halves_what_waits():
    room = Room(4, 64, 0.05)
    room.late(40)
    assert room.limit == 20
    room.late(100)
    assert room.limit == 20  # more than that are not let in


def test_it_grows_again_and_never_too_far():
    room = Room(4, 64, 0.05)
    room.late(0)
    assert room.limit == 4
    for _ in range(1000):
        room.in_time()
    assert 4 < room.limit < 64
    for _ in range(100_000):
        room.in_time()
    assert room.limit == 64


@given(st.integers(0, 100), st.integers(0, 100), st.lists(st.none() | st.integers(0, 1000)))
def test_it_stays_between_its_bounds(least, most, events):
    room = Room(least, most, 0.25)
    for waiting in events:
        if waiting is None:
            room.in_time()
        else:
            room.late(waiting)
        assert min(least, most) <= room.limit <= most
