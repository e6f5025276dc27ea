"""The reader against files made to mislead, crash or exhaust it: each is refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests import forests
from xai_service.errors import InvalidModel, MissingCovers
from xai_service.model import onnx_trees
from xai_service.model.onnx_trees import parse_model, read_forest
from xai_service.model.session import OrtPredictor
from xai_service.treeshap import compile_explainer

# Nodes 0 1 2 3 4: 0 splits into 1 (a leaf) and 2, which splits into 3 and 4 (leaves); twice.
TREE = forests.SMALL_TREE
GOOD = forests.ensemble_attributes([TREE, TREE], 2)
HUGE = (1 << 63) - 1


def model(**changes: Any) -> onnx.ModelProto:
    """The good model with some attributes changed, or left out where ``None``."""
    return forests.onnx_model({name: value for name, value in {**GOOD, **changes}.items() if value is not None}, 2)


def at(name: str, changes: dict[int, Any]) -> dict[str, Any]:
    """One attribute with some entries changed."""
    values = list(GOOD[name])
    for index, value in changes.items():
        values[index] = value
    return {name: values}


def test_the_good_model_is_good() -> None:
    forest = read_forest(model())
    assert (forest.n_trees, forest.n_nodes, forest.n_leaves, forest.max_depth) == (2, 10, 6, 2)
    assert (forest.n_features, forest.n_outputs, forest.has_covers) == (2, 1, True)
    assert model().graph.node[0].output[0] == "margin"
    np.testing.assert_array_equal(forest.predict(np.array([[0, 0], [1, -2], [1, 0]], np.float32)), [[2], [8], [-4]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # the shape of the trees
        (at("nodes_truenodeids", {0: 0}), "child is not a node of the tree below its root"),
        (at("nodes_truenodeids", {2: 2}), "child of two nodes|cannot be reached"),
        (at("nodes_truenodeids", {2: 0}), "child is not a node of the tree below its root"),
        (at("nodes_truenodeids", {2: 1}), "node 1: is the child of two nodes"),
        (at("nodes_truenodeids", {0: 2}), "both its children are one node"),
        (at("nodes_modes", {2: "LEAF"}) | {f"target_{k}": None for k in ("ids", "nodeids", "treeids", "weights")}
         | {"n_targets": 2, "base_values": None}, "2 nodes that cannot be reached"),
        (at("nodes_truenodeids", {0: 5}), "nodes_truenodeids: entry 0 names node 5, which its tree does not hold"),
        (at("nodes_falsenodeids", {2: -1}), "nodes_falsenodeids: entry 1 names node -1"),
        (at("nodes_falsenodeids", {5: HUGE}), "nodes_falsenodeids: entry 2 names node 9223372036854775807"),
        (at("nodes_falsenodeids", {5: 1 << 32}), "names node 4294967296"),
        (at("nodes_nodeids", {1: 0}), "two nodes with one id"),
        (at("nodes_nodeids", {1: -1}), "nodes_nodeids must be from 0"),
        (at("nodes_nodeids", {1: 10}), "nodes_nodeids must be from 0 to 9"),
        (at("nodes_nodeids", {1: HUGE}), "nodes_nodeids must be from 0 to 9"),
        (at("nodes_treeids", {1: 1, 5: 0}), "side by side"),
        (at("nodes_treeids", dict.fromkeys(range(5), 1 << 32)), "nodes_treeids must fit 32 bits"),
        (at("nodes_treeids", dict.fromkeys(range(5), -(1 << 40))), "nodes_treeids must fit 32 bits"),
        (at("nodes_treeids", dict.fromkeys(range(5), -1)), "counts twice"),
        ({name: None for name in GOOD if name.startswith("nodes_")}, "has no node"),
        # what the nodes say
        (at("nodes_featureids", {0: 2}), "tree 0, node 0: splits on feature 2 of 2"),
        (at("nodes_featureids", {7: -1}), "tree 1, node 2: splits on feature -1 of 2"),
        (at("nodes_featureids", {0: 1 << 32}), "splits on feature 4294967296 of 2"),
        (at("nodes_values", {2: float("nan")}), "tree 0, node 2: its threshold is NaN"),
        (at("nodes_modes", {0: "BRANCH_MEMBER"}), "BRANCH_MEMBER.* are not supported"),
        (at("nodes_modes", {0: "x" * 10_000}), r"node modes \[b'x{64}'\] are not supported"),
        (at("nodes_missing_value_tracks_true", {0: 2}), "must hold 0 and 1 only"),
        (at("nodes_missing_value_tracks_true", {1: -1}), "must hold 0 and 1 only"),
        (at("nodes_hitrates", {3: float("nan")}), "tree 0, node 3: its cover is nan"),
        (at("nodes_hitrates", {3: float("inf")}), "its cover is inf"),
        (at("nodes_hitrates", {9: -1.0}), "tree 1, node 4: its cover is -1"),
        # what the leaves weigh
        (at("target_weights", {0: float("nan")}), "tree 0, node 1: its weight is not finite"),
        (at("target_weights", {5: float("-inf")}), "tree 1, node 4: its weight is not finite"),
        (at("target_nodeids", {0: 3}), "target_weights give a leaf 0 weights"),
        (at("target_nodeids", {0: 0}), "target_weights give a leaf 0 weights"),
        (at("target_nodeids", {0: 9}), "target_nodeids: entry 0 names node 9"),
        (at("target_treeids", {0: 7}), "target_nodeids: entry 0 names node 1, which its tree does not hold"),
        (at("target_ids", {0: 1}), "adds to output 1 of 1"),
        (at("target_ids", {0: -1}), "adds to output -1 of 1"),
        ({"n_targets": 2, "base_values": None} | at("target_nodeids", {0: 0}), "an inner node carries a leaf weight"),
        ({f"target_{k}": None for k in ("ids", "nodeids", "treeids", "weights")}, "a leaf 0 weights"),
        ({"n_targets": 0}, "n_targets is 0, must be from 1 to 65536"),
        ({"n_targets": -1}, "n_targets is -1"),
        ({"n_targets": HUGE, "base_values": None}, "n_targets is 9223372036854775807"),
        ({"n_targets": 2}, "n_targets is 2 with 1 base values"),
        ({"base_values": [1.0, 2.0]}, "n_targets is 1 with 2 base values"),
        ({"base_values": [float("inf")]}, "base value is not finite"),
        ({"base_values": [float("nan")]}, "base value is not finite"),
        # what is not supported at all
        ({"post_transform": "LOGISTIC"}, "post_transform b'LOGISTIC' is not supported, only NONE is"),
        ({"aggregate_function": "AVERAGE"}, "aggregate_function b'AVERAGE' is not supported, only SUM is"),
        ({"nodes_values_as_tensor": numpy_helper.from_array(np.zeros(10))}, "'nodes_values_as_tensor'.*not supported"),
        ({"class_weights": [1.0]}, "'class_weights'.*not supported"),
        ({"z" * 10_000: 1}, "'z{64}' of the tree ensemble is not supported"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_malformed_attribute_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidModel, match=says) as error:
        read_forest(model(**changes))
    assert len(str(error.value)) < 500


PER_NODE = sorted(name for name in GOOD if name.startswith("nodes_") and name != "nodes_treeids")
PER_WEIGHT = sorted(name for name in GOOD if name.startswith("target_"))


@pytest.mark.parametrize("name", [*PER_NODE, *PER_WEIGHT])
@pytest.mark.parametrize("change", ["shorter", "longer", "absent"])
def test_each_list_has_its_length(name: str, change: str) -> None:
    values = {"shorter": GOOD[name][:-1], "longer": [*GOOD[name], GOOD[name][-1]], "absent": None}[change]
    damaged = model(**{name: values})
    if values is None and name in ("nodes_missing_value_tracks_true", "nodes_hitrates"):  # optional
        read_forest(damaged)
        return
    with pytest.raises(InvalidModel, match=r"has \d+ entries (for|where)|a leaf 0 weights"):
        read_forest(damaged)


TYPED: list[Any] = [3, 1.5, "LEAF", [1] * 10, [1.0] * 10, ["LEAF"] * 10, TensorProto(), [TensorProto()] * 10]
TYPES = {attribute.name: attribute.type for attribute in model().graph.node[0].attribute}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (name, wrong)
        for name in sorted(GOOD)
        for wrong in (
            helper.make_attribute(name, value) for value in [*TYPED, onnx.GraphProto(), onnx.SparseTensorProto()]
        )
        if wrong.type != TYPES[name]
    ],
    ids=lambda value: value if isinstance(value, str) else AttributeProto.AttributeType.Name(value.type),
)
def test_each_attribute_has_its_type(name: str, wrong: AttributeProto) -> None:
    damaged = model()
    (attribute,) = [a for a in damaged.graph.node[0].attribute if a.name == name]
    attribute.CopyFrom(wrong)
    with pytest.raises(InvalidModel, match=f"{name} must be of type"):
        read_forest(damaged)


@pytest.mark.parametrize("kind", [*range(15), 99])
def test_an_attribute_that_lies_about_its_type(kind: int) -> None:
    damaged = model()
    (modes,) = [a for a in damaged.graph.node[0].attribute if a.name == "nodes_modes"]
    if kind in AttributeProto.AttributeType.values():
        modes.type = kind  # type: ignore[assignment]
    else:
        damaged = onnx.ModelProto.FromString(
            damaged.SerializeToString().replace(b"\xa0\x01\x08", b"\xa0\x01" + bytes([kind]))
        )
    if kind == AttributeProto.STRINGS:
        read_forest(damaged)
        return
    with pytest.raises(InvalidModel, match="nodes_modes must be of type STRINGS"):
        read_forest(damaged)


def test_an_attribute_given_twice_or_by_reference() -> None:
    twice = model()
    twice.graph.node[0].attribute.append(helper.make_attribute("target_weights", [9.0] * 6))
    with pytest.raises(InvalidModel, match="attribute target_weights of the tree ensemble stands twice"):
        read_forest(twice)
    reference = model()
    reference.graph.node[0].attribute[0].ref_attr_name = "outer"
    with pytest.raises(InvalidModel, match="must be of type"):
        read_forest(reference)


def change_graph(damage: str) -> onnx.ModelProto:  # noqa: C901, PLR0912 (a table in the form of a function)
    damaged = model()
    graph = damaged.graph
    node = graph.node[0]
    width = graph.input[0].type.tensor_type.shape.dim
    match damage:
        case "no trees":
            node.op_type = "Identity"
        case "two ensembles":
            graph.node.append(node)
            graph.node[1].output[0] = "other"
        case "a classifier":
            node.op_type = "TreeEnsembleClassifier"
        case "the newer operator":
            node.op_type = "TreeEnsemble"
        case "a look-alike":
            node.domain = "com.example"
        case "an operator before":
            graph.node.insert(0, helper.make_node("Neg", ["input"], ["flipped"]))
            graph.node[1].input[0] = "flipped"
        case "another reader":
            graph.node.append(helper.make_node("Neg", ["input"], ["flipped"]))
        case "an initializer as input":
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 2), np.float32), "input"))
        case "a sparse initializer as input":
            graph.sparse_initializer.add().values.name = "input"
        case "two inputs":
            graph.input.append(graph.input[0])
        case "no input":
            del graph.input[:]
        case "two outputs of the trees":
            node.output.append("more")
        case "no output of the trees":
            del node.output[:]
        case "a function in its place":
            body = [helper.make_node("Identity", ["x"], ["y"])]
            opset = [helper.make_opsetid("", 18)]
            function = helper.make_function("ai.onnx.ml", "TreeEnsembleRegressor", ["x"], ["y"], body, opset)
            damaged.functions.append(function)
        case "opset 5":
            damaged.opset_import[1].version = 5
        case "opset 0":
            damaged.opset_import[1].version = 0
        case "opset twice":
            damaged.opset_import.append(damaged.opset_import[1])
        case "no opset":
            del damaged.opset_import[1]
        case "double input":
            graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
        case "unknown input":
            graph.input[0].type.tensor_type.elem_type = 99
        case "a sequence as input":
            graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
        case "an unknown width":
            width[1].dim_param = "features"
        case "no width":
            del width[1]
        case "three dimensions":
            width.append(width[1])
        case "negative width":
            width[1].dim_value = -2
        case "zero width":
            width[1].dim_value = 0
        case "huge width":
            width[1].dim_value = HUGE
        case "wide":
            width[1].dim_value = (1 << 20) + 1
        case "many attributions":
            return wide_and_many(1 << 20, 17)
    return damaged


def wide_and_many(n_features: int, n_targets: int) -> onnx.ModelProto:
    made = model(n_targets=n_targets, base_values=None)
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = n_features
    return made


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no trees", "holds 0 tree ensembles"),
        ("two ensembles", "holds 2 tree ensembles"),
        ("a classifier", "TreeEnsembleClassifier is not supported.*xai pack"),
        ("the newer operator", "TreeEnsemble is not supported"),
        ("a look-alike", "com.example:TreeEnsembleRegressor is not supported"),
        ("an operator before", "must read the graph's one input directly"),
        ("another reader", r"only the tree ensemble may read the graph's input; so do: \['Neg'\]"),
        ("an initializer as input", "so do: an initializer"),
        ("a sparse initializer as input", "so do: an initializer"),
        ("two inputs", "the graph's one input"),
        ("no input", "the graph's one input"),
        ("two outputs of the trees", "one output"),
        ("no output of the trees", "one output"),
        ("a function in its place", "defines functions of its own"),
        ("opset 5", r"opset \[5\] is not supported"),
        ("opset 0", r"opset \[0\] is not supported"),
        ("opset twice", r"opset \[3, 3\] is not supported"),
        ("no opset", r"opset \[\] is not supported"),
        ("double input", "holds DOUBLE, only FLOAT"),
        ("unknown input", "only FLOAT"),
        ("a sequence as input", "only FLOAT"),
        ("an unknown width", "fixed number of features"),
        ("no width", "fixed number of features"),
        ("three dimensions", "fixed number of features"),
        ("negative width", "fixed number of features"),
        ("zero width", "fixed number of features"),
        ("huge width", "number of features is 9223372036854775807, must be from 1 to 1048576"),
        ("wide", "number of features is 1048577"),
        ("many attributions", "features times outputs is 17825792"),
    ],
)
def test_graphs_that_could_mislead(damage: str, says: str) -> None:
    with pytest.raises(InvalidModel, match=says):
        read_forest(change_graph(damage))


def chain(depth: int) -> onnx.ModelProto:
    """One tree with a split on each level: splits have even ids, leaves odd ones."""
    ids = list(range(2 * depth + 1))
    is_leaf = [bool(i % 2) or i == 2 * depth for i in ids]
    leaves = [i for i in ids if is_leaf[i]]
    return model(
        nodes_treeids=[0] * len(ids),
        nodes_nodeids=ids,
        nodes_featureids=[0] * len(ids),
        nodes_values=[0.0] * len(ids),
        nodes_modes=["LEAF" if is_leaf[i] else "BRANCH_LT" for i in ids],
        nodes_truenodeids=[i + 1 for i in ids],
        nodes_falsenodeids=[i + 2 for i in ids],
        nodes_missing_value_tracks_true=None,
        nodes_hitrates=None,
        target_treeids=[0] * len(leaves),
        target_nodeids=leaves,
        target_ids=[0] * len(leaves),
        target_weights=[1.0] * len(leaves),
    )


def test_depth_is_bounded() -> None:
    assert read_forest(chain(1024)).max_depth == 1024
    with pytest.raises(InvalidModel, match="tree 0 is deeper than 1024"):
        read_forest(chain(1025))
    with pytest.raises(InvalidModel, match="tree 0 is deeper than 1024"):
        read_forest(chain(50_000))


def test_a_long_cycle_ends() -> None:
    n = 10_001
    cycle = [(i + 1) % n for i in range(n)]
    cycle[-1] = 1
    damaged = chain((n - 1) // 2)
    for attribute in damaged.graph.node[0].attribute:
        if attribute.name == "nodes_modes":
            attribute.strings[:] = [b"BRANCH_LT"] * n
        elif attribute.name == "nodes_truenodeids":
            attribute.ints[:] = cycle
        elif attribute.name == "nodes_falsenodeids":
            attribute.ints[:] = [1 + (i * 7919) % (n - 1) for i in range(n)]
        elif attribute.name.startswith("target_"):
            attribute.ClearField("ints")
            attribute.ClearField("floats")
    with pytest.raises(InvalidModel, match="tree 0"):
        read_forest(damaged)


@pytest.mark.parametrize(
    "covers",
    [None, [1.0] * 10, [0.0] * 10, [6, 2, 4, 3, 1, 9, 0, 0, 0, 0]],
    ids=["absent", "ones", "zeros", "zero below a root"],
)
def test_covers_that_say_nothing(covers: list[float] | None) -> None:
    forest = read_forest(model(nodes_hitrates=None if covers is None else [float(c) for c in covers]))
    assert not forest.has_covers
    with pytest.raises(MissingCovers, match="xai pack"):
        compile_explainer(forest)


@pytest.mark.parametrize("data", [b"", b"\0", b"not a model", b"\x0a" * 50, b"\xff" * 1000, b"PK\x03\x04", b"\x08\x08"])
def test_what_is_no_onnx_file(data: bytes) -> None:
    with pytest.raises(InvalidModel, match="not an ONNX file"):
        parse_model(data)


def test_files_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = model().SerializeToString()
    monkeypatch.setattr(onnx_trees, "MAX_MODEL_BYTES", len(data))
    parse_model(data)
    monkeypatch.setattr(onnx_trees, "MAX_MODEL_BYTES", len(data) - 1)
    with pytest.raises(InvalidModel, match=f"has {len(data)} bytes; at most {len(data) - 1}"):
        parse_model(data)


VALID = model().SerializeToString()


@pytest.mark.parametrize("text", ["TreeEnsembleRegressor", "nodes_modes", "input", "margin", "ai.onnx.ml", "LEAF"])
def test_text_that_is_not_utf8(text: str) -> None:
    damaged = VALID.replace(text.encode(), b"\xff" + text.encode()[1:])
    parsed = parse_model(damaged)
    with pytest.raises(InvalidModel):
        OrtPredictor(parsed, damaged, ()) if read_forest(parsed) else None


def test_a_base_value_that_onnx_runtime_would_leave_out() -> None:
    """With several targets it adds a base value only on rows that reach a weight of that target."""
    two = {"n_targets": 2, "base_values": [0.5, 0.25]}
    with pytest.raises(
        InvalidModel, match="base_values: target 1 has one, but no tree adds to it at each of its leaves"
    ):
        read_forest(model(**two))
    with pytest.raises(InvalidModel, match="base_values: target 1 "):
        read_forest(model(**two, target_ids=[0, 0, 0, 0, 1, 1]))
    rows = np.array([[0, 0], [1, -2], [1, 0]], np.float32)
    for good in (model(**two, target_ids=[0, 0, 0, 1, 1, 1]), model(n_targets=2, base_values=[0.5, 0.0])):
        served = OrtPredictor(good, good.SerializeToString(), ()).predict(rows).margin
        np.testing.assert_array_equal(read_forest(good).predict(rows), served)


# Claims of sizes, in few bytes; what they would fill must not be filled.
GREEDY = """
import resource, sys
import numpy as np
from onnx import numpy_helper
sys.path.insert(0, {folder!r})
import test_onnx_trees as t
from xai_service.errors import ModelError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

