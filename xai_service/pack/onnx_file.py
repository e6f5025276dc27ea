"""Reads ONNX files that other converters made: skl2onnx, onnxmltools, CatBoost's own export and their like.

The graph is understood (`xai_service.pack.onnx_graph`), its trees are made neutral, and our writer writes them anew.
The native model of the parity gate is ONNX Runtime on the foreign file: its tree operator alone, for the margins, and
the whole of it but ``ZipMap``. So what is proven is that the bundle answers as the file does. Whether the file answers
as the model that it was made from is its converter's affair.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto

from xai_service.errors import InvalidModel, PackRefused
from xai_service.model.manifest import is_name
from xai_service.model.model_file import MAX_MODEL_BYTES
from xai_service.model.onnx_trees import parse_model
from xai_service.model.session import check_text, open_session
from xai_service.pack.additive import Additive, Lookups
from xai_service.pack.asked import model_input, take_over
from xai_service.pack.forest import check_covers, check_forest
from xai_service.pack.native import NativeModel
from xai_service.pack.onnx_graph import Graph, understand
from xai_service.pack.onnx_linear import Linear, read_linear_file
from xai_service.pack.raw_trees import neutral_trees

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from xai_service.model.manifest import Cover, Link, Task
    from xai_service.pack.forest import Tree
    from xai_service.types import Float32Array, Float64Array

_NO_COVERS = "the file carries no covers"
_SURE = 1e-6  # how far a probability must be from another label's for the label to be beyond doubt
_SUMS_TO_1 = 1e-5
_MAX_VERSION = 64
_TWO = 2


def load(path: Path) -> onnx.ModelProto:
    """Returns the parsed file.

    Raises:
        PackRefused: it cannot be read, is too large, or is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            return parse_model(file.read(MAX_MODEL_BYTES + 1))
    except (InvalidModel, OSError) as error:
        raise PackRefused(f"{path}: {error}; export the model as one ONNX file, or pack the model itself") from error


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of a foreign ONNX file.

    Args:
        model: an ``onnx.ModelProto``.
        raw_score: take it for a regression of its margin, whatever it makes of it.

    Raises:
        PackRefused: the graph does more than is known, its trees are malformed, or ONNX Runtime refuses it.
    """
    if not isinstance(model, onnx.ModelProto):
        raise PackRefused(f"{type(model).__module__}.{type(model).__qualname__} is not supported; a ModelProto is")
    if not any(str(node.op_type).startswith("TreeEnsemble") for node in model.graph.node):
        return _read_without_trees(model, raw_score=raw_score)
    try:
        graph = understand(model)
        trees = neutral_trees(graph.ensemble.raw)
        check_text(model)
    except InvalidModel as error:
        raise PackRefused(f"the ONNX file cannot be packed: {error}") from error
    trees, base = _moved(trees, graph)
    trees, cover, why = _covered(trees)
    check_forest(trees, graph.n_features, len(base))
    labels = None if raw_score else graph.ensemble.labels
    task, link = _task(graph, raw_score=raw_score)
    return NativeModel(
        made_by=_converter(model),
        trees=trees,
        base=base,
        task=task,
        link=link,
        cover=cover,
        n_features=graph.n_features,
        feature_names=None,
        predict=_Foreign(model, graph, task, raw_score=raw_score),
        class_names=None if labels is None else tuple(map(str, labels)),
        categorical=_categorical(trees),
        why_no_covers=why,
    )


def _read_without_trees(model: onnx.ModelProto, *, raw_score: bool) -> NativeModel:
    """Returns the description of a linear file; of any other, which is served as it is and explained by asking it."""
    asked = take_over(model, raw_score=raw_score)
    linear = read_linear_file(model, str(model_input(model).name), asked.n_features)
    if linear is not None:
        return _linear(model, linear, asked.n_features, raw_score=raw_score)
    ask_file = _asking(model, [asked.source, asked.score])

    def ask(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        margin, score = ask_file(rows)
        if margin.shape[1] == _TWO and asked.width == 1:
            margin = margin[:, 1:] - margin[:, :1] if asked.link == "logistic" else margin[:, 1:]
        if score.shape[1] == _TWO and asked.width == 1:
            score = score[:, 1:]
        return margin, margin if raw_score else score

    with np.errstate(all="ignore"):
        gap = ask(np.full((1, asked.n_features), np.nan, np.float32))[0]
    return NativeModel(
        made_by=_converter(model),
        trees=(),
        base=np.zeros(asked.width),
        task=asked.task,
        link=asked.link,
        cover="none",
        n_features=asked.n_features,
        feature_names=None,
        predict=ask,
        takes_missing=bool(np.isfinite(gap).all()),
        asked=asked,
    )


def _linear(model: onnx.ModelProto, linear: Linear, n_features: int, *, raw_score: bool) -> NativeModel:
    ask_file = _asking(model, [linear.score])

    def predict(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        margin = linear.terms(rows).sum(axis=1) + linear.intercept
        if raw_score:
            return margin, margin
        (score,) = ask_file(rows)
        if linear.task == "regression":
            return score, score
        return margin, score[:, 1:] if linear.task == "binary_classification" else score

    gaps = frozenset(range(n_features)) if linear.fill is not None else frozenset()
    return NativeModel(
        made_by=_converter(model),
        trees=(),
        base=linear.intercept,
        task="regression" if raw_score else linear.task,
        link="identity" if raw_score else linear.link,
        cover="none",
        n_features=n_features,
        feature_names=None,
        predict=predict,
        class_names=None if raw_score else linear.labels,
        takes_missing=bool(gaps),
        additive=Additive(
            linear.intercept,
            linear.terms,
            np.zeros(n_features, np.float32),
            lookups=Lookups(takes_missing=gaps),
        ),
    )


def _asking(model: onnx.ModelProto, outputs: list[str]) -> Callable[[Float32Array], list[Float64Array]]:
    """Returns ONNX Runtime on the file, for some of its values, each float64 (rows, …)."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    kept = [node for node in opened.graph.node if node.op_type != "ZipMap"]
    del opened.graph.node[:]
    opened.graph.node.extend(kept)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    given = model_input(model)
    is_double = given.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    try:
        session = open_session(opened.SerializeToString())
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise PackRefused(f"ONNX Runtime refuses the file: {error}") from error

    def ask(rows: Float32Array) -> list[Float64Array]:
        try:
            found = session.run(outputs, {given.name: rows.astype(np.float64) if is_double else rows})
        except Exception as error:  # as above
            raise PackRefused(f"ONNX Runtime cannot run the file: {error}") from error
        return [np.asarray(one, np.float64).reshape(len(rows), -1) for one in found]

    return ask


