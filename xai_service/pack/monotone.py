"""In which features the trees are monotone, each by itself, and so their sum.

A tree rises with a feature if, at each of its splits on it, no leaf for the smaller values exceeds any leaf for the
larger ones. That is how XGBoost keeps its monotone constraints, and it is more than need be: a model can be monotone
without it. What is shown here holds in float32, too, since rounding a sum keeps the order. Missing values are outside
the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from xai_service.pack.forest import Tree


def proven_directions(trees: Iterable[Tree], n_features: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns (rises, falls), bool (features,): where no tree falls, and none rises, when the value rises.

    A feature without splits does neither: both are true.
    """
    rises, falls = np.ones(n_features, bool), np.ones(n_features, bool)
    for tree in trees:
        low = tree.leaf.astype(np.float64)  # (nodes, outputs)
        high = low.copy()
        levels = [np.zeros(1, np.int64)]
        while len(inner := levels[-1][tree.left[levels[-1]] >= 0]):
            levels[-1] = inner
            levels.append(np.concatenate((tree.left[inner], tree.right[inner])))
        unordered = tree.feature[tree.set_sizes > 0]  # where a split asks for categories, there is no order
        rises[unordered] = falls[unordered] = False
        for nodes in reversed(levels[:-1]):
            left, right, feature = tree.left[nodes], tree.right[nodes], tree.feature[nodes]
            rises[feature[(high[left] > low[right]).any(axis=1)]] = False
            falls[feature[(low[left] < high[right]).any(axis=1)]] = False
            low[nodes] = np.minimum(low[left], low[right])
            high[nodes] = np.maximum(high[left], high[right])
    return rises, falls
