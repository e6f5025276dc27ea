"""Reads the linear part of an ONNX file, and explains by it: φ = weight · (value − mean).

The file is untrusted, and only `xai_service.pack.onnx_writer` writes such files, so the graph must begin as it lays
them out, node for node and name for name::

    input ── Sub mean ── Sub rest ── [IsNaN, Where fill] ── Gemm weights, base ── linear ──┐
    input ── [TreeEnsembleRegressor] ── steps ───────────────────────────────────────── [Add] ── margin

``mean + rest`` is what each value is compared with: the mean of a background. Taking it off before the product keeps
float32 rounding small beside the attributions, however far from 0 the values lie. ``fill`` stands for a missing value,
as its distance from the mean. The trees, if there are any, look at one column each: what is looked up in it.
A background is needed for nothing else: of a sum of functions of one column each, only their means matter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from xai_service.errors import InvalidModel

if TYPE_CHECKING:
    from xai_service.types import Float32Array, Float64Array

_ML_DOMAIN = "ai.onnx.ml"
_MAX_VALUES = 1 << 26  # of the weights
_CONSTANTS = ("mean", "rest", "fill", "weights", "base")

Step = tuple[str, list[str], str]
"""Operator, inputs, output."""


def layout(*, has_fill: bool, has_trees: bool) -> list[Step]:
    """Returns the nodes up to ``margin``, in order."""
    steps: list[Step] = [("Sub", ["input", "mean"], "moved"), ("Sub", ["moved", "rest"], "centred")]
    centred = "centred"
    if has_fill:
        steps += [("IsNaN", ["centred"], "gaps"), ("Where", ["gaps", "fill", "centred"], "filled")]
        centred = "filled"
    steps.append(("Gemm", [centred, "weights", "base"], "linear" if has_trees else "margin"))
    if has_trees:
        steps += [("TreeEnsembleRegressor", ["input"], "steps"), ("Add", ["linear", "steps"], "margin")]
    return steps


@dataclass(frozen=True, slots=True, eq=False)
class LinearPart:
    """What stands in the file.

    Attributes:
        mean, rest: float32 (features,), together what values are compared with.
        fill: float32 (features,), what stands for a missing value's distance from it; ``None`` if none may be.
        weights: float32 (features, outputs).
        base: float32 (outputs,), the margin of a row of means, without the trees.
    """

    mean: Float32Array
    rest: Float32Array
    fill: Float32Array | None
    weights: Float32Array
    base: Float32Array

    def contributions(self, rows: Float32Array) -> Float64Array:
        """Returns the attributions of float32 (n, features) rows: float64 (n, features, outputs)."""
        centred = rows - self.mean - self.rest  # in float32, as it is served
        if self.fill is not None:
            centred = np.where(np.isnan(centred), self.fill, centred)
        return np.asarray(centred.astype(np.float64)[:, :, None] * self.weights.astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class LinearGraph:
    """``part``, the model that is its trees alone, or ``None``, and how many nodes come before the links."""

    part: LinearPart
    trees: onnx.ModelProto | None
    n_nodes: int


def read_linear(model: onnx.ModelProto) -> LinearGraph:
    """Returns the linear part of the file, and its trees apart.

    Raises:
        InvalidModel: the graph is laid out otherwise, or its numbers are no finite float32 of the shapes due.
    """
    graph = model.graph
    if model.functions:
        raise InvalidModel("the file defines functions of its own, which could stand in for an operator")
    operators = [str(node.op_type) for node in graph.node]
    has_trees, has_fill = "TreeEnsembleRegressor" in operators, "Where" in operators
    steps = layout(has_fill=has_fill, has_trees=has_trees)
    for place, step in enumerate(steps):
        _check_node(place, graph.node[place] if place < len(graph.node) else None, step)
    inner = {output for _, _, output in steps} - {"margin"} | {"input"}
    inner |= set(_CONSTANTS)
    for node in graph.node[len(steps) :]:
        for name in itertools.chain(node.input, node.output):
            if name in inner or (name == "margin" and name in node.output):
                raise InvalidModel(f"{name} belongs to the linear part, and {str(node.op_type)[:64]} may not touch it")
    if [value.name for value in graph.input] != ["input"]:
        raise InvalidModel("the graph must have one input, named input")
    computed = {output for _, _, output in steps} | {"input"}
    if any(tensor.name in computed for tensor in graph.initializer):
        raise InvalidModel("a constant bears the name of what is computed")
    return LinearGraph(_part(graph, has_fill=has_fill), _trees_of(model) if has_trees else None, len(steps))


def _check_node(place: int, node: onnx.NodeProto | None, step: Step) -> None:
    operator, inputs, output = step
    domain = (_ML_DOMAIN,) if operator == "TreeEnsembleRegressor" else ("", "ai.onnx")
    if (
        node is None
        or (str(node.op_type), list(node.input), list(node.output)) != (operator, inputs, [output])
        or node.domain not in domain
        or (node.attribute and operator != "TreeEnsembleRegressor")
    ):
        found = "nothing" if node is None else f"{str(node.op_type)[:64]}({', '.join(map(str, node.input))[:64]})"
        raise InvalidModel(
            f"operator {place} of a linear model must be {operator}({', '.join(inputs)}) without attributes, and is "
            f"{found}: pack the native model with `xai pack`"
        )


def _part(graph: onnx.GraphProto, *, has_fill: bool) -> LinearPart:
    found: dict[str, Float32Array] = {}
    for tensor in graph.initializer:
        if tensor.name in _CONSTANTS:
            if tensor.name in found:
                raise InvalidModel(f"the graph has two constants {tensor.name}")
            found[tensor.name] = _numbers(tensor)
    due = {name for name in _CONSTANTS if has_fill or name != "fill"}
    if found.keys() != due:
        raise InvalidModel(f"a linear model has the constants {sorted(due)}, and this one {sorted(found)}")
    weights = found["weights"]
    if weights.ndim != 2 or 0 in weights.shape:
        raise InvalidModel(f"weights have shape {weights.shape}; (features, outputs) is due")
    shapes = {"base": (weights.shape[1],), **dict.fromkeys(due - {"base", "weights"}, (weights.shape[0],))}
    for name, shape in sorted(shapes.items()):
        if found[name].shape != shape:
            raise InvalidModel(f"{name} has shape {found[name].shape}; {shape} is due")
    dimensions = graph.input[0].type.tensor_type.shape.dim
    if graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT or len(dimensions) != 2:
        raise InvalidModel("the graph's input must be declared FLOAT [rows, features]")
    if dimensions[1].dim_value != len(weights):
        raise InvalidModel(
            f"the graph's input has {dimensions[1].dim_value} features, and there are {len(weights)} weights"
        )
    return LinearPart(found["mean"], found["rest"], found.get("fill"), weights, found["base"])


def _numbers(tensor: onnx.TensorProto) -> Float32Array:
    """Returns the numbers of a tensor of the file, which says of itself what it likes."""
    name = tensor.name
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidModel("the model keeps data in other files; a bundle's model is one file")
    size = 1
    for dimension in tensor.dims:
        size *= max(0, dimension)
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) > 2 or size > _MAX_VALUES:
        raise InvalidModel(f"{name} must be a tensor of at most two dimensions and {_MAX_VALUES} float32 numbers")
    try:
        values = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"{name} does not hold what it says: {error}") from error
    if not np.isfinite(values).all():
        raise InvalidModel(f"{name} holds a number that is not finite")
    return values


def _trees_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model of the tree operator alone."""
    alone = onnx.ModelProto()
    alone.opset_import.extend(model.opset_import)
    alone.graph.input.extend(model.graph.input)
    alone.graph.node.extend(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    return alone
