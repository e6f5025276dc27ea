"""Models that are neither trees nor linear: a graph that is served as it is, and explained by asking it.

A foreign ONNX file is taken over, renamed; a scikit-learn model goes through skl2onnx first (extra ``agnostic``). What
is explained is the last value before a Sigmoid or Softmax at the end, where there is one, and else the output itself:
the probabilities, or the prediction. Only operators that the server takes may stand in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from xai_service.errors import InvalidModel, PackRefused
from xai_service.model.explainers import MAX_ASKED_BACKGROUND
from xai_service.model.operators import read_graph
from xai_service.model.session import check_text, open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xai_service.model.manifest import Link, Task
    from xai_service.pack.background import BackgroundRows
    from xai_service.types import Float32Array

_PREFIX = "m."  # of what comes from the file, so that it meets no name of ours
_MAX_NODES = 2048
_OPSET, _LEAST_OPSET = 18, 13
# What these do is the same from opset 7 on.
_UNCHANGED = frozenset(
    (
        "Add", "Cast", "Concat", "Div", "Flatten", "Gemm", "Identity", "MatMul", "Mul", "Relu", "Reshape", "Sigmoid",
        "Sub", "Tanh",
    )
)  # fmt: skip
_WAY_OUT = "export the model to ONNX with plain operators, or pack one that this library reads itself"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A graph that computes ``margin`` of ``input``.

    Attributes:
        nodes, constants: of the graph, in order.
        opsets: by domain.
        task, link: what the margin is.
        n_features: columns of the input; ``width``: margins of a row.
        source: name that what is explained has in the foreign file; ``score``: the output that follows from it.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    opsets: Mapping[str, int]
    task: Task
    link: Link
    n_features: int
    width: int
    source: str = ""
    score: str = ""


def take_over(
    model: onnx.ModelProto, *, may_cut: bool = True, classifies: bool | None = None, raw_score: bool = False
) -> Asked:
    """Returns the graph, renamed, up to what is explained.

    Args:
        model: a foreign file with one float input [rows, features].
        may_cut: whether a Sigmoid or Softmax at the end may be taken for the link.
        classifies: whether it is a classifier; ``None``: if it has an output of labels.
        raw_score: take it for a regression of what is explained.

    Raises:
        PackRefused: an operator is not served, or the graph has other inputs or outputs; says which.
    """
    graph = model.graph
    constants = {str(one.name): one for one in graph.initializer}
    try:
        check_text(model)
    except InvalidModel as error:
        raise PackRefused(f"the ONNX file cannot be packed: {error}") from error
    nodes = list(graph.node)
    name, n_features, is_double = _input(graph, constants, len(nodes))
    made_by = {str(output): node for node in nodes for output in node.output}
    explained, has_labels = _explained(graph, made_by)
    cut = _cut(made_by, constants, explained) if may_cut else None
    source, link = cut or (explained, "identity")
    if source not in made_by:
        raise PackRefused(f"nothing is computed of the graph's input: {_WAY_OUT}")
    names = {name: f"{_PREFIX}double" if is_double else "input"}

    def renamed(one: str) -> str:
        return names.get(one, _PREFIX + one) if one else ""

    taken = []
    if is_double:
        taken.append(helper.make_node("Cast", ["input"], [f"{_PREFIX}double"], to=TensorProto.DOUBLE))
    for node in _needed(nodes, made_by, source):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [renamed(str(one)) for one in node.input]
        copy.output[:] = [renamed(str(one)) for one in node.output]
        taken.append(copy)
    read = {str(one) for node in taken for one in node.input}
    kept = []
    for constant, tensor in constants.items():
        if renamed(constant) in read:
            copied = onnx.TensorProto()
            copied.CopyFrom(tensor)
            copied.name = renamed(constant)
            kept.append(copied)
    used = {str(node.domain) for node in taken} | {"", "ai.onnx"}
    opsets = {"" if one.domain == "ai.onnx" else str(one.domain): int(one.version)
              for one in model.opset_import if str(one.domain) in used}  # fmt: skip
    opsets = {"": _OPSET, **opsets}
    if opsets[""] < _LEAST_OPSET and {str(one.op_type) for one in taken if one.domain in ("", "ai.onnx")} <= _UNCHANGED:
        opsets[""] = _OPSET
    draft = Asked(tuple(taken), tuple(kept), opsets, "regression", link, n_features, 1, source, explained)
    return _finished(draft, renamed(source), classifies=has_labels if classifies is None else classifies,
                     raw_score=raw_score)  # fmt: skip


def _input(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto], n_nodes: int) -> tuple[str, int, bool]:
    """Returns the input's name, its columns, and whether it holds doubles."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or n_nodes > _MAX_NODES:
        raise PackRefused(
            f"the graph has {len(inputs)} inputs and {n_nodes} operators; one input, with all features side by side, "
            f"and at most {_MAX_NODES} operators are served: {_WAY_OUT}"
        )
    tensor = inputs[0].type.tensor_type
    dimensions = tensor.shape.dim
    is_double = tensor.elem_type == TensorProto.DOUBLE
    if not (is_double or tensor.elem_type == TensorProto.FLOAT) or len(dimensions) != 2 or dimensions[1].dim_value < 1:
        raise PackRefused(
            f"the input {str(inputs[0].name)[:64]!r} must hold floats and be declared [rows, features], with a fixed "
            f"number of features: {_WAY_OUT}"
        )
    return str(inputs[0].name), int(dimensions[1].dim_value), is_double


