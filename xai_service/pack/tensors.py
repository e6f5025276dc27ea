"""Tensors in a foreign file's attributes, which are untrusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from xai_service.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_MAX_TENSOR = 1 << 28  # values


def tensor_of(attributes: Mapping[str, Any], name: str, kinds: tuple[int, ...] = ()) -> NDArray[Any]:
    """Returns the tensor in an attribute, empty where there is none: of one dimension, by default of floats or doubles.

    Raises:
        InvalidModel: it is of another type or shape, too large, in another file, or not what it says.
    """
    tensor = attributes.get(name)
    if tensor is None:
        return np.empty(0)
    if tensor.data_type not in (kinds or (TensorProto.FLOAT, TensorProto.DOUBLE)):
        raise InvalidModel(f"{name} is a tensor of a type that is not supported")
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidModel(f"{name} is kept in another file; the model must be one file")
    if len(tensor.dims) != 1 or not 0 <= tensor.dims[0] <= _MAX_TENSOR:
        raise InvalidModel(f"{name} must be a tensor of one dimension, of at most {_MAX_TENSOR} values")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"{name} does not hold what it says: {error}") from error
