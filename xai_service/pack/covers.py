"""Covers for a model that carries none: its training rows, counted through its trees."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from xai_service.pack.forest import Tree
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array, Float64Array, Int64Array


def with_covers(native: NativeModel, X: Float32Array, covers: str, *, has_background: bool) -> NativeModel:
    """Returns the model with the covers asked for.

    Args:
        native: the model.
        X: float32 (n, features).
        covers: "model": as it carries them; "count": how many rows of ``X`` reach each node.
        has_background: whether explanations are interventional, and do without covers.

    Raises:
        PackRefused: it carries none and they are needed, or it carries its own and others are asked for.
    """
    if covers not in ("model", "count"):
        raise PackRefused(f"covers is {covers!r}; 'model' or 'count' is expected")
    if not native.trees:
        if covers == "count":
            kind = "a linear model" if native.additive is not None else "a model without trees"
            raise PackRefused(f"covers='count': {kind} has no covers: leave the option out")
        return native
    if covers == "count":
        if native.cover not in ("none", "node_hitrates"):
            raise PackRefused(
                f"covers='count': the model carries its own covers ({native.cover}), by which its library explains it, "
                "and counted rows may differ from them: leave the option out"
            )
        trees = tuple(dataclasses.replace(tree, cover=count_rows(tree, X)) for tree in native.trees)
        return dataclasses.replace(native, trees=trees, cover="row_count", why_no_covers="")
    if native.cover == "none" and not has_background:
        raise PackRefused(
            f"{native.why_no_covers}, which path-dependent explanations need. One of these helps: pack the model that "
            "the file was made from; give a background to explain it against (background=rows, --background rows.csv); "
            "or, if X is the data that the trees were trained on, each row once and unweighted (no bootstrap, no "
            "sampling, no Hessians), count it (covers='count', --covers count)"
        )
    return native


def count_rows(tree: Tree, X: Float32Array) -> Float64Array:
    """Returns float64 (nodes,): how many rows of ``X`` reach each node of the tree."""
    counts = np.zeros(len(tree.left))
    rows, at = np.arange(len(X)), np.zeros(len(X), np.int64)
    while len(rows):
        counts += np.bincount(at, minlength=len(counts))
        inner = tree.left[at] >= 0
        rows, at = rows[inner], at[inner]
        at = np.where(_goes_left(tree, at, X[rows, tree.feature[at]]), tree.left[at], tree.right[at])
    return counts


def branches(tree: Tree, X: Float32Array) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Returns bool (n, nodes): whether each row goes left at each node, wherever it comes from; False at leaves."""
    left = np.zeros((len(X), len(tree.left)), np.bool_)
    for node in tree.splits.tolist():
        left[:, node] = _goes_left(tree, np.full(len(X), node), X[:, tree.feature[node]])
    return left


def _goes_left(tree: Tree, nodes: Int64Array, values: Float32Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Returns whether each value goes left at its node, which is a split."""
    threshold = tree.threshold[nodes]
    left = np.where(tree.inclusive[nodes], values <= threshold, values < threshold)
    for node in np.unique(nodes[tree.set_sizes[nodes] > 0]).tolist():
        here = nodes == node
        left[here] = np.isin(values[here], tree.codes(node))
    return np.where(np.isnan(values), tree.missing_left[nodes], left)
