"""Slow, obviously right references for the kernel. Nothing here shares a line or an idea with it.

Trees are nested tuples, as simple as can be:

    leaf  = ("leaf", value, cover)
    split = ("split", feature, threshold, "<" or "<=", nan_left, left, right)

A split's share for its left child is its children's covers' share, 1/2 when neither has any.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def cover(tree):
    return tree[2] if tree[0] == "leaf" else cover(tree[5]) + cover(tree[6])


def left_share(tree):
    left, right = cover(tree[5]), cover(tree[6])
    return left / (left + right) if left + right > 0 else 0.5


def goes_left(tree, row):
    _, feature, threshold, op, nan_left, _, _ = tree
    x = np.float32(row[feature])
    if np.isnan(x):
        return nan_left
    return bool(x < np.float32(threshold)) if op == "<" else bool(x <= np.float32(threshold))


def expectation(tree, row, known):
    """E[f | x_S] of Lundberg et al. (2020), Algorithm 1: known features decide, unknown ones average by cover."""
    if tree[0] == "leaf":
        return tree[1]
    if tree[1] in known:
        return expectation(tree[5] if goes_left(tree, row) else tree[6], row, known)
    share = left_share(tree)
    return share * expectation(tree[5], row, known) + (1 - share) * expectation(tree[6], row, known)


def shapley(n, game):
    """Shapley's formula over all subsets of n players, ``game`` taking a tuple of them: float64 (n,). Exponential."""
    value = {subset: game(subset) for size in range(n + 1) for subset in itertools.combinations(range(n), size)}
    phi = np.zeros(n)
    for feature in range(n):
        others = [f for f in range(n) if f != feature]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for subset in itertools.combinations(others, size):
                phi[feature] += weight * (value[tuple(sorted((*subset, feature)))] - value[subset])
    return phi


def brute_force(trees, row):
    """The path-dependent game's Shapley values: float64 (features,)."""
    return shapley(len(row), lambda subset: sum(expectation(tree, row, frozenset(subset)) for tree in trees))


def scale(trees):
    """What the trees can add up to, at least 1: errors are measured by it."""

    def largest(tree):
        return abs(tree[1]) if tree[0] == "leaf" else max(largest(tree[5]), largest(tree[6]))

    return max(1.0, sum(largest(tree) for tree in trees))


def leaf_paths(tree, row, path=()):
    """Yields (leaf value, {feature: (share of its splits' covers, whether the row goes along)})."""
    if tree[0] == "leaf":
        merged = {}
        for feature, share, along in path:
            z, o = merged.get(feature, (1.0, True))
            merged[feature] = (z * share, o and along)
        yield tree[1], merged
        return
    share, left = left_share(tree), goes_left(tree, row)
    yield from leaf_paths(tree[5], row, (*path, (tree[1], share, left)))
    yield from leaf_paths(tree[6], row, (*path, (tree[1], 1 - share, not left)))


def reference(trees, row):
    """Leaf by leaf: each leaf is a product game over its path's distinct features, so Shapley's formula groups by size.

    For a leaf of value v whose features have shares z and row indicators o, feature i gets
    v (o_i - z_i) Σ_k k! (d-1-k)! / d! [y^k] Π_{j≠i} (z_j + o_j y). Nothing is shared between leaves; O(leaves d³).
    """
    phi = np.zeros(len(row))
    for tree in trees:
        for value, path in leaf_paths(tree, row):
            d = len(path)
            for feature, (z, o) in path.items():
                by_size = np.array([1.0])
                for other, (z_j, o_j) in path.items():
                    if other != feature:
                        by_size = np.convolve(by_size, [z_j, float(o_j)])
                weights = [1 / (d * math.comb(d - 1, k)) for k in range(d)]
                phi[feature] += value * (float(o) - z) * float(np.dot(weights, by_size))
    return phi


def margin(trees, row):
    return sum(expectation(tree, row, frozenset(range(len(row)))) for tree in trees)


def base_value(trees, n_features):
    return sum(expectation(tree, np.zeros(n_features), frozenset()) for tree in trees)
