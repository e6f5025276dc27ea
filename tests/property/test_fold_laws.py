"""A folded tree sends each raw row to the leaf that steps and tree together send it to."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xai_service.pack.columnwise import Derived
from xai_service.pack.fold import Steps, fold
from xai_service.pack.forest import Tree

NUMBER, TEXT = 0, 1  # the raw columns
SIZE = 4  # categories of TEXT
# What the trees see: the number scaled, whether it is missing, two looked up of TEXT, one of NUMBER, NUMBER itself.
COLUMNS = (
    Derived(NUMBER, "rising"),
    Derived(NUMBER, "rising"),
    Derived(TEXT, "lookup"),
    Derived(TEXT, "lookup"),
    Derived(NUMBER, "lookup"),
    Derived(NUMBER, "same"),
)
KNOWN = np.array([-2.5, 0.0, 7.0], np.float32)
HARD = [0.0, -0.0, 1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, 1.0, 7.0, -2.5]
values = st.sampled_from(HARD) | st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def nested(draw: st.DrawFn, depth: int = 3) -> Any:
    if depth == 0 or not draw(st.booleans()):
        return draw(st.integers(1, 1000))
    column = draw(st.integers(0, len(COLUMNS) - 1))
    threshold = draw(st.sampled_from([0.5, 0.0, 1.0]) | st.floats(-10, 10) | values)
    inclusive, missing_left = draw(st.booleans()), draw(st.booleans())
    return (column, threshold, inclusive, missing_left, draw(nested(depth - 1)), draw(nested(depth - 1)))


def as_tree(root: Any, *, exact: bool) -> Tree:
    """The nested tuples level by level."""
    level, nodes = [(root, -1)], []
    while level:
        below = []
        for node, parent in level:
            place = len(nodes)
            nodes.append((node, parent))
            if isinstance(node, tuple):
                below += [(node[4], place), (node[5], place)]
        level = below
    n = len(nodes)
    left, right = np.full(n, -1), np.full(n, -1)
    for place, (_, parent) in enumerate(nodes):
        if parent >= 0:
            side = left if left[parent] < 0 else right
            side[parent] = place

    def of(at: int, otherwise: Any) -> list[Any]:
        return [node[at] if isinstance(node, tuple) else otherwise for node, _ in nodes]

    thresholds = np.array(of(1, 0.0), np.float64)
    return Tree(
        left=left,
        right=right,
        parent=np.array([parent for _, parent in nodes]),
        feature=np.array(of(0, 0)),
        threshold=thresholds.astype(np.float32),
        inclusive=np.array(of(2, False), bool),
        missing_left=np.array(of(3, False), bool),
        leaf=np.array([[0 if isinstance(node, tuple) else node] for node, _ in nodes], np.float32),
        outputs=np.zeros(1, np.int64),
        cover=np.ones(n),
        set_begin=np.zeros(n + 1, np.int64),
        set_value=np.empty(0, np.float32),
        exact=thresholds if exact else None,
    )


def leaf(tree: Tree, row: np.ndarray, seen: Any) -> float:
    """The leaf's value, for a row of what ``seen`` compares with."""
    node = 0
    while tree.left[node] >= 0:
        value = seen(row[tree.feature[node]])
        threshold = (tree.threshold if tree.exact is None else tree.exact)[node]
        codes = tree.codes(node)
        if np.isnan(value):
            left = tree.missing_left[node]
        elif len(codes):
            left = value in codes
        else:
            left = value <= threshold if tree.inclusive[node] else value < threshold
        node = int(tree.left[node] if left else tree.right[node])
    return float(tree.leaf[node, 0])


@given(
    st.lists(nested(), min_size=1, max_size=3),
    st.floats(-100, 100),
    st.sampled_from([1.0, 3.0, 0.1, 1e-30, 1e30]),
    st.lists(st.floats(-5, 5) | st.just(np.nan), min_size=2 * (SIZE + 2), max_size=2 * (SIZE + 2)),
    st.lists(st.floats(-5, 5), min_size=5, max_size=5),
    st.floats(-50, 50) | st.just(np.nan),
    st.lists(st.tuples(values | st.just(np.nan), st.integers(0, SIZE) | st.just(np.nan)), min_size=1, max_size=12),
    st.booleans(),
    st.data(),
)
def test_the_same_leaf(roots, shift, scale, texts, numbers, filled, rows, exact, data):
    table = np.array(texts).reshape(2, SIZE + 2)  # of each category, an unknown one, and a missing one

    def of_number(x: np.ndarray) -> np.ndarray:
        place = np.array([np.flatnonzero(one == KNOWN)[0] if one in KNOWN else 3 for one in x])
        return np.where(np.isnan(x), numbers[4], np.array(numbers)[place])

    def made(columns: dict[int, np.ndarray]) -> np.ndarray:
        n = max(map(len, columns.values()))
        x = np.asarray(columns.get(NUMBER, np.ones(n)), np.float64)
        text = np.asarray(columns.get(TEXT, np.zeros(n)), np.float64)
        code = np.where(np.isnan(text), SIZE + 1, text).astype(int)
        scaled = (np.where(np.isnan(x), filled, x) - shift) / scale
        return np.column_stack([scaled, np.isnan(x), table[0][code], table[1][code], of_number(x), x])

    steps = Steps(
        COLUMNS,
        made,
        {TEXT: np.arange(SIZE, dtype=np.float32), NUMBER: KNOWN},
        {TEXT: SIZE, NUMBER: 1.0},
        frozenset({0, 1}),
    )
    trees = [as_tree(root, exact=exact) for root in roots]
    folded = fold(trees, steps)
    raw = np.array(rows, np.float32)
    # On the folded thresholds themselves, and beside them, where a value too many or too few would show.
    edges = [t for tree in folded for t in tree.threshold[(tree.left >= 0) & (tree.set_sizes == 0)] if np.isfinite(t)]
    for edge in edges[:8]:
        beside = data.draw(
            st.sampled_from([edge, np.nextafter(edge, np.float32(9e9)), np.nextafter(edge, np.float32(-9e9))])
        )
        raw = np.vstack([raw, [beside, raw[0, 1]]]).astype(np.float32)
    seen = made({NUMBER: raw[:, 0], TEXT: raw[:, 1]})
    with np.errstate(over="ignore"):
        for tree, flat in zip(trees, folded, strict=True):
            for before, after in zip(seen, raw, strict=True):
                assert leaf(flat, after, float) == leaf(tree, before, float if exact else np.float32)
            assert flat.exact is None
            assert sorted(flat.leaf.ravel()) == sorted(tree.leaf.ravel())
