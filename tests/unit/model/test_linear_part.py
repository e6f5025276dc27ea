"""The strict reader of linear files: what it takes, and hostile files that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from tests.flights import flights
from xai_service.errors import InvalidModel
from xai_service.model.explainers import read_core
from xai_service.model.linear_part import layout, read_linear
from xai_service.model.onnx_trees import parse_model
from xai_service.model.session import OrtPredictor, open_session
from xai_service.pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def scorecard(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Numbers with gaps, and strings."""
    parts = [("n", SimpleImputer(), ["dep_delay", "distance"]), ("s", OneHotEncoder(), ["origin"])]
    X, y = flights().train.iloc[:600], flights().late.iloc[:600]
    model = Pipeline([("c", ColumnTransformer(parts)), ("m", LogisticRegression(max_iter=500))]).fit(X, y)
    return onnx.load(pack(model, X, name="m", out=tmp_path_factory.mktemp("m"), missing="all") / "model.onnx")


def served(model: onnx.ModelProto) -> Any:
    """As a server loads it."""
    model = parse_model(model.SerializeToString())
    core = read_core(model, "linear", {})
    return OrtPredictor(
        model, model.SerializeToString(), ("label", "probabilities"), 2, (core.nodes, core.constants)
    ), core


def test_a_whole_file_is_read(scorecard: onnx.ModelProto) -> None:
    predictor, core = served(scorecard)
    graph = read_linear(scorecard)
    assert graph.part.weights.shape == (3, 1)
    assert graph.trees is not None
    assert [node.op_type for node in scorecard.graph.node[:7]] == [
        step[0] for step in layout(has_fill=True, has_trees=True)
    ]
    margin = predictor.predict(core.rows).margin
    explainer = core.explainer(lambda rows: predictor.predict(rows).margin)
    phi = explainer.explain(core.rows)
    np.testing.assert_allclose(phi.sum(axis=1) + explainer.base_values, margin, rtol=1e-5, atol=1e-6)


def test_gemm_gives_a_row_the_same_bits_in_any_batch() -> None:
    """What the file multiplies by is chosen for this: ``LinearRegressor`` of ai.onnx.ml does not."""
    rng = np.random.default_rng(0)
    for features, outputs in ((3, 1), (17, 1), (64, 3), (300, 10), (1000, 1)):
        constants = {"weights": rng.normal(size=(features, outputs)), "base": rng.normal(size=outputs)}
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["input", "weights", "base"], ["margin"])],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, features])],
            [helper.make_tensor_value_info("margin", TensorProto.FLOAT, [None, outputs])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        session = open_session(model.SerializeToString())
        rows = rng.normal(size=(257, features)).astype(np.float32)
        (whole,) = session.run(None, {"input": rows})
        for size in (1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 100):
            for start in (0, 11, 150):
                (part,) = session.run(None, {"input": rows[start : start + size]})
                np.testing.assert_array_equal(part, whole[start : start + size], err_msg=f"{features} {outputs} {size}")


def constant(of: str, values: Any, **changes: Any) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == of)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), of))
        for field, value in changes.items():
            setattr(tensor, field, value)

    return damage


def node(place: int, **changes: Any) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        for field, value in changes.items():
            if isinstance(value, list):
                getattr(model.graph.node[place], field)[:] = value
            else:
                setattr(model.graph.node[place], field, value)

    return damage


def attribute(place: int, name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        model.graph.node[place].attribute.append(helper.make_attribute(name, value))

    return damage


def dropped(place: int) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        del model.graph.node[place]

    return damage


def another(*added: Any) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(*added))

    return damage


def wide_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def external(model: onnx.ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == "mean")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("", "Gemm", ["a"], ["b"], [], [helper.make_opsetid("", 18)]))


def twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "mean"))


def huge(model: onnx.ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == "weights")
    tensor.dims[:] = [1 << 40, 1 << 20]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (node(0, op_type="Add"), r"operator 0 of a linear model must be Sub\(input, mean\).*is Add"),
        (node(0, input=["mean", "input"]), "operator 0 .*must be Sub"),
        (node(1, input=["input", "rest"]), "operator 1 .*must be Sub"),
        (node(4, domain="custom"), "operator 4 .*must be Gemm"),
        (attribute(4, "alpha", 2.0), "operator 4 .*without attributes"),
        (attribute(4, "transB", 1), "operator 4 .*without attributes"),
        (node(5, op_type="TreeEnsembleClassifier"), "operator 4 of a linear model must be Gemm"),
        (dropped(3), "operator 2 of a linear model must be Gemm"),
        (dropped(6), "operator 6 .*must be Add"),
        (constant("weights", np.float32([[1.0]])), "fill has shape"),
        (constant("weights", np.float32([1.0, 2, 3])), "weights have shape"),
        (constant("weights", np.full((3, 1), np.nan, np.float32)), "weights holds a number that is not finite"),
        (constant("mean", np.float32([1, np.inf, 0])), "mean holds a number that is not finite"),
        (constant("mean", np.float64([1, 2, 3])), "mean must be a tensor of at most two dimensions"),
        (constant("base", np.float32([1, 2])), "base has shape"),
        (constant("fill", np.float32([0, 0, 0]), name="filling"), "a linear model has the constants"),
        (constant("fill", np.float32([0, 0, 0]), raw_data=b"123"), "fill does not hold what it says"),
        (constant("fill", np.float32([0, 0, 0]), name="centred"), "bears the name of what is computed"),
        (huge, "weights must be a tensor of at most two dimensions"),
        (external, "keeps data in other files"),
        (function, "functions of its own"),
        (twice, "two constants mean"),
        (wide_input, "the graph's input has 5 features"),
        (another("Identity", ["centred"], ["spy"]), "centred belongs to the linear part"),
        (another("Exp", ["weights"], ["spy"]), "weights belongs to the linear part"),
        (another("Identity", ["scale"], ["margin"]), "margin belongs to the linear part"),
        (another("Expand", ["margin", "one"], ["spy"]), "trees and links only, not"),
        (another("Loop", ["one", "one"], ["spy"]), "trees and links only, not"),
        (another("Gemm", ["margin", "one"], ["spy"]), "trees and links only, not"),
    ],
)
def test_hostile_files(scorecard: onnx.ModelProto, damage: Callable[[onnx.ModelProto], None], says: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(scorecard)
    served(model)
    damage(model)
    with pytest.raises(InvalidModel, match=says):
        served(model)


def test_any_flipped_byte_is_read_or_refused(scorecard: onnx.ModelProto) -> None:
    data = scorecard.SerializeToString()
    rng = np.random.default_rng(2)
    refused = 0
    for place in rng.choice(len(data), 300, replace=False).tolist():
        damaged = data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        try:
            served(parse_model(damaged))
        except InvalidModel:
            refused += 1
    assert refused > 100


def test_a_file_of_trees_alone_is_not_taken_for_linear(loan_repository: Path) -> None:
    model = onnx.load(loan_repository / "loan/1/model.onnx")
    with pytest.raises(InvalidModel, match="operator 0 of a linear model must be Sub"):
        read_linear(model)
