"""Rows to try a model on when it is loaded: what it costs, and whether it computes what its manifest says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from xai_service.types import Float32Array

_ROWS = 64
_MOST_VALUES = 1 << 22  # of the rows, and of their attributions: 32 MiB
_THRESHOLDS = 256  # of which a row gets its values


def rows_near_means(mean: Float32Array, weights: Float32Array) -> Float32Array:
    """Returns float32 (n, features) rows, up to 64, around a linear model's means, whose margins are not all one way.

    Args:
        mean: float32 (features,).
        weights: float32 (features, outputs).
    """
    n = max(1, min(_ROWS, _MOST_VALUES // weights.size))
    largest = np.abs(weights).max(axis=1)
    step = np.divide(1.0, largest, out=np.zeros(len(mean)), where=largest > 0) / np.sqrt(len(mean))
    with np.errstate(over="ignore"):
        rows = (mean + np.random.default_rng(0).normal(size=(n, len(mean))) * step).astype(np.float32)
    return np.asarray(np.nan_to_num(rows, posinf=0.0, neginf=0.0))  # of a weight near 0


def rows_near_thresholds(model: onnx.ModelProto, n_features: int, n_outputs: int) -> Float32Array:
    """Returns float32 (n, features) rows, up to 64, that reach many leaves.

    Each feature stands on a threshold that the trees compare it with, or near 0.
    """
    rng = np.random.default_rng(0)
    n = max(1, min(_ROWS, _MOST_VALUES // (n_features * n_outputs)))
    rows = rng.normal(size=(n, n_features)).astype(np.float32)
    (node,) = (node for node in model.graph.node if str(node.op_type).startswith("TreeEnsemble"))
    attributes = {attribute.name: attribute for attribute in node.attribute}
    features, thresholds = attributes["nodes_featureids"].ints, attributes["nodes_values"].floats
    for row in rows:
        for split in rng.integers(len(features), size=min(len(features), 4 * n_features, _THRESHOLDS)).tolist():
            row[features[split]] = thresholds[split]  # a leaf's stands for some feature too, and does no harm
    return rows
