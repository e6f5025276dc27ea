"""Trees as an ONNX file holds them, made into the trees that packing works from.

A file numbers nodes as it likes, and writes a set of categories as a chain of ``BRANCH_EQ`` nodes that share their true
child. Here each tree is walked from its root; chains become one split by a set; and whatever is no tree (a cycle, a
node that two branches lead to) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import InvalidModel
from xai_service.model.tree_arrays import LEAF, LESS_EQUAL, MEMBER, chain_links
from xai_service.pack.forest import MAX_DEPTH, Tree, round_thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xai_service.types import Float32Array, Float64Array, Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class RawTrees:
    """All nodes of all trees, in any order; an array has an entry for each unless it says otherwise.

    Attributes:
        roots: int64 (trees,), places of the roots.
        kind: uint8, as in `xai_service.model.tree_arrays`.
        feature: int64.
        threshold: float64.
        nan_left: uint8, whether NaN goes left.
        left, right: int64, places of the children, -1 in leaves. A row goes left where the comparison holds.
        cover: float64, or empty where the file has none.
        set_begin, set_value: the codes of nodes that ask for members, float32; see `xai_service.pack.forest.Tree`.
        weight_begin: int64 (nodes + 1,): a leaf's weights are ``weight[weight_begin[i] : weight_begin[i + 1]]``.
        weight_output, weight: int64 and float64, of each weight.
        base: float64 (outputs,).
    """

    roots: Int64Array
    kind: NDArray[np.uint8]
    feature: Int64Array
    threshold: Float64Array
    nan_left: NDArray[np.uint8]
    left: Int64Array
    right: Int64Array
    cover: Float64Array
    set_begin: Int64Array
    set_value: Float32Array
    weight_begin: Int64Array
    weight_output: Int64Array
    weight: Float64Array
    base: Float64Array

    @staticmethod
    def of(arrays: dict[str, Any]) -> RawTrees:
        """Returns what `xai_service.model.tree_arrays.raw_forest` read, apart from ``n_outputs``."""
        given = {key: value for key, value in arrays.items() if key not in ("n_outputs", "tree_begin")}
        return RawTrees(roots=arrays["tree_begin"][:-1], **given)


def neutral_trees(raw: RawTrees) -> tuple[Tree, ...]:
    """Returns the trees; those that add to no output are left out.

    Raises:
        InvalidModel: what hangs below a root is no tree, or deeper than `MAX_DEPTH`; says where.
    """
    reader = _Reader(raw)
    trees = (reader.tree(t) for t in range(len(raw.roots)))
    return tuple(tree for tree in trees if tree is not None)


class _Reader:
    """Reads tree by tree.

    ``right`` and ``codes`` of a chain's first node are those of the chain.
    """

    def __init__(self, raw: RawTrees) -> None:
        self._raw = raw
        self._right = raw.right.copy()
        self._codes: dict[int, Float32Array] = {}
        self._position = np.full(len(raw.kind), -1, np.int64)  # of each node seen, within its tree
        self._fold_chains()

    def tree(self, number: int) -> Tree | None:
        raw = self._raw
        order, parent = self._walk(number)
        kind = raw.kind[order]
        split = kind != LEAF
        left, right = np.full(len(order), -1, np.int64), np.full(len(order), -1, np.int64)
        left[split] = self._position[raw.left[order[split]]]
        right[split] = self._position[self._right[order[split]]]
        outputs, leaf = self._leaves(order, ~split)
        if not len(outputs):
            return None
        inclusive = kind == LESS_EQUAL
        sizes = np.zeros(len(order), np.int64)
        sets = {i: self._codes[int(order[i])] for i in np.flatnonzero(kind == MEMBER).tolist()}
        for i, codes in sets.items():
            sizes[i] = len(codes)
        return Tree(
            left=left,
            right=right,
            parent=parent,
            feature=np.where(split, raw.feature[order], 0),
            threshold=round_thresholds(np.where(split & (kind != MEMBER), raw.threshold[order], 0.0), inclusive),
            inclusive=inclusive,
            missing_left=split & raw.nan_left[order].astype(np.bool_),
            leaf=leaf,
            outputs=outputs,
            cover=raw.cover[order] if len(raw.cover) else np.empty(0),
            set_begin=np.r_[0, np.cumsum(sizes)],
            set_value=np.concatenate([np.empty(0, np.float32), *sets.values()]),
        )

    def _fold_chains(self) -> None:
        raw = self._raw
        member = raw.kind == MEMBER
        after, goes_on = chain_links(member, raw.feature, raw.left, raw.right)
        continued = after[goes_on]
        _refuse_shared(continued)  # so that no node stands in two chains, and all are walked in linear time
        is_first = member.copy()
        is_first[continued] = False  # all of a cycle too: then the tree's walk meets it
        for first in np.flatnonzero(is_first).tolist():
            links = [first]
            while goes_on[links[-1]]:
                links.append(int(after[links[-1]]))
            self._right[first] = raw.right[links[-1]]
            sets = [raw.set_value[raw.set_begin[link] : raw.set_begin[link + 1]] for link in links]
            self._codes[first] = np.unique(np.concatenate(sets))

    def _walk(self, number: int) -> tuple[Int64Array, Int64Array]:
        """Returns the tree's nodes, level by level, and the places of their parents in that order."""
        raw = self._raw
        levels, parents = [raw.roots[number : number + 1]], [np.full(1, -1, np.int64)]
        done = 0
        while len(levels[-1]):
            level = levels[-1]
            if len(levels) > MAX_DEPTH + 1:
                raise InvalidModel(f"tree {number} is deeper than {MAX_DEPTH}")
            if (self._position[level] >= 0).any():
                raise InvalidModel(f"tree {number}: node {level[np.argmax(self._position[level] >= 0)]} {_SHARED}")
            self._position[level] = np.arange(done, done + len(level))
            inner = np.flatnonzero(raw.left[level] >= 0)
            children = np.column_stack((raw.left[level[inner]], self._right[level[inner]])).ravel()
            _refuse_shared(children)
            levels.append(children)
            parents.append(np.repeat(done + inner, 2))
            done += len(level)
        return np.concatenate(levels), np.concatenate(parents)

    def _leaves(self, order: Int64Array, is_leaf: NDArray[np.bool_]) -> tuple[Int64Array, Float32Array]:
        """Returns which outputs the tree adds to, and what each of its leaves adds to each."""
        raw = self._raw
        places = np.flatnonzero(is_leaf)
        begin, end = raw.weight_begin[order[places]], raw.weight_begin[order[places] + 1]
        owner = np.repeat(places, end - begin)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(end - begin) - (end - begin), end - begin)
        weights = np.repeat(begin, end - begin) + within
        outputs, column = np.unique(raw.weight_output[weights], return_inverse=True)
        if len(outputs) and not 0 <= outputs[0] <= outputs[-1] < len(raw.base):
            wrong = outputs[0] if outputs[0] < 0 else outputs[-1]
            raise InvalidModel(f"a leaf adds to output {wrong}; there are {len(raw.base)}")
        leaf = np.zeros((len(order), len(outputs)))
        np.add.at(leaf, (owner, column), raw.weight[weights])
        with np.errstate(over="ignore"):  # to infinity, which is refused with the leaf's place
            return outputs, leaf.astype(np.float32)


_SHARED = "is reached by two branches, so this is no tree"


def _refuse_shared(nodes: Int64Array) -> None:
    distinct, counts = np.unique(nodes, return_counts=True)
    if (counts > 1).any():
        raise InvalidModel(f"node {distinct[np.argmax(counts > 1)]} {_SHARED}")