def refused(build):
    try:
        t.compile_explainer(t.read_forest(build()))
    except ModelError:
        return
    raise SystemExit("accepted")

t.compile_explainer(t.read_forest(t.model()))
before = peak()
refused(lambda: t.change_graph("huge width"))
refused(lambda: t.change_graph("many attributions"))
refused(lambda: t.model(n_targets=t.HUGE, base_values=None))
refused(lambda: t.model(n_targets=1 << 32, base_values=None))
refused(lambda: t.model(**t.at("target_ids", {{0: t.HUGE}})))
refused(lambda: t.model(**t.at("nodes_nodeids", {{4: (1 << 31) - 1}})))
refused(lambda: t.model(**t.at("nodes_treeids", {{9: (1 << 31) - 1}})))
print(peak() - before)
"""


def test_claims_of_size_cost_nothing() -> None:
    from pathlib import Path  # noqa: PLC0415 (only here)

    script = GREEDY.format(folder=str(Path(__file__).parent))
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout) < 64  # MiB


def test_leaves_times_outputs_are_bounded() -> None:
    """A tree of 8,192 leaves that add to 32,768 outputs would be laid out as 2 GiB of values."""
    depth, outputs = 13, 1 << 15
    n, leaves = (1 << (depth + 1)) - 1, 1 << depth
    nodes = np.arange(n)
    first_leaf = leaves - 1
    weights = np.arange(outputs)
    big = model(
        n_targets=outputs,
        base_values=None,
        nodes_treeids=[0] * n,
        nodes_nodeids=nodes.tolist(),
        nodes_featureids=[0] * n,
        nodes_values=[0.0] * n,
        nodes_modes=["BRANCH_LT" if i < first_leaf else "LEAF" for i in nodes],
        nodes_truenodeids=np.where(nodes < first_leaf, 2 * nodes + 1, 0).tolist(),
        nodes_falsenodeids=np.where(nodes < first_leaf, 2 * nodes + 2, 0).tolist(),
        nodes_missing_value_tracks_true=None,
        nodes_hitrates=(2.0 ** (depth - np.floor(np.log2(nodes + 1)))).tolist(),
        target_treeids=[0] * outputs,
        target_nodeids=(first_leaf + weights % leaves).tolist(),
        target_ids=weights.tolist(),
        target_weights=[1.0] * outputs,
    )
    with pytest.raises(InvalidModel, match=r"(leaves|splits) times the outputs they add to"):
        compile_explainer(read_forest(big))
