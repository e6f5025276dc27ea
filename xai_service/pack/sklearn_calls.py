"""What scikit-learn's estimators have in common for their readers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import sklearn
from sklearn.utils import get_tags

from xai_service.pack.native import NativeModel
from xai_service.pack.plain_trees import SHAP, packed_trees, shap_contributions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xai_service.pack.plain_trees import PlainTree
    from xai_service.types import Float64Array


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


def described(
    model: Any, trees: Sequence[PlainTree], base: Float64Array, *, compares_float64: bool = False, **facts: Any
) -> NativeModel:
    """Returns the description of a fitted estimator.

    Args:
        model: the estimator.
        trees: those whose leaves its margins are the sums of.
        base: (outputs,), what the sums begin at.
        compares_float64: whether it compares float64 values as they are, rather than rounded to float32.
        facts: what it predicts, and how: other fields of `NativeModel`.
    """
    contributions = shap_contributions(trees, base, compares_float64=compares_float64)
    return NativeModel(
        made_by={"scikit-learn": sklearn.__version__},
        trees=packed_trees(trees, compares_float64=compares_float64),
        base=base,
        n_features=model.n_features_in_,
        feature_names=feature_names(model),
        takes_missing=get_tags(model).input_tags.allow_nan,
        contributions=contributions,
        contributions_by=SHAP if contributions else None,
        **facts,
    )
