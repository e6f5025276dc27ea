"""Columns survive the wire; what is none is refused with its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from xai_service.errors import InvalidInput
from xai_service.wire.codec import decode_predict
from xai_service.wire.columns import from_columns, to_columns
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import to_tensor

TABLE = np.array([["Bern", 1.5, None], [None, np.nan, pd.NA], ["", 2, float("nan")]], object)


def request(*columns: pb.Column, **fields) -> pb.PredictRequest:
    return pb.PredictRequest(model_name="m", columns=columns, **fields)


def test_there_and_back():
    columns = from_columns(request(*to_columns(TABLE, ["city", "age", "gap"])))
    assert [one.name for one in columns] == ["city", "age", "gap"]
    texts, ages, gaps = (one.values for one in columns)  # noqa: PD011 (no DataFrame)
    assert texts == ("Bern", None, "")
    np.testing.assert_array_equal(ages, np.array([1.5, np.nan, 2], np.float32))
    assert np.isnan(gaps).all()
    call = decode_predict(request(*to_columns(TABLE, ["city", "age", "gap"])))
    assert call.rows.shape == (3, 0)
    assert call.strings == {0: ("Bern", None, "")}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (request(pb.Column(name="a")), r"columns\[0\].*holds neither numbers nor strings"),
        (
            request(pb.Column(name="a", strings=pb.Strings(values=["x"], missing=[1]))),
            r"columns\[0\]\.strings\.missing.*1 is beyond 1 rows",
        ),
        (
            request(*to_columns(TABLE, ["a", "b", "c"]), *to_columns(TABLE[:2], ["d"])),
            r"columns\[3\].*holds 2 values, columns\[0\] holds 3",
        ),
        (request(pb.Column(name="a", numbers=to_tensor(np.zeros((2, 1))))), r"FLOAT64 \[2, 1\] was sent; .* \[rows\]"),
        (request(pb.Column(name="a", numbers=to_tensor(np.zeros(2, np.int64)))), "INT64"),
        (request(pb.Column(name="a", numbers=pb.Tensor(dtype=1, shape=[9]))), r"columns\[0\]\.numbers\.data"),
        (request(*[pb.Column(strings=pb.Strings())] * (2**20 + 1)), "1048577 were sent, at most 1048576 are taken"),
        (
            request(pb.Column(strings=pb.Strings(values=[""] * (2**20 + 1)))),
            "1048577 rows are more than 1048576",
        ),
        (request(*to_columns(TABLE, ["a"]), input=to_tensor(np.zeros((1, 1)))), "input.*sent beside `columns`"),
        (request(*to_columns(TABLE, ["a"]), feature_names=["a"]), "feature_names.*sent beside `columns`"),
    ],
)
def test_refused(message, says):
    with pytest.raises(InvalidInput, match=says):
        from_columns(message)


@pytest.mark.parametrize("values", [["a", 1.5], [1 + 2j, 3], [pd.Timestamp("2030-01-01"), None]])
def test_what_is_neither_is_not_sent(values):
    with pytest.raises(ValueError, match="column 'a' holds"):
        to_columns(np.array(values, object)[:, None], ["a"])
