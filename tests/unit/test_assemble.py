"""Attributions that do not explain their own margin never pass; float32 rounding does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service import assemble
from xai_service.config import ServiceConfig
from xai_service.types import Attributions, ExplanationStatus, Method, Prediction

METHOD = Method("path_dependent_treeshap", "test", "test")
TOLERANCE = ServiceConfig(repository=".").additivity_tolerance
COMPLETE, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.FAILED


def consistent(seed, n, features, outputs, magnitude):
    """φ, base values and the margin that they explain."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(n, features, outputs)) * magnitude
    base = rng.normal(size=outputs) * magnitude
    return phi, base, (base + phi.sum(axis=1)).astype(np.float32)


def complete(phi, base, margin, tolerance=TOLERANCE):
    return assemble.complete(Attributions(phi, 0, 1), base, margin, METHOD, tolerance)


CASES = st.tuples(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.sampled_from([1e-6, 1.0, 1e6])
)


@given(CASES)
def test_what_adds_up_is_complete(case):
    phi, base, margin = consistent(*case)
    explanations = complete(phi, base, margin)
    assert explanations.statuses == (COMPLETE,) * len(phi)
    assert explanations.detail == ""
    assert explanations.phi is phi
    for row in range(len(phi)):  # residuals, one number at a time
        worst = max(abs(base[o] + sum(phi[row, :, o].tolist()) - float(margin[row, o])) for o in range(len(base)))
        assert explanations.residual[row] == pytest.approx(worst, rel=1e-6, abs=1e-12 * case[4])


@given(CASES, st.data(), st.floats(1.5, 1e12), st.booleans())
def test_a_perturbation_beyond_the_tolerance_fails_its_row_and_no_other(case, data, factor, up):
    phi, base, margin = consistent(*case)
    row, feature, output = (data.draw(st.integers(0, size - 1)) for size in phi.shape)
    # The perturbation grows the scale it is measured by, too; as a share of what it was, that is negligible here.
    scale = abs(base[output]) + np.abs(phi[row, :, output]).sum() + abs(float(margin[row, output]))
    phi[row, feature, output] += (1 if up else -1) * factor * TOLERANCE * scale
    explanations = complete(phi, base, margin)
    assert explanations.statuses == tuple(FAILED if i == row else COMPLETE for i in range(len(phi)))
    assert f"1 of {len(phi)} rows, first in row {row}" in explanations.detail
    if len(phi) == 1:
        assert explanations.phi is None
    else:
        assert np.isnan(explanations.phi[row]).all()
        kept = np.arange(len(phi)) != row
        np.testing.assert_array_equal(explanations.phi[kept], phi[kept])


@given(CASES, st.data(), st.floats(0, 0.4))
def test_a_perturbation_within_the_tolerance_passes(case, data, factor):
    phi, base, margin = consistent(*case)
    row, feature, output = (data.draw(st.integers(0, size - 1)) for size in phi.shape)
    scale = abs(base[output]) + np.abs(phi[row, :, output]).sum() + abs(float(margin[row, output]))
    phi[row, feature, output] += factor * TOLERANCE * scale
    assert complete(phi, base, margin).statuses[row] is COMPLETE


@given(CASES, st.integers(-60, 60), st.floats(0, 3))
def test_the_verdict_is_the_same_in_any_unit(case, power, factor):
    """Nanoseconds or years: the check is of shares, so what cancels passes as exactly as float32 can hold it."""
    phi, base, margin = consistent(*case)
    phi[0, 0, 0] += factor * TOLERANCE * np.abs(phi).sum()
    unit = 2.0**power
    assert complete(phi * unit, base * unit, margin * np.float32(unit)).statuses == complete(phi, base, margin).statuses


@pytest.mark.parametrize(("residual", "status"), [(1e2, COMPLETE), (1e5, FAILED)])
def test_what_cancels_is_held_to_a_share_of_what_cancels(residual, status):
    phi = np.array([[[1e9], [-1e9 + 4 + residual]]])
    assert complete(phi, np.zeros(1), np.full((1, 1), 4, np.float32)).statuses == (status,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["phi", "base", "margin", "phi and margin"])
