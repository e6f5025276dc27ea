"""Deferred explanations are finished from the ledger, whatever stands in the way of some of them."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
import weakref

import numpy as np
import pytest

from xai_service import assemble, treeshap
from xai_service.decisions import decisions_of, read_decision
from xai_service.deferred import DeferredExplainer
from xai_service.errors import InternalError, Overloaded, Unavailable
from xai_service.ledger.entry import encode_decision
from xai_service.ledger.ids import new_id, new_ids
from xai_service.ledger.store import Ledger, NewEntry
from xai_service.model.repository import Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.types import ExplanationStatus, Timings

COMPLETE, DEFERRED, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED, ExplanationStatus.FAILED


@pytest.fixture(scope="module")
def repository(loan_repository):
    return Repository(loan_repository)


@pytest.fixture(scope="module")
def rows(loans):
    return loans.held_out.to_numpy(np.float32)


@pytest.fixture(scope="module")
def pool():
    return treeshap.WorkerPool(2)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def finish(repository, ledger, pool):
    """Finishes what can be, as one process would, and returns how many batches that took."""

    def run(explainer=None, tolerance=1e-5):
        explainer = explainer or DeferredExplainer(repository, ledger, pool, tolerance, 1000)
        batches = 1
        while explainer():
            batches += 1
        return batches

    return run


def record(ledger, model, rows, **changes):
    """Stores deferred decisions of a model, as the service would; returns their ids."""
    ids, prediction = new_ids(len(rows)), model.predict(rows)
    deferred = assemble.without_attributions(
        DEFERRED, len(rows), model.base_values, model.method_for(len(rows)), "no time"
    )
    decisions = decisions_of(ids, time.time_ns(), model, rows, prediction, deferred, Timings(1, 0, 0, 1.0))
    ledger.append(
        [NewEntry(d.decision_id, encode_decision(dataclasses.replace(d, **changes)), pending=True) for d in decisions]
    )
    return ids


def explanations(ledger, ids):
    return [read_decision(ledger.get(decision_id))[1] for decision_id in ids]


def statuses(ledger, ids):
    return {explanation.status for explanation in explanations(ledger, ids)}


@pytest.mark.parametrize(("n", "batches"), [(1, 1), (63, 1), (64, 2), (150, 3)])
def test_all_are_finished_as_the_kernel_would_have_and_oldest_first(
    repository, loan_repository, ledger, rows, finish, monkeypatch, n, batches
):
    model, amended, amend = repository.get("loan"), [], ledger.begin_amend
    monkeypatch.setattr(ledger, "begin_amend", lambda key, data: amended.append(key) or amend(key, data))
    ids = record(ledger, model, rows[:n])
    assert finish() == batches
    assert amended == ids
    assert ledger.pending_count() == 0
    phi = treeshap.TreeExplainer(loan_repository / "loan/1/model.onnx").shap_values(rows[:n])
    for explanation, row in zip(explanations(ledger, ids), phi, strict=True):
        assert explanation.status is COMPLETE
        np.testing.assert_allclose(explanation.phi[:, 0], row, rtol=0, atol=1e-9)
        assert explanation.residual <= 1e-5
        assert explanation.explained_at_ns > 0


def test_with_nothing_pending_there_is_nothing_to_do(finish):
    assert finish() == 1


def test_those_that_cannot_be_finished_do_not_keep_the_others(repository, ledger, rows, finish, caplog):
    model = repository.get("loan")
    healthy, stuck = [], []
    for i in range(0, 90, 10):
        stuck += record(ledger, model, rows[i : i + 2], model_name="gone")
        healthy += record(ledger, model, rows[i + 2 : i + 4])
        stuck += record(ledger, model, rows[i + 4 : i + 6], model_version="7")
        stuck += record(ledger, model, rows[i + 6 : i + 8], model_sha256=b"\1" * 32)
        damaged = new_id()
        ledger.append([NewEntry(damaged, b"\xff no record", pending=True)])
        healthy += record(ledger, model, rows[i + 8 : i + 10])
    finish()
    assert statuses(ledger, healthy) == {COMPLETE}
    assert statuses(ledger, stuck) == {DEFERRED}
    assert ledger.pending_count() == len(stuck) + 9
    for reason in ("'gone'", "no version '7'", "is another file now", "its record is damaged"):
        assert reason in caplog.text


def test_what_cannot_be_finished_is_looked_at_once_in_a_process_and_again_in_the_next(
    repository, ledger, rows, pool, finish, monkeypatch
):
    model = repository.get("loan")
    ids = record(ledger, model, rows[:3])
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "find", lambda *_: None)
        explainer = DeferredExplainer(repository, ledger, pool, 1e-5, 1000)
        finish(explainer)
    finish(explainer)
    assert statuses(ledger, ids) == {DEFERRED}
    later = record(ledger, model, rows[3:5])
    finish(explainer)
    assert statuses(ledger, later) == {COMPLETE}
    assert statuses(ledger, ids) == {DEFERRED}
    finish()  # the next process
    assert statuses(ledger, ids) == {COMPLETE}


def test_what_waited_for_a_model_is_finished_when_it_comes(repository, ledger, rows, pool, finish, monkeypatch):
    ids = record(ledger, repository.get("loan"), rows[:3])
    explainer = DeferredExplainer(repository, ledger, pool, 1e-5, 1000)
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "find", lambda *_: None)
        finish(explainer)
    assert statuses(ledger, ids) == {DEFERRED}
    explainer.look_again()
    finish(explainer)
    assert statuses(ledger, ids) == {COMPLETE}


def test_a_model_that_is_gone_explains_what_it_decided_and_is_then_let_go(
    loan_repository, ledger, rows, pool, tmp_path, monkeypatch
):
    folder = tmp_path / "repository"
    shutil.copytree(loan_repository, folder)
    repository = Repository(folder)
    explainer = DeferredExplainer(repository, ledger, pool, 1e-5, 1000)
    assert not explainer()  # what an earlier process left: nothing
    model = repository.get("loan")
    ids = record(ledger, model, rows[:100])
    explainer.expect(100, model)
    here, amend = weakref.ref(model), ledger.begin_amend
    del model
    shutil.rmtree(folder / "loan")
    repository.reload()
    assert repository.entries() == []

    def full(*_):
        raise Unavailable("the disk is full")

    monkeypatch.setattr(ledger, "begin_amend", full)
    with pytest.raises(Unavailable):
        explainer()
    monkeypatch.setattr(ledger, "begin_amend", amend)
    assert explainer()  # a batch, and there are more
    gc.collect()
    assert here() is not None
    assert not explainer()
    assert statuses(ledger, ids) == {COMPLETE}
    gc.collect()
    assert here() is None


class BrokenJob:
    started_ns = finished_ns = 1

    def wait(self, _timeout_s):
        return True

    def result(self):
        raise RuntimeError("a worker failed")


def _no_memory(_self, _pool, _rows, *, deferred):
    assert deferred
    raise MemoryError("std::bad_alloc")


@pytest.mark.parametrize(
    ("explain", "reason"),
    [(lambda *_, deferred: BrokenJob(), "a worker failed"), (_no_memory, "std::bad_alloc")],  # noqa: ARG005
    ids=["at work", "at submission"],
)
def test_a_kernel_failure_is_recorded(repository, ledger, rows, finish, monkeypatch, caplog, explain, reason):
    ids = record(ledger, repository.get("loan"), rows[:70])
    monkeypatch.setattr(ModelSnapshot, "explain", explain)
    finish()
    for explanation in explanations(ledger, ids):
        assert explanation.status is FAILED
        assert explanation.detail == f"the kernel failed: {reason}"
        assert explanation.phi is None
    assert ledger.pending_count() == 0
    assert reason in caplog.text


def test_attributions_that_do_not_add_up_are_recorded_as_failed(repository, ledger, rows, pool, finish, caplog):
    model = repository.get("loan")
    explainer = DeferredExplainer(repository, ledger, pool, 1e-5, 1000)
    right = record(ledger, model, rows[:2])
    (wrong,) = record(ledger, model, rows[2:3], margin=np.array([1e3], np.float32))
    finish(explainer)
    assert explainer.finished == {COMPLETE: 2, FAILED: 1}
    assert statuses(ledger, right) == {COMPLETE}
    (explanation,) = explanations(ledger, [wrong])
    assert explanation.status is FAILED
    assert explanation.phi is None
    assert explanation.residual > 900
    assert "do not add up" in explanation.detail
    assert "do not add up" in caplog.text


@pytest.mark.parametrize("stored", [0, 1, 65, 99])
def test_an_unavailable_ledger_loses_nothing(repository, ledger, rows, pool, finish, monkeypatch, stored):
    ids = record(ledger, repository.get("loan"), rows[:100])
    explainer, amend, left = DeferredExplainer(repository, ledger, pool, 1e-5, 1000), ledger.begin_amend, [stored]

    def full(key, data):
        if not left[0]:
            raise Unavailable("the disk is full")
        left[0] -= 1
        return amend(key, data)

    monkeypatch.setattr(ledger, "begin_amend", full)
    for _ in range(3):
        with pytest.raises(Unavailable):
            finish(explainer)
    assert ledger.pending_count() == 100 - stored
    monkeypatch.setattr(ledger, "begin_amend", amend)
    finish(explainer)
    assert statuses(ledger, ids) == {COMPLETE}
    assert ledger.pending_count() == 0


def test_a_ledger_that_cannot_be_read_is_tried_again(repository, ledger, rows, pool, finish, monkeypatch):
    ids = record(ledger, repository.get("loan"), rows[:3])
    explainer, get = DeferredExplainer(repository, ledger, pool, 1e-5, 1000), ledger.get

    def unreadable(_key):
        raise Unavailable("the ledger cannot be read")

    monkeypatch.setattr(ledger, "get", unreadable)
    with pytest.raises(Unavailable):
        explainer()
    monkeypatch.setattr(ledger, "get", get)
    finish(explainer)
    assert statuses(ledger, ids) == {COMPLETE}


def test_an_explanation_that_cannot_be_recorded_does_not_keep_those_behind_it(
    repository, ledger, rows, finish, monkeypatch, caplog
):
    model = repository.get("loan")
    poison = record(ledger, model, rows[:64])
    behind = record(ledger, model, rows[64:70])
    amend = ledger.begin_amend

    def refuse(key, data):
        if key == poison[0]:
            raise InternalError("contradicts itself")
        return amend(key, data)

    monkeypatch.setattr(ledger, "begin_amend", refuse)
    assert finish() == 2
    assert statuses(ledger, behind) == {COMPLETE}
    assert statuses(ledger, poison[:1]) == {DEFERRED}
    assert "contradicts itself" in caplog.text


def test_so_many_may_wait_and_no_more(repository, ledger, rows, pool, finish):
    model = repository.get("loan")
    record(ledger, model, rows[:3])
    explainer = DeferredExplainer(repository, ledger, pool, 1e-5, 5)
    assert explainer.waiting == 3  # what an earlier process left
    explainer.expect(2, model)
    with pytest.raises(Overloaded, match="5 explanations are deferred and 1 more"):
        explainer.expect(1, model)
    explainer.forget(2)  # they could not be recorded
    finish(explainer)
    assert explainer.waiting == 0
    explainer.expect(5, model)
