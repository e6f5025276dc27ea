"""Requests that are answered together: each gets what it would have got alone, and what goes wrong is its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.unit.test_service import ask, at_once, idle_with, make, repository, service  # noqa: F401 (fixtures)
from xai_service.errors import BudgetExhausted, InternalError, InvalidInput, ModelNotFound, Overloaded
from xai_service.model.snapshot import ModelSnapshot
from xai_service.service import ExplainService
from xai_service.types import Arrival, ExplanationMode, ExplanationStatus
from xai_service.waves import PredictReply

COMPLETE, DEFERRED, NOT_REQUESTED = (
    ExplanationStatus.COMPLETE,
    ExplanationStatus.DEFERRED,
    ExplanationStatus.NOT_REQUESTED,
)


@pytest.fixture(scope="module")
def rows(loans):
    return loans.held_out.to_numpy(np.float32)


@pytest.fixture
def passes(monkeypatch):
    """How many rows each pass of ONNX Runtime had."""
    seen, predict = [], ModelSnapshot.predict
    monkeypatch.setattr(ModelSnapshot, "predict", lambda self, rows: seen.append(len(rows)) or predict(self, rows))
    return seen


def test_each_gets_its_own_rows(service: ExplainService, rows, passes):  # noqa: F811
    calls = [ask(rows[:1]), ask(rows[1:4]), ask(rows[4:5])]
    outcomes = service.begin(calls).wait()
    assert passes == [5]
    whole = service.predict(ask(rows[:5]))
    assert outcomes[0].explanations.method == whole.explanations.method  # as five rows are explained
    for name in ("margin", "probabilities", "labels"):
        parts = [getattr(one.prediction, name) for one in outcomes]
        assert np.concatenate(parts).tobytes() == getattr(whole.prediction, name).tobytes()
    assert b"".join(one.explanations.phi.tobytes() for one in outcomes) == whole.explanations.phi.tobytes()
    assert len({key for one in outcomes for key in one.decision_ids}) == 5
    assert [len(one.decision_ids) for one in outcomes] == [1, 3, 1]
    idle_with(service, 10)


def test_what_is_wrong_with_one_is_its_own(service, rows):  # noqa: F811
    infinite = rows[:1].copy()
    infinite[0, 0] = np.inf
    calls = [
        ask(rows[:1]),
        dataclasses.replace(ask(rows[:1]), model_name="other"),
        ask(rows[:1, :-1]),
        ask(rows[:1], arrival=Arrival(time_remaining_s=0.0)),
        ask(infinite),  # which shows only when all are looked at
        ask(rows[1:2]),
    ]
    outcomes = service.begin(calls).wait()
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [PredictReply, ModelNotFound, InvalidInput, BudgetExhausted, InvalidInput, PredictReply]
    assert outcomes[0].prediction.margin[0] != outcomes[5].prediction.margin[0]
    idle_with(service, 2)


def test_who_wants_something_else_is_answered_apart(service, rows, passes):  # noqa: F811
    calls = [
        ask(rows[:1]),
        ask(rows[1:2], mode=ExplanationMode.NONE),
        ask(rows[2:3]),
        ask(rows[3:4], mode=ExplanationMode.NONE),
        ask(rows[:9]),  # many rows
        ask(rows[4:5], latency_budget_ms=1.0),  # a hurry
    ]
    outcomes = service.begin(calls).wait()
    assert sorted(passes) == [1, 2, 2, 9]
    assert [one.explanations.statuses[0] for one in outcomes[:5]] == [
        *(COMPLETE, NOT_REQUESTED, COMPLETE, NOT_REQUESTED, COMPLETE),
    ]
    idle_with(service, 14)


def test_one_that_must_have_its_explanation_fails_alone(service, rows, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        type(service._overlap),
        "predict_and_explain",
        lambda self, model, some, _: self.predict(model, some, DEFERRED, "too late"),
    )
    first, second = service.begin([ask(rows[:1]), ask(rows[1:2], mode=ExplanationMode.REQUIRED)]).wait()
    assert first.explanations.statuses == (DEFERRED,)
    assert isinstance(second, BudgetExhausted)
    assert service._ledger.count() == 1


@pytest.mark.parametrize("where", ["begin", "wait"])
def test_a_full_ledger_is_told_to_each(service, rows, monkeypatch, where):  # noqa: F811
    class Refusing:
        def wait(self):
            raise Overloaded("full")

    def begin(_):
        if where == "begin":
            raise Overloaded("full")
        return Refusing()

    monkeypatch.setattr(service._ledger, "begin", begin)
    outcomes = service.begin([ask(rows[:1]), ask(rows[1:2])]).wait()
    assert [type(outcome) for outcome in outcomes] == [Overloaded, Overloaded]
    assert outcomes[0] is not outcomes[1]  # each is raised by a thread of its own
    idle_with(service, 0)


def test_what_fails_together_is_answered_again_one_by_one(service, rows, monkeypatch):  # noqa: F811
    begin = service._ledger.begin

    def only_single(entries):
        if len(entries) > 1:
            raise InternalError("an id is in the ledger already")
        return begin(entries)

    monkeypatch.setattr(service._ledger, "begin", only_single)
    outcomes = service.begin([ask(rows[:1]), ask(rows[1:2]), ask(rows[2:3])]).wait()
    assert [type(outcome) for outcome in outcomes] == [PredictReply] * 3
    idle_with(service, 3)


def test_it_is_settled_where_nothing_is_recorded(make, rows):  # noqa: F811
    answers = make(record="off").begin([ask(rows[:1]), ask(rows[1:2])])
    assert answers.is_settled
    assert [type(outcome) for outcome in answers.wait()] == [PredictReply] * 2


def test_what_takes_long_is_known_beforehand(service, rows):  # noqa: F811
    assert service.is_short(ask(rows[:8]))
    assert not service.is_short(ask(rows[:9]))
    assert service.is_short(dataclasses.replace(ask(rows[:1]), model_name="other"))  # refused at once
