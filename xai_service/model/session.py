"""ONNX Runtime, held to what the kernel can promise.

One intra-op thread: with several, ONNX Runtime adds a row's trees in an order that depends on the batch, and a row's
bits with it. Concurrency comes from calling `OrtPredictor.predict` from several threads; `run` drops the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, TensorProto

from xai_service.errors import InvalidModel
from xai_service.model.manifest import Task
from xai_service.types import Float32Array, Prediction

INTRA_OP_THREADS = 1

OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "binary_classification": ("label", "probabilities"),
    "multiclass_classification": ("label", "probabilities"),
    "multilabel_classification": ("probabilities",),  # several classes may hold at once, or none
    "regression": ("prediction",),
    "ranking": ("prediction",),
}
"""What a model file computes for each task, besides ``margin``."""

# What may stand beside the trees: links and labels. Anything else in a bundle is not served. They are few, and none can
# make much of little (repeat, reshape, hold a large constant), lest a small file fill the memory.
_LINK_OPERATORS = frozenset(
    (
        "Add", "ArgMax", "Cast", "Concat", "Div", "Exp", "Greater", "Identity", "Mul", "Neg", "Sigmoid", "Softmax",
        "Squeeze", "Sub",
    )
)  # fmt: skip
_NARROWING = frozenset(("ArgMax", "Squeeze"))  # what they give has fewer dimensions
_MAX_LINKS = 16
_MAX_LINK_INPUTS = 8


def open_session(data: bytes) -> ort.InferenceSession:
    """Returns a session on a model file's bytes, on one thread. Raises onnxruntime's own errors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = INTRA_OP_THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised here and logged where it is handled
    # Without this it prints to stdout, which is for results, and tries again with the same provider.
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)


class OrtPredictor:
    """A session on one model file. Thread-safe.

    Args:
        model: the parsed file, already read as a forest.
        data: its bytes.
        outputs: names that the file must compute, besides ``margin``.
        classes: how many probabilities it must give a row, where it computes any.
        core: places of the operators that compute ``margin``, and names of what they take beside the input; ``None``
            for the trees that it was read as. All others are links.
        most_rows: to run at once; ``None``: all.

    Raises:
        InvalidModel: a name is not UTF-8, the graph holds more than trees and links, lacks an output or gives it
            another shape or type, or ONNX Runtime refuses it.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        data: bytes,
        outputs: tuple[str, ...],
        classes: int = 2,
        core: tuple[frozenset[int], frozenset[str]] | None = None,
        most_rows: int | None = None,
    ) -> None:
        _check_graph(model, outputs, core or _trees_of(model))
        try:
            self._session = open_session(data)
            (declared,) = self._session.get_inputs()
            self._input, n_features = declared.name, declared.shape[1]
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise InvalidModel(f"ONNX Runtime refuses the model: {error}") from error
        self._outputs = ("margin", *outputs)
        named = ("probabilities", "label", "prediction")
        self._places = [self._outputs.index(name) if name in self._outputs else None for name in named]
        self._most_rows = most_rows
        self._probe(n_features, classes)

    def predict(self, rows: Float32Array) -> Prediction:
        """Returns the margins and what the links make of them.

        Args:
            rows: float32 (n, features), C order, n ≥ 1.
        """
        started = time.monotonic_ns()
        if self._most_rows is None or len(rows) <= self._most_rows:
            values = self._session.run(self._outputs, {self._input: rows})
        else:
            values = self._run_in_parts(rows, self._most_rows)
        finished = time.monotonic_ns()
        probabilities, labels, prediction = (None if at is None else values[at] for at in self._places)
        return Prediction(values[0], probabilities, labels, prediction, started, finished)

    def _run_in_parts(self, rows: Float32Array, most: int) -> list[Any]:
        parts = [
            self._session.run(self._outputs, {self._input: rows[start : start + most]})
            for start in range(0, len(rows), most)
        ]
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    def _probe(self, n_features: int, classes: int) -> None:
        """Runs a few rows: declared shapes are the file's own claim, what comes out is not."""
        for n in (1, 3):
            try:
                got = self.predict(np.zeros((n, n_features), np.float32))
            except Exception as error:  # as above
                raise InvalidModel(f"ONNX Runtime cannot run the model on {n} rows: {error}") from error
            due = {
                "margin": (got.margin, np.float32, (n, *got.margin.shape[1:2])),
                "probabilities": (got.probabilities, np.float32, (n, classes)),
                "label": (got.labels, np.int64, (n,)),
                "prediction": (got.prediction, np.float32, got.margin.shape),
            }
            for name in self._outputs:
                value, dtype, shape = due[name]
                if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
                    found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                    raise InvalidModel(f"output {name} is {found} for {n} rows, must be {dtype.__name__} {shape}")


