"""Exact SHAP values of the trees in an ONNX file, in shap's conventions.

>>> from xai_service.treeshap import TreeExplainer
>>> explainer = TreeExplainer("model.onnx")            # doctest: +SKIP
>>> phi = explainer.shap_values(rows)                  # doctest: +SKIP
>>> phi.sum(axis=1) + explainer.expected_value         # the margin   # doctest: +SKIP
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import onnx

from xai_service import _treeshap
from xai_service.cpus import usable_cpus
from xai_service.errors import InvalidModel, MissingCovers
from xai_service.model.onnx_trees import parse_model, read_forest
from xai_service.types import Float32Array, Float64Array, Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

_Plan = TypeVar("_Plan")
_MAX_THREADS = 1024  # the pool's own bound

PathDependentExplainer = _treeshap.PathDependentExplainer
InterventionalPlan = _treeshap.InterventionalPlan
WorkerPool = _treeshap.WorkerPool
ExplainJob = _treeshap.ExplainJob


def compile_explainer(forest: _treeshap.Forest) -> PathDependentExplainer:
    """Returns the forest compiled for path-dependent attributions, for this process's instruction set.

    Raises:
        MissingCovers: the forest has no covers.
        InvalidModel: the compiled form would be unreasonably large.
    """
    return _compiled(lambda: PathDependentExplainer(forest))


def compile_interventional(forest: _treeshap.Forest, background: Float32Array) -> InterventionalPlan:
    """Returns the forest compiled for attributions against the background, float32 (n, features), 1 ≤ n ≤ 10,000.

    Raises:
        InvalidModel: the compiled form would be unreasonably large, or the background is, for so many trees.
    """
    try:
        return _compiled(lambda: InterventionalPlan(forest, background))
    except ValueError as error:
        raise InvalidModel(str(error)) from error


def method_for(explainer: PathDependentExplainer | InterventionalPlan, n_trees: int, rows: int) -> Method:
    """Returns what computes the attributions of a batch of so many rows: enough to repeat them bit for bit."""
    if isinstance(explainer, PathDependentExplainer):
        return Method("path_dependent_treeshap", explainer.variant_for(rows), explainer.isa)
    by_table = explainer.n_trees_by_table
    variant = "tables-f32" if by_table == n_trees else "walk-f64" if by_table == 0 else "tables-and-walk"
    return Method("interventional_treeshap", variant, explainer.isa)


_pools: dict[tuple[int, int], WorkerPool] = {}


def _shared_pool(threads: int) -> WorkerPool:
    """Returns the pool of this size, the same for all explainers of a process.

    A forked child, in which its parent's threads do not run, finds none under its own id and makes one.
    """
    key = (os.getpid(), threads)
    return _pools.get(key) or _pools.setdefault(key, WorkerPool(threads))


def _threads_for(n_jobs: int | None) -> int:
    """Reads ``n_jobs`` as joblib does."""
    if n_jobs is None:
        return 1
    threads = n_jobs if n_jobs > 0 else max(1, usable_cpus() + 1 + n_jobs)
    if n_jobs == 0 or threads > _MAX_THREADS:
        raise ValueError(
            f"n_jobs is {n_jobs}; it may be 1 to {_MAX_THREADS}, or -1 for all CPUs, -2 for all but one ..."
        )
    return threads


def _compiled(compile_it: Callable[[], _Plan]) -> _Plan:
    try:
        return compile_it()
    except _treeshap.MissingCovers as error:
        raise MissingCovers(str(error)) from error
    except _treeshap.InvalidForest as error:
        raise InvalidModel(str(error)) from error


def _checked_players(players: ArrayLike) -> list[int]:
    array = np.asarray(players)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"players must be whole numbers, one for each feature; got {array.dtype} of shape {array.shape}"
        )
    distinct = np.unique(array)
    if not np.array_equal(distinct, np.arange(len(distinct))):
        raise ValueError("players must be numbered from 0 on without a gap")
    return [int(player) for player in array]


class TreeExplainer:
    """Exact SHAP values of a tree ensemble, as `shap.TreeExplainer` computes them, of its ONNX file.

    Without a background: path-dependent TreeSHAP (Lundberg et al., Nature Machine Intelligence 2020) with the covers
    that the file carries in ``nodes_hitrates``, by quadrature (arXiv 2605.04497). With one: interventional SHAP, each
    value the mean over the background's rows; needs no covers. Values are in margin units: raw scores, before any link.
    They are exact up to rounding: within 1e-6 of the model's largest, float32 with float64 sums. The environment
    variable ``XAI_ISA`` forces an instruction set: ``avx512``, ``avx2`` or ``portable``.

    Args:
        model: path of an ONNX file, its bytes, or a parsed ``onnx.ModelProto``.
        background: (n, features), 1 ≤ n ≤ 10,000, cast to float32, NaN for missing; ``None`` for path-dependent values.
            Shallow trees are explained from tables at a cost that does not grow with n.
        players: int (features,): for each column the player that it is part of, numbered from 0. Columns of one player
            are known or unknown together, and get one value: ``[0, 1, 1, 1, 2]`` takes columns 1 to 3 for the one-hot
            code of one feature. This is exact; adding up the columns' own values is not. ``None``: each its own.
        n_jobs: threads that rows are split across, counted as joblib counts them: ``None`` or 1 for the calling thread
            alone, -1 for one for each CPU that the process may use (its affinity mask and cgroup quota). They are
            shared by all explainers of the process. The values are the same, bit for bit, for any of it.

    The GIL is dropped during the work. Ctrl-C ends it within some 0.1 s, or the time of some 64 rows if that is longer.

    Attributes:
        expected_value: the margin expected before any feature is known: a float, or float64 (outputs,) when there are
            several outputs.
        n_features: columns that `shap_values` takes.
        n_players: values that it gives for each row and output; `n_features` unless ``players`` says otherwise.
        n_outputs: margins that the model computes for a row.

    Raises:
        InvalidModel: not an ONNX tree ensemble that can be explained; says why.
        MissingCovers: the file carries no covers, and no background is given.
        ValueError: the background is not a matrix of numbers with the model's features, or has too many rows;
            ``players`` are not one number for each feature, from 0 on without a gap; ``n_jobs`` is 0 or above 1,024.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | onnx.ModelProto,
        background: ArrayLike | None = None,
        *,
        players: ArrayLike | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self._threads = _threads_for(n_jobs)
        if isinstance(model, (str, os.PathLike)):
            model = Path(model).read_bytes()
        if isinstance(model, bytes):
            model = parse_model(model)
        self._forest = forest = read_forest(model, None if players is None else _checked_players(players))
        self.n_features: int = forest.n_features
        self.n_players: int = forest.n_players
        self.n_outputs: int = forest.n_outputs
        self._interventional = background is not None
        self._explainer: PathDependentExplainer | InterventionalPlan
        if background is None:
            self._explainer = compile_explainer(forest)
        else:
            rows = self._rows(background, "background")
            self._explainer = _compiled(lambda: InterventionalPlan(forest, rows))
        self._interactions: _treeshap.InteractionsPlan | None = None
        base = self._explainer.base_values
        self.expected_value: float | Float64Array = float(base[0]) if self.n_outputs == 1 else base

    def method_for(self, rows: int) -> Method:
        """Returns the algorithm, kernel variant and instruction set that compute the values of so many rows."""
        return method_for(self._explainer, self._forest.n_trees, rows)

    def shap_values(self, X: ArrayLike) -> Float64Array:
        """Returns float64 (n, players), or (n, players, outputs) when the model has several outputs.

        Args:
            X: (n, features), cast to float32 as ONNX Runtime sees it. NaN is a missing value and takes the route that
                the model gives it; ±inf compares as usual.

        Raises:
            ValueError: another shape, or values that are no numbers.
        """
        return self._explain(self._explainer, X)

    def shap_interaction_values(self, X: ArrayLike) -> Float64Array:
        """Returns float64 (n, players, players), or (n, players, players, outputs) when there are several outputs.

        Each matrix is symmetric; off the diagonal stands half the Shapley interaction index of the two players, on it
        what remains of the player's SHAP value, so that rows add up to the SHAP values (Lundberg et al. 2020).
        Path-dependent only; compiled at the first call.

        Raises:
            ValueError: the explainer has a background; or as for `shap_values`.
            InvalidModel: players² times outputs are too many to hold.
        """
        if self._interventional:
            raise ValueError("interaction values are path-dependent: make an explainer without a background")
        if self._interactions is None:
            self._interactions = _compiled(lambda: _treeshap.InteractionsPlan(self._forest))
        return self._explain(self._interactions, X)

    def margin(self, X: ArrayLike) -> Float64Array:
        """Returns the margins summed in float64: (n,), or (n, outputs) when there are several outputs."""
        margin = self._forest.predict(self._rows(X))
        return margin[:, 0] if self.n_outputs == 1 else margin

    def _explain(
        self,
        plan: PathDependentExplainer | _treeshap.InterventionalPlan | _treeshap.InteractionsPlan,
        X: ArrayLike,
    ) -> Float64Array:
        pool = None if self._threads == 1 else _shared_pool(self._threads)
        try:  # a single row should not wait to hear that nothing needs converting
            return plan.explain(cast("Float32Array", X), pool, True)
        except (TypeError, ValueError):
            pass
        return plan.explain(self._rows(X), pool, True)

    def _rows(self, X: ArrayLike, name: str = "X") -> Float32Array:
        array: Any = np.asarray(X)
        if array.ndim != 2 or array.shape[1] != self.n_features:
            raise ValueError(f"{name} has shape {array.shape}; the model takes (n, {self.n_features})")
        if array.dtype.kind not in "biufO":  # else complex numbers would lose a part, and dates become numbers
            raise ValueError(f"{name} holds {array.dtype}, which are no real numbers")
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, as in the served model
                return np.require(array, np.float32, ["C", "A"])
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{name} holds values that are no real numbers: {error}") from error
