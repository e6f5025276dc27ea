"""Exact SHAP values of linear models, and of those beside which single columns are looked up.

A sum of functions of one column each has no interactions: what a column adds is its function of the value, less that
function's mean over a background, whatever else is known. Of a straight line it is weight · (value − mean); of what is
looked up, a tree on that column alone, path-dependent TreeSHAP gives it, the covers being counts of the background's
rows. Shapley values are linear in the model, so the two are added.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from xai_service.treeshap import method_for as tree_method_for
from xai_service.types import Method

if TYPE_CHECKING:
    from xai_service._treeshap import ExplainJob, WorkerPool
    from xai_service.model.linear_part import LinearPart
    from xai_service.treeshap import PathDependentExplainer
    from xai_service.types import Float32Array, Float64Array


class LinearExplainer:
    """Explains a linear part, and the trees beside it. Thread-safe.

    Args:
        part: what the file holds.
        trees: of one column each, compiled; ``None`` where there are none.
        n_trees: how many.

    Attributes:
        base_values: float64 (outputs,), the mean margin over the background.
        n_outputs: margins of a row.
    """

    def __init__(self, part: LinearPart, trees: PathDependentExplainer | None = None, n_trees: int = 0) -> None:
        self._part = part
        self._trees = trees
        self._n_trees = n_trees
        self.n_outputs = len(part.base)
        self.base_values = part.base.astype("float64") + (0.0 if trees is None else trees.base_values)

    def method_for(self, rows: int) -> Method:
        """Returns how the attributions of a batch of so many rows are computed."""
        if self._trees is None:
            return Method("linear_shap", "f64", "numpy")
        of_trees = tree_method_for(self._trees, self._n_trees, rows)
        return Method(f"linear_shap+{of_trees.algorithm}", f"f64+{of_trees.variant}", of_trees.isa)

    def explain(self, rows: Float32Array) -> Float64Array:
        """Returns float64 (n, features, outputs) for float32 (n, features) rows."""
        phi = self._part.contributions(rows)
        return phi if self._trees is None else phi + self._trees.explain(rows)

    def submit(self, pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> LinearJob:
        """Queues the trees' part on ``pool`` and computes the linear part here, which takes less than queueing it."""
        started_ns = time.monotonic_ns()
        job = None if self._trees is None else self._trees.submit(pool, rows, deferred=deferred)
        phi = self._part.contributions(rows)
        return LinearJob(phi, job, started_ns, time.monotonic_ns())


class LinearJob:
    """One batch's attributions, of which the trees' part may still be under way; as `_treeshap.ExplainJob`."""

    def __init__(self, phi: Float64Array, trees: ExplainJob | None, started_ns: int, finished_ns: int) -> None:
        self._phi = phi
        self._trees = trees
        self.started_ns = started_ns
        self._finished_ns = finished_ns

    @property
    def finished_ns(self) -> int:
        """`time.monotonic_ns` of the last work on it."""
        return self._finished_ns if self._trees is None else max(self._finished_ns, self._trees.finished_ns)

    def wait(self, timeout_s: float) -> bool:
        """Waits so long at most; returns whether it is over."""
        return True if self._trees is None else self._trees.wait(timeout_s)

    def cancel(self) -> None:
        """Stops what is not done yet."""
        if self._trees is not None:
            self._trees.cancel()

    def result(self) -> Float64Array:
        """Returns float64 (n, features, outputs). Raises as the kernel does."""
        return self._phi if self._trees is None else self._phi + self._trees.result()