@pytest.mark.parametrize("tolerance", [0.0, TOLERANCE, 1.0])
def test_what_is_not_finite_never_passes(bad, where, tolerance):
    phi, base, margin = consistent(1, 3, 4, 2, 1.0)
    if "phi" in where:
        phi[1, 2, 0] = bad
    if "margin" in where:
        margin[1, 0] = bad
    if where == "base":
        base[0] = bad
    explanations = complete(phi, base, margin, tolerance)
    assert explanations.statuses[1] is FAILED
    assert not np.isfinite(explanations.residual[1])


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_opposite_infinities_do_not_cancel(bad):
    phi, base, margin = consistent(1, 1, 4, 1, 1.0)
    phi[0, 0], phi[0, 1] = bad, -bad
    assert complete(phi, base, margin).statuses == (FAILED,)


@given(st.integers(0, 2**32), st.sampled_from([1e-3, 0.1, 10.0]))
def test_a_thousand_trees_summed_in_float32_pass(seed, step):
    """Stumps: a tree's attribution is its leaf less the leaves' mean, so φ is exact without any kernel."""
    rng = np.random.default_rng(seed)
    leaves = rng.normal(size=(1000, 2)).astype(np.float32) * np.float32(step)
    feature, side = rng.integers(0, 20, 1000), rng.integers(0, 2, 1000)
    taken = leaves[np.arange(1000), side]
    means = leaves.astype(np.float64).mean(axis=1)
    phi = np.zeros((1, 20, 1))
    np.add.at(phi[0, :, 0], feature, taken.astype(np.float64) - means)
    margin = np.float32(0)
    for leaf in taken:  # one after the other, as ONNX Runtime adds them
        margin += leaf
    explanations = complete(phi, np.array([means.sum()]), np.array([[margin]], np.float32))
    assert explanations.statuses == (COMPLETE,)
    assert explanations.residual[0] > 0 or float(margin) == pytest.approx(means.sum() + phi.sum())


def test_one_output_of_several_that_fails_fails_the_row():
    phi, base, margin = consistent(3, 2, 5, 3, 1.0)
    margin[0, 2] += 1
    explanations = complete(phi, base, margin)
    assert explanations.statuses == (FAILED, COMPLETE)
    assert explanations.residual[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("status", [ExplanationStatus.DEFERRED, FAILED])
def test_without_attributions_there_are_none(status):
    explanations = assemble.without_attributions(status, 3, np.ones(2), METHOD, "why")
    assert explanations.statuses == (status,) * 3
    assert explanations.phi is None
    assert explanations.detail == "why"
    assert np.isnan(explanations.residual).all()
    assert explanations.residual.shape == (3,)


INTERVAL = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)


@given(INTERVAL, INTERVAL)
def test_overlap_is_the_time_in_both(predicted, explained):
    prediction = Prediction(np.zeros((1, 1), np.float32), None, None, None, *predicted)
    timings = assemble.timings(prediction, Attributions(np.zeros((1, 1, 1)), *explained))
    both = set(range(*predicted)) & set(range(*explained))  # nanosecond by nanosecond
    assert timings.overlap_us == len(both) / 1e3
    assert timings.predict_us == len(range(*predicted)) / 1e3
    assert timings.explain_us == len(range(*explained)) / 1e3
    alone = assemble.timings(prediction, None)
    assert (alone.predict_us, alone.explain_us, alone.overlap_us) == (timings.predict_us, None, None)


def test_standard_errors_go_with_their_rows():
    phi = np.array([[[1.0], [2.0]], [[1.0], [9.0]]])
    error = np.full_like(phi, 0.25)
    attributions = Attributions(phi, 0, 1, error)
    margin = np.array([[3.0], [3.0]], np.float32)
    method = Method("permutation_sampling", "v", "i")
    found = assemble.complete(attributions, np.zeros(1), margin, method, 1e-5)
    assert [status.name for status in found.statuses] == ["COMPLETE", "FAILED"]
    np.testing.assert_array_equal(found.standard_error[0], error[0])
    assert np.isnan(found.standard_error[1]).all()
    whole = assemble.complete(Attributions(phi[:1], 0, 1, error[:1]), np.zeros(1), margin[:1], method, 1e-5)
    np.testing.assert_array_equal(whole.standard_error, error[:1])
    none = assemble.complete(Attributions(phi[1:], 0, 1, error[1:]), np.zeros(1), margin[1:], method, 1e-5)
    assert none.standard_error is None
    assert assemble.complete(Attributions(phi[:1], 0, 1), np.zeros(1), margin[:1], method, 1e-5).standard_error is None
