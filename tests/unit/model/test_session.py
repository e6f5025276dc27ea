"""ONNX Runtime serves trees and links, nothing else: no operator, constant or shape that the service does not know."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import forests
from xai_service.errors import InvalidModel
from xai_service.model.onnx_trees import parse_model, read_forest
from xai_service.model.session import OrtPredictor

if TYPE_CHECKING:
    from xai_service.types import Float32Array

ROWS = np.array([[a, b] for a in (*forests.VALUES, np.nan) for b in (*forests.VALUES, np.nan)], np.float32)


def load(model: onnx.ModelProto, *outputs: str) -> OrtPredictor:
    """Loads the file as a snapshot does."""
    return load_bytes(model.SerializeToString(), *outputs)


def load_bytes(data: bytes, *outputs: str) -> OrtPredictor:
    parsed = parse_model(data)
    read_forest(parsed)
    return OrtPredictor(parsed, data, outputs)


def test_what_is_asked_for_is_what_comes(regression: onnx.ModelProto, classifier: onnx.ModelProto) -> None:
    margin = read_forest(regression).predict(ROWS)
    predicted = load(regression, "prediction").predict(ROWS)
    np.testing.assert_array_equal(predicted.margin, margin)
    np.testing.assert_allclose(predicted.prediction, np.exp(margin), rtol=1e-6)
    assert predicted.labels is None
    assert predicted.probabilities is None
    assert predicted.started_ns <= predicted.finished_ns

    classified = load(classifier, "label", "probabilities").predict(ROWS)
    np.testing.assert_array_equal(classified.margin, margin)
    assert classified.prediction is None
    assert classified.probabilities is not None
    np.testing.assert_allclose(classified.probabilities[:, 1], 1 / (1 + np.exp(-margin[:, 0])), rtol=1e-6)
    np.testing.assert_array_equal(classified.labels, margin[:, 0] > 0)
    only = load(classifier).predict(ROWS)
    np.testing.assert_array_equal(only.margin, margin)
    assert only.labels is None


def test_one_thread_within_a_run(regression: onnx.ModelProto) -> None:
    options = load(regression)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert load(regression)._session.get_providers() == ["CPUExecutionProvider"]


def test_a_rows_bits_depend_on_no_neighbour_and_no_thread() -> None:
    rng = np.random.default_rng(5)
    trees = [forests.random_tree(rng, 6, 5) for _ in range(80)]
    predictor = load(forests.onnx_model(forests.ensemble_attributes(trees, 6), 6))
    rows = rng.normal(size=(400, 6)).astype(np.float32)
    together = predictor.predict(rows).margin

    def alone(part: Float32Array) -> bytes:
        return predictor.predict(part).margin.tobytes()

    with ThreadPoolExecutor(8) as pool:
        for size in (1, 7, 400):
            parts = [rows[i : i + size] for i in range(0, 400, size)]
            assert b"".join(pool.map(alone, parts)) == together.tobytes()
        assert set(pool.map(alone, [rows] * 64)) == {together.tobytes()}


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def subgraph() -> onnx.GraphProto:
    return helper.make_graph([node("Identity", ["margin"], "y")], "g", [], [onnx.ValueInfoProto(name="y")])


def external(tensor: TensorProto) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    tensor.ClearField("raw_data")
    return tensor


@pytest.mark.parametrize(
    ("foreign", "says"),
    [
        (node("If", ["margin"], "z", then_branch=subgraph(), else_branch=subgraph()), "not .*If"),
        (node("Loop", ["", "", "margin"], "z", body=subgraph()), "not .*Loop"),
        (node("Scan", ["margin"], "z", body=subgraph(), num_scan_inputs=1), "not .*Scan"),
        (node("Constant", [], "z", value=numpy_helper.from_array(np.zeros(9))), "not .*Constant"),
        (node("RandomNormal", [], "z", shape=[1 << 20, 1 << 20]), "not .*RandomNormal"),
        (node("Expand", ["margin", "k"], "z"), "not .*Expand"),
        (node("Reshape", ["margin", "k"], "z"), "not .*Reshape"),
        (node("Identity", ["margin"], "z", domain="com.example"), "not .*com.example:Identity"),
        (node("Sigmoid", ["margin"], "z", domain="com.microsoft"), "not .*com.microsoft:Sigmoid"),
        (node("Cast", ["margin"], "z", to=helper.make_graph([], "g", [], [])), "must be numbers"),
        (node("Cast", ["margin"], "z", to=numpy_helper.from_array(np.zeros(9))), "must be numbers"),
        (node("Cast", ["margin"], "z", to="x"), "must be numbers"),
        (node("Concat", ["margin"] * 9, "z", axis=0), "16 links of 8 inputs"),
        (node("Sigmoid", ["nothing"], "z"), "ONNX Runtime refuses"),
        (node("Sigmoid", ["margin"], "margin"), "ONNX Runtime refuses"),
        (node("Sigmoid", ["z"], "z"), "ONNX Runtime refuses"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_foreign_nodes(regression: onnx.ModelProto, foreign: onnx.NodeProto, says: str) -> None:
    regression.graph.node.append(foreign)
    with pytest.raises(InvalidModel, match=says):
        load(regression, "prediction")


def test_what_makes_much_of_little(regression: onnx.ModelProto) -> None:
    """Thirty doublings of a small constant: a file of 6 kB that would compute a trillion numbers."""
    bomb = onnx.ModelProto()
    bomb.CopyFrom(regression)
    bomb.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "c0"))
    bomb.graph.node.extend(node("Concat", [f"c{i}"] * 2, f"c{i + 1}", axis=0) for i in range(30))
    with pytest.raises(InvalidModel, match="at most"):
        load(bomb)
    del bomb.graph.node[4:]
    with pytest.raises(InvalidModel, match="one Concat at most"):
        load(bomb)
    square = onnx.ModelProto()
    square.CopyFrom(regression)
    square.graph.node.extend([node("Squeeze", ["margin"], "flat"), node("Mul", ["flat", "margin"], "square")])
    with pytest.raises(InvalidModel, match="what Squeeze gives must be an output"):
        load(square)
    long = onnx.ModelProto()
    long.CopyFrom(regression)
    long.graph.node.extend(node("Neg", ["margin"], f"n{i}") for i in range(16))
    with pytest.raises(InvalidModel, match="16 links"):
        load(long)


def test_the_place_of_the_greatest_margin_is_an_output_and_nothing_else(regression: onnx.ModelProto) -> None:
    """With a dimension less, it would make a square of a column."""
    regression.graph.node.append(node("ArgMax", ["margin"], "label", axis=1, keepdims=0))
    regression.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    np.testing.assert_array_equal(load(regression, "label").predict(ROWS).labels, np.zeros(len(ROWS)))
    regression.graph.node.append(node("Cast", ["label"], "z", to=1))
    with pytest.raises(InvalidModel, match="what ArgMax gives must be an output"):
        load(regression, "label")


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (external(numpy_helper.from_array(np.zeros((), np.float32), "k")), "data in other files"),
        (numpy_helper.from_array(np.zeros(2, np.float32), "k"), "one number each"),
        (numpy_helper.from_array(np.zeros((1, 1), np.float32), "k"), "one number each"),
        (TensorProto(name="k", data_type=1, dims=[1 << 40]), "one number each"),
        (TensorProto(name="k", data_type=1, dims=[0]), "one number each"),
        (TensorProto(name="k", data_type=1, dims=[-1]), "one number each"),
        (TensorProto(name="k", data_type=1, dims=[1]), "ONNX Runtime refuses"),
        (TensorProto(name="k", data_type=99, dims=[1]), "ONNX Runtime refuses"),
        (numpy_helper.from_array(np.zeros((), np.float32), "margin"), "ONNX Runtime refuses"),
    ],
)
def test_foreign_constants(regression: onnx.ModelProto, tensor: TensorProto, says: str) -> None:
    regression.graph.initializer.append(tensor)
    regression.graph.node.append(node("Add", ["margin", "k"], "z"))
    with pytest.raises(InvalidModel, match=says):
        load(regression, "prediction")


def test_sparse_constants(regression: onnx.ModelProto) -> None:
    sparse = regression.graph.sparse_initializer.add(dims=[1])
    sparse.values.CopyFrom(external(numpy_helper.from_array(np.zeros(1, np.float32), "k")))
    with pytest.raises(InvalidModel, match="sparse constants"):
        load(regression)


def test_outputs_are_what_they_are_called(classifier: onnx.ModelProto, regression: onnx.ModelProto) -> None:
    with pytest.raises(InvalidModel, match=r"lacks the outputs \['label', 'probabilities'\]"):
        load(regression, "label", "probabilities")
    renamed = onnx.ModelProto.FromString(regression.SerializeToString().replace(b"margin", b"morgen"))
    with pytest.raises(InvalidModel, match="trees' output must be named margin, not 'morgen'"):
        load(renamed, "prediction")
    hidden = onnx.ModelProto()
    hidden.CopyFrom(regression)
    del hidden.graph.output[0]
    with pytest.raises(InvalidModel, match=r"lacks the outputs \['margin'\]"):
        load(hidden, "prediction")
    posing = onnx.ModelProto()
    posing.CopyFrom(classifier)
    posing.graph.node[0].output[0] = "hidden"
    posing.graph.node.append(node("Neg", ["hidden"], "margin"))
    with pytest.raises(InvalidModel, match="trees' output must be named margin, not 'hidden'"):
        load(posing, "label", "probabilities")


@pytest.mark.parametrize(
    ("links", "kind", "says"),
    [
        ([node("Identity", ["margin"], "label")], TensorProto.FLOAT, r"output label is float32 \(1, 1\) for 1 rows"),
        ([node("Cast", ["margin"], "label", to=7)], TensorProto.INT64, r"int64 \(1, 1\).*must be int64 \(1,\)"),
        ([node("Cast", ["margin"], "label", to=8)], TensorProto.STRING, "label is object"),
        ([node("Cast", ["margin"], "l", to=7), node("Squeeze", ["l"], "label")], TensorProto.INT64, r"is int64 \(\)"),
        (
            [node("Concat", ["margin", "margin"], "c", axis=0), node("Cast", ["c"], "d", to=7),
             node("Squeeze", ["d", "axes"], "label")],
            TensorProto.INT64,
            r"label is int64 \(2,\) for 1 rows",
        ),
        ([node("Concat", ["margin"], "label", axis=7)], TensorProto.FLOAT, "ONNX Runtime (refuses|cannot run)"),
    ],
)  # fmt: skip
def test_outputs_have_their_shape_and_type(links: list[onnx.NodeProto], kind: int, says: str) -> None:
    model = forests.onnx_model(forests.ensemble_attributes([("leaf", 1.0, 1.0)], 2), 2)
    model.graph.node.extend(links)
    model.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
    model.graph.output.append(helper.make_tensor_value_info("label", kind, None))
    with pytest.raises(InvalidModel, match=says):
        load(model, "label")


def test_any_number_of_rows_must_do(regression: onnx.ModelProto) -> None:
    regression.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(InvalidModel, match="cannot run the model on 3 rows"):
        load(regression, "prediction")


def test_a_file_from_the_future(regression: onnx.ModelProto) -> None:
    regression.ir_version = 1 << 20
    with pytest.raises(InvalidModel, match="ONNX Runtime refuses the model"):
        load(regression)


def test_bytes_that_are_not_the_parsed_file(regression: onnx.ModelProto) -> None:
    with pytest.raises(InvalidModel, match="ONNX Runtime refuses the model"):
        OrtPredictor(regression, b"garbage", ())


def test_names_that_are_not_text_are_refused_and_nothing_is_printed(
    regression: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's Python part would print to stdout, before the line that says that the server listens."""
    data = regression.SerializeToString()
    places = [i for i in range(len(data)) if data.startswith((b"margin", b"input", b"prediction", b"forest"), i)]
    for place in places:
        bad = data[:place] + b"\xff" + data[place + 1 :]
        with pytest.raises(InvalidModel):
            load_bytes(bad, "prediction")
    with pytest.raises(InvalidModel, match=r"GraphProto\.name is not UTF-8: b'\\xfforest'"):
        load(onnx.ModelProto.FromString(data.replace(b"forest", b"\xfforest")), "prediction")
    with pytest.raises(InvalidModel, match="ONNX Runtime refuses"):
        OrtPredictor(regression, b"garbage", ())
    assert capfd.readouterr() == ("", "")
