"""Thresholds compare with every float32 as before they were rounded; trees that cannot be served are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.errors import PackRefused
from xai_service.pack.forest import Tree, check_forest, round_thresholds

STUMP = Tree(
    left=np.array([1, -1, -1]),
    right=np.array([2, -1, -1]),
    parent=np.array([-1, 0, 0]),
    feature=np.array([1, 0, 0]),
    threshold=np.array([0.5, 0, 0], np.float32),
    inclusive=np.array([True, False, False]),
    missing_left=np.array([False] * 3),
    leaf=np.array([[0], [1], [2]], np.float32),
    outputs=np.array([0]),
    cover=np.array([5.0, 2.0, 3.0]),
    set_begin=np.array([0, 0, 0, 0]),
    set_value=np.array([], np.float32),
)


@given(st.floats(allow_nan=False), st.booleans(), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_rounded_thresholds_compare_alike(threshold: float, inclusive: bool, value: float) -> None:
    (rounded,) = round_thresholds(np.array([threshold]), np.array([inclusive]))
    assert rounded.dtype == np.float32
    near = np.float32(min(max(threshold, -3e38), 3e38))
    for one in (
        np.float32(value),
        near,
        np.nextafter(near, np.float32(np.inf)),
        np.nextafter(near, np.float32(-np.inf)),
    ):
        exact = float(one) <= threshold if inclusive else float(one) < threshold
        assert (one <= rounded if inclusive else one < rounded) == exact


def test_a_sound_forest() -> None:
    check_forest([STUMP, STUMP], 2, 1)
    nobody_went_left = dataclasses.replace(STUMP, cover=np.array([3.0, 0.0, 3.0]))
    check_forest([nobody_went_left], 2, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"feature": np.array([2, 0, 0])}, "tree 0, node 0: splits on a feature beyond the 2"),
        ({"threshold": np.array([np.nan, 0, 0], np.float32)}, "tree 0, node 0: has NaN for its threshold"),
        ({"leaf": np.array([[0], [1], [np.inf]], np.float32)}, "tree 0, node 2: is a leaf whose value is not finite"),
        ({"cover": np.array([5.0, 2.0, 2.0])}, "node 0: has a cover that is not the sum"),
        ({"cover": np.ones(3)}, "cover 1.0 on every node"),
        ({"set_begin": np.array([0, 1, 1, 1]), "set_value": np.array([0.5], np.float32)}, "code is no whole number"),
        ({"set_begin": np.array([0, 1, 1, 1]), "set_value": np.array([1 << 24], np.float32)}, "below 2\\^24"),
        ({"outputs": np.array([1])}, "output 0 has no trees"),
    ],
)
def test_what_cannot_be_served(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PackRefused, match=says):
        check_forest([dataclasses.replace(STUMP, **changes)], 2, 1)
    with pytest.raises(PackRefused, match="no trees"):
        check_forest([], 2, 1)
