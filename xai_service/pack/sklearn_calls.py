"""What scikit-learn's estimators have in common for their readers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def quietly(method: Callable[[Any], Any], rows: Any) -> Any:
    """Returns ``method(rows)`` without the warning that an array lacks the names of the DataFrame trained on.

    Columns are checked against those names when packing, so nothing is lost.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        return method(rows)


def feature_names(model: Any) -> tuple[str, ...] | None:
    """Returns the names of the DataFrame's columns that the model was fitted to, if it was."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else tuple(str(name) for name in names)


def class_names(model: Any) -> tuple[str, ...]:
    """Returns the classes as text, in the order of the labels."""
    return tuple(str(one) for one in np.asarray(model.classes_).tolist())
