"""How an XGBoost model was trained, as far as it can tell.

A model's file keeps the trees and the objective, not the settings of training: read back, it shows the library's
defaults in their place, and nothing says so. A setting is believed, therefore, only where it differs from what the same
model shows after it was written and read; what the file does keep is always told.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xai_service.model.provenance import Monotonicity, Scalar

# Second names of others, what has no bearing on the trees, and what is told elsewhere.
_LEFT_OUT = frozenset(
    "eta alpha lambda min_split_loss seed "  # noqa: SIM905 - a name a line would be 22 lines
    "device fail_on_invalid_gpu_id n_jobs nthread validate_parameters disable_default_eval_metric "
    "debug_synchronize max_cached_hist_node updater updater_seq "
    "name booster objective num_trees num_parallel_tree monotone_constraints".split()
)
_OF_ESTIMATORS = ("n_estimators", "early_stopping_rounds")


def hyper_parameters(model: Any, booster: xgboost.Booster, rounds: int) -> dict[str, Scalar]:
    """Returns the settings of training by XGBoost's names.

    Args:
        model: what was given: a Booster, an estimator of the scikit-learn interface, or a path.
        booster: the same as a Booster.
        rounds: boosting rounds that predict.
    """
    learner = _learner(booster)
    read_back = dict(_leaves(_learner(xgboost.Booster(model_file=booster[:1].save_raw("ubj")))))
    told = {name: text for name, text in _leaves(learner) if read_back.get(name) != text}
    kept = dict(_leaves(learner["objective"]))
    parameters = {name: _value(text) for name, text in {**told, **kept}.items() if name not in _LEFT_OUT}
    parameters |= {
        "booster": learner["gradient_booster"]["name"],
        "objective": learner["objective"]["name"],
        "num_boost_round": rounds,
        "num_parallel_tree": _value(_find(learner, "num_parallel_tree")),
    }
    for name in _OF_ESTIMATORS:
        value = getattr(model, name, None)
        if isinstance(value, int):
            parameters[name] = value
    return parameters


def monotonicity(booster: xgboost.Booster) -> tuple[Monotonicity, ...] | None:
    """Returns the monotone constraint of each feature, or ``None`` where the model tells of none."""
    text = _find(_learner(booster), "monotone_constraints").strip("()")
    if not text:
        return None
    given = [int(one) for one in text.split(",") if one.strip()]
    given += [0] * (booster.num_features() - len(given))  # those left off at the end are free
    return tuple(1 if one > 0 else -1 if one < 0 else 0 for one in given)


def _learner(booster: xgboost.Booster) -> dict[str, Any]:
    learner: dict[str, Any] = json.loads(booster.save_config())["learner"]
    return learner


def _leaves(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        if isinstance(value, dict) and name != "learner_model_param":  # what the model is, not how it was trained
            yield from _leaves(value)
        elif isinstance(value, str):
            yield name, value


def _find(learner: dict[str, Any], name: str) -> str:
    return dict(_leaves(learner)).get(name, "")


def _value(text: str) -> Scalar:
    """The number in a text, as short as float32 allows: XGBoost writes 0.02 as 0.0199999996."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(str(np.float32(text)))
    except ValueError:
        return text
    return number if np.isfinite(number) else text