def _finished(draft: Asked, score: str, *, classifies: bool, raw_score: bool) -> Asked:
    """Makes the score a margin: float32 (rows, outputs), one where there are two classes."""
    kind, width, rank = _measured(draft, score)
    nodes, kept, link = list(draft.nodes), list(draft.constants), draft.link

    def then(operator: str, constant: tuple[str, list[int]] | None = None, **attributes: Any) -> None:
        nonlocal score
        inputs, output = [score], f"{_PREFIX}{operator}.{len(nodes)}"
        if constant is not None:
            kept.append(numpy_helper.from_array(np.array(constant[1], np.int64), _PREFIX + constant[0]))
            inputs.append(_PREFIX + constant[0])
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        score = output

    if rank == 1:
        then("Reshape", ("xai.column", [-1, 1]))
    if kind != TensorProto.FLOAT:
        then("Cast", to=TensorProto.FLOAT)
    if classifies and width == 2 and link == "identity" and not raw_score:  # of class 1; the other's is the rest
        then("Gather", ("xai.second", [1]), axis=1)
        width = 1
    elif link == "softmax" and width == 2:  # the difference's logistic function
        both = score
        then("Gather", ("xai.second", [1]), axis=1)
        second, score = score, both
        then("Gather", ("xai.first", [0]), axis=1)
        nodes.append(helper.make_node("Sub", [second, score], [f"{_PREFIX}xai.difference"]))
        score, width, link, classifies = f"{_PREFIX}xai.difference", 1, "logistic", True
    nodes.append(helper.make_node("Identity", [score], ["margin"]))
    task: Task = "regression"
    if raw_score:
        link = "identity"
    elif classifies or link == "softmax":
        task = "binary_classification" if width == 1 else "multiclass_classification"
        link = "one_vs_all" if link == "logistic" and width > 1 else link
    asked = dataclasses.replace(draft, nodes=tuple(nodes), constants=tuple(kept), task=task, link=link, width=width)
    check_served(asked)
    return asked


def _measured(draft: Asked, score: str) -> tuple[int, int, int]:
    """Returns type, width and rank of a value, from running the graph, whose operators are checked first."""
    nodes = (*draft.nodes, helper.make_node("Identity", [score], ["margin"]))
    model = as_model(dataclasses.replace(draft, nodes=nodes))
    try:
        read_graph(model)
    except InvalidModel as error:
        if not str(error).startswith("margin has shape (-1,)"):  # such a one is made a column
            raise _refused(error) from error
    try:
        session = open_session(model.SerializeToString())
        found = np.asarray(session.run(["margin"], {"input": np.zeros((3, draft.n_features), np.float32)})[0])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise PackRefused(f"ONNX Runtime refuses the file: {error}") from error
    if found.ndim not in (1, 2) or len(found) != 3 or found.dtype.kind != "f":
        raise PackRefused(f"the output is {found.dtype} of shape {found.shape} for 3 rows; (rows, outputs) is served")
    return int(helper.np_dtype_to_tensor_dtype(found.dtype)), int(found[0].size), found.ndim


def check_served(asked: Asked) -> None:
    """Raises `PackRefused` where a server would not serve the graph."""
    try:
        read_graph(as_model(asked))
    except InvalidModel as error:
        raise _refused(error) from error


