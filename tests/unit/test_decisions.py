"""One request's arrays become one record a row, and each record reads back as that row."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.decisions import decisions_of, read_decision, split_explanations, stack_inputs
from xai_service.ledger.entry import Explanation, encode_decision, encode_explanation
from xai_service.ledger.store import Stored
from xai_service.types import Explanations, ExplanationStatus, Method, Prediction, Timings

METHOD = Method("path_dependent_treeshap", "variant", "isa")
COMPLETE, DEFERRED, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED, ExplanationStatus.FAILED


def request(statuses, *, classifier=True, outputs=1, features=3, seed=0):
    """Everything that the records of one request are made of, with NaN, -0.0 and infinities among the bits."""
    rng = np.random.default_rng(seed)
    n = len(statuses)
    phi = rng.normal(size=(n, features, outputs))
    complete = np.array([status is COMPLETE for status in statuses])
    phi[~complete] = np.nan
    rows = rng.choice(np.array([np.nan, -0.0, 1.5, 1e-45], np.float32), size=(n, features))
    explanations = Explanations(
        tuple(statuses),
        phi if complete.any() else None,
        rng.normal(size=outputs),
        np.where(complete, 1e-9, np.nan),
        "" if complete.all() else "why",
        METHOD,
    )
    prediction = Prediction(
        margin=rng.normal(size=(n, outputs)).astype(np.float32),
        probabilities=rng.random((n, 2)).astype(np.float32) if classifier else None,
        labels=rng.integers(0, 2, n) if classifier else None,
        prediction=None if classifier else rng.normal(size=(n, outputs)).astype(np.float32),
        started_ns=1,
        finished_ns=2,
    )
    manifest = SimpleNamespace(
        name="loan",
        version="3",
        classes=("denied", "approved") if classifier else (),
        threshold=0.25 if classifier else None,
        favourable_class="approved" if classifier else None,
    )
    model = SimpleNamespace(manifest=manifest, sha256=bytes(32), feature_names=tuple(f"f{i}" for i in range(features)))
    ids = [uuid.UUID(int=i + 1) for i in range(n)]
    made = decisions_of(ids, 123, model, rows, prediction, explanations, Timings(1.0, 2.0, 0.5, None))
    return ids, rows, prediction, explanations, made


def bits(array):
    return None if array is None else (array.dtype, array.shape, array.tobytes())


STATUSES = st.lists(st.sampled_from(list(ExplanationStatus)), min_size=1, max_size=5)


@given(STATUSES, st.booleans(), st.integers(1, 3), st.integers(0, 2**32))
def test_each_record_reads_back_as_its_row(statuses, classifier, outputs, seed):
    ids, rows, prediction, explanations, made = request(statuses, classifier=classifier, outputs=outputs, seed=seed)
    for i, decision in enumerate(made):
        read, explanation = read_decision(Stored(1, encode_decision(decision), None))
        assert (read.decision_id, read.decided_at_ns, read.model_name, read.model_version) == (ids[i], 123, "loan", "3")
        assert bits(read.input) == bits(rows[i])
        assert bits(read.margin) == bits(prediction.margin[i])
        assert read.label == (int(prediction.labels[i]) if classifier else None)
        assert bits(read.probabilities) == (bits(prediction.probabilities[i]) if classifier else None)
        assert bits(read.prediction) == (None if classifier else bits(prediction.prediction[i]))
        assert (read.threshold, read.favourable_class) == ((0.25, "approved") if classifier else (None, ""))
        assert explanation.status is statuses[i]
        assert explanation.detail == ("" if statuses[i] is COMPLETE else "why")
        assert bits(explanation.phi) == (bits(explanations.phi[i]) if statuses[i] is COMPLETE else None)
        assert explanation.method == METHOD
        assert explanation.residual == explanations.residual[i] or np.isnan(explanation.residual)
    stacked, margin = stack_inputs(made)
    assert bits(stacked) == bits(rows)
    assert bits(margin) == bits(prediction.margin)


@given(STATUSES)
def test_rows_keep_their_own_status(statuses):
    *_, explanations, _made = request(statuses)
    split = split_explanations(explanations, 77)
    assert [explanation.status for explanation in split] == statuses
    assert all((explanation.phi is None) == (explanation.status is not COMPLETE) for explanation in split)
    assert all(explanation.explained_at_ns == 77 for explanation in split)


@pytest.mark.parametrize("status", [COMPLETE, FAILED])
def test_an_amendment_is_what_a_reader_sees(status):
    (decision_id,), *_, (decision,) = request([DEFERRED])
    amended = Explanation(
        status=status,
        phi=np.full((3, 1), 0.5) if status is COMPLETE else None,
        base_values=np.ones(1),
        residual=0.0,
        detail="" if status is COMPLETE else "the kernel failed",
        method=METHOD,
        explained_at_ns=999,
    )
    stored = Stored(1, encode_decision(decision), encode_explanation(decision_id, amended))
    read, explanation = read_decision(stored)
    assert read.explanation.status is DEFERRED  # the record is as it was
    assert (explanation.status, explanation.explained_at_ns) == (status, 999)
    assert bits(explanation.phi) == bits(amended.phi)