def check_text(message: Any) -> None:
    """Refuses names that are not UTF-8, on which ONNX Runtime's Python part fails in ways of its own."""
    for field, value in message.ListFields():
        texts = field.type == field.TYPE_STRING
        if not texts and field.type != field.TYPE_MESSAGE:
            continue
        for one in value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else (value,):
            if not texts:
                check_text(one)
            elif isinstance(one, bytes):  # what the parser makes of such text
                raise InvalidModel(f"{field.full_name.removeprefix('onnx.')} is not UTF-8: {one[:64]!r}")


def _trees_of(model: onnx.ModelProto) -> tuple[frozenset[int], frozenset[str]]:
    places = frozenset(i for i, node in enumerate(model.graph.node) if node.op_type == "TreeEnsembleRegressor")
    return places, frozenset()


def _check_graph(model: onnx.ModelProto, outputs: tuple[str, ...], core: tuple[frozenset[int], frozenset[str]]) -> None:
    graph = model.graph
    nodes, constants = core
    links = [node for i, node in enumerate(graph.node) if i not in nodes]
    foreign = sorted(
        {
            f"{node.domain or 'ai.onnx'}:{node.op_type}"
            for node in links
            if not (node.op_type in _LINK_OPERATORS and node.domain in ("", "ai.onnx"))
        }
    )
    if foreign:
        raise InvalidModel(f"the graph may hold trees and links only, not {foreign[:4]}")
    _check_size(graph, links, constants)
    computed = [name for i in nodes for name in graph.node[i].output]
    if "margin" not in computed:
        raise InvalidModel(f"the trees' output must be named margin, not {computed[0]!r}")
    missing = {"margin", *outputs} - {value.name for value in graph.output}
    if missing:
        raise InvalidModel(f"the graph lacks the outputs {sorted(missing)}")
    check_text(model)  # last: only now is the graph known to be small


def _check_size(graph: onnx.GraphProto, links: Sequence[onnx.NodeProto], constants: frozenset[str]) -> None:
    """Refuses what could make a small file compute large values: see `_LINK_OPERATORS`."""
    if len(links) > _MAX_LINKS or any(len(node.input) > _MAX_LINK_INPUTS for node in links):
        raise InvalidModel(f"the graph may hold {_MAX_LINKS} links of {_MAX_LINK_INPUTS} inputs each at most")
    if sum(node.op_type == "Concat" for node in links) > 1:
        raise InvalidModel("the graph may hold one Concat at most")
    narrow = {name: node.op_type for node in links if node.op_type in _NARROWING for name in node.output}
    for name in (name for node in links for name in node.input if name in narrow):
        raise InvalidModel(f"what {narrow[name]} gives must be an output of the graph, not the input of another link")
    simple = (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT)
    if any(attribute.type not in simple for node in links for attribute in node.attribute):
        raise InvalidModel("a link's attributes must be numbers")
    if graph.sparse_initializer:
        raise InvalidModel("sparse constants are not supported")
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise InvalidModel("the model keeps data in other files; a bundle's model is one file")
        if tensor.name in constants:
            continue
        if len(tensor.dims) > 1 or any(dim != 1 for dim in tensor.dims):
            raise InvalidModel("a link's constants must hold one number each")
