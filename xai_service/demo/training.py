"""A small gradient boosted model of the lender's decisions, the same on every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.demo.data import FEATURES

if TYPE_CHECKING:
    from xai_service.demo.data import Applications
    from xai_service.types import Float32Array, Float64Array, Int64Array

ROUNDS = 300
_PARAMETERS = {
    "objective": "binary:logistic",
    "max_depth": 4,
    "learning_rate": 0.02,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
    # More debt never helps, more income never hurts: a reason given to an applicant has to make sense.
    "monotone_constraints": tuple(feature.direction for feature in FEATURES),
    "nthread": 1,
    "seed": 0,
}


def train(applications: Applications) -> Any:
    """Returns an `xgboost.Booster` of P(approved)."""
    import xgboost  # noqa: PLC0415 - an extra, and slow to load

    names = [feature.name for feature in FEATURES]
    table = xgboost.DMatrix(applications.rows, label=applications.approved, feature_names=names, nthread=1)
    return xgboost.train(_PARAMETERS, table, num_boost_round=ROUNDS)


def probabilities(booster: Any, rows: Float32Array) -> Float32Array:
    """P(approved), float32 (n,), by XGBoost itself: to choose whom to show, never what is shown."""
    result: Float32Array = booster.inplace_predict(rows)
    return result


def area_under_curve(approved: Int64Array, scores: Float32Array | Float64Array) -> float:
    """Probability that an approved application scores above a denied one; ties count half (Mann-Whitney)."""
    good, bad = np.sort(scores[approved == 1]), scores[approved == 0]
    below, not_above = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float(1.0 - (below + not_above).mean() / (2 * len(good)))
