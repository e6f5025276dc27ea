"""The join of prediction and attributions, and the check that they belong together. Pure.

A reply never carries attributions that do not explain its own margin: |base + Σφ − margin| must stay within the
tolerance, a share of |base| + Σ|φ| + |margin|. The margin is summed in float32 by ONNX Runtime, the attributions in
float64, so the two differ by float32 rounding (about 1e-6 of that scale for 1,000 trees) and by nothing else.

It is a share, since margins have no unit of their own: +1 and -1 that cancel to 1e-7, and +1e9 and -1e9 that cancel to
100, are one model in two units, and a bound by the margin alone would fail both. So attributions that are huge beside
their margin pass when they cancel as exactly as float32 can. Where margins do have a unit, as logarithms, a model that
would explain itself so is refused when it is loaded (`xai_service.model.agreement`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from xai_service._treeshap import check_additivity
from xai_service.types import (
    Attributions,
    Explanations,
    ExplanationStatus,
    Float32Array,
    Float64Array,
    Method,
    Prediction,
    Timings,
)


def complete(
    attributions: Attributions, base_values: Float64Array, margin: Float32Array, method: Method, tolerance: float
) -> Explanations:
    """Returns the explanations of n rows whose attributions are there; rows that do not add up are FAILED."""
    phi = attributions.phi
    residual, holds, all_hold = check_additivity(phi, base_values, margin, tolerance)
    if all_hold:
        statuses = (ExplanationStatus.COMPLETE,) * len(phi)
        return Explanations(statuses, phi, base_values, residual, "", method, attributions.standard_error)
    checked = np.where(holds[:, None, None], phi, np.nan)
    statuses = tuple(ExplanationStatus.COMPLETE if ok else ExplanationStatus.FAILED for ok in holds)
    detail = _which_failed(statuses, residual)
    error = attributions.standard_error
    if error is not None:
        error = np.where(holds[:, None, None], error, np.nan) if holds.any() else None
    return Explanations(statuses, checked if holds.any() else None, base_values, residual, detail, method, error)


def _which_failed(statuses: tuple[ExplanationStatus, ...], residual: Float64Array) -> str:
    failed = [row for row, status in enumerate(statuses) if status is ExplanationStatus.FAILED]
    if not failed:
        return ""
    return (
        f"attributions do not add up to the margin in {len(failed)} of {len(statuses)} rows, first in row {failed[0]}: "
        f"residual {residual[failed[0]]:.3g}"
    )


def rows_of(explanations: Explanations, begin: int, end: int) -> Explanations:
    """Returns the explanations of some of the rows, as if the others had not been there."""
    statuses = explanations.statuses
    if begin == 0 and end == len(statuses):
        return explanations
    statuses, residual, phi = statuses[begin:end], explanations.residual[begin:end], explanations.phi
    detail = explanations.detail
    if phi is not None:  # and so each row is complete or does not add up
        detail = _which_failed(statuses, residual) if detail else ""
        phi = phi[begin:end] if ExplanationStatus.COMPLETE in statuses else None
    error = explanations.standard_error if phi is not None else None
    error = None if error is None else error[begin:end]
    return Explanations(statuses, phi, explanations.base_values, residual, detail, explanations.method, error)


def without_attributions(
    status: ExplanationStatus, n: int, base_values: Float64Array, method: Method, detail: str
) -> Explanations:
    """Returns the explanations of n rows that have none (yet): DEFERRED or FAILED, for the reason in ``detail``."""
    return Explanations((status,) * n, None, base_values, np.full(n, np.nan), detail, method)


def not_to_be_finished(explanations: Explanations) -> Explanations:
    """Returns them where nothing is recorded, and so nothing can be finished later: DEFERRED becomes FAILED."""
    if ExplanationStatus.DEFERRED not in explanations.statuses:
        return explanations
    statuses = tuple(
        ExplanationStatus.FAILED if status is ExplanationStatus.DEFERRED else status for status in explanations.statuses
    )
    detail = f"{explanations.detail}; decisions are not recorded, so it cannot be finished later"
    return dataclasses.replace(explanations, statuses=statuses, detail=detail)


def timings(prediction: Prediction, attributions: Attributions | None) -> Timings:
    """Returns how long both took, and for how long both ran at the same time."""
    predict_us = (prediction.finished_ns - prediction.started_ns) / 1e3
    if attributions is None:
        return Timings(predict_us, None, None)
    overlap_ns = min(prediction.finished_ns, attributions.finished_ns) - max(
        prediction.started_ns, attributions.started_ns
    )
    explain_us = (attributions.finished_ns - attributions.started_ns) / 1e3
    return Timings(predict_us, explain_us, max(0, overlap_ns) / 1e3, explain_started_ns=attributions.started_ns)
