"""Models that are neither trees nor linear, and those that are refused: the list that docs/models.md shows.

``python -m tests.matrix.asked_models`` prints the table for the docs.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from tests.matrix.data import people
from xai_service.model.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array, Float64Array

COLUMNS = [0, 1, 2, 3, 4, 5, 6]  # few enough for brute force


@dataclass(frozen=True, eq=False)
class AskedCase:
    """A model; what it answers: ``output`` of float32 rows; ``X`` to pack with; options of `pack`."""

    model: Any
    output: Callable[[Float32Array], Float64Array]
    X: Float32Array
    options: dict[str, Any] = field(default_factory=dict)


@functools.cache
def rows(*, scaled: bool = True) -> Float32Array:
    raw = people().filled[:, COLUMNS]
    return StandardScaler().fit_transform(raw).astype(np.float32) if scaled else raw


def background(*, scaled: bool = True) -> dict[str, Any]:
    return {"background": rows(scaled=scaled)[:24]}


def fitted(model: Any, target: str, *, scaled: bool = True, **options: Any) -> Callable[[], AskedCase]:
    """Returns what fits a scikit-learn model."""

    def fit() -> AskedCase:
        y = people().targets[target]
        X = rows(scaled=scaled)
        has_classes = hasattr(model, "classes") or type(model).__name__.endswith(("Classifier", "SVC", "NB"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of nets that could be trained longer
            model.fit(X, y.astype(int) if has_classes else y)

        def output(asked: Float32Array) -> Float64Array:
            values = asked.astype(np.float64)
            return model.predict_proba(values) if hasattr(model, "predict_proba") else model.predict(values)[:, None]

        return AskedCase(model, output, X, {**background(scaled=scaled), **options})

    return fit


def network(kind: Any = MLPClassifier, **given: Any) -> Any:
    return kind(hidden_layer_sizes=(6, 5), max_iter=60, random_state=0, **given)


def of_file(make: Callable[[], onnx.ModelProto], **options: Any) -> Callable[[], AskedCase]:
    """Returns what hands over an ONNX file, whose own last output is the answer."""

    def hand_over() -> AskedCase:
        file = make()

        @functools.cache
        def session() -> Any:
            return open_session(file.SerializeToString())

        def output(asked: Float32Array) -> Float64Array:
            found = session().run(None, {file.graph.input[0].name: asked})[-1]
            if isinstance(found, list):
                found = np.array([list(one.values()) for one in found])
            return np.asarray(found, np.float64).reshape(len(asked), -1)

        return AskedCase(file, output, rows(), {**background(), **options})

    return hand_over


def converted(model: Any, target: str) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        y = people().targets[target]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(rows(), y.astype(int) if hasattr(model, "predict_proba") else y)
            file: onnx.ModelProto = to_onnx(model, rows()[:1], target_opset={"": 18, "ai.onnx.ml": 3})
        return file

    return make


def exported(last: str, width: int) -> Callable[[], onnx.ModelProto]:
    """As a deep-learning framework exports a net: Gemm with transposed weights, an activation, a last function."""

    def make() -> onnx.ModelProto:
        rng = np.random.default_rng(3)
        constants = {
            "fc1.weight": rng.normal(size=(8, len(COLUMNS))), "fc1.bias": rng.normal(size=8),
            "fc2.weight": rng.normal(size=(width, 8)), "fc2.bias": rng.normal(size=width),
        }  # fmt: skip
        nodes = [
            helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], transB=1),
            helper.make_node("Elu", ["h"], ["a"]),
            helper.make_node("Gemm", ["a", "fc2.weight", "fc2.bias"], ["z"], transB=1),
            helper.make_node(last, ["z"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", len(COLUMNS)])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    return make


def looping() -> onnx.ModelProto:
    file = exported("Sigmoid", 1)()
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info(*one, []) for one in (("i", TensorProto.INT64), ("c", TensorProto.BOOL))],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    file.graph.node[1].CopyFrom(helper.make_node("Loop", ["h", ""], ["a"], body=body, name="spin"))
    return file


PACKED: tuple[tuple[str, Callable[[], AskedCase]], ...] = (
    ("`MLPClassifier`", fitted(network(), "well paid")),
    ("`MLPClassifier` of several classes, `tanh`", fitted(network(activation="tanh"), "third")),
    ("`MLPRegressor`, `logistic`", fitted(network(MLPRegressor, activation="logistic"), "log wage")),
    ("`SVC(probability=True)`", fitted(SVC(probability=True, random_state=0), "well paid")),
    ("`SVC(probability=True)` of several classes", fitted(SVC(probability=True, random_state=0), "third")),
    (
        "`MLPRegressor` behind a `StandardScaler`",
        fitted(make_pipeline(StandardScaler(), network(MLPRegressor)), "wage", scaled=False),
    ),
    (
        "`MLPClassifier`, `raw_score`, drawn background",
        fitted(network(), "well paid", background_rows=20, raw_score=True),
    ),
    ("ONNX file: a net that ends in `Sigmoid`", of_file(exported("Sigmoid", 1))),
    ("ONNX file: a net that ends in `Softmax`", of_file(exported("Softmax", 3))),
    ("ONNX file: a net that ends in `Softmax` of two", of_file(exported("Softmax", 2))),
    ("ONNX file: a net that ends in `Identity`", of_file(exported("Identity", 2))),
    ("ONNX file: skl2onnx, `MLPClassifier` with `ZipMap`", of_file(converted(network(), "third"))),
    (
        "ONNX file: skl2onnx, `SVC` with `ZipMap`",
        of_file(converted(SVC(probability=True, random_state=0), "well paid")),
    ),
)

REFUSED: tuple[tuple[str, Callable[[], AskedCase], str, str], ...] = (
    (
        "no background",
        fitted(network(), "well paid", background=None),
        "it is explained against one",
        "explained by asking it, against a background: give some hundred rows",
    ),
    (
        "a background of more than 1,000 rows",
        fitted(network(), "well paid", background=np.zeros((1001, len(COLUMNS)), np.float32)),
        "each is asked about thousands of times; draw some",
        r"1001 rows; .* at most 1000 .*draw some \(background_rows=100",
    ),
    (
        "`SVC` without probabilities",
        fitted(SVC(), "well paid"),
        "it predicts no probability",
        "SVC is not supported, as it predicts no probability: .*probability=True",
    ),
    (
        "`SVR`",
        fitted(SVR(), "log wage"),
        "ONNX Runtime gives a row other bits alone than among others",
        "gives row .* of X other bits among",
    ),
    (
        "`KNeighborsRegressor`",
        fitted(KNeighborsRegressor(), "log wage"),
        "ONNX Runtime gives a row other bits alone than among others",
        "gives row .* of X other bits among",
    ),
    (
        "`KNeighborsClassifier` of whole numbers",
        fitted(KNeighborsClassifier(), "well paid"),
        "neighbours that are as near as each other are chosen otherwise; the gate shows the row",
        r"the ONNX model and the native model differ: worst at caller row \d+",
    ),
    (
        "`GaussianNB`",
        fitted(GaussianNB(), "well paid"),
        "ONNX Runtime gives a row other bits alone than among others",
        "gives row .* of X other bits among",
    ),
    (
        "`GaussianProcessRegressor`",
        fitted(GaussianProcessRegressor(), "log wage"),
        "skl2onnx makes of it what is not served",
        r"operator \d+ .*\(ai.onnx:Shape\) is not among those that may be served",
    ),
    (
        "`MLPClassifier` of several labels",
        fitted(network(), "labels"),
        "pack a model for each",
        "MLPClassifier of several labels is not supported",
    ),
    (
        "ONNX file: control flow",
        of_file(looping, background=rows()[:9]),
        "a bundle could keep the server busy for ever",
        r"'spin' \(ai.onnx:Loop\) is not among those that may be served",
    ),
    (
        '`covers="count"`',
        fitted(network(), "well paid", covers="count"),
        "it has no covers",
        "a model without trees has no covers",
    ),
)


def table() -> str:
    """Returns the table of docs/models.md."""
    lines = ["| other model | result |", "|---|---|"]
    lines += [f"| {name} | packed |" for name, _ in PACKED]
    lines += [f"| {name} | refused: {why} |" for name, _, why, _ in REFUSED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - for the docs
