"""The tree operators of ai.onnx.ml, read into raw trees and what ONNX Runtime makes of their sums.

``TreeEnsembleRegressor`` (opset 1, and 3 with doubles) and ``TreeEnsemble`` (opset 5) sum or average weights by target.
``TreeEnsembleClassifier`` does so by class, and where there are two classes in ways of its own:

* One set of weights, all of class 0: its sum is the margin of the *second* label. With ``LOGISTIC`` but no negative
  weight ONNX Runtime leaves the logistic function out.
* Two sets: the second sum, or their difference before ``SOFTMAX``, is that margin. What base values do here differs
  between versions of ONNX Runtime.

What is not listed is refused. Whether it is read as ONNX Runtime does is for the parity gate to say.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto

from xai_service.errors import InvalidModel
from xai_service.model.tree_arrays import REGRESSOR_ATTRIBUTES, raw_forest, read_attributes
from xai_service.pack import onnx_opset5
from xai_service.pack.onnx_opset5 import read_opset_5
from xai_service.pack.raw_trees import RawTrees
from xai_service.pack.tensors import tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto

    from xai_service.model.manifest import Link

OPERATORS = ("TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble")
_TENSORS = {f"{name}_as_tensor" for name in ("base_values", "nodes_values", "nodes_hitrates")}
_REGRESSOR = {
    **REGRESSOR_ATTRIBUTES,
    **dict.fromkeys((*_TENSORS, "target_weights_as_tensor"), AttributeProto.TENSOR),
}
_CLASSIFIER = {
    **{name.replace("target_", "class_"): kind for name, kind in _REGRESSOR.items() if name not in
       ("n_targets", "aggregate_function")},
    "classlabels_int64s": AttributeProto.INTS,
    "classlabels_strings": AttributeProto.STRINGS,
}  # fmt: skip
_LINKS: Mapping[str, Link] = {"NONE": "identity", "LOGISTIC": "logistic"}
_MAX_OUTPUTS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """A tree operator, understood.

    Attributes:
        raw: its trees, whose leaves and base values add up to the margins; one margin where there are two classes.
        link: what it makes of the margins.
        labels: of a classifier, in order, else ``None``.
        difference: whether the margin is the second sum less the first.
    """

    raw: RawTrees
    link: Link
    labels: tuple[int | str, ...] | None
    difference: bool = False


def read_ensemble(node: NodeProto) -> Ensemble:
    """Returns the operator's trees and what it does with their sums.

    Raises:
        InvalidModel: it is malformed, or does what is not supported; says which attribute.
    """
    if node.op_type == "TreeEnsembleClassifier":
        return _classifier(read_attributes(node, _CLASSIFIER))
    if node.op_type == "TreeEnsembleRegressor":
        attributes = _plain(read_attributes(node, _REGRESSOR))
        raw = RawTrees.of(raw_forest(attributes))
        aggregate, transform = (attributes.get(name, default).decode("utf-8", "replace")[:64] for name, default in
                                (("aggregate_function", b"SUM"), ("post_transform", b"NONE")))  # fmt: skip
    else:
        attributes = read_attributes(node, onnx_opset5.ATTRIBUTES)
        raw = read_opset_5(attributes)
        aggregate = _named(attributes, "aggregate_function", onnx_opset5.AGGREGATES, 1)
        transform = _named(attributes, "post_transform", onnx_opset5.TRANSFORMS, 0)
    if aggregate == "AVERAGE":  # of the trees; base values are added to it
        raw = dataclasses.replace(raw, weight=raw.weight / len(raw.roots))
    elif aggregate != "SUM":
        raise InvalidModel(f"aggregate_function {aggregate} is not supported: only sums and averages can be explained")
    if transform not in _LINKS:
        raise InvalidModel(f"post_transform {transform} is not supported here; {' and '.join(_LINKS)} are")
    return Ensemble(raw, _LINKS[transform], None)


def _named(attributes: dict[str, Any], name: str, names: tuple[str, ...], default: int) -> str:
    number = attributes.get(name, default)
    return names[number] if 0 <= number < len(names) else f"number {number}"


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes with doubles, which stand in tensors, under the names of the floats."""
    plain = {name: value for name, value in attributes.items() if not name.endswith("_as_tensor")}
    for name in attributes.keys() - plain.keys():
        short = name.removesuffix("_as_tensor")
        if plain.get(short):
            raise InvalidModel(f"{short} and {name} are both there; only one of them may be")
        plain[short] = tensor_of(attributes, name)
    return plain


