"""Files that change while they are in use."""

from __future__ import annotations

import concurrent.futures
import logging

import pytest

from xai_service.errors import InvalidSetting
from xai_service.followed import Followed


@pytest.fixture
def paths(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    return tmp_path / "a", tmp_path / "b"


def both(contents):
    """A pair that fits: equal."""
    if contents[0] == b"bug":
        raise ZeroDivisionError
    if contents[0] != contents[1]:
        raise InvalidSetting("they do not fit")
    return int(contents[0])


def test_a_change_is_in_force_when_all_of_it_is_there(paths, caplog):
    followed = Followed("the pair", paths, both, every_s=0)
    assert followed.current() == 1
    paths[0].write_text("2")
    assert followed.current() == followed.current() == 1
    assert caplog.text.count("they do not fit") == 1  # told once
    paths[1].write_text("2")
    with caplog.at_level(logging.INFO):
        assert followed.current() == followed.current() == 2
    assert caplog.text.count("the pair: changed, and in force") == 1


def test_whatever_goes_wrong_later_changes_nothing(paths, caplog):
    followed = Followed("the pair", paths, both, every_s=0)
    paths[1].unlink()
    assert followed.current() == followed.current() == 1
    assert caplog.text.count("cannot be read: No such file") == 1
    paths[1].write_bytes(b"x" * (5 << 20))
    assert followed.current() == 1
    assert "more than 4 MiB" in caplog.text
    paths[0].write_text("bug")
    paths[1].write_text("bug")
    assert followed.current() == 1
    assert "ZeroDivisionError" in caplog.text
    paths[0].write_text("3")
    paths[1].write_text("3")
    assert followed.current() == 3
    paths[0].write_text("4")
    followed.current()
    paths[0].write_text("3")  # put back
    assert followed.current() == 3


def test_at_the_start_it_is_an_error(paths):
    paths[0].write_text("2")
    with pytest.raises(InvalidSetting, match="they do not fit"):
        Followed("the pair", paths, both)
    with pytest.raises(InvalidSetting, match="cannot be read: Is a directory"):
        Followed("the pair", (paths[0].parent,), both)


def test_it_is_not_looked_at_more_often_than_said(paths):
    followed = Followed("the pair", paths, both, every_s=1000)
    paths[0].write_text("2")
    paths[1].write_text("2")
    assert followed.current() == 1


def test_many_threads_make_it_once(paths):
    made = []

    def make(contents):
        made.append(contents)
        return len(made)

    followed = Followed("the pair", paths, make, every_s=0)
    paths[0].write_text("2")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: followed.current(), range(400))) <= {1, 2}
    assert len(made) == 2
