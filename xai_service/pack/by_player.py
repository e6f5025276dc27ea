"""A pipeline's attributions computed the long way: of the columns that its model sees, a raw column's as one player.

Nothing of the folded trees is used. What the model sees of a row is replaced by ranks, how many of its column's
thresholds it passes, so that float32 holds it exactly even where the library compares float64. Column by column, the
kernel's attributions must be the library's own; with all columns of a raw column as one player (ADR 8), which no
library computes, they are what the folded trees' are held to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import PackRefused
from xai_service.pack.onnx_writer import write_onnx
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xai_service.pack.forest import Tree
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array

_TOLERANCE = 1e-5  # of an output's largest attribution, as in `xai_service.pack.attributions`


class ByPlayer:
    """Explains what a pipeline's model sees.

    Args:
        native: the model, on what it sees.
        players: of each column that it sees, the raw column, numbered from 0 on without a gap.
    """

    def __init__(self, native: NativeModel, players: Sequence[int]) -> None:
        self._native = native
        self._cuts = [_Cuts(native.trees, column) for column in range(native.n_features)]
        self._rounds = native.trees[0].exact is None
        model = write_onnx(
            [self._ranked(tree) for tree in native.trees],
            base=native.base,
            task="regression",
            link="identity",
            link_scale=1.0,
            threshold=None,
            n_features=native.n_features,
            metadata={},
        )
        self._alone, self._together = TreeExplainer(model), TreeExplainer(model, players=list(players))
        self.name = "treeshap of the pipeline's columns, by raw column"
        if native.contributions is not None:
            self.name = f"{native.contributions_by}, and {self.name}"

    def contributions(self, seen: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Returns the attributions, (n, players, outputs), and base values of what the model sees, (n, columns).

        Raises:
            PackRefused: column by column they are not the library's own.
        """
        values = seen.astype(np.float32).astype(np.float64) if self._rounds else seen
        columns = [cuts.rank(one) for cuts, one in zip(self._cuts, values.T, strict=True)]
        ranks = np.column_stack(columns).astype(np.float32, order="C")
        base = np.atleast_1d(self._alone.expected_value)
        if self._native.contributions is not None:
            self._compare(self._native.contributions(seen), _shaped(self._alone, ranks))  # type: ignore[arg-type]
        return _shaped(self._together, ranks), base

    def _compare(self, told: tuple[NDArray[Any], NDArray[Any]], found: Float64Array) -> None:
        difference = np.abs(found - told[0]).max(axis=(0, 1))
        steps = sum(np.abs(tree.leaf).max() for tree in self._native.trees) * float(np.finfo(np.float32).eps)
        if not (difference <= _TOLERANCE * np.abs(told[0]).max(axis=(0, 1)) + steps).all():
            raise PackRefused(
                "attributions of the columns that the pipeline's model sees are not those of "
                f"{self._native.contributions_by}: they differ by up to {difference.max():.3g}. Nothing was written."
            )

    def _ranked(self, tree: Tree) -> Tree:
        threshold = tree.threshold.copy()
        inclusive = tree.inclusive.copy()
        exact = tree.threshold.astype(np.float64) if tree.exact is None else tree.exact
        sizes = tree.set_sizes
        for node in tree.splits.tolist():
            if not sizes[node]:
                cuts = self._cuts[int(tree.feature[node])]
                threshold[node] = cuts.place(float(exact[node]), inclusive=bool(tree.inclusive[node]))
                inclusive[node] = True
        return replace(tree, threshold=threshold, inclusive=inclusive, exact=None)


def _shaped(explainer: TreeExplainer, rows: Float32Array) -> Float64Array:
    return explainer.shap_values(rows).reshape(len(rows), explainer.n_players, -1)


class _Cuts:
    """The places at which the trees cut a column. What is looked up in sets keeps its value."""

    def __init__(self, trees: Sequence[Tree], column: int) -> None:
        def thresholds(*, inclusive: bool) -> Float64Array:
            found = [
                (tree.threshold if tree.exact is None else tree.exact)[
                    (tree.left >= 0) & (tree.feature == column) & (tree.inclusive == inclusive) & (tree.set_sizes == 0)
                ]
                for tree in trees
            ]
            return np.unique(np.concatenate(found).astype(np.float64))

        self._below, self._up_to = thresholds(inclusive=False), thresholds(inclusive=True)
        self._has_sets = any(((tree.feature == column) & (tree.set_sizes > 0)).any() for tree in trees)

    def rank(self, values: Float64Array) -> Float64Array:
        """Returns how many cuts each value passes, NaN where it is missing."""
        if self._has_sets:
            return values
        passed = np.searchsorted(self._below, values, side="right") + np.searchsorted(self._up_to, values, side="left")
        return np.where(np.isnan(values), np.nan, passed)

    def place(self, threshold: float, *, inclusive: bool) -> int:
        """Returns the rank up to which values are on the left of a cut: how many cuts come before it."""
        # At one threshold, ``<`` comes before ``<=``.
        below = np.searchsorted(self._below, threshold, side="right" if inclusive else "left")
        return int(below + np.searchsorted(self._up_to, threshold, side="left"))
