"""Laws of the streaming feature profile, against exact rational arithmetic and numpy."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.gil import seen_at_work
from xai_service._profile import FeatureProfile, FeatureStatistics

if TYPE_CHECKING:
    from xai_service.types import Float32Array

# NaN, ±inf, ±0, denormals and the largest magnitudes, often enough to meet each other.
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]
VALUES = st.one_of(st.floats(width=32), st.sampled_from([float(np.float32(x)) for x in ODD]))
ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=VALUES)
EDGES = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=9, unique=True).map(
    lambda values: np.unique(np.array(values, np.float64))
)


def random_rows(n: int, features: int, seed: int = 0) -> Float32Array:
    """Rows over several blocks, of different scales, with a few values missing."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(loc=np.arange(features) ** 3, scale=1 + np.arange(features), size=(n, features))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows.astype(np.float32)


def assert_same(a: FeatureStatistics, b: FeatureStatistics, *, spread: float = 1e-9) -> None:
    """Counts are equal; moments are equal to rounding, relative to what the feature's range allows."""
    assert a.rows == b.rows
    for name in ("count", "missing", "infinite", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for ours, theirs in zip(a.histogram, b.histogram, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with np.errstate(invalid="ignore"):
        scale = np.nan_to_num(np.maximum(abs(a.minimum), abs(a.maximum)))
    np.testing.assert_array_less(abs(np.nan_to_num(a.mean - b.mean)), spread * scale + 1e-300)
    np.testing.assert_array_less(abs(np.nan_to_num(a.variance - b.variance)), spread * scale**2 + 1e-300)


@given(ROWS)
@example(np.full((3, 2), np.nan, np.float32))
@example(np.array([[np.inf, -np.inf], [-np.inf, np.nan]], np.float32))
def test_scan_agrees_with_exact_arithmetic(rows: Float32Array) -> None:
    scan = FeatureProfile(rows.shape[1]).scan(rows)

    assert scan.rows == len(rows)
    np.testing.assert_array_equal(scan.missing, np.isnan(rows).sum(axis=0))
    np.testing.assert_array_equal(scan.infinite, np.isinf(rows).sum(axis=0))
    np.testing.assert_array_equal(scan.count, np.isfinite(rows).sum(axis=0))
    infinite = np.argwhere(np.isinf(rows))
    assert scan.first_infinite == (tuple(infinite[0].tolist()) if len(infinite) else None)
    for j, column in enumerate(rows.T):
        missing = np.flatnonzero(np.isnan(column))
        assert scan.first_missing[j] == (missing[0] if len(missing) else -1)
        exact = [Fraction(float(x)) for x in column if np.isfinite(x)]
        if not exact:
            assert np.isnan([scan.mean[j], scan.variance[j], scan.minimum[j], scan.maximum[j]]).all()
            continue
        assert scan.minimum[j] == min(exact)
        assert scan.maximum[j] == max(exact)
        mean = sum(exact, Fraction()) / len(exact)
        variance = sum(((x - mean) ** 2 for x in exact), Fraction()) / len(exact)
        assert abs(Fraction(scan.mean[j]) - mean) <= max(map(abs, exact)) * Fraction(1, 10**14)
        assert abs(Fraction(scan.variance[j]) - variance) <= variance * Fraction(1, 10**12)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000, 5000])
def test_scan_agrees_with_numpy_across_blocks(n: int) -> None:
    rows = random_rows(n, 7)
    rows[0] = 0  # a shift far from most values, and no feature without any
    scan = FeatureProfile(7).scan(rows)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(scan.mean, np.nanmean(wide, axis=0), rtol=1e-13)
    np.testing.assert_allclose(scan.variance, np.nanvar(wide, axis=0), rtol=1e-11)
    np.testing.assert_array_equal(scan.minimum, np.nanmin(wide, axis=0))
    np.testing.assert_array_equal(scan.maximum, np.nanmax(wide, axis=0))


@pytest.mark.parametrize("batch", [1, 7, 3000])
def test_variance_survives_a_large_mean(batch: int) -> None:
    """Mean 1e8, spread of one float32 step (8 there): Σx² less n·mean² would lose every digit."""
    steps = np.random.default_rng(1).integers(-1, 2, size=(3000, 2))
    rows = (1e8 + 8 * steps).astype(np.float32)
    profile = FeatureProfile(2)
    for start in range(0, len(rows), batch):
        profile.merge(profile.scan(rows[start : start + batch]))
    np.testing.assert_allclose(profile.variance, 64 * np.var(steps, axis=0), rtol=1e-7)
    np.testing.assert_allclose(profile.mean, 1e8 + 8 * steps.mean(axis=0), rtol=1e-15)


