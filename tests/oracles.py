"""Slow, obviously right references for the kernel. Nothing here shares a line or an idea with it.

Trees are nested tuples, as simple as can be:

    leaf  = ("leaf", value, cover)
    split = ("split", feature, threshold, "<" or "<=", nan_left, left, right)
    split = ("split", feature, (value, ...), "in", nan_left, left, right)

``players`` names the player that each feature belongs to; ``None``: each its own.

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
    x = float(np.float32(row[feature]))
    if math.isnan(x):
        return nan_left
    if op == "in":
        return any(x == float(np.float32(value)) for value in threshold)
    return x < threshold if op == "<" else x <= threshold


def player_of(feature, players):
    return feature if players is None else players[feature]


def n_players(n_features, players):
    return n_features if players is None else max(players) + 1


def expectation(tree, row, known, players=None):
    """E[f | x_S] of Lundberg et al. (2020), Algorithm 1: known players decide, unknown ones average by cover."""
    if tree[0] == "leaf":
        return tree[1]
    if player_of(tree[1], players) in known:
        return expectation(tree[5] if goes_left(tree, row) else tree[6], row, known, players)
    share = left_share(tree)
    left, right = (expectation(child, row, known, players) for child in tree[5:])
    return share * left + (1 - share) * right


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


def brute_force(trees, row, players=None):
    """The path-dependent game's Shapley values: float64 (players,)."""

    def game(subset):
        return sum(expectation(tree, row, frozenset(subset), players) for tree in trees)

    return shapley(n_players(len(row), players), game)


def scale(trees):
    """What the trees can add up to, at least 1: errors are measured by it."""

    def largest(tree):
        return abs(tree[1]) if tree[0] == "leaf" else max(largest(tree[5]), largest(tree[6]))

    return max(1.0, sum(largest(tree) for tree in trees))


def leaf_paths(tree, row, players=None, path=()):
    """Yields (leaf value, {player: (share of its splits' covers, whether the row goes along)})."""
    if tree[0] == "leaf":
        merged = {}
        for player, share, along in path:
            z, o = merged.get(player, (1.0, True))
            merged[player] = (z * share, o and along)
        yield tree[1], merged
        return
    share, left, player = left_share(tree), goes_left(tree, row), player_of(tree[1], players)
    yield from leaf_paths(tree[5], row, players, (*path, (player, share, left)))
    yield from leaf_paths(tree[6], row, players, (*path, (player, 1 - share, not left)))


def reference(trees, row, players=None):
    """Leaf by leaf: each leaf is a product game over its path's distinct players, so Shapley's formula groups by size.

    For a leaf of value v whose players have shares z and row indicators o, player i gets
    v (o_i - z_i) Σ_k k! (d-1-k)! / d! [y^k] Π_{j≠i} (z_j + o_j y). Nothing is shared between leaves; O(leaves d³).
    """
    phi = np.zeros(n_players(len(row), players))
    for tree in trees:
        for value, path in leaf_paths(tree, row, players):
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
