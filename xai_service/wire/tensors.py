"""`xai.v1.Tensor` to numpy and back. Every length is checked before a byte is looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_service.errors import FieldViolation, InvalidInput
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

_DTYPES: dict[int, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_DIMENSIONS = 8


def to_tensor(array: NDArray[Any]) -> pb.Tensor:
    """Returns the tensor that holds ``array``, of dtype float32, float64 or int64 and any shape."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=_CODES[little.dtype], shape=array.shape, data=little.tobytes())  # type: ignore[arg-type]


def from_tensor(tensor: pb.Tensor, field: str) -> NDArray[Any]:
    """Returns the array that ``tensor`` holds, read-only, sharing its bytes.

    Args:
        tensor: untrusted.
        field: the tensor's path in the message, for errors.

    Raises:
        InvalidInput: unknown dtype, impossible dimension, or a byte count that does not match the shape.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        names = ", ".join(pb.DataType.Name(code)[len("DATA_TYPE_") :] for code in _DTYPES)
        raise InvalidInput(
            FieldViolation(f"{field}.dtype", f"data type {tensor.dtype} is not known; send one of {names}")
        )
    shape = tuple(tensor.shape)
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise InvalidInput(
            FieldViolation(f"{field}.shape", f"{list(shape[:9])} is not a shape: at most 8 dimensions, each ≥ 0")
        )
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise InvalidInput(
            FieldViolation(
                f"{field}.data",
                f"shape {list(shape)} of {pb.DataType.Name(tensor.dtype)} takes {expected} bytes, "
                f"{len(tensor.data)} were sent",
            )
        )
    try:
        return np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
    except ValueError:  # beside a zero the byte count bounds no dimension, but numpy does
        raise InvalidInput(FieldViolation(f"{field}.shape", f"{list(shape)} is empty yet too large")) from None