@given(ROWS, st.integers(0, 12), st.integers(0, 12), st.data())
def test_merging_parts_equals_one_pass(rows: Float32Array, i: int, j: int, data: st.DataObject) -> None:
    features = rows.shape[1]
    edges = data.draw(st.lists(EDGES, min_size=features, max_size=features))

    def merged(*parts: FeatureStatistics) -> FeatureProfile:
        profile = FeatureProfile(features, edges)
        for part in parts:
            profile.merge(part)
        return profile

    whole = FeatureProfile(features, edges).scan(rows)
    scans = [FeatureProfile(features, edges).scan(part) for part in np.split(rows, sorted({i, j}))]
    assert_same(merged(*scans), whole)
    assert_same(merged(*reversed(scans)), whole)
    assert_same(merged(scans[0], merged(*scans[1:])), merged(merged(*scans[:-1]), scans[-1]))


def test_merging_across_blocks_equals_one_pass() -> None:
    rows = random_rows(3000, 5)
    profile = FeatureProfile(5)
    for part in np.array_split(rows, 11):
        profile.merge(profile.scan(part))
    assert_same(profile, FeatureProfile(5).scan(rows), spread=1e-15)


def test_nothing_is_the_identity_of_merge() -> None:
    rows = random_rows(300, 3)
    profile = FeatureProfile(3)
    scan = profile.scan(rows)
    profile.merge(scan)
    assert profile.to_dict() == scan.to_dict()
    profile.merge(profile.scan(rows[:0]))
    profile.merge(FeatureProfile(3))
    assert profile.to_dict() == scan.to_dict()


def test_a_profile_merged_into_itself_doubles() -> None:
    once = FeatureProfile(3, [[0.0], [], [1.0, 2.0]])
    once.merge(once.scan(random_rows(300, 3)))
    before = once.to_dict()
    once.merge(once)
    for old, new in zip(before["features"], once.to_dict()["features"], strict=True):
        assert new["count"] == 2 * old["count"]
        assert new["histogram"] == [2 * n for n in old["histogram"]]
        assert (new["mean"], new["variance"]) == pytest.approx((old["mean"], old["variance"]), rel=1e-15)


@given(ROWS, st.data())
def test_histogram_is_searchsorted_from_the_right(rows: Float32Array, data: st.DataObject) -> None:
    features = rows.shape[1]
    edges = data.draw(st.lists(EDGES, min_size=features, max_size=features))
    # Values often fall on an edge exactly.
    finite = [np.unique(column[np.isfinite(column)]).astype(np.float64) for column in rows.T]
    edges = [
        np.unique(np.concatenate([e, f])) if data.draw(st.booleans()) else e for e, f in zip(edges, finite, strict=True)
    ]
    scan = FeatureProfile(features, edges).scan(rows)
    for column, e, counts in zip(rows.T, edges, scan.histogram, strict=True):
        values = column[np.isfinite(column)].astype(np.float64)
        expected = np.bincount(np.searchsorted(e, values, side="right"), minlength=len(e) + 1)
        np.testing.assert_array_equal(counts, expected)
        if len(e) > 1:  # numpy closes the last bin on the right; ours stays half-open
            inside = values[values < e[-1]]
            np.testing.assert_array_equal(counts[1:-1], np.histogram(inside, e)[0])


@pytest.mark.parametrize("edges", range(40))
def test_histogram_with_any_number_of_edges(edges: int) -> None:
    values = np.arange(-1, edges + 1, 0.5, dtype=np.float32)[:, None]
    counts = FeatureProfile(1, [np.arange(edges)]).scan(values).histogram[0]
    np.testing.assert_array_equal(counts, np.bincount(np.floor(values[:, 0]).astype(int).clip(-1, edges - 1) + 1))


def test_no_rows() -> None:
    scan = FeatureProfile(2, [[1.0], []]).scan(np.empty((0, 2), np.float32))
    assert (scan.rows, scan.first_infinite) == (0, None)
    assert scan.first_missing.tolist() == [-1, -1]
    assert np.isnan(scan.mean).all()
    assert [h.tolist() for h in scan.histogram] == [[0, 0], [0]]


def test_scan_leaves_no_trace() -> None:
    profile = FeatureProfile(2, [[0.0], []])
    profile.merge(profile.scan(random_rows(50, 2)))
    before = profile.to_dict()
    refused = profile.scan(np.array([[1, 2], [np.nan, np.inf]], np.float32))
    assert refused.first_infinite == (1, 1)
    assert refused.first_missing.tolist() == [1, -1]
    assert profile.to_dict() == before


