"""The standard error of estimated attributions, in the record."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from xai_service.errors import InternalError
from xai_service.ledger.entry import Explanation, decode_explanation, encode_explanation
from xai_service.ledger.gen.xai.record.v1 import record_pb2
from xai_service.types import ExplanationStatus, Method


def explanation(error: np.ndarray | None) -> Explanation:
    return Explanation(
        status=ExplanationStatus.COMPLETE,
        phi=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        base_values=np.array([0.5, 0.25]),
        residual=0.0,
        detail="",
        method=Method("permutation_sampling", "antithetic-16x9-f64", "onnxruntime"),
        explained_at_ns=7,
        standard_error=error,
    )


@pytest.mark.parametrize("error", [None, np.arange(6.0).reshape(3, 2)])
def test_it_is_kept_bit_for_bit(error: np.ndarray | None) -> None:
    decision_id = uuid.UUID(int=1)
    found_id, found = decode_explanation(encode_explanation(decision_id, explanation(error)))
    assert found_id == decision_id
    if error is None:
        assert found.standard_error is None
    else:
        np.testing.assert_array_equal(found.standard_error, error)


def test_a_record_that_contradicts_itself_is_refused() -> None:
    record = record_pb2.ExplanationRecord.FromString(encode_explanation(uuid.UUID(int=1), explanation(np.ones((3, 2)))))
    record.standard_error_f64 = record.standard_error_f64[:-8]
    with pytest.raises(InternalError, match="standard errors"):
        decode_explanation(record.SerializeToString())
    with pytest.raises(InternalError, match="standard errors"):
        encode_explanation(uuid.UUID(int=1), explanation(np.ones((2, 2))))
