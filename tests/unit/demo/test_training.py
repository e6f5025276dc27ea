from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.demo import data, story, training


def test_training_is_the_same_each_time() -> None:
    train, held_out = data.split(data.load())
    first, second = (training.probabilities(training.train(train), held_out.rows) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_model_is_worth_showing_and_not_too_good_to_be_true() -> None:
    train, held_out = data.split(data.load())
    chances = training.probabilities(training.train(train), held_out.rows)
    assert 0.75 < training.area_under_curve(held_out.approved, chances) < 0.9
    assert (chances <= story.THRESHOLD).sum() >= 5


def test_more_debt_never_helps() -> None:
    train, held_out = data.split(data.load())
    booster = training.train(train)
    worse = held_out.rows.copy()
    worse[:, [feature.name for feature in data.FEATURES].index("obrat")] += 20
    assert (training.probabilities(booster, worse) <= training.probabilities(booster, held_out.rows)).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_area_under_curve_counts_pairs(cases: list[tuple[bool, int]]) -> None:
    approved = np.array([case[0] for case in cases], np.int64)
    scores = np.array([case[1] for case in cases], np.float64)
    pairs = list(itertools.product(scores[approved == 1], scores[approved == 0]))
    if pairs:
        wins = sum(1.0 if good > bad else 0.5 if good == bad else 0.0 for good, bad in pairs)
        assert training.area_under_curve(approved, scores) == pytest.approx(wins / len(pairs))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.data())
def test_chosen_applicants_differ_and_show_both_outcomes(chances: list[float], draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, len(chances)))
    scores = np.array(chances)
    chosen = story.choose(scores, count)
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen)
    denied = scores <= story.THRESHOLD
    if denied.any():
        assert denied[chosen].any()
    if count > 1 and not denied.all():
        assert not denied[chosen].all()