def _converter(model: onnx.ModelProto) -> dict[str, str]:
    """Returns the name and version of what wrote the file, as it says itself; nothing where it says none."""
    name, version = str(model.producer_name), str(model.producer_version)
    name = f"converter.{name}"  # so that it cannot pass itself off as a tool of ours
    return {name: version} if is_name(name) and version.isprintable() and 1 <= len(version) <= _MAX_VERSION else {}


def _task(graph: Graph, *, raw_score: bool) -> tuple[Task, Link]:
    if raw_score:
        return "regression", "identity"
    link, width = graph.score.link, len(graph.score.scale)
    if graph.ensemble.labels is None:
        return ("multiclass_classification", "softmax") if link == "softmax" else ("regression", link)
    if width == 1:
        return "binary_classification", link
    return "multiclass_classification", "one_vs_all" if link == "logistic" else link


def _moved(trees: tuple[Tree, ...], graph: Graph) -> tuple[tuple[Tree, ...], Float64Array]:
    """Returns trees and base values whose sums are what goes into the link."""
    scale, offset = graph.score.scale, graph.score.offset
    with np.errstate(over="ignore"):  # to infinity, which is refused with the leaf's place
        base = (graph.ensemble.raw.base * scale + offset).astype(np.float32).astype(np.float64)
        if (scale != 1).any():
            trees = tuple(
                dataclasses.replace(tree, leaf=(tree.leaf * scale[tree.outputs]).astype(np.float32)) for tree in trees
            )
    if not np.isfinite(base).all():
        raise PackRefused(f"the base values {base.tolist()[:8]} are not finite in float32")
    return trees, base


def _covered(trees: tuple[Tree, ...]) -> tuple[tuple[Tree, ...], Cover, str]:
    """Returns the trees with the covers that the file carries, if these make sense, and else without, and why."""
    why = "" if all(len(tree.cover) for tree in trees) else _NO_COVERS
    try:
        for number, tree in enumerate(trees if not why else ()):
            check_covers(tree, number)
    except PackRefused as error:
        why = f"{_NO_COVERS} ({error})"
    if not why:
        return trees, "node_hitrates", ""
    return tuple(dataclasses.replace(tree, cover=np.empty(0)) for tree in trees), "none", why


