"""Permutation sampling: its estimates against shap's and brute force, its errors, and that it repeats itself."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import shap

from xai_service import permutation
from xai_service.permutation import PermutationExplainer, PermutationJob, Stopped, evaluations
from xai_service.treeshap import WorkerPool

RNG = np.random.default_rng(7)
BACKGROUND = RNG.normal(size=(23, 6)).astype(np.float32)
ROWS = RNG.normal(size=(5, 6)).astype(np.float32)


def wild(rows):
    """Interactions of up to six features, two outputs."""
    a = np.tanh(rows[:, 0] * rows[:, 1] * rows[:, 2]) + np.where(rows[:, 3] > 0, rows.prod(axis=1), rows[:, 4])
    return np.column_stack([a, np.sin(rows.sum(axis=1))]).astype(np.float32)


def pairwise(rows):
    """Nothing beyond interactions of two features."""
    return (rows[:, :1] * rows[:, 1:2] + np.exp(rows[:, 2:3]) + 3 * rows[:, 3:4] * rows[:, 5:6]).astype(np.float32)


def brute_force(model, row, background):
    """Shapley's formula, over every subset."""
    n = len(row)
    value = {}
    for subset in range(1 << n):
        known = np.array([subset >> i & 1 for i in range(n)], bool)
        value[subset] = model(np.where(known, row, background).astype(np.float32)).astype(np.float64).mean(axis=0)
    phi = np.zeros((n, len(value[0])))
    for subset, before in value.items():
        for i in range(n):
            if not subset >> i & 1:
                size = subset.bit_count()
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                phi[i] += weight * (value[subset | 1 << i] - before)
    return phi


def test_exact_where_no_three_features_interact():
    explainer = PermutationExplainer(pairwise, BACKGROUND, b"d")
    phi, error = explainer.estimate(ROWS, threading.Event())
    due = np.stack([brute_force(pairwise, row, BACKGROUND) for row in ROWS])
    np.testing.assert_allclose(phi, due, atol=2e-6)
    assert error.max() < 1e-6


def test_within_its_standard_errors_elsewhere():
    """Of many rows' attributions: a z-score is about normal, so its square is 1 on average, and few exceed 3."""
    rows = RNG.normal(size=(60, 6)).astype(np.float32)
    phi, error = PermutationExplainer(wild, BACKGROUND, b"d").estimate(rows, threading.Event())
    due = np.stack([brute_force(wild, row, BACKGROUND) for row in rows])
    assert (error > 0).mean() > 0.95
    sure = error > 1e-6
    z = (phi - due)[sure] / error[sure]
    assert (np.abs(z) > 4).mean() < 0.01
    assert 0.7 < np.sqrt((z**2).mean()) < 1.3
    assert abs(z.mean()) < 0.15


def test_as_shaps_permutation_explainer():
    rows = ROWS[:2]
    phi, error = PermutationExplainer(wild, BACKGROUND, b"d").estimate(rows, threading.Event())
    masker = shap.maskers.Independent(BACKGROUND, max_samples=len(BACKGROUND))
    theirs = shap.PermutationExplainer(lambda x: wild(np.asarray(x, np.float32)), masker, seed=0)(
        rows, max_evals=2001 * 6
    )
    np.testing.assert_array_less(np.abs(phi - theirs.values), 4.5 * error + 0.02)
    np.testing.assert_allclose(
        np.broadcast_to(PermutationExplainer(wild, BACKGROUND, b"d").base_values, (2, 2)), theirs.base_values, rtol=1e-5
    )


def test_adds_up_to_the_margin_whatever_is_drawn():
    explainer = PermutationExplainer(wild, BACKGROUND, b"d")
    phi = explainer.explain(ROWS)
    np.testing.assert_allclose(explainer.base_values + phi.sum(axis=1), wild(ROWS), rtol=0, atol=1e-12 + 1e-7)


