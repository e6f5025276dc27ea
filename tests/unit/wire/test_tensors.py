"""Arrays survive the wire bit by bit; what is no array is refused before it costs anything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xai_service.errors import InvalidInput
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import from_tensor, to_tensor

CODES = {"f4": pb.DATA_TYPE_FLOAT32, "f8": pb.DATA_TYPE_FLOAT64, "i8": pb.DATA_TYPE_INT64}
SHAPES = npst.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=4)
ARRAYS = st.sampled_from(["<f4", "<f8", "<i8", ">f4", ">f8", ">i8"]).flatmap(lambda dtype: npst.arrays(dtype, SHAPES))


@given(ARRAYS)
def test_any_array_comes_back(array):
    tensor = to_tensor(array)
    assert tensor.dtype == CODES[array.dtype.str[1:]]
    # Through the bytes that travel, not only the message.
    back = from_tensor(pb.Tensor.FromString(tensor.SerializeToString()), "input")
    assert back.dtype.str == "<" + array.dtype.str[1:]
    assert back.shape == array.shape
    # Number by number, NaN payloads and signs of zero included.
    assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert not back.flags.writeable


@given(ARRAYS.filter(lambda array: array.ndim >= 2), st.data())
def test_views_are_sent_in_row_order(array, data):
    views = [array.T, array[::-1], array[..., ::2], np.asfortranarray(array), np.broadcast_to(array, (2, *array.shape))]
    view = data.draw(st.sampled_from([view for view in views if view.ndim <= 8]))
    back = from_tensor(to_tensor(view), "input")
    assert back.shape == view.shape
    assert back.ravel().tolist() == view.ravel().tolist() or np.isnan(view.astype(np.float64)).any()
    assert back.tobytes() == np.ascontiguousarray(view).astype(back.dtype).tobytes()


def refusal(tensor):
    with pytest.raises(InvalidInput) as refused:
        from_tensor(tensor, "input")
    (violation,) = refused.value.violations
    return violation


@pytest.mark.parametrize(
    "shape",
    [
        [0, 2**62],
        [2**62, 0],
        [2**63 - 1, 0],
        [0, 2**63 - 1],
        [2**31, 2**31, 0],
        [0] + [2**63 - 1] * 7,
    ],
)
def test_an_empty_array_of_absurd_shape_is_refused(shape):
    assert refusal(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape)).field == "input.shape"


@pytest.mark.parametrize("shape", [[2**62, 2**62], [2**63 - 1] * 8, [2**32, 2**32], [2**61], [2**63 - 1, 1, 1]])
def test_a_product_that_overflows_is_counted_exactly(shape):
    violation = refusal(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=shape, data=bytes(16)))
    assert violation.field == "input.data"
    assert f"takes {math.prod(shape) * 8} bytes, 16 were sent" in violation.description


@given(st.lists(st.integers(-2, 4), max_size=10), st.integers(0, 70), st.sampled_from([0, 1, 2, 3, 4, 99, -1]))
def test_a_tensor_is_an_array_or_refused(shape, n_bytes, dtype):
    tensor = pb.Tensor(dtype=dtype, shape=shape, data=bytes(n_bytes))
    item = {1: 4, 2: 8, 3: 8}.get(dtype)
    if item is None:
        assert refusal(tensor).field == "input.dtype"
    elif len(shape) > 8 or any(size < 0 for size in shape):
        assert refusal(tensor).field == "input.shape"
    elif math.prod(shape) * item != n_bytes:
        assert refusal(tensor).field == "input.data"
    else:
        assert from_tensor(tensor, "input").shape == tuple(shape)


def test_a_message_of_dimensions_only_is_answered_in_few_words():
    violation = refusal(pb.Tensor(dtype=1, shape=[1] * 1_000_000))
    assert violation.field == "input.shape"
    assert len(violation.description) < 200