def _categorical(trees: tuple[Tree, ...]) -> frozenset[int]:
    """Returns the columns that are asked for codes only."""
    sets: set[int] = set()
    numbers: set[int] = set()
    for tree in trees:
        asks_set, is_split = tree.set_sizes > 0, tree.left >= 0
        sets |= set(tree.feature[asks_set].tolist())
        numbers |= set(tree.feature[is_split & ~asks_set].tolist())
    return frozenset(sets - numbers)


@dataclass(frozen=True, slots=True)
class _Names:
    """Of the outputs of the session."""

    raw: str
    score: str
    label: str | None


class _Foreign:
    """ONNX Runtime on the foreign file: margins, and what its own links make of them."""

    def __init__(self, model: onnx.ModelProto, graph: Graph, task: Task, *, raw_score: bool) -> None:
        self._graph = graph
        self._task = task
        self._raw_score = raw_score
        self._names = _Names("xai_margin", graph.score.name, graph.label)
        try:
            self._session = open_session(_opened(model, graph, self._names.raw).SerializeToString())
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise PackRefused(f"ONNX Runtime refuses the file: {error}") from error

    def __call__(self, rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns margins and outputs, as `NativeModel.predict` does."""
        graph, names = self._graph, self._names
        given = {graph.input_name: rows.astype(np.float64) if graph.is_double else rows}
        wanted = [name for name in (names.raw, names.score, names.label) if name is not None]
        try:
            found = dict(zip(wanted, self._session.run(wanted, given), strict=True))
        except Exception as error:  # as above
            raise PackRefused(f"ONNX Runtime cannot run the file: {error}") from error
        raw = np.asarray(found[names.raw], np.float64).reshape(len(rows), -1)
        width = len(graph.score.scale)
        if graph.ensemble.labels is not None and width == 1:
            raw = raw[:, 1:] - raw[:, :1] if graph.ensemble.difference else raw[:, 1:]
        margin = raw * graph.score.scale + graph.score.offset
        if self._raw_score:
            return margin, margin
        outputs = np.asarray(found[names.score], np.float64).reshape(len(rows), -1)
        if names.label is not None:
            self._check_classes(rows, outputs, np.asarray(found[names.label]).reshape(-1))
        return margin, outputs[:, 1:] if self._task == "binary_classification" else outputs

    def _check_classes(self, rows: Float32Array, probabilities: Float64Array, label: NDArray[Any]) -> None:
        """Refuses a file whose own outputs contradict each other: a bundle could not answer as it does."""
        total = np.abs(probabilities.sum(axis=1) - 1)
        if self._task == "binary_classification" and not (total <= _SUMS_TO_1).all():
            row = int(np.argmax(~(total <= _SUMS_TO_1)))
            raise PackRefused(
                f"the file's probabilities are none: it gives {probabilities[row].tolist()} for the row "
                f"{rows[row, :24].tolist()}; convert the model anew, or pack its raw score as a regression "
                "(raw_score=True, --raw-score)"
            )
        labels = np.array(self._graph.ensemble.labels)
        due = probabilities.argmax(axis=1)
        first, second = -np.partition(-probabilities, 1, axis=1)[:, :2].T
        wrong = (labels[due].astype(label.dtype) != label) & (first - second > _SURE)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise PackRefused(
                f"the file's label is {label[row]!s} where its probabilities are {probabilities[row].tolist()}, for "
                f"the row {rows[row, :24].tolist()}: convert the model anew, or pack its raw score as a regression "
                "(raw_score=True, --raw-score)"
            )


def _opened(model: onnx.ModelProto, graph: Graph, raw: str) -> onnx.ModelProto:
    """Returns the model with the tree operator's plain sums for a further output, and no ``ZipMap``."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    kept = [node for node in opened.graph.node if node.op_type != "ZipMap"]
    place = next(i for i, node in enumerate(kept) if list(node.output) == list(graph.node.output))
    twin = onnx.NodeProto()
    twin.CopyFrom(graph.node)
    twin.name = ""
    twin.output[:] = [*(f"xai_label_{i}" for i in range(len(twin.output) - 1)), raw]
    transform = [one for one in twin.attribute if one.name == "post_transform"]
    for attribute in transform:
        attribute.CopyFrom(
            AttributeProto(name="post_transform", type=AttributeProto.INT, i=0)
            if attribute.type == AttributeProto.INT
            else AttributeProto(name="post_transform", type=AttributeProto.STRING, s=b"NONE")
        )
    del opened.graph.node[:]
    opened.graph.node.extend([*kept[: place + 1], twin, *kept[place + 1 :]])
    del opened.graph.output[:]
    for name in dict.fromkeys((raw, graph.score.name, *([graph.label] if graph.label else []))):
        opened.graph.output.append(onnx.ValueInfoProto(name=name))
    return opened
