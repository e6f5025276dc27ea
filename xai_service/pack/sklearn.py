"""Reads scikit-learn models: trees, forests, both kinds of gradient boosting, isolation forests, linear models.

Only fitted objects are taken: scikit-learn has no file format but pickles, which are never loaded.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NoReturn

from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted

from xai_service.errors import PackRefused
from xai_service.pack.forest import check_forest
from xai_service.pack.reading import scalars
from xai_service.pack.sklearn_asked import may_be_asked, read_asked
from xai_service.pack.sklearn_boosting import read_boosting
from xai_service.pack.sklearn_forests import read_forest, read_isolation_forest
from xai_service.pack.sklearn_histograms import read_histogram_boosting
from xai_service.pack.sklearn_linear import KINDS as LINEAR
from xai_service.pack.sklearn_linear import read_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array

_READERS: tuple[tuple[tuple[type, ...], Callable[[Any], NativeModel]], ...] = (
    ((DecisionTreeClassifier, DecisionTreeRegressor), read_forest),
    ((RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor), read_forest),
    ((GradientBoostingClassifier, GradientBoostingRegressor), read_boosting),
    ((HistGradientBoostingClassifier, HistGradientBoostingRegressor), read_histogram_boosting),
    ((IsolationForest,), read_isolation_forest),
)
_ONE_BY_ONE = "it is no sum of trees: pack the models in it one by one"
_REASONS: Mapping[str, str] = {
    "AdaBoostClassifier": "its trees vote, they do not add up to a margin: train a GradientBoostingClassifier",
    "AdaBoostRegressor": "it predicts a median of its trees, no sum: train a GradientBoostingRegressor",
    "BaggingClassifier": "its members may be of any kind: of trees, train a RandomForestClassifier(max_features=None)",
    "BaggingRegressor": "its members may be of any kind: of trees, train a RandomForestRegressor(max_features=None)",
    "CalibratedClassifierCV": "a calibration curve is no link that is served: pack the model that it calibrates",
    "ClassifierChain": _ONE_BY_ONE,
    "GridSearchCV": "pack what it found, its best_estimator_",
    "HalvingGridSearchCV": "pack what it found, its best_estimator_",
    "HalvingRandomSearchCV": "pack what it found, its best_estimator_",
    "MultiOutputClassifier": _ONE_BY_ONE,
    "MultiOutputRegressor": _ONE_BY_ONE,
    "OneVsRestClassifier": _ONE_BY_ONE,
    "RandomTreesEmbedding": "it predicts nothing",
    "RandomizedSearchCV": "pack what it found, its best_estimator_",
    "RegressorChain": _ONE_BY_ONE,
    "RANSACRegressor": "pack what it found, its estimator_",
    "TransformedTargetRegressor": "pack what it fitted, its regressor_, which predicts the transformed target",
    "StackingClassifier": _ONE_BY_ONE,
    "StackingRegressor": _ONE_BY_ONE,
    "VotingClassifier": _ONE_BY_ONE,
    "VotingRegressor": _ONE_BY_ONE,
}


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of a fitted scikit-learn model.

    Args:
        model: of one of the classes above, or derived from one.
        raw_score: take it for a regression of its margin, whatever its loss is.

    Raises:
        PackRefused: not a fitted model of trees or a linear one, or it has a setting that is not supported; says which.
    """
    reader = next((reader for kinds, reader in _READERS if isinstance(model, kinds)), None)
    if isinstance(model, LINEAR):
        reader = functools.partial(read_linear, raw_score=raw_score)
    if reader is None and not any(base.__name__ in _REASONS for base in type(model).__mro__) and may_be_asked(model):
        reader = functools.partial(read_asked, raw_score=raw_score)
    if reader is None:
        _refuse(type(model))
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise PackRefused(f"the model is not fitted: {error}") from error
    native = dataclasses.replace(reader(model), hyper_parameters=scalars(model.get_params(deep=False)))
    if native.additive is None and native.asked is None:
        check_forest(native.trees, native.n_features, native.n_outputs)
    return _of_margin(native) if raw_score else native


def _refuse(kind: type) -> NoReturn:
    reason = next((_REASONS[base.__name__] for base in kind.__mro__ if base.__name__ in _REASONS), None)
    if reason is not None:
        raise PackRefused(f"{kind.__name__} is not supported: {reason}")
    kinds = [*(one for kinds, _ in _READERS for one in kinds), *LINEAR]
    supported = ", ".join(one.__name__ for one in kinds)
    raise PackRefused(f"{kind.__module__}.{kind.__qualname__} is not supported; of scikit-learn {supported} are")


def _of_margin(native: NativeModel) -> NativeModel:
    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        margin, _ = native.predict(rows)
        return margin, margin

    return dataclasses.replace(
        native, task="regression", link="identity", link_scale=1.0, class_names=None, predict=predict
    )
