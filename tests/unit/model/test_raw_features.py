"""Columns of numbers and strings become the matrix that the model reads, or each thing wrong with them is named."""

from __future__ import annotations

import numpy as np
import pytest

from xai_service.errors import InvalidInput
from xai_service.model.manifest import Feature
from xai_service.model.raw_features import MAX_CHARACTERS, RawFeatures
from xai_service.types import Column

FEATURES = (
    Feature("age", True, 0.0, 90.0),
    Feature("city", True, None, None, "string", ("Bern", "", "Zürich"), allows_unknown=True),
    Feature("sex", False, None, None, "string", ("f", "m"), allows_unknown=False),
    Feature("dose", True, 0.5, 2.0, "numeric", ("2", "0.5"), allows_unknown=False),
)
RAW = RawFeatures(FEATURES)


def columns(**changes):
    given = {
        "dose": np.array([2, 0.5, np.nan], np.float32),
        "sex": ("m", "f", "m"),
        "age": np.array([1.5, np.nan, -0.0], np.float32),
        "city": ("Zürich", None, "Rome"),
    }
    return [Column(name, values) for name, values in (given | changes).items() if values is not None]


def test_strings_stand_as_their_place():
    ordered = RAW.ordered(columns())
    matrix = RAW.matrix(ordered)
    assert (matrix.dtype, matrix.flags.c_contiguous) == (np.float32, True)
    due = np.array([[1.5, 2, 1, 2], [np.nan, np.nan, 0, 0.5], [-0.0, 3, 1, np.nan]], np.float32)
    assert matrix.tobytes() == due.tobytes()
    assert RAW.unknown(matrix, ordered) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"city": None, "sex": None}, "columns: there is none for city, sex"),
        ({"town": ("a", "b", "c")}, "the model has no feature 'town'"),
        ({"age": ("a", "b", "c")}, "'age' takes numbers, and strings were sent"),
        ({"city": np.zeros(3, np.float32)}, "'city' takes strings, and numbers were sent"),
    ],
)
def test_columns_that_are_not_the_models(changes, says):
    with pytest.raises(InvalidInput, match=says):
        RAW.ordered(columns(**changes))


def test_a_column_twice():
    with pytest.raises(InvalidInput, match=r"columns\[4\].*'sex' was sent twice"):
        RAW.ordered([*columns(), columns()[1]])


def test_strings_that_are_all_missing_may_come_as_numbers():
    ordered = RAW.ordered(columns(city=np.full(3, np.nan, np.float32)))
    assert np.isnan(RAW.matrix(ordered)[:, 1]).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sex": ("f", "x", "x")}, "feature 'sex' is 'x' in row 1, .* in 2 such row.*it knows f, m"),
        ({"dose": np.array([2, 1, 2], np.float32)}, "feature 'dose' is '1.0' in row 1, .*it knows 2, 0.5"),
        ({"city": ("a", "x" * (MAX_CHARACTERS + 1), None)}, "feature 'city' has more than 4096 characters in row 1"),
    ],
)
def test_values_that_are_not_known(changes, says):
    ordered = RAW.ordered(columns(**changes))
    with pytest.raises(InvalidInput, match=says):
        raise InvalidInput(*RAW.unknown(RAW.matrix(ordered), ordered))


def test_known_numbers_hold_for_a_matrix_too():
    plain = RawFeatures(FEATURES[3:])
    assert plain.unknown(np.array([[2], [0.5], [np.nan]], np.float32), ()) == []
    (violation,) = plain.unknown(np.array([[2], [7]], np.float32), ())
    assert violation.field == "input[:, 0]"
