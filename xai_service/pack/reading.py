"""What the readers of the libraries have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from xai_service.model.provenance import Scalar
    from xai_service.types import Float64Array

RAW_SCORE_HINT = "or pack its raw score as a regression (raw_score=True, --raw-score)"


def unsupported(objective: str, supported: Iterable[str], reasons: Mapping[str, str]) -> PackRefused:
    """Returns the refusal of an objective; ``reasons`` may say more of it."""
    return PackRefused(
        f"objective {objective} is not supported{reasons.get(objective, '')}; supported are {', '.join(supported)}; "
        f"{RAW_SCORE_HINT}"
    )


def class_names(model: Any) -> tuple[str, ...] | None:
    """Returns the classes of a model of scikit-learn's interface as text, in the order of the labels."""
    classes = getattr(model, "classes_", None)
    return None if classes is None else tuple(str(one) for one in np.asarray(classes).tolist())


def bias_apart(found: Any, rows: NDArray[Any]) -> tuple[Float64Array, Float64Array]:
    """Returns attributions, float64 (n, features, outputs), and base values (outputs,).

    Args:
        found: as the libraries give them: for each row and output the features', then the base value.
        rows: (n, features), that they are of.
    """
    values = np.asarray(found, np.float64).reshape(len(rows), -1, rows.shape[1] + 1).transpose(0, 2, 1)
    return values[:, :-1], values[0, -1]


def scalars(parameters: Mapping[str, Any]) -> dict[str, Scalar]:
    """Returns those of a model's settings that are single values, finite ones, as a model card tells them."""
    told = {
        name: value for name, value in parameters.items() if value is None or type(value) in (bool, int, float, str)
    }
    return {name: value for name, value in told.items() if not isinstance(value, float) or math.isfinite(value)}
