"""Linear operators in foreign ONNX files: ``LinearRegressor`` and ``LinearClassifier``, and what skl2onnx puts around.

Ahead of it may stand ``Cast``, ``Identity``, ``Scaler`` and an ``Imputer`` of NaN; behind it ``Cast``, ``Identity``,
``ZipMap``, and a ``Normalizer`` of probabilities that add up to 1 already. Of anything else nothing is read here,
and the file is explained by asking it. The weights are read; the gate compares what they give, through the link, with
what ONNX Runtime makes of the file itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from xai_service.model.manifest import Link, Task
    from xai_service.types import Float32Array, Float64Array

_ML = "ai.onnx.ml"
_AROUND = ("Cast", "Identity")
_TWO = 2


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """``margin = (value − offset) · scale · weights + intercept``, where ``fill`` stands for NaN if it is there.

    Attributes:
        offset, scale: float64 (features,); ``fill``: likewise, or ``None``.
        weights: float64 (features, outputs); ``intercept``: (outputs,).
        task, link: what becomes of the margin; ``score``: the output, or what a ``ZipMap`` makes it of.
        labels: of a classifier, in order.
    """

    offset: Float64Array
    scale: Float64Array
    fill: Float64Array | None
    weights: Float64Array
    intercept: Float64Array
    task: Task
    link: Link
    score: str
    labels: tuple[str, ...] | None

    def terms(self, rows: Float32Array) -> Float64Array:
        """Returns what each column adds, float64 (n, features, outputs)."""
        values = rows.astype(np.float64)
        if self.fill is not None:
            values = np.where(np.isnan(values), self.fill, values)
        return np.asarray(((values - self.offset) * self.scale)[:, :, None] * self.weights)


def read_linear_file(model: ModelProto, input_name: str, n_features: int) -> Linear | None:
    """Returns the file's linear operator, understood; ``None`` where it does anything else, or is malformed."""
    try:
        return _read(list(model.graph.node), [str(one.name) for one in model.graph.output], input_name, n_features)
    except (KeyError, ValueError, IndexError, TypeError, UnicodeDecodeError):
        return None  # asking it needs no understanding, and refuses what is malformed


def _read(nodes: list[NodeProto], outputs: list[str], input_name: str, n_features: int) -> Linear:
    (place,) = (i for i, node in enumerate(nodes) if node.op_type in ("LinearRegressor", "LinearClassifier"))
    node = nodes[place]
    offset, scale, fill, value = _ahead(nodes[:place], input_name, n_features)
    _demand(node.domain == _ML and list(node.input) == [value])
    given = _attributes(node)
    score, is_normal = _score(nodes[place + 1 :], outputs, str(node.output[-1]))
    weights: Float64Array = np.array(given["coefficients"], np.float64).reshape(-1, n_features).T
    intercept: Float64Array = np.array(given.get("intercepts", np.zeros(weights.shape[1])), np.float64)
    _demand(intercept.shape == weights.shape[1:])
    _demand(bool(np.isfinite(weights).all() and np.isfinite(intercept).all()))
    task: Task = "regression"
    link: Link = "identity"
    labels = None
    transform = given.get("post_transform", b"NONE").decode()
    if node.op_type == "LinearRegressor":
        _demand(transform == "NONE" and not is_normal and given.get("targets", 1) == len(intercept))
    else:
        labels = _labels(given)
        _demand(len(labels) == len(intercept))
        if len(labels) > _TWO:
            links: dict[str, Link] = {"SOFTMAX": "softmax", "LOGISTIC": "one_vs_all"}
            _demand(transform == "SOFTMAX" or not is_normal)
            task, link = "multiclass_classification", links[transform]
        else:
            task, link = "binary_classification", "logistic"
            weights, intercept = _of_two(weights, intercept, transform)
    return Linear(offset, scale, fill, weights, intercept, task, link, score, labels)


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError("not a linear file that is known")


def _ahead(
    nodes: list[NodeProto], value: str, n_features: int
) -> tuple[Float64Array, Float64Array, Float64Array | None, str]:
    """Returns offset, scale, what is put in for NaN, and the value that all of it gives."""
    offset, scale, fill = np.zeros(n_features), np.ones(n_features), None
    is_input = True
    for node in nodes:
        given = _attributes(node)
        _demand(list(node.input) == [value])
        if node.op_type == "Scaler" and node.domain == _ML:
            # (((x - o) · s) - p) · t = (x - (o + p / s)) · s · t
            of, by = (np.broadcast_to(np.float64(given[name]), n_features) for name in ("offset", "scale"))
            _demand(bool((scale != 0).all()))
            offset, scale = offset + of / scale, scale * by
            is_input = False
        elif node.op_type == "Imputer" and node.domain == _ML:
            _demand(is_input and fill is None and bool(np.isnan(given.get("replaced_value_float", 0.0))))
            fill = np.broadcast_to(np.float64(given["imputed_value_floats"]), n_features)
        else:
            _demand(node.op_type in _AROUND and node.domain in ("", "ai.onnx"))
        value = str(node.output[0])
    return offset, scale, fill, value


def _labels(given: Mapping[str, Any]) -> tuple[str, ...]:
    numbers, texts = given.get("classlabels_ints", ()), given.get("classlabels_strings", ())
    return tuple(map(str, numbers)) or tuple(one.decode() for one in texts)


def _of_two(weights: Float64Array, intercept: Float64Array, transform: str) -> tuple[Float64Array, Float64Array]:
    """Returns weights and intercept of the margin of the second of two classes."""
    if transform == "SOFTMAX":
        return weights[:, 1:] - weights[:, :1], intercept[1:] - intercept[:1]
    _demand(transform == "LOGISTIC" and bool((weights[:, 1] == -weights[:, 0]).all()))
    _demand(bool(intercept[1] == -intercept[0]))
    return weights[:, 1:], intercept[1:]


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _score(nodes: list[NodeProto], outputs: list[str], value: str) -> tuple[str, bool]:
    """Returns the output that the operator's scores become, and whether they were normalised on the way."""
    is_normal = False
    for node in nodes:
        if value not in node.input:
            _demand(node.op_type in _AROUND)  # of the label
        elif node.op_type == "ZipMap":
            return value, is_normal
        elif node.op_type == "Normalizer" and node.domain == _ML:
            is_normal, value = True, str(node.output[0])
        else:
            _demand(node.op_type in _AROUND and node.domain in ("", "ai.onnx"))
            value = str(node.output[0])
    _demand(value in outputs)
    return value, is_normal
