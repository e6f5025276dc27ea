"""Tensors of the Open Inference Protocol to arrays and back. Every count is checked before anything is made of it.

A tensor's elements stand in its own typed ``contents`` or, as a blob, in the request's ``raw_input_contents``:
row-major, little-endian, unpadded; those of BYTES each after its length in four bytes.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from xai_service.types import Float32Array

# Data type, its dtype, and the field of `contents` that holds it.
_NUMBERS: dict[str, tuple[np.dtype[Any], str]] = {
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "FP64": (np.dtype("<f8"), "fp64_contents"),
    "INT32": (np.dtype("<i4"), "int_contents"),
    "INT64": (np.dtype("<i8"), "int64_contents"),
}
_EXACT_INTEGERS = 1 << 24  # up to here, float32 has them all
_MAX_STRINGS = 1 << 20  # in one tensor: four bytes each in a message, many in memory
_LENGTH = struct.Struct("<I")
_SHOWN = 40


def read_numbers(tensor: Any, raw: bytes | None, field: str) -> Float32Array:
    """Returns a tensor of numbers as float32, of its shape: one or two dimensions, C order.

    FP32 shares the request's bytes. FP64 is rounded to the nearest float32, as ONNX Runtime would; what is beyond its
    range becomes infinite, and is refused as such where values are checked.

    Args:
        tensor: an `InferInputTensor`, untrusted.
        raw: its blob, or ``None`` where its elements are typed.
        field: its path in the request, for errors.

    Raises:
        InvalidInput: it has another data type or shape, not as many elements as its shape says, or integers that
            float32 does not have.
    """
    known = _NUMBERS.get(tensor.datatype)
    if known is None:
        _refuse(f"{field}.datatype", f"{tensor.datatype[:_SHOWN]!r} was sent; numbers are {', '.join(_NUMBERS)}")
    dtype, contents = known
    shape, count = _shape(tensor, field)
    if raw is None:
        values: NDArray[Any] = np.fromiter(_typed(tensor, contents, count, field), dtype, count)
    elif len(raw) != count * dtype.itemsize:
        due = count * dtype.itemsize
        _refuse(field, f"{tensor.datatype} {list(shape)} takes {due} bytes, its raw contents hold {len(raw)}")
    else:
        values = np.frombuffer(raw, dtype)
    if dtype is not _NUMBERS["FP32"][0]:
        values = _to_float32(values, field)
    return values.reshape(shape)


def _to_float32(values: NDArray[Any], field: str) -> Float32Array:
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what float32 cannot hold becomes inf, and no integer comes back
        rounded = values.astype(np.float32)
        if values.dtype.kind == "i" and (values.max() > _EXACT_INTEGERS or values.min() < -_EXACT_INTEGERS):
            wrong = rounded.astype(np.int64) != values
            if wrong.any():
                at = int(wrong.argmax())
                _refuse(
                    field,
                    f"element {at}, {values[at]}, is an integer that float32 does not have; the model would see "
                    f"{rounded[at]:.0f}. Send FP32 or FP64 to have it rounded",
                )
    return rounded


def read_strings(tensor: Any, raw: bytes | None, field: str, missing: bytes | None = None) -> tuple[str | None, ...]:
    """Returns the elements of a tensor of BYTES, in order, each as UTF-8.

    Args:
        tensor: an `InferInputTensor` whose data type is BYTES, untrusted.
        raw: its blob, or ``None`` where its elements are typed.
        field: its path in the request, for errors.
        missing: elements equal to it stand for a missing value, ``None``; there are none such by default.

    Raises:
        InvalidInput: not as many elements as its shape says, too many, or one that is not UTF-8.
    """
    shape, count = _shape(tensor, field)
    if count > _MAX_STRINGS:
        _refuse(f"{field}.shape", f"{list(shape)} are more than {_MAX_STRINGS} strings")
    elements = _typed(tensor, "bytes_contents", count, field) if raw is None else _split(raw, count, field)
    try:
        return tuple(None if one == missing else one.decode() for one in elements)
    except UnicodeDecodeError as error:
        _refuse(field, f"an element is not UTF-8: {bytes(error.object[:_SHOWN])!r}")


def _split(raw: bytes, count: int, field: str) -> list[bytes]:
    """The elements of a blob of BYTES."""
    if len(raw) < count * _LENGTH.size:
        _refuse(field, f"{count} strings take {count * _LENGTH.size} bytes at least, its raw contents hold {len(raw)}")
    elements = []
    at = 0
    for i in range(count):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else start
        if end > len(raw):
            _refuse(field, f"its raw contents end within element {i} of {count}")
        elements.append(raw[start:end])
        at = end
    if at != len(raw):
        _refuse(field, f"its raw contents hold {len(raw) - at} bytes beyond its {count} strings")
    return elements


def _shape(tensor: Any, field: str) -> tuple[tuple[int, ...], int]:
    """A tensor's shape and its number of elements, at least one."""
    n = len(tensor.shape)
    shape = tuple(tensor.shape) if n <= 2 else ()
    if not shape or min(shape) < 1:
        shown = f"{list(shape)}" if n <= 2 else f"{n} dimensions"
        _refuse(f"{field}.shape", f"{shown} was sent; due are one or two dimensions, each at least 1")
    return shape, math.prod(shape)


def _typed(tensor: Any, contents: str, count: int, field: str) -> Sequence[Any]:
    values: Sequence[Any] = getattr(tensor.contents, contents)
    if len(values) != count:
        _refuse(f"{field}.contents", f"shape {list(tensor.shape)} takes {count} of {contents}, it has {len(values)}")
    if len(tensor.contents.ListFields()) != 1:
        _refuse(f"{field}.contents", f"holds more than {contents}, which is what {tensor.datatype} has")
    return values


def to_bytes_blob(elements: Iterable[bytes]) -> bytes:
    """Returns the blob of a tensor of BYTES."""
    return b"".join([_LENGTH.pack(len(one)) + one for one in elements])


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidInput(FieldViolation(field, description))
