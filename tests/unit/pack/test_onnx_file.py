"""Foreign ONNX files: what is understood, what is refused and how it says so, and hostile files."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import forests
from tests.matrix.onnx_models import opset_5, regressor
from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack, readers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TREES = [
    ("split", 0, 0.5, "<", True, ("leaf", 1.0, 2.0),
     ("split", 1, -1.5, "<=", False, ("leaf", 4.0, 3.0), ("leaf", -2.0, 1.0))),
    ("split", 1, 0.0, "<", False, ("leaf", -1.0, 3.0), ("leaf", 0.5, 3.0)),
]  # fmt: skip
X = np.array([[0.0, -2.0], [0.5, -1.5], [1.0, 0.0], [np.nan, 3.0], [0.7, np.nan]], np.float32)


def changed(attributes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**attributes, **changes}.items() if value is not None}


def a_regressor(**changes: Any) -> onnx.ModelProto:
    return forests.onnx_model(changed(forests.ensemble_attributes(TREES, 2), **changes), 2)


def a_classifier(classes: int = 2, **changes: Any) -> onnx.ModelProto:
    old = forests.ensemble_attributes(TREES, 2)
    attributes = {name.replace("target_", "class_"): value for name, value in old.items() if name != "n_targets"}
    attributes = changed({**attributes, "classlabels_int64s": list(range(classes))}, **changes)
    node = helper.make_node("TreeEnsembleClassifier", ["input"], ["l", "p"], domain="ai.onnx.ml", **attributes)
    model = a_regressor()
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(node)
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("l", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, classes]),
        ]
    )
    return model


def with_tail(*nodes: onnx.NodeProto, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    model = a_regressor()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (constants or {}).items()
    )
    model.graph.output[0].name = nodes[-1].output[0]
    return model


def with_head(*nodes: onnx.NodeProto, reads: str) -> onnx.ModelProto:
    model = a_regressor()
    trees = model.graph.node.pop()
    trees.input[0] = reads
    model.graph.node.extend([*nodes, trees])
    return model


# What is understood


def margins(model: onnx.ModelProto, rows: Any = X) -> Any:
    return readers.read(model).predict(rows)[0][:, 0]


@pytest.mark.parametrize(
    ("nodes", "constants", "link", "expected"),
    [
        ([("Neg", ["margin"], ["y"])], {}, "identity", lambda m: -m),
        ([("Mul", ["margin", "c"], ["y"])], {"c": 3}, "identity", lambda m: 3 * m),
        ([("Div", ["margin", "c"], ["y"])], {"c": [4]}, "identity", lambda m: m / 4),
        ([("Add", ["c", "margin"], ["y"])], {"c": [[4]]}, "identity", lambda m: m + 4),
        ([("Sub", ["margin", "c"], ["y"])], {"c": 4}, "identity", lambda m: m - 4),
        ([("Sub", ["c", "margin"], ["y"])], {"c": 4}, "identity", lambda m: 4 - m),
        (
            [("Mul", ["margin", "c"], ["a"]), ("Add", ["a", "d"], ["b"]), ("Sigmoid", ["b"], ["y"])],
            {"c": 2, "d": 0.25}, "logistic", lambda m: 1 / (1 + np.exp(-(2 * m + 0.25))),
        ),
        ([("Exp", ["margin"], ["a"]), ("Mul", ["a", "c"], ["y"])], {"c": 5}, "exponential", lambda m: 5 * np.exp(m)),
        ([("Identity", ["margin"], ["y"])], {}, "identity", lambda m: m),
    ],
)  # fmt: skip
def test_simple_heads(
    nodes: Any, constants: dict[str, Any], link: str, expected: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = with_tail(*(helper.make_node(*node) for node in nodes), constants=constants)
    snapshot = ModelSnapshot.load(pack(model, X, name="m", out=tmp_path))
    assert (snapshot.manifest.task, snapshot.manifest.link) == ("regression", link)
    due = expected(margins(a_regressor()))
    np.testing.assert_allclose(snapshot.predict(X).prediction[:, 0], due, rtol=1e-6)
    assert snapshot.manifest.cover == "node_hitrates"


def test_labels_are_the_files(tmp_path: Path) -> None:
    model = a_classifier(post_transform="LOGISTIC", classlabels_int64s=None, classlabels_strings=["no", "yes"])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    manifest = ModelSnapshot.load(pack(model, X, name="m", out=tmp_path)).manifest
    assert manifest.classes == ("no", "yes")


def test_the_converter_is_named(tmp_path: Path) -> None:
    model = a_regressor()
    for name, version, due in (
        ("skl2onnx", "1.20.0", "1.20.0"),
        ("a b", "1", None),
        ("x", "", None),
        ("x", "\n", None),
    ):
        model.producer_name, model.producer_version = name, version
        made_by = ModelSnapshot.load(pack(model, X, name="m", out=tmp_path)).manifest.made_by
        assert made_by.get(f"converter.{name}") == due
        assert made_by["onnx"] == onnx.__version__


def test_chains_of_categories_become_sets() -> None:
    tree = ("split", 0, (1.0, 3.0, 7.0), "in", False, ("leaf", 1.0, 2.0), ("leaf", -1.0, 5.0))
    chain = {
        "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0] * 5,
        "nodes_modes": ["BRANCH_EQ", "LEAF", "BRANCH_EQ", "BRANCH_EQ", "LEAF"], "nodes_values": [3.0, 0, 7.0, 1.0, 0],
        "nodes_truenodeids": [1, 0, 1, 1, 0], "nodes_falsenodeids": [2, 0, 3, 4, 0],
        "nodes_missing_value_tracks_true": [1, 0, 1, 1, 0], "nodes_hitrates": [7.0, 2, 6, 5, 5],
        "target_treeids": [0, 0], "target_nodeids": [1, 4], "target_ids": [0, 0], "target_weights": [1.0, -1.0],
    }  # fmt: skip
    native = readers.read(a_regressor(**chain))
    (one,) = native.trees
    assert one.codes(0).tolist() == list(tree[2])
    assert one.missing_left[0]
    assert (native.categorical, native.cover) == ({0}, "node_hitrates")
    rows = np.array([[v, 0] for v in (0, 1, 2, 3, 7, 8, np.nan)], np.float32)
    assert native.predict(rows)[0][:, 0].tolist() == [-1, 1, -1, 1, 1, -1, 1]
    with pytest.raises(PackRefused, match="node 2 and the next of its chain of category splits differ"):
        readers.read(a_regressor(**changed(chain, nodes_missing_value_tracks_true=[0, 0, 0, 1, 0])))


def test_sets_of_opset_5(tmp_path: Path) -> None:
    """A split by a set that NaN ends, and one on a single category the other way round."""
    kinds = {
        "nodes_modes": np.array([6, 5, 0], np.uint8),
        "nodes_splits": np.array([0, 4, 0.5], np.float32),
        "membership_values": np.array([1, 3, np.nan], np.float32),
        "leaf_weights": np.array([1, 2, 3, 4], np.float32),
    }
    model = opset_5(
        **{name: numpy_helper.from_array(values) for name, values in kinds.items()},
        nodes_featureids=[0, 0, 1], nodes_truenodeids=[0, 2, 2], nodes_trueleafs=[1, 0, 1],
        nodes_falsenodeids=[1, 1, 3], nodes_falseleafs=[0, 1, 1], nodes_missing_value_tracks_true=[0, 0, 0],
        tree_roots=[0], leaf_targetids=[0, 0, 0, 0],
    )  # fmt: skip
    rows = np.zeros((6, 10), np.float32)
    rows[:, 0] = [0, 1, 3, 4, 4, np.nan]
    rows[:, 1] = [0, 0, 0, 0, 9, 9]
    snapshot = ModelSnapshot.load(pack(model, rows, name="m", out=tmp_path, covers="count"))
    assert snapshot.predict(rows).margin[:, 0].tolist() == [3, 1, 1, 2, 2, 4]
    assert [feature.kind for feature in snapshot.manifest.features[:2]] == ["categorical", "numeric"]


def test_raw_score_of_a_file_whose_probabilities_are_none(tmp_path: Path) -> None:
    snapshot = ModelSnapshot.load(pack(a_classifier(), X, name="m", out=tmp_path, raw_score=True))
    assert snapshot.manifest.task == "regression"
    np.testing.assert_array_equal(snapshot.predict(X).prediction[:, 0], margins(a_regressor()))


# What is refused


ZIPPED = {"classlabels_int64s": [0, 1]}


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (with_tail(helper.make_node("Tanh", ["margin"], ["y"])), r"operator 1 \(ai\.onnx:Tanh\) is not known here: .*"),
        (with_tail(helper.make_node("Tanh", ["margin"], ["y"], name="squash")), r"operator 1 'squash' \(ai\.onnx"),
        (with_tail(helper.make_node("Add", ["margin", "margin"], ["y"])), r"ai\.onnx:Add"),
        (with_tail(helper.make_node("Add", ["margin", "input"], ["y"])), r"ai\.onnx:Add"),
        (with_tail(helper.make_node("Softmax", ["margin"], ["y"])), r"ai\.onnx:Softmax"),
        (with_tail(helper.make_node("Add", ["margin", "no"], ["y"])), "reads 'no', which nothing before it computes"),
        (with_tail(helper.make_node("Mul", ["margin", "c"], ["y"]), constants={"c": [1.0, 2.0]}), r"ai\.onnx:Mul"),
        (with_tail(helper.make_node("Mul", ["margin", "c"], ["y"], domain="x.y"), constants={"c": 1}), r"\(x\.y:Mul\)"),
        (with_head(helper.make_node("Scaler", ["input"], ["s"], domain="ai.onnx.ml"), reads="s"), r"operator 0 .*Sca"),
        (with_head(helper.make_node("Cast", ["input"], ["s"], to=TensorProto.INT64), reads="s"), r"Cast\) to INT64"),
        (with_tail(helper.make_node("ZipMap", ["margin"], [], domain="ai.onnx.ml"),
                   helper.make_node("Exp", ["margin"], ["y"])), r"operator 1 .*ZipMap\) has no output"),
        (with_head(helper.make_node("Constant", [], ["k"], value=1.0), reads="input"), r"Constant\) is read with"),
        (a_regressor(post_transform="PROBIT"), "post_transform PROBIT is not supported"),
        (a_regressor(aggregate_function="MAX"), "aggregate_function MAX is not supported: only sums and averages"),
        (a_regressor(surprise=1), "attribute 'surprise' of the tree ensemble is not supported"),
        (a_regressor(nodes_values_as_tensor=numpy_helper.from_array(np.ones(8))), "are both there; only one of them"),
        (a_regressor(nodes_values=None, nodes_values_as_tensor=numpy_helper.from_array(np.ones((8, 1)))), "one dim"),
        (a_regressor(nodes_values=None, nodes_values_as_tensor=numpy_helper.from_array(np.ones(8, int))), "of a type"),
        (a_classifier(base_values=[0.0, 1.0]), "base_values: there are 2 with one set of class_weights"),
        (a_classifier(class_ids=[0, 1, 0, 1, 0]), "base_values: there are 1 beside two sets"),
        (a_classifier(class_ids=[1] * 5, base_values=None), r"class_ids are \[1\] with two labels"),
        (a_classifier(post_transform="SOFTMAX"), "post_transform SOFTMAX is not supported here; NONE, LOGISTIC are"),
        (a_classifier(post_transform="LOGISTIC", class_weights=[1.0] * 5), "LOGISTIC: no weight is negative"),
        (a_classifier(), r"the file's probabilities are none: .*--raw-score"),
        (a_classifier(classlabels_int64s=None), "exactly one of classlabels_int64s and classlabels_strings"),
        (a_classifier(classlabels_int64s=[1, 1]), "each once"),
        (a_regressor(nodes_hitrates=None), r"the file carries no covers, which .* give a background"),
        (a_regressor(nodes_hitrates=[1.0] * 8), r"carries no covers \(tree 0 has cover 1\.0 on every node"),
        (a_regressor(nodes_hitrates=[6.0, 2, 9, 3, 1, 6, 3, 3]), r"tree 0, node 0: has a cover that is not the sum"),
        (a_regressor(target_weights=[1e39] + [0.0] * 4), "leaf whose value is not finite"),
        (a_regressor(nodes_modes=["BRANCH_EQ" if m.startswith("BRANCH") else m for m in
                                  forests.ensemble_attributes(TREES, 2)["nodes_modes"]]), "code is no whole number"),
        (opset_5(post_transform=3), "post_transform SOFTMAX_ZERO is not supported"),
        (opset_5(aggregate_function=2), "aggregate_function MIN is not supported"),
        (opset_5(aggregate_function=9), "aggregate_function number 9"),
        (opset_5(tree_roots=[-1]), "tree_roots must name nodes from 0"),
        (opset_5(tree_roots=[0, 0]), "is reached by two branches"),
        (opset_5(leaf_targetids=[7] * 85), "leaf_targetids has 85 entries"),
        (opset_5(n_targets=0), "n_targets is 0"),
        (opset_5(nodes_modes=numpy_helper.from_array(np.full(80, 7, np.uint8))), "nodes_modes holds 7; 0 to 6 are"),
        (opset_5(nodes_featureids=[0]), "nodes_featureids has 1 entries for 80 nodes"),
        (opset_5(nodes_trueleafs=[2] * 80), "nodes_trueleafs must hold 0 and 1"),
        (opset_5(nodes_falsenodeids=[999] * 80), "nodes_falsenodeids: an entry names a node or leaf that is not there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refused(model: onnx.ModelProto, match: str, tmp_path: Path) -> None:
    rows = np.zeros((3, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value), np.float32)
    with pytest.raises(PackRefused, match=match):
        pack(model, rows, name="m", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_graphs_of_another_shape(tmp_path: Path) -> None:
    def refused(model: onnx.ModelProto, match: str) -> None:
        with pytest.raises(PackRefused, match=match):
            pack(model, X, name="m", out=tmp_path)

    model = a_regressor()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [None, 1]))
    refused(model, "the graph has 2 inputs; one, with all features side by side")
    model = a_regressor()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    refused(model, "input 'input' holds INT64; only FLOAT and DOUBLE")
    model = a_regressor()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "columns"
    refused(model, r"must be declared \[rows, features\]")
    model = a_regressor()
    model.graph.node.append(model.graph.node[0])
    refused(model, r"operator 1 .* is the second tree operator")
    model = a_regressor()
    model.graph.node.extend(model.graph.node[0:1] * 256)
    refused(model, "257 operators; at most 256")
    model = a_regressor()
    model.functions.add().name = "f"
    refused(model, "defines functions of its own")
    model = a_regressor()
    model.opset_import[1].version = 9
    refused(model, r"opset \[9\] is not supported; one of 1 to 5")
    model = with_tail(helper.make_node("Add", ["margin", "c"], ["y"]), constants={"c": 1})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    refused(model, "constant 'c' is kept in another file")
    model = with_tail(helper.make_node("Add", ["margin", "c"], ["y"]), constants={"c": 1})
    model.graph.initializer[0].dims[:] = [1 << 40]
    refused(model, r"ai\.onnx:Add")
    model = a_regressor()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Identity", ["input"], ["margin"]))
    refused(model, "the model takes no missing values")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"nodes_falsenodeids": [0, 0, 4, 0, 0, 2, 0, 0]}, "is reached by two branches, so this is no tree"),
        ({"nodes_falsenodeids": [1, 0, 4, 0, 0, 2, 0, 0]}, "node 1 is reached by two branches"),
        ({"nodes_falsenodeids": [2, 0, 0, 0, 0, 2, 0, 0]}, "node 0 is reached by two branches"),
        ({"nodes_falsenodeids": [9, 0, 4, 0, 0, 2, 0, 0]}, "names node 9, which its tree does not hold"),
        ({"nodes_featureids": [1 << 40] * 8}, "splits on a feature beyond the 2"),
        ({"nodes_featureids": [-1] * 8}, "splits on a feature beyond the 2"),
        ({"target_nodeids": [0] * 5}, "leaf 0 weights"),
        ({"n_targets": 1 << 40}, "n_targets is 1099511627776, must be from 1 to 65536"),
        ({"target_ids": [5] * 5}, "a leaf adds to output 5; there are 1"),
        ({"target_ids": [-5] * 5}, "a leaf adds to output -5; there are 1"),
        ({"base_values": [float("inf")]}, r"base values \[inf\] are not finite"),
        ({"nodes_modes": ["BRANCH_EQ", "LEAF", "BRANCH_EQ", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
          "nodes_featureids": [0] * 8, "nodes_truenodeids": [1, 0, 1, 0, 0, 1, 0, 0],
          "nodes_missing_value_tracks_true": [0] * 8,
          "nodes_falsenodeids": [2, 0, 0, 0, 0, 2, 0, 0]}, "is reached by two branches"),
        ({"nodes_treeids": [0] * 5 + [1, 0, 1]}, "nodes of a tree must stand side by side"),
    ],
)  # fmt: skip
def test_malformed_trees(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(PackRefused, match=match):
        pack(a_regressor(**changes), X, name="m", out=tmp_path)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    def refused(data: bytes, match: str) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        with pytest.raises(PackRefused, match=match):
            pack(path, X, name="m", out=tmp_path / "out")

    whole = a_regressor().SerializeToString()
    refused(pickle.dumps({"a": 1}), r"model\.onnx: not an ONNX file but a Python pickle, and pickles are never loaded")
    refused(b"", r"model\.onnx: not an ONNX file, or one with an empty graph")
    refused(b"nonsense", r"model\.onnx: not an ONNX file")
    refused(whole[: len(whole) // 2], r"model\.onnx: not an ONNX file")
    for end in range(0, len(whole), 7):  # whatever is left of it
        with pytest.raises(PackRefused):
            readers.read(_written(tmp_path / "cut.onnx", whole[:end]))
    with pytest.raises(PackRefused, match="there is no such file"):
        pack(tmp_path / "absent.onnx", X, name="m", out=tmp_path / "out")


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(regressor(nodes_hitrates=None).SerializeToString(), np.uint8)
    taken = 0
    for _ in range(300):
        damaged = whole.copy()
        places = rng.integers(len(whole), size=2)
        damaged[places] = rng.integers(256, size=2)
        try:
            readers.read(_written(tmp_path / "damaged.onnx", damaged.tobytes()))
            taken += 1
        except PackRefused:
            pass
    assert 0 < taken < 300
