"""What a bundle's model file is explained by: its trees, its linear part, or asking it.

Whatever explains has the kernel's own face, so that trees are explained by the kernel itself, with nothing in between.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xai_service import permutation
from xai_service.errors import InvalidModel
from xai_service.linear import LinearExplainer
from xai_service.model.background import read_background
from xai_service.model.linear_part import read_linear
from xai_service.model.manifest import BACKGROUND_FILE, MODEL_FILE
from xai_service.model.onnx_trees import read_forest
from xai_service.model.operators import read_graph
from xai_service.model.probe_rows import rows_near_means, rows_near_thresholds
from xai_service.permutation import PermutationExplainer
from xai_service.treeshap import compile_explainer, compile_interventional, method_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    from xai_service._treeshap import WorkerPool
    from xai_service.model.manifest import Algorithm
    from xai_service.permutation import MarginOf
    from xai_service.types import Float32Array, Float64Array, Method


MAX_ASKED_BACKGROUND = 1000
_ROWS_TO_TIME = 64
_MOST_VALUES = 1 << 24  # computed at once, whatever the request's rows


class Job(Protocol):
    """A batch's attributions under way."""

    @property
    def started_ns(self) -> int:
        """`time.monotonic_ns` of the first work on it."""

    @property
    def finished_ns(self) -> int:
        """Of the last."""

    def wait(self, timeout_s: float, /) -> bool:
        """Waits so long at most; returns whether it is over."""

    def cancel(self) -> None:
        """Stops it, if it is not over; `result` then raises."""

    def result(self) -> Float64Array:
        """Returns float64 (n, features, outputs). Raises RuntimeError or MemoryError where there is none."""


class Explainer(Protocol):
    """Computes attributions. Thread-safe."""

    @property
    def base_values(self) -> Float64Array:
        """float64 (outputs,), the margin expected before any feature is known."""

    @property
    def n_outputs(self) -> int:
        """Margins of a row."""

    def explain(self, rows: Float32Array, /) -> Float64Array:
        """Returns float64 (n, features, outputs) for float32 (n, features) rows."""

    def submit(self, pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> Job:
        """Begins so, behind all live work when ``deferred``, and returns at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """What a model file computes its margin by, understood.

    Attributes:
        explainer: of the margin, given what computes it.
        n_outputs: margins of a row.
        method_for: how a batch of so many rows is explained.
        n_features: columns of the input.
        rows: float32 (n, features), to try the model on.
        nodes: places of the operators that compute the margin; the others are links.
        constants: names of what these take beside the input.
        most_rows: to ask it about at once, where it computes much for each; else ``None``.
        evaluations: how many rows it is asked about to explain one; 0 where it need not be asked.
    """

    explainer: Callable[[MarginOf], Explainer]
    n_outputs: int
    method_for: Callable[[int], Method]
    n_features: int
    rows: Float32Array
    nodes: frozenset[int]
    constants: frozenset[str]
    most_rows: int | None = None
    evaluations: int = 0


def read_core(model: onnx.ModelProto, algorithm: Algorithm, files: Mapping[str, bytes]) -> Core:
    """Returns how the model's margin is computed and explained.

    Args:
        model: the parsed file, untrusted.
        algorithm: how the manifest says that it is explained.
        files: of the bundle, by name.

    Raises:
        ModelError: it cannot be explained so; says why.
    """
    if algorithm == "linear":
        return _linear(model)
    return _asked(model, files) if algorithm == "permutation" else _trees(model, algorithm, files)


def _trees(model: onnx.ModelProto, algorithm: Algorithm, files: Mapping[str, bytes]) -> Core:
    forest = read_forest(model)
    explainer = (
        compile_explainer(forest)
        if algorithm == "path_dependent"
        else compile_interventional(forest, read_background(files[BACKGROUND_FILE], forest.n_features))
    )
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "TreeEnsembleRegressor")
    return Core(
        lambda _: explainer,
        forest.n_outputs,
        functools.partial(method_for, explainer, forest.n_trees),
        forest.n_features,
        rows_near_thresholds(model, forest.n_features, forest.n_outputs),
        frozenset([place]),
        frozenset(),
    )


def _linear(model: onnx.ModelProto) -> Core:
    graph = read_linear(model)
    part = graph.part
    n_features, n_outputs = part.weights.shape
    rows = rows_near_means(part.mean, part.weights)
    explainer = LinearExplainer(part)
    if graph.trees is not None:
        forest = read_forest(graph.trees)
        if (forest.n_features, forest.n_outputs) != (n_features, n_outputs):
            raise InvalidModel(
                f"the trees compute {forest.n_outputs} margins of {forest.n_features} features, the linear part "
                f"{n_outputs} of {n_features}"
            )
        explainer = LinearExplainer(part, compile_explainer(forest), forest.n_trees)
        at_splits = rows_near_thresholds(graph.trees, n_features, n_outputs)[: len(rows)]
        on_split = np.isin(np.arange(n_features), _columns_of(graph.trees)) & np.isfinite(at_splits)
        rows[: len(at_splits)][on_split] = at_splits[on_split]
    return Core(
        lambda _: explainer,
        n_outputs,
        explainer.method_for,
        n_features,
        rows,
        frozenset(range(graph.n_nodes)),
        frozenset(("mean", "rest", "fill", "weights", "base")),
    )


def _asked(model: onnx.ModelProto, files: Mapping[str, bytes]) -> Core:
    graph = read_graph(model)
    data = files[BACKGROUND_FILE]
    background = read_background(data, graph.n_features)
    if len(background) > MAX_ASKED_BACKGROUND:
        raise InvalidModel(
            f"{BACKGROUND_FILE}: {len(background)} rows; models that are only asked are explained against at most "
            f"{MAX_ASKED_BACKGROUND}"
        )
    digest = hashlib.sha256(files[MODEL_FILE])
    digest.update(data)
    return Core(
        lambda margin: PermutationExplainer(margin, background, digest.digest()),
        graph.n_outputs,
        lambda _rows: permutation.method(len(background)),
        graph.n_features,
        np.resize(background, (_ROWS_TO_TIME, graph.n_features)),
        frozenset(range(graph.n_nodes)),
        graph.constants,
        max(1, _MOST_VALUES // graph.values),
        permutation.evaluations(graph.n_features, len(background)),
    )


def _columns_of(trees: onnx.ModelProto) -> list[int]:
    return [i for one in trees.graph.node[0].attribute if one.name == "nodes_featureids" for i in one.ints]
