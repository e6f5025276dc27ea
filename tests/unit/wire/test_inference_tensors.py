"""Tensors of the Open Inference Protocol: raw and typed say the same, and what is none is refused before it costs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.inference import CONTENTS, DTYPES, bytes_blob
from xai_service.errors import InvalidInput
from xai_service.wire.gen.inference import grpc_service_pb2 as pb
from xai_service.wire.inference_tensors import read_numbers, read_strings, to_bytes_blob

Tensor = pb.ModelInferRequest.InferInputTensor
SHAPES = st.one_of(st.tuples(st.integers(1, 20)), st.tuples(st.integers(1, 20), st.integers(1, 5)))


def typed(datatype, values, shape):
    tensor = Tensor(datatype=datatype, shape=shape)
    getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return tensor


@given(st.data(), st.sampled_from(["FP32", "FP64", "INT32", "INT64"]), SHAPES)
def test_raw_and_typed_are_the_same_float32(data, datatype, shape):
    elements = st.integers(-(1 << 24), 1 << 24) if datatype.startswith("I") else None
    values = data.draw(arrays.arrays(np.dtype(DTYPES[datatype]), shape, elements=elements))
    with np.errstate(over="ignore", invalid="ignore"):
        due = values.astype(np.float32)
    from_raw = read_numbers(Tensor(datatype=datatype, shape=shape), values.tobytes(), "x")
    from_typed = read_numbers(typed(datatype, values.ravel().tolist(), shape), None, "x")
    for got in (from_raw, from_typed):
        assert got.dtype == np.float32
        assert got.shape == shape
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, due)
    if datatype == "FP32":
        assert from_raw.tobytes() == values.tobytes()  # to the bit, NaN's payload too


def test_fp32_is_not_copied():
    raw = np.arange(6, dtype=np.float32).tobytes()
    got = read_numbers(Tensor(datatype="FP32", shape=[2, 3]), raw, "x")
    assert np.shares_memory(got, np.frombuffer(raw, np.uint8))


@given(st.lists(st.text(max_size=9), min_size=1, max_size=30))
def test_strings_raw_and_typed(texts):
    elements = [text.encode("utf-8", "replace") for text in texts]
    shape = (len(texts), 1)
    from_raw = read_strings(Tensor(datatype="BYTES", shape=shape), bytes_blob(elements), "x")
    assert from_raw == read_strings(typed("BYTES", elements, shape), None, "x")
    assert from_raw == tuple(one.decode() for one in elements)
    assert to_bytes_blob(elements) == bytes_blob(elements)


def test_a_string_may_stand_for_missing():
    tensor = Tensor(datatype="BYTES", shape=[3])
    assert read_strings(tensor, bytes_blob([b"a", b"", b"?"]), "x", b"") == ("a", None, "?")
    assert read_strings(tensor, bytes_blob([b"a", b"", b"?"]), "x", b"?") == ("a", "", None)
    assert read_strings(tensor, bytes_blob([b"a", b"", b"?"]), "x") == ("a", "", "?")


@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
def test_integers_that_float32_does_not_have_are_named(datatype):
    fine = [1 << 24, -(1 << 24), 1 << 30, (1 << 24) + 2]
    got = read_numbers(typed(datatype, fine, [4]), None, "x")
    np.testing.assert_array_equal(got, np.array(fine, np.float64))
    for wrong in ((1 << 24) + 1, -(1 << 24) - 1, (1 << 31) - 1):
        with pytest.raises(InvalidInput, match=rf"x: element 1, {wrong}, is an integer that float32 does not have"):
            read_numbers(typed(datatype, [0, wrong], [2]), None, "x")
    if datatype == "INT64":
        for wrong in ((1 << 63) - 1, -(1 << 63) + 1):
            with pytest.raises(InvalidInput, match=f"element 0, {wrong}"):
                read_numbers(typed(datatype, [wrong], [1]), None, "x")
        assert read_numbers(typed(datatype, [-(1 << 63)], [1]), None, "x") == [-(2.0**63)]


def test_doubles_are_rounded_and_beyond_float32_infinite():
    got = read_numbers(typed("FP64", [0.1, 1e300, -1e300, 1e-60], [4]), None, "x")
    np.testing.assert_array_equal(got, np.array([np.float32(0.1), np.inf, -np.inf, 0], np.float32))


HUGE = (1 << 62, 1 << 31, 1 << 20)
REFUSED = {
    "an unknown type": (Tensor(datatype="FP16", shape=[1]), b"\0\0", r"x\.datatype: 'FP16'"),
    "a long unknown type": (Tensor(datatype="F" * 10_000, shape=[1]), b"", r"x\.datatype: 'F{40}' was"),
    "no dimension": (Tensor(datatype="FP32"), b"\0" * 4, r"x\.shape: \[\] was sent"),
    "three dimensions": (Tensor(datatype="FP32", shape=[1, 1, 1]), b"\0" * 4, r"x\.shape: 3 dimensions"),
    "many dimensions": (Tensor(datatype="FP32", shape=[1] * 100_000), b"\0" * 4, r"x\.shape: 100000 dimensions"),
    "a negative dimension": (Tensor(datatype="FP32", shape=[-1, 4]), b"\0" * 16, r"x\.shape: \[-1, 4\]"),
    "two negative ones": (Tensor(datatype="FP32", shape=[-2, -2]), b"\0" * 16, r"x\.shape"),
    "an empty one": (Tensor(datatype="FP32", shape=[0, 4]), b"", r"x\.shape: \[0, 4\]"),
    "an empty and a huge one": (Tensor(datatype="FP32", shape=[0, 1 << 62]), b"", r"x\.shape"),
    "a huge one": (Tensor(datatype="FP32", shape=[1 << 62]), b"\0" * 4, f"takes {1 << 64} bytes"),
    "a product beyond 64 bits": (Tensor(datatype="INT64", shape=[1 << 62, 1 << 62]), b"\0" * 8, "takes"),
    "a product that wraps to 0": (Tensor(datatype="FP64", shape=[1 << 32, 1 << 32]), b"", "raw contents hold 0"),
    "too few bytes": (Tensor(datatype="FP32", shape=[2, 2]), b"\0" * 15, "takes 16 bytes, its raw contents hold 15"),
    "too many bytes": (Tensor(datatype="FP32", shape=[2, 2]), b"\0" * 17, "hold 17"),
    "no contents": (Tensor(datatype="FP32", shape=[2]), None, r"x\.contents: .* takes 2 of fp32_contents, it has 0"),
    "others' contents": (
        Tensor(datatype="FP32", shape=[1], contents=pb.InferTensorContents(fp64_contents=[1.0])), None, "it has 0"
    ),
    "contents besides": (
        Tensor(datatype="FP32", shape=[1], contents=pb.InferTensorContents(fp32_contents=[1.0], int_contents=[1])),
        None,
        "holds more than fp32_contents",
    ),
    "contents of a huge shape": (
        Tensor(datatype="FP32", shape=HUGE[:2], contents=pb.InferTensorContents(fp32_contents=[1.0])), None, "takes"
    ),
}  # fmt: skip
REFUSED_STRINGS = {
    "an empty blob": (Tensor(shape=[1]), b"", "1 strings take 4 bytes at least"),
    "a length alone that lies": (Tensor(shape=[1]), b"\xff\xff\xff\xff", "end within element 0 of 1"),
    "an overlong element": (Tensor(shape=[2]), b"\1\0\0\0a\2\0\0\0b", "end within element 1 of 2"),
    "a cut length": (Tensor(shape=[2]), b"\4\0\0\0abcd\0\0", "end within element 1 of 2"),
    "bytes left": (Tensor(shape=[1]), b"\1\0\0\0ab", "hold 1 bytes beyond its 1 strings"),
    "an element too many": (Tensor(shape=[1]), bytes_blob([b"a", b"b"]), "hold 5 bytes beyond"),
    "no UTF-8": (Tensor(shape=[1]), bytes_blob([b"\xff" * 1000]), r"not UTF-8: b'(\\xff){40}'"),
    "a huge shape": (Tensor(shape=[1 << 62]), b"\0" * 64, "are more than 1048576 strings"),
    "as many as may be, of nothing": (Tensor(shape=[1 << 20]), b"\0" * 64, "take 4194304 bytes at least"),
    "contents missing": (Tensor(datatype="BYTES", shape=[2]), None, "takes 2 of bytes_contents, it has 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    _refused_cheaply(read_numbers, *REFUSED[name])


@pytest.mark.parametrize("name", REFUSED_STRINGS)
def test_strings_refused(name):
    _refused_cheaply(read_strings, *REFUSED_STRINGS[name])


def _refused_cheaply(read, tensor, raw, says):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=says):
            read(tensor, raw, "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