def _classifier(given: dict[str, Any]) -> Ensemble:
    labels = _labels(given)
    attributes = {name.replace("class_", "target_"): value for name, value in _plain(given).items()}
    transform = attributes.get("post_transform", b"NONE").decode("utf-8", "replace")[:64]
    ids = np.unique(np.array(attributes.get("target_ids", []), np.int64))
    n_base = len(attributes.get("base_values", []))
    if len(labels) > 2:
        links: dict[str, Link] = {"NONE": "identity", "LOGISTIC": "one_vs_all", "SOFTMAX": "softmax"}
        raw = RawTrees.of(raw_forest({**attributes, "n_targets": len(labels)}))
        return Ensemble(raw, _link(links, transform), labels)
    if ids.tolist() == [0]:
        return _one_set(attributes, transform, labels, n_base)
    if ids.tolist() != [0, 1]:
        raise InvalidModel(f"class_ids are {ids[:8].tolist()} with two labels; all 0, or 0 and 1, are expected")
    if n_base:
        raise InvalidModel(
            f"base_values: there are {n_base} beside two sets of class_weights, which versions of ONNX Runtime take "
            "differently; none is supported"
        )
    raw = RawTrees.of(raw_forest({**attributes, "n_targets": 2}))
    second = raw.weight_output == 1
    weight = np.where(second, raw.weight, -raw.weight if transform == "SOFTMAX" else 0.0)
    one = dataclasses.replace(raw, weight=weight, weight_output=np.zeros_like(raw.weight_output), base=np.zeros(1))
    links = {"NONE": "identity", "LOGISTIC": "logistic", "SOFTMAX": "logistic"}
    return Ensemble(one, _link(links, transform), labels, difference=transform == "SOFTMAX")


def _one_set(attributes: dict[str, Any], transform: str, labels: tuple[int | str, ...], n_base: int) -> Ensemble:
    if n_base > 1:
        raise InvalidModel(
            f"base_values: there are {n_base} with one set of class_weights, of which ONNX Runtime makes a second "
            "column that means nothing; at most one is supported"
        )
    link = _link(_LINKS, transform)
    if link == "logistic" and not (np.array(attributes.get("target_weights", []), np.float64) < 0).any():
        raise InvalidModel(
            "post_transform LOGISTIC: no weight is negative, and then ONNX Runtime leaves the logistic function out: "
            "its probabilities are none"
        )
    return Ensemble(RawTrees.of(raw_forest({**attributes, "n_targets": 1})), link, labels)


def _link(links: Mapping[str, Link], transform: str) -> Link:
    if transform not in links:
        raise InvalidModel(f"post_transform {transform} is not supported here; {', '.join(links)} are")
    return links[transform]


def _labels(attributes: dict[str, Any]) -> tuple[int | str, ...]:
    numbers, texts = attributes.pop("classlabels_int64s", []), attributes.pop("classlabels_strings", [])
    if bool(numbers) == bool(texts):
        raise InvalidModel("exactly one of classlabels_int64s and classlabels_strings must be given")
    try:
        labels = tuple(int(one) for one in numbers) or tuple(text.decode() for text in texts)
    except UnicodeDecodeError as error:
        raise InvalidModel(f"classlabels_strings are not UTF-8: {error}") from error
    if len(set(labels)) != len(labels) or not 2 <= len(labels) <= _MAX_OUTPUTS:
        raise InvalidModel(f"there must be from 2 to {_MAX_OUTPUTS} labels, each once; there are {len(labels)}")
    return labels
