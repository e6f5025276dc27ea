"""A request's rows are the model's rows, or each thing that is wrong with them is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service._profile import FeatureProfile
from xai_service.checks import MAX_ATTRIBUTIONS_PER_REQUEST, check_shape, check_values
from xai_service.errors import InvalidInput
from xai_service.model.manifest import Feature
from xai_service.model.raw_features import RawFeatures
from xai_service.types import PredictCall

NAMES = ("income", "debt", "age")


def model(names=NAMES, allows_missing=(False, True, False), n_outputs=1, categorical=()):
    features = [Feature(name, allowed, None, None) for name, allowed in zip(names, allows_missing, strict=False)]
    return SimpleNamespace(
        feature_names=names,
        n_outputs=n_outputs,
        categorical=np.array(categorical, np.int64),
        manifest=SimpleNamespace(features=features),
        raw=RawFeatures(features),
    )


def values(rows):
    """The rows of a call, and its columns, which were not sent."""
    return np.ascontiguousarray(rows, np.float32), ()


def call(rows, feature_names=None):
    return PredictCall("loan", None, np.asarray(rows, np.float32), feature_names)


def violations(check, *arguments):
    with pytest.raises(InvalidInput) as refused:
        check(*arguments)
    return refused.value.violations


@given(st.integers(0, 6), st.integers(0, 5), st.none() | st.lists(st.sampled_from(NAMES), max_size=4).map(tuple))
def test_shapes_and_names(rows, columns, names):
    wrong = set()
    if rows == 0 or rows > 4 or columns != 3:
        wrong.add("input.shape")
    if names is not None and names != NAMES:
        first = next((i for i in range(3) if names[i : i + 1] != NAMES[i : i + 1]), None)
        wrong.add("feature_names" if len(names) != 3 else f"feature_names[{first}]")
    request = call(np.zeros((rows, columns)), names)
    if wrong:
        found = violations(check_shape, request, model(), 4)
        assert {violation.field for violation in found} == wrong
        assert ("the batch is empty" in str(found)) == (rows == 0)
        assert ("limit of 4" in str(found)) == (rows > 4)
        assert ("features were sent" in str(found)) == (columns != 3)
    else:
        check_shape(request, model(), 4)


def test_the_attributions_of_one_request_are_bounded():
    outputs = MAX_ATTRIBUTIONS_PER_REQUEST // 3 // 100
    check_shape(call(np.zeros((100, 3))), model(n_outputs=outputs), 1000)
    (violation,) = violations(check_shape, call(np.zeros((101, 3))), model(n_outputs=outputs), 1000)
    assert "send at most 100 rows" in violation.description


def test_an_absurd_shape_is_refused_without_touching_memory():
    rows = np.zeros((0, 3), np.float32).reshape(2**40, 0)
    assert "1099511627776 rows" in str(violations(check_shape, call(rows), model(), 10))


def test_many_names_are_listed_in_part():
    names = tuple(f"f{i}" for i in range(1000))
    (violation,) = violations(check_shape, call(np.zeros((1, 3))), model(names, [True] * 1000), 10)
    assert "f19 and 980 more" in violation.description
    assert "f20" not in violation.description


VALUE = st.sampled_from([0.0, -0.0, 1.5, 3e38, 1e-45, np.nan, np.inf, -np.inf])


@given(st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=6), st.tuples(*[st.booleans()] * 3))
def test_values(rows, allowed):
    table, profile = np.array(rows, np.float32), FeatureProfile(3)
    infinite = [sum(abs(row[c]) == np.inf for row in rows) for c in range(3)]
    missing = [[i for i, row in enumerate(rows) if row[c] != row[c]] for c in range(3)]
    expected = [(c, f"holds {infinite[c]} infinite") for c in range(3) if infinite[c]]
    expected += [
        (c, f"missing (NaN) in {len(missing[c])} row(s), first in row {missing[c][0]},")
        for c in range(3)
        if missing[c] and not allowed[c]
    ]
    checked = model(allows_missing=allowed)
    if expected:
        found = violations(check_values, *values(table), checked, profile)
        assert [violation.field for violation in found] == [f"input[:, {c}]" for c, _ in expected]
        for violation, (c, text) in zip(found, expected, strict=True):
            assert text in violation.description
            assert repr(NAMES[c]) in violation.description
    else:
        scan = check_values(*values(table), checked, profile)
        assert scan.missing.tolist() == [len(m) for m in missing]
    assert profile.count.tolist() == [0, 0, 0]  # looking leaves no trace; merging is the caller's


def test_thousands_of_bad_columns_are_told_in_part():
    names = tuple(f"f{i}" for i in range(5000))
    request = values(np.full((2, 5000), np.inf))
    with pytest.raises(InvalidInput) as refused:
        check_values(*request, model(names, [True] * 5000), FeatureProfile(5000))
    assert len(refused.value.violations) == InvalidInput.MAX_VIOLATIONS
    assert "and 4984 more" in str(refused.value)


def test_codes_of_categories_are_whole_numbers():
    checked, profile = model(allows_missing=[True] * 3, categorical=[0, 2]), FeatureProfile(3)
    whole = [[0, 0.5, np.nan], [-1, 1.5, 7], [3e9, -2.25, -0.0]]
    assert check_values(*values(whole), checked, profile).rows == 3
    found = violations(check_values, *values([*whole, [2.5, 0.5, 1], [-0.5, 0.5, 1e-45]]), checked, profile)
    assert [violation.field for violation in found] == ["input[:, 0]", "input[:, 2]"]
    assert "feature 'income' is 2.5 in row 3" in found[0].description
    assert "2 such row(s)" in found[0].description
    assert "in row 4" in found[1].description
    # An infinite code is told once, as infinite.
    assert len(violations(check_values, *values([[np.inf, 0.5, 1]]), checked, profile)) == 1