def _refused(error: InvalidModel) -> PackRefused:
    return PackRefused(f"the model is neither trees nor linear, and cannot be served as it is: {error}: {_WAY_OUT}")


def as_model(asked: Asked) -> onnx.ModelProto:
    """Returns the graph as a model of its own, with the one output ``margin``."""
    graph = helper.make_graph(
        list(asked.nodes),
        "asked",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, asked.n_features])],
        [onnx.ValueInfoProto(name="margin")],
        list(asked.constants),
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in asked.opsets.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def model_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Returns the input of a file that `take_over` took."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in constants)


def _explained(graph: onnx.GraphProto, made_by: Mapping[str, onnx.NodeProto]) -> tuple[str, bool]:
    """Returns the output to explain, before any ``ZipMap``, and whether there is one of labels beside it."""
    outputs = [str(value.name) for value in graph.output]
    scores, labels = [], []
    for value, name in zip(graph.output, outputs, strict=True):
        node = made_by.get(name)
        kind = value.type.tensor_type.elem_type
        if node is not None and node.op_type == "ZipMap":
            scores.append(str(node.input[0]))
        elif kind in (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING):
            labels.append(name)
        else:
            scores.append(name)
    if len(scores) != 1:
        raise PackRefused(
            f"the graph has the outputs {outputs[:8]}, of which one of numbers is served, beside one of "
            f"labels: {_WAY_OUT}"
        )
    return scores[0], bool(labels)


def _cut(
    made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], source: str
) -> tuple[str, Link] | None:
    """Returns what goes into a Sigmoid or Softmax at the end, and which it is; ``None`` where there is none."""
    node = made_by.get(source)
    while node is not None and node.op_type == "Identity":
        node = made_by.get(str(node.input[0]))
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Softmax" and next((one.i for one in node.attribute if one.name == "axis"), -1) in (1, -1):
        return str(node.input[0]), "softmax"
    if node.op_type == "Sigmoid":
        return str(node.input[0]), "logistic"
    if node.op_type != "Concat" or len(node.input) != 2:  # [1 - p, p], p = Sigmoid(margin)
        return None
    rest, positive = made_by.get(str(node.input[0])), made_by.get(str(node.input[1]))
    if (
        positive is not None
        and rest is not None
        and (positive.op_type, rest.op_type) == ("Sigmoid", "Sub")
        and rest.input[1] == positive.output[0]
        and str(rest.input[0]) in constants
        and (numpy_helper.to_array(constants[str(rest.input[0])]) == 1).all()
    ):
        return str(positive.input[0]), "logistic"
    return None


def _needed(
    nodes: Sequence[onnx.NodeProto], made_by: Mapping[str, onnx.NodeProto], source: str
) -> list[onnx.NodeProto]:
    """Returns the operators that a value is computed by, in the graph's order."""
    wanted, open_names = set(), [source]
    while open_names:
        node = made_by.get(open_names.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            open_names += [str(one) for one in node.input]
    return [node for node in nodes if id(node) in wanted]


def check_background(background: BackgroundRows | None) -> BackgroundRows:
    """Returns the rows. Raises `PackRefused` where a model that is asked has none to be explained against, or many."""
    if background is None:
        raise PackRefused(
            "the model is neither trees nor linear, so it is explained by asking it, against a background: give some "
            "hundred rows (background=rows, --background rows.csv)"
        )
    if len(background.rows) > MAX_ASKED_BACKGROUND:
        raise PackRefused(
            f"background: {len(background.rows)} rows; a model that is explained by asking it is asked about each of "
            f"them thousands of times, so at most {MAX_ASKED_BACKGROUND} are taken: draw some "
            "(background_rows=100, --background-rows 100)"
        )
    return background


def check_bits(session: Any, rows: Float32Array) -> None:
    """Refuses a model that gives a row other bits alone than among others: explanations could not be repeated."""
    rows = rows[:101]
    (whole,) = session.run(["margin"], {"input": rows})
    for size in (1, 2, 3, 5, 8, 16, 33):
        for start in range(0, len(rows), max(size, len(rows) // 4)):
            (part,) = session.run(["margin"], {"input": rows[start : start + size]})
            if not np.array_equal(part, whole[start : start + size], equal_nan=True):
                raise PackRefused(
                    f"ONNX Runtime gives row {start} of X other bits among {size} rows than among {len(rows)}: "
                    "explanations of such a model could not be repeated"
                )