def test_a_row_is_explained_alike_in_any_company(monkeypatch):
    explainer = PermutationExplainer(wild, BACKGROUND, b"d")
    phi, error = explainer.estimate(ROWS, threading.Event())
    np.random.seed(1)  # noqa: NPY002 (the process's generator is none of ours)
    for order in ([4, 0], [2], [3, 2, 1]):
        again, again_error = explainer.estimate(ROWS[order], threading.Event())
        np.testing.assert_array_equal(again, phi[order])
        np.testing.assert_array_equal(again_error, error[order])
    monkeypatch.setattr(permutation, "_CHUNK_VALUES", 1)
    np.testing.assert_array_equal(explainer.explain(ROWS), phi)
    found = {}

    def work(name):
        found[name] = explainer.explain(ROWS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found.values():
        np.testing.assert_array_equal(one, phi)


def test_another_model_draws_otherwise():
    one, other = (PermutationExplainer(wild, BACKGROUND, digest).explain(ROWS) for digest in (b"d", b"e"))
    assert (one != other).any()


def test_the_same_values_in_every_release():
    """Recorded decisions are replayed: what is drawn for a row must never change."""
    explainer = PermutationExplainer(
        lambda rows: rows[:, :1] * rows[:, 1:2] * rows[:, 2:3], np.zeros((1, 3), "f4"), b"d"
    )
    phi, error = explainer.estimate(np.array([[1, 2, 3]], np.float32), threading.Event())
    np.testing.assert_array_equal(phi[0, :, 0], GOLDEN)
    assert error[0].max() > 0


GOLDEN = [2.0625, 2.0625, 1.875]


@pytest.mark.parametrize("features", [1, 2, 6])
def test_how_often_the_model_is_asked(features):
    asked = []

    def model(rows):
        asked.append(len(rows))
        return rows.sum(axis=1, keepdims=True)

    explainer = PermutationExplainer(model, BACKGROUND[:, :features].copy(), b"d")
    asked.clear()
    explainer.explain(ROWS[:1, :features].copy())
    assert sum(asked) == evaluations(features, len(BACKGROUND))


def test_missing_values_are_values_like_others():
    def model(rows):
        return np.where(np.isnan(rows[:, :1]), 5.0, rows[:, :1]).astype(np.float32) + rows[:, 1:2]

    background = np.array([[np.nan, 0], [1, 2]], np.float32)
    explainer = PermutationExplainer(model, background, b"d")
    np.testing.assert_allclose(explainer.explain(np.array([[np.nan, 1]], np.float32))[0, :, 0], [2.0, 0.0], atol=1e-7)


def test_a_job_is_stopped_between_chunks(monkeypatch):
    monkeypatch.setattr(permutation, "_CHUNK_VALUES", 1)
    began, go_on = threading.Event(), threading.Event()
    calls = []

    def slow(rows):
        calls.append(len(rows))
        if len(calls) > 2:
            began.set()
            assert go_on.wait(10)
        return rows.sum(axis=1, keepdims=True)

    job = PermutationExplainer(slow, BACKGROUND, b"d").submit(WorkerPool(1), ROWS)
    assert began.wait(10)
    assert not job.wait(0)
    job.cancel()
    so_far = len(calls)
    go_on.set()
    assert job.wait(10)
    assert len(calls) <= so_far + 1
    with pytest.raises(Stopped):
        job.result()


def test_a_job_tells_its_times_and_errors():
    before = time.monotonic_ns()
    explainer = PermutationExplainer(wild, BACKGROUND, b"d")
    job = PermutationJob(explainer, ROWS)
    assert job.wait(30)
    assert before <= job.started_ns < job.finished_ns <= time.monotonic_ns()
    phi, error = explainer.estimate(ROWS, threading.Event())
    np.testing.assert_array_equal(job.result(), phi)
    np.testing.assert_array_equal(job.standard_error, error)


def test_a_model_that_fails_is_a_failed_job():
    calls = []

    def fails(rows):
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("no such shape")
        return rows[:, :1]

    job = PermutationJob(PermutationExplainer(fails, BACKGROUND, b"d"), ROWS)
    assert job.wait(10)
    with pytest.raises(RuntimeError, match="cannot be asked: no such shape"):
        job.result()
