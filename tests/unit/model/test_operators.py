"""Graphs that are served as they are: what they may hold, and hostile ones, refused before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xai_service.errors import InvalidModel
from xai_service.model import session as session_module
from xai_service.model.background import write_background
from xai_service.model.costs import calibrate_asked
from xai_service.model.explainers import read_core
from xai_service.model.onnx_trees import parse_model
from xai_service.model.operators import MAX_VALUES, read_graph
from xai_service.model.session import OrtPredictor

if TYPE_CHECKING:
    from collections.abc import Callable

ML = "ai.onnx.ml"
BACKGROUND = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def model(*nodes: onnx.NodeProto, opset: int = 18, links: tuple[onnx.NodeProto, ...] | None = None, **constants: Any):
    """A graph on ``input`` [n, 4] whose ``margin`` the nodes compute, and ``prediction`` the links."""
    links = (node("Identity", ["margin"], ["prediction"]),) if links is None else links
    graph = helper.make_graph(
        [*nodes, *links],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("prediction", "margin")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML, 3), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def net(**changes: Any) -> onnx.ModelProto:
    return model(
        node("MatMul", ["input", "w"], ["hidden"]),
        node("Relu", ["hidden"], ["seen"]),
        node("Gemm", ["seen", "v", "c"], ["margin"]),
        **{"w": np.ones((4, 3), np.float32), "v": np.ones((3, 1), np.float32), "c": np.zeros(1, np.float32), **changes},
    )


def served(graph: onnx.ModelProto) -> tuple[OrtPredictor, Any]:
    """As a server loads it."""
    parsed = parse_model(graph.SerializeToString())
    files = {"model.onnx": graph.SerializeToString(), "background.npy": write_background(BACKGROUND)}
    core = read_core(parsed, "permutation", files)
    predictor = OrtPredictor(
        parsed, files["model.onnx"], ("prediction",), 0, (core.nodes, core.constants), core.most_rows
    )
    return predictor, core


def test_a_network_is_followed() -> None:
    graph = read_graph(net())
    assert (graph.n_features, graph.n_outputs, graph.n_nodes) == (4, 1, 3)
    assert graph.constants == {"w", "v", "c"}
    assert graph.values == 3 + 3 + 1
    predictor, core = served(net())
    assert predictor.predict(BACKGROUND).margin.shape == (9, 1)
    assert core.evaluations == 1 + 2 * 16 * 3 * 9


def test_what_is_followed_is_what_onnx_runtime_computes() -> None:
    """Shapes of operators that change them, against the real thing."""
    cases = [
        ([node("Transpose", ["input"], ["t"], perm=[1, 0]), node("Transpose", ["t"], ["u"])], {}, (-1, 4)),
        ([node("Reshape", ["input", "s"], ["u"])], {"s": np.int64([-1, 2, 2])}, (-1, 2, 2)),
        ([node("Reshape", ["input", "s"], ["u"])], {"s": np.int64([0, 4, 1])}, (-1, 4, 1)),
        ([node("Reshape", ["input", "s"], ["u"])], {"s": np.int64([-1])}, (-4,)),
        ([node("Reshape", ["input", "s"], ["t"]), node("Reshape", ["t", "r"], ["u"])],
         {"s": np.int64([1, -1]), "r": np.int64([-1, 4])}, (-1, 4)),
        ([node("Flatten", ["input"], ["u"], axis=2)], {}, (-4, 1)),
        ([node("Unsqueeze", ["input", "s"], ["u"])], {"s": np.int64([1])}, (-1, 1, 4)),
        ([node("ReduceSum", ["input", "s"], ["u"], keepdims=0)], {"s": np.int64([1])}, (-1,)),
        ([node("ReduceMax", ["input", "s"], ["u"])], {"s": np.int64([-1])}, (-1, 1)),
        ([node("ArgMax", ["input"], ["u"], axis=1)], {}, (-1, 1)),
        ([node("Concat", ["input", "input"], ["u"], axis=-1)], {}, (-1, 8)),
        ([node("Gather", ["input", "s"], ["u"], axis=1)], {"s": np.int64([[0, 1, 1]])}, (-1, 1, 3)),
        ([node("Add", ["input", "s"], ["u"])], {"s": np.ones((3, 1, 4), np.float32)}, (3, -1, 4)),
        ([node("CDist", ["input", "s"], ["u"], domain="com.microsoft")], {"s": np.ones((7, 4), np.float32)}, (-1, 7)),
        ([node("TopK", ["input", "s"], ["u", "i"], largest=0)], {"s": np.int64([2])}, (-1, 2)),
        ([node("ArrayFeatureExtractor", ["input", "s"], ["u"], domain=ML)], {"s": np.int64([0, 2, 3])}, (-1, 3)),
        ([node("Normalizer", ["input"], ["u"], domain=ML, norm="L2")], {}, (-1, 4)),
        ([node("Scaler", ["input"], ["u"], domain=ML, offset=[1.0], scale=[2.0])], {}, (-1, 4)),
        ([node("LinearRegressor", ["input"], ["u"], domain=ML, targets=2, coefficients=[1.0] * 8)], {}, (-1, 2)),
    ]  # fmt: skip
    for nodes, constants, due in cases:
        graph = model(*nodes, node("Identity", ["u"], ["margin"]), links=(), **constants)
        try:
            found = read_graph(graph)
            shape = (-1, found.n_outputs)
        except InvalidModel as error:
            shape = eval(str(error).split("margin has shape ")[1].split(", where")[0])  # noqa: S307 (of our own making)
        assert shape == due, nodes
        del graph.graph.output[:]
        graph.graph.output.append(onnx.ValueInfoProto(name="margin"))
        session = session_module.open_session(graph.SerializeToString())
        for n in (1, 5):
            (value,) = session.run(None, {"input": np.ones((n, 4), np.float32)})
            assert value.shape == tuple(-size * n if size < 0 else size for size in due), nodes


def svm(**changes: Any) -> onnx.NodeProto:
    attributes = {
        "classlabels_ints": [0, 1],
        "vectors_per_class": [1, 1],
        "support_vectors": [1.0] * 8,
        "coefficients": [1.0, -1.0],
        "rho": [0.0],
        "prob_a": [1.0],
        "prob_b": [0.0],
        "kernel_params": [0.5, 0.0, 3.0],
        "kernel_type": "RBF",
    }
    return node("SVMClassifier", ["input"], ["l", "margin"], domain=ML, **{**attributes, **changes})


def loop() -> onnx.NodeProto:
    body = helper.make_graph([], "b", [], [])
    return node("Loop", ["", "", "input"], ["margin"], body=body)


def doubling(times: int) -> onnx.ModelProto:
    """A small file that computes much: a value twice as wide, again and again."""
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=1) for i in range(times)]
    nodes[0].input[:] = ["input", "input"]
    last = node("ReduceSum", [f"v{times}", "axes"], ["margin"])
    return model(*nodes, last, axes=np.int64([1]))


def outer(to: str) -> onnx.ModelProto:
    return model(
        node("Mul", ["left", "right"], ["square"]),
        node("ReduceSum", ["square"], ["total"]),
        node("Mul", ["input", "total"], [to]),
        left=np.ones((1 << 15, 1), np.float32),
        right=np.ones((1, 1 << 15), np.float32),
    )


def stack() -> onnx.ModelProto:
    """Work without many values: the same large product again and again."""
    nodes = [node("MatMul", [f"v{i}" if i else "wide", "w"], [f"v{i + 1}"]) for i in range(200)]
    first = node("Gemm", ["input", "start"], ["wide"])
    last = node("ReduceSum", ["v200", "axes"], ["margin"])
    return model(
        first, *nodes, last, w=np.ones((1200, 1200), np.float32), start=np.ones((4, 1200), np.float32),
        axes=np.int64([1]),
    )  # fmt: skip


def function(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [], [helper.make_opsetid("", 18)]))
    return graph


def external(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.graph.initializer[0].data_location = TensorProto.EXTERNAL
    graph.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    return graph


def large(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]
    return graph


def sparse(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.graph.sparse_initializer.add().dims.extend([1 << 30, 1 << 30])
    return graph


HOSTILE: list[tuple[str, Callable[[], onnx.ModelProto], str]] = [
    ("loop", lambda: model(loop()), r"operator 0 \(ai.onnx:Loop\) is not among those that may be served"),
    ("scan", lambda: model(node("Scan", ["input"], ["margin"])), "Scan.* is not among"),
    ("if", lambda: model(node("If", ["input"], ["margin"])), "If.* is not among"),
    ("random", lambda: model(node("RandomNormalLike", ["input"], ["margin"])), "RandomNormalLike.* is not among"),
    ("expand", lambda: model(node("Expand", ["input", "s"], ["margin"]), s=np.int64([1, 4])), "Expand.* is not among"),
    ("tile", lambda: model(node("Tile", ["input", "s"], ["margin"]), s=np.int64([1, 4])), "Tile.* is not among"),
    ("trees", lambda: model(node("TreeEnsemble", ["input"], ["margin"], domain=ML)), "TreeEnsemb.*not among"),
    ("custom", lambda: model(node("Gemm", ["input"], ["margin"], domain="custom")), "custom:Gemm.* is not among"),
    ("function", lambda: function(net()), "functions of its own"),
    ("external", lambda: external(net()), "kept in another file"),
    ("sparse", lambda: sparse(net()), "sparse constants"),
    ("large constant", lambda: large(net()), "too large"),
    ("string constant", lambda: net(c=np.array(["a"], object)), "of a kind that may not be served"),
    ("doubling", lambda: doubling(40), rf"operator 1\d .*computes too much: more than {MAX_VALUES} values for a row"),
    ("outer product of constants", lambda: outer("margin"), r"operator 0 \(ai.onnx:Mul\) computes too much"),
    ("much work", stack, "computes too much: more than .* steps for a row"),
    ("rows by rows", lambda: model(node("Transpose", ["input"], ["t"]), node("MatMul", ["input", "t"], ["margin"])),
     "operator 1 .*computes more the more rows there are"),
    ("rows put together", lambda: model(node("ReduceSum", ["input", "s"], ["margin"]), s=np.int64([0])), "together"),
    ("softmax over rows", lambda: model(node("Softmax", ["input"], ["margin"], axis=0)), "puts rows together"),
    ("gathered rows", lambda: model(node("Gather", ["input", "s"], ["margin"]), s=np.int64([0] * 9)), "rows together"),
    ("concatenated rows", lambda: model(node("Concat", ["input", "input"], ["margin"], axis=0)), "puts rows together"),
    ("mismatch", lambda: net(w=np.ones((5, 3), np.float32)), "operator 0 .*do not go together"),
    ("reads nothing", lambda: model(node("Relu", ["ghost"], ["margin"])), "reads 'ghost', which nothing"),
    ("twice", lambda: model(node("Relu", ["input"], ["a"]), node("Relu", ["input"], ["a"]),
                            node("Relu", ["a"], ["margin"])), "computes 'a' again"),
    ("no margin", lambda: model(node("Relu", ["input"], ["other"]), links=()), "must compute margin"),
    ("not rows", lambda: model(node("Reshape", ["input", "s"], ["margin"]), s=np.int64([-1])), "margin has shape"),
    ("reshape to what is not known", lambda: model(node("Reshape", ["input", "input"], ["margin"])), "no constant of"),
    ("constant rows", lambda: model(node("Reshape", ["input", "s"], ["margin"]), s=np.int64([1, 4])), "does not fill"),
    ("old opset", lambda: model(node("Relu", ["input"], ["margin"]), opset=9), "opset 9 of 'ai.onnx' is not supported"),
    ("a link reads the input", lambda: model(node("Relu", ["input"], ["margin"]),
                                             links=(node("Neg", ["input"], ["prediction"]),)), "may not touch"),
    ("a link rewrites margin", lambda: model(node("Relu", ["input"], ["margin"]),
                                             links=(node("Neg", ["margin"], ["margin"]),)), "may not touch"),
    ("a link with weights", lambda: model(node("Relu", ["input"], ["margin"]),
                                          links=(node("Gemm", ["margin", "w"], ["prediction"]),),
                                          w=np.ones((4, 4), np.float32)), "trees and links only"),
    ("svm, vectors", lambda: model(svm(support_vectors=[1.0])), "support_vectors has 1 numbers; 8 are due"),
    ("svm, coefficients", lambda: model(svm(coefficients=[1.0])), "coefficients has 1 numbers; 2 are due"),
    ("svm, classes", lambda: model(svm(vectors_per_class=[-5, 7])), "vectors_per_class does not go with"),
    ("svm, kernel", lambda: model(svm(kernel_params=None)), "kernel_params has 0 numbers"),
    ("svm, shares", lambda: model(svm(prob_a=None, prob_b=None)), "no probabilities"),
    ("svm, offsets", lambda: model(svm(rho=None)), "rho has 0 numbers; 1 are due"),
    ("linear", lambda: model(node("LinearRegressor", ["input"], ["margin"], domain=ML, coefficients=[1.0])),
     "coefficients has 1 numbers; 4 are due"),
    ("linear, many targets", lambda: model(node("LinearRegressor", ["input"], ["margin"], domain=ML, targets=1 << 40)),
     "coefficients has 0 numbers"),
    ("scaler", lambda: model(node("Scaler", ["input"], ["margin"], domain=ML, offset=[1.0, 2.0])), "offset has 2"),
    ("topk", lambda: model(node("TopK", ["input", "k"], ["margin", "i"]), k=np.int64([1 << 40])), "1099511627776 of 4"),
    ("cast to strings", lambda: model(node("Cast", ["input"], ["margin"], to=TensorProto.STRING)), "casts to a type"),
    ("many operators", lambda: model(*(node("Relu", [f"v{i}" if i else "input"], [f"v{i + 1}"]) for i in range(600)),
                                     node("Relu", ["v600"], ["margin"])), "at most 512 operators"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), [one[1:] for one in HOSTILE], ids=[one[0] for one in HOSTILE])
def test_hostile_graphs(make: Callable[[], onnx.ModelProto], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("ONNX Runtime was given it")

    monkeypatch.setattr(session_module, "open_session", never)
    with pytest.raises(InvalidModel, match=says):
        served(make())


def test_svm_is_taken() -> None:
    predictor, core = served(model(svm(), links=(node("Identity", ["margin"], ["prediction"]),)))
    assert core.n_outputs == 2
    np.testing.assert_allclose(predictor.predict(BACKGROUND).margin.sum(axis=1), 1, atol=1e-6)


def test_rows_are_run_in_parts_where_a_row_takes_much(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = net(w=np.ones((4, 50_000), np.float32), v=np.full((50_000, 1), 1e-4, np.float32))
    predictor, core = served(wide)
    assert core.most_rows == (1 << 24) // 100_001
    rows = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    sizes = []
    run = predictor._session.run

    class Watched:
        def run(self, outputs: Any, given: Any) -> Any:
            sizes.append(len(given["input"]))
            return run(outputs, given)

    monkeypatch.setattr(predictor, "_session", Watched())
    found = predictor.predict(rows)
    assert sizes == [167, 167, 66]
    assert found.margin.shape == found.prediction.shape == (400, 1)
    np.testing.assert_array_equal(found.margin[399:], predictor.predict(rows[399:]).margin)


def test_a_background_beyond_reason_is_refused() -> None:
    files = {"background.npy": write_background(np.zeros((1001, 4), np.float32))}
    with pytest.raises(InvalidModel, match=r"1001 rows; .* at most 1000"):
        read_core(net(), "permutation", files)


def test_a_model_that_takes_for_ever_to_explain_is_refused() -> None:
    clock = iter(range(0, 10**12, 10**7))

    def predict(_rows: Any) -> None:
        next(clock)

    with pytest.raises(InvalidModel, match=r"explaining one row would take .* s, as the model is asked about"):
        calibrate_asked(predict, 10**12, BACKGROUND)


def test_any_flipped_byte_is_read_or_refused() -> None:
    data = net().SerializeToString()
    rng = np.random.default_rng(1)
    refused = 0
    for place in rng.choice(len(data), len(data), replace=False).tolist():
        damaged = data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        try:
            served(parse_model(damaged))
        except InvalidModel:
            refused += 1
    assert refused > len(data) // 3
