"""Decisions are found in the ledgers of other workers, while those write and after they are gone."""

from __future__ import annotations

import sqlite3
import uuid

import pytest

from xai_service.errors import DecisionNotFound, Unavailable
from xai_service.ledger.ids import new_ids
from xai_service.ledger.siblings import Siblings
from xai_service.ledger.store import Ledger, NewEntry


def store(ledger, text):
    (key,) = new_ids(1)
    ledger.append([NewEntry(key, text, pending=True)])
    return key


def test_each_worker_finds_what_the_others_stored(tmp_path):
    base = tmp_path / "ledger.sqlite"
    paths = [tmp_path / f"ledger.{i}.sqlite" for i in range(3)]
    ledgers = [Ledger(path, others=Siblings(base, path)) for path in paths]
    keys = [store(ledger, b"of %d" % i) for i, ledger in enumerate(ledgers)]
    for ledger in ledgers:
        for i, key in enumerate(keys):
            assert ledger.get(key).data == b"of %d" % i
            assert ledger.get(key).amendment is None
    assert ledgers[2].amend(keys[2], b"explained")
    assert ledgers[0].get(keys[2]).amendment == b"explained"
    with pytest.raises(DecisionNotFound):
        ledgers[0].get(uuid.uuid4())
    # What is written is one's own alone: another's decision cannot be amended, nor does it count.
    with pytest.raises(DecisionNotFound):
        ledgers[0].amend(keys[1], b"x")
    assert [ledger.count() for ledger in ledgers] == [1, 1, 1]
    ledgers[1].close()
    assert ledgers[0].get(keys[1]).data == b"of 1"  # its worker is gone
    more = store(ledgers[2], b"more")
    assert ledgers[0].get(more).data == b"more"
    for ledger in ledgers:
        ledger.close()
    # And after the number of workers was changed: one process, without a number.
    with Ledger(base, others=Siblings(base, base)) as alone:
        assert [alone.get(key).data for key in keys] == [b"of 0", b"of 1", b"of 2"]
        mine = store(alone, b"alone")
        with Ledger(paths[0], others=Siblings(base, paths[0])) as first:
            assert first.get(mine).data == b"alone"


def test_only_ledgers_of_the_same_name_are_looked_at(tmp_path):
    base = tmp_path / "l.sqlite"
    for name in (
        "l.0.sqlite",
        "l.12.sqlite",
        "l.sqlite",
        "l.x.sqlite",
        "other.0.sqlite",
        "l.0.sqlite-wal",
        "xl.sqlite",
    ):
        (tmp_path / name).touch()
    (tmp_path / "l.3.sqlite").mkdir()
    found = Siblings(base, tmp_path / "l.0.sqlite").paths()
    assert [path.name for path in found] == ["l.12.sqlite", "l.sqlite"]


def test_one_that_cannot_be_read_is_not_taken_for_one_that_lacks_it(tmp_path, caplog):
    base, own = tmp_path / "l.sqlite", tmp_path / "l.0.sqlite"
    with Ledger(tmp_path / "l.2.sqlite") as other, Ledger(own, others=Siblings(base, own)) as ledger:
        key = store(other, b"x")
        (tmp_path / "l.1.sqlite").write_bytes(b"damaged" * 100)
        assert ledger.get(key).data == b"x"
        with pytest.raises(Unavailable, match=r"these cannot be: l\.1\.sqlite"):
            ledger.get(uuid.uuid4())
        assert "l.1.sqlite beside this one cannot be read" in caplog.text
        (tmp_path / "l.1.sqlite").unlink()
        with sqlite3.connect(tmp_path / "l.1.sqlite") as foreign:
            foreign.execute("CREATE TABLE entries (x)")
        foreign.close()
        with pytest.raises(Unavailable, match="cannot be"):
            ledger.get(uuid.uuid4())


def test_a_question_writes_nothing(tmp_path):
    base, own = tmp_path / "l.sqlite", tmp_path / "l.0.sqlite"
    with Ledger(base) as other:
        store(other, b"x")
    before = base.read_bytes()
    with Ledger(own, others=Siblings(base, own)) as ledger, pytest.raises(DecisionNotFound):
        ledger.get(uuid.uuid4())
    assert base.read_bytes() == before


def test_what_nobody_will_finish_is_told(tmp_path, caplog):
    base = tmp_path / "l.sqlite"
    for number in range(3):
        with Ledger(tmp_path / f"l.{number}.sqlite") as ledger:
            if number:
                store(ledger, b"x")
    siblings = Siblings(base, tmp_path / "l.0.sqlite")
    siblings.warn_of_unattended({tmp_path / f"l.{number}.sqlite" for number in range(3)})
    assert caplog.text == ""
    siblings.warn_of_unattended({tmp_path / f"l.{number}.sqlite" for number in range(2)})
    assert caplog.text.count("l.2.sqlite owes 1 explanations") == 1
    assert "l.1.sqlite" not in caplog.text
    caplog.clear()
    Siblings(base, base).warn_of_unattended({base})
    assert [f"l.{number}.sqlite owes" in caplog.text for number in range(3)] == [False, True, True]


def test_where_there_is_no_folder_yet_there_are_no_others(tmp_path):
    base = tmp_path / "var" / "ledger.sqlite"
    assert Siblings(base, base).paths() == []
    assert Siblings(base, base)(uuid.uuid4()) is None
