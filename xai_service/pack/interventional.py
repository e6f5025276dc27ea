"""Interventional attributions of the native model's own trees, by another route than the kernel's: leaf by leaf.

Against one background row b, a row x reaches a leaf with the players of S known if each feature on the leaf's path
lets x (in S) or b (not in S) pass. Features that only x passes, A of them, must be known, and features that only b
passes, B of them, must not; so the leaf's value v is split by Shapley's formula into

    v (A-1)! B! / (A+B)!   for each of the first,   -v A! (B-1)! / (A+B)!   for each of the others

(Laberge and Pequignot 2022, "Understanding interventional TreeSHAP"). The attributions are the mean over b. Slow, and
obviously right: it is what the kernel is compared with when a model is packed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.pack.covers import branches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from xai_service.pack.forest import Tree
    from xai_service.pack.native import Contributions
    from xai_service.types import Float32Array, Float64Array

REFERENCE = "interventional, leaf by leaf"


def contributions(trees: Sequence[Tree], base: Float64Array, background: Float32Array) -> Contributions:
    """Returns a function such as `NativeModel.contributions`, against float32 (n, features) background rows."""

    def compute(rows: Float32Array) -> tuple[NDArray[Any], NDArray[Any]]:
        phi = np.zeros((*rows.shape, len(base)))
        expected = base.copy()
        for tree in trees:
            _add(tree, rows, background, phi, expected)
        return phi, expected

    return compute


def _add(tree: Tree, rows: Float32Array, background: Float32Array, phi: Float64Array, expected: Float64Array) -> None:
    left = branches(tree, rows), branches(tree, background)
    for leaf, path in _paths(tree):
        of_rows, of_background = (np.column_stack([_pass(side, steps) for steps in path.values()]) for side in left)
        value = tree.leaf[leaf].astype(np.float64)
        expected[tree.outputs] += value * of_background.all(axis=1).mean()
        x, b = of_rows[:, None, :], of_background[None, :, :]  # (rows, background, features of the path)
        alive = (x | b).all(axis=2)
        only_x, only_b = x & ~b, b & ~x
        n_x, n_b = only_x.sum(axis=2), only_b.sum(axis=2)
        share_x, share_b = (alive * _SHARES[len(path)][sign][n_x, n_b] for sign in (0, 1))
        share = (only_x * share_x[:, :, None] - only_b * share_b[:, :, None]).mean(axis=1)
        features = np.fromiter(path, np.int64)
        phi[:, features[:, None], tree.outputs] += share[:, :, None] * value


def _paths(tree: Tree) -> Iterator[tuple[int, dict[int, list[tuple[int, bool]]]]]:
    """Yields each leaf but a root with the splits above it, by feature, and whether the leaf lies left of them."""
    for leaf in np.flatnonzero((tree.left < 0) & (tree.parent >= 0)).tolist():
        path: dict[int, list[tuple[int, bool]]] = {}
        child, parent = leaf, int(tree.parent[leaf])
        while parent >= 0:
            path.setdefault(int(tree.feature[parent]), []).append((parent, bool(tree.left[parent] == child)))
            child, parent = parent, int(tree.parent[parent])
        yield leaf, path


def _pass(left: NDArray[np.bool_], steps: Sequence[tuple[int, bool]]) -> NDArray[np.bool_]:
    """Returns which rows go the leaf's way at all these splits."""
    nodes, ways = zip(*steps, strict=True)
    return np.asarray((left[:, list(nodes)] == np.array(ways)).all(axis=1))


class _Shares(dict[int, "tuple[Float64Array, Float64Array]"]):
    """By the number of features on a path: both of the formula's factors, by A and B; 0 where there is no such one."""

    def __missing__(self, length: int) -> tuple[Float64Array, Float64Array]:
        of_x, of_b = np.zeros((2, length + 1, length + 1))
        for a in range(length + 1):
            for b in range(length + 1 - a):
                if a:
                    of_x[a, b] = 1 / (a * math.comb(a + b, a))
                if b:
                    of_b[a, b] = 1 / (b * math.comb(a + b, b))
        self[length] = of_x, of_b
        return self[length]


_SHARES = _Shares()
