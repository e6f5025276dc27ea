"""Reads scikit-learn's other classifiers and regressors, which are explained by asking them, through skl2onnx.

The native model of the parity gate is scikit-learn's own, so what the converter makes of it is proven like all else.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.base import is_classifier, is_regressor
from sklearn.neural_network import MLPClassifier

from xai_service.errors import PackRefused
from xai_service.pack.asked import take_over
from xai_service.pack.native import NativeModel
from xai_service.pack.reading import class_names
from xai_service.pack.sklearn_calls import feature_names, quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import ModelProto

    from xai_service.pack.native import Predict
    from xai_service.types import Float32Array, Float64Array

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_ACTIVATIONS: Mapping[str, Callable[[Float64Array], Float64Array]] = {
    "identity": lambda z: z,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}


def may_be_asked(model: Any) -> bool:
    """Whether the model is a classifier or a regressor of scikit-learn's, a Pipeline that ends in one included."""
    return bool(is_classifier(model) or is_regressor(model))


def read_asked(model: Any, *, raw_score: bool) -> NativeModel:
    """Returns the description of a fitted model that is neither trees nor linear.

    Args:
        model: a classifier with probabilities, or a regressor.
        raw_score: its output alone is wanted, as a regression.

    Raises:
        PackRefused: skl2onnx is missing or cannot convert it, or makes of it what is not served.
    """
    name = type(model).__name__
    classifies = bool(is_classifier(model))
    if classifies and not hasattr(model, "predict_proba"):
        raise PackRefused(
            f"{name} is not supported, as it predicts no probability: train one that does (probability=True of a SVC)"
        )
    last = model[-1] if hasattr(model, "steps") else model
    network = last if isinstance(last, MLPClassifier) else None
    if classifies and not _has_one_label(last):
        raise PackRefused(f"{name} of several labels is not supported: pack a model for each")
    asked = take_over(_converted(model, name), may_cut=network is not None, classifies=classifies, raw_score=raw_score)

    def native(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        values = np.asarray(rows, np.float64)
        outputs = np.asarray(quietly(model.predict_proba if classifies else model.predict, values), np.float64)
        outputs = outputs.reshape(len(rows), -1)
        if classifies and asked.width == 1:
            outputs = outputs[:, 1:]
        margin = outputs
        if network is not None:
            seen = values if last is model else np.asarray(model[:-1].transform(values), np.float64)
            margin = _network_margin(network, seen)
        return margin, margin if raw_score else outputs

    predict: Predict = native
    return NativeModel(
        made_by={"scikit-learn": sklearn.__version__, "skl2onnx": _version()},
        trees=(),
        base=np.zeros(asked.width),
        task=asked.task,
        link=asked.link,
        cover="none",
        n_features=model.n_features_in_,
        feature_names=feature_names(model),
        predict=predict,
        class_names=class_names(model) if asked.task.endswith("classification") else None,
        takes_missing=False,
        asked=asked,
    )


def _has_one_label(model: Any) -> bool:
    """Whether a classifier chooses one class, rather than several, or one of each of several targets."""
    if isinstance(model, MLPClassifier):
        return bool(model.out_activation_ == "softmax" or model.n_outputs_ == 1)
    return all(np.ndim(one) == 0 for one in model.classes_)


def _network_margin(network: MLPClassifier, rows: Float64Array) -> Float64Array:
    """Returns what the network hands its last function: probabilities do not tell it."""
    values = rows
    last = len(network.coefs_) - 1
    for layer, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        values = values @ weights + bias
        if layer < last:
            with np.errstate(over="ignore"):
                values = _ACTIVATIONS[network.activation](values)
    return values


def _version() -> str:
    import skl2onnx  # noqa: PLC0415 - an extra of its own

    return str(skl2onnx.__version__)


def _converted(model: Any, name: str) -> ModelProto:
    try:
        from skl2onnx import convert_sklearn  # noqa: PLC0415 - an extra of its own
        from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PackRefused(f"packing a {name} needs {error.name}: pip install 'xai-service[agnostic]'") from error
    types = [("input", FloatTensorType([None, model.n_features_in_]))]
    last = model[-1] if hasattr(model, "steps") else model
    options: dict[int, dict[str, Any]] = {}
    if is_classifier(model):
        options[id(model)] = {"zipmap": False}
    if hasattr(last, "n_neighbors") or hasattr(last, "kernel_"):
        options.setdefault(id(last), {})["optim"] = "cdist"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses what others deprecate
            made: ModelProto = convert_sklearn(
                model, initial_types=types, options=options or None, target_opset=_OPSETS
            )
    except Exception as error:  # it raises whatever goes wrong inside it
        raise PackRefused(
            f"skl2onnx cannot convert the {name}: {str(error).strip().splitlines()[0][:200] if str(error) else error!r}"
        ) from error
    return made
