"""What a link makes of margins, as its definition has it: in float64, for whatever checks a model file against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from xai_service.model.manifest import Link
    from xai_service.types import Float64Array


def apply_link(margin: Float64Array, link: Link, scale: float = 1.0) -> Float64Array:
    """Returns float64 (n, outputs): each margin through the link.

    That is the probability of each output's class (of class 1, where there is one output), or the prediction.

    Args:
        margin: float64 (n, outputs); may be infinite.
        link: as in the manifest.
        scale: what a logistic or one_vs_all link multiplies the margin by.
    """
    with np.errstate(over="ignore"):
        if link == "exponential":
            return np.exp(margin)
        if link in ("logistic", "one_vs_all"):
            return np.asarray(1 / (1 + np.exp(-scale * margin)))
        if link == "softmax":
            powers = np.exp(margin - margin.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        return margin