def test_read_only_rows_and_results_of_ones_own() -> None:
    rows = random_rows(10, 2)
    rows.flags.writeable = False
    profile = FeatureProfile(2, [[0.0], []])
    scan = profile.scan(rows)
    scan.mean[:] = 7
    scan.histogram[0][:] = 7
    assert not (scan.mean == 7).any()
    assert scan.histogram[0].sum() == scan.count[0]
    assert not any(edges.flags.writeable for edges in profile.edges)


def test_edges_are_the_profiles_own() -> None:
    edges = np.array([0.0, 1.0])
    profile = FeatureProfile(1, [edges])
    edges[:] = 5
    assert profile.edges[0].tolist() == [0, 1]


def test_to_dict_is_strict_json() -> None:
    profile = FeatureProfile(2, [[0.0, 2.5], []])
    profile.merge(profile.scan(np.array([[1, np.nan], [3, np.inf], [-1, np.nan]], np.float32)))
    assert json.loads(json.dumps(profile.to_dict(), allow_nan=False)) == {
        "rows": 3,
        "features": [
            {
                "count": 3,
                "missing": 0,
                "infinite": 0,
                "mean": 1.0,
                "variance": pytest.approx(8 / 3),
                "minimum": -1.0,
                "maximum": 3.0,
                "edges": [0.0, 2.5],
                "histogram": [1, 1, 1],
            },
            {
                "count": 0,
                "missing": 2,
                "infinite": 1,
                "mean": None,
                "variance": None,
                "minimum": None,
                "maximum": None,
                "edges": [],
                "histogram": [0],
            },
        ],
    }


GOOD = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, 2.0, 3.0]], "numpy array, not list"),
        (None, "not NoneType"),
        (GOOD.astype(np.float64), "<f8"),
        (GOOD.astype(np.int32), "<i4"),
        (GOOD.astype(GOOD.dtype.newbyteorder("S")), "byte order"),
        (GOOD[0], r"\(3,\); it must be \(n, 3\)"),
        (GOOD[None], r"\(1, 4, 3\)"),
        (GOOD[:, :2], r"\(4, 2\)"),
        (np.asfortranarray(GOOD), "C-contiguous"),
        (GOOD[::2], "C-contiguous"),
        (np.frombuffer(b"\0" * 13, np.float32, count=3, offset=1).reshape(1, 3), "aligned"),
    ],
)
def test_scan_refuses_other_rows(rows: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FeatureProfile(3).scan(rows)


@pytest.mark.parametrize(
    ("features", "edges", "says"),
    [
        (0, None, "at least 1"),
        (-1, None, "at least 1"),
        (2, [[1.0]], "for 1 features; the profile has 2"),
        (2, [[1.0], [2.0, 2.0]], r"edges\[1\] are not strictly increasing"),
        (1, [[2.0, 1.0]], "strictly increasing"),
        (1, [[1.0, np.nan]], "NaN or infinity"),
        (1, [[-np.inf, 0.0]], "NaN or infinity"),
        (1, [[[1.0]]], "2 dimensions"),
        (1, [["low"]], r"edges\[0\] are not numbers"),
    ],
)
def test_profile_refuses_other_bins(features: int, edges: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FeatureProfile(features, edges)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (FeatureProfile(1, [[1.0]]), "1 features into 2"),
        (FeatureProfile(2), "bin edges"),
        (FeatureProfile(2, [[1.0], [3.0]]), "bin edges"),
        (FeatureProfile(2, [[1.0, 2.0], []]), "bin edges"),  # the same numbers, cut differently
    ],
)
def test_merge_refuses_other_shapes(other: FeatureProfile, says: str) -> None:
    profile = FeatureProfile(2, [[1.0], [2.0]])
    with pytest.raises(ValueError, match=says):
        profile.merge(other)
    assert profile.rows == 0


def test_merge_takes_equal_edges_of_another_object() -> None:
    profile = FeatureProfile(1, [[1, 2]])
    profile.merge(FeatureProfile(1, [np.array([1.0, 2.0])]).scan(np.ones((3, 1), np.float32)))
    assert profile.histogram[0].tolist() == [0, 3, 0]


def test_large_scans_drop_the_gil_and_small_ones_keep_it() -> None:
    profile = FeatureProfile(20)
    large, small = np.zeros((50_000, 20), np.float32), np.zeros((200, 20), np.float32)
    assert seen_at_work(lambda: profile.scan(large))
    assert not seen_at_work(lambda: profile.scan(small))


def test_threads_share_a_profile() -> None:
    profile = FeatureProfile(4, [[0.0]] * 4)
    parts = [random_rows(2000, 4, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: profile.merge(profile.scan(part)), parts))
    assert_same(profile, FeatureProfile(4, [[0.0]] * 4).scan(np.concatenate(parts)), spread=1e-14)
