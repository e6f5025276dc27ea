"""Columns of numbers and strings to `xai.v1` messages and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xai_service.errors import FieldViolation, InvalidInput
from xai_service.model.raw_features import is_missing
from xai_service.types import Column
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import from_tensor, to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MOST = 1 << 20  # columns, and strings in one: a few bytes each in a message, many in memory


def from_columns(request: pb.PredictRequest) -> tuple[Column, ...]:
    """Returns the columns of a request, none where it has a matrix.

    Raises:
        InvalidInput: a column holds no values or other ones than it claims, they are not of one length, or there are a
            matrix or names of its columns besides.
    """
    if not request.columns:
        return ()
    for field, given in (("input", request.HasField("input")), ("feature_names", bool(request.feature_names))):
        if given:
            raise InvalidInput(FieldViolation(field, "was sent beside `columns`; send one of the two"))
    if len(request.columns) > _MOST:
        raise InvalidInput(FieldViolation("columns", f"{len(request.columns)} were sent, at most {_MOST} are taken"))
    columns = tuple(_column(one, f"columns[{i}]") for i, one in enumerate(request.columns))
    n = len(columns[0].values)
    for i, column in enumerate(columns):
        if len(column.values) != n:
            raise InvalidInput(
                FieldViolation(f"columns[{i}]", f"holds {len(column.values)} values, columns[0] holds {n}")
            )
    return columns


def _column(message: pb.Column, field: str) -> Column:
    kind = message.WhichOneof("values")
    if kind == "strings":
        if len(message.strings.values) > _MOST:
            raise InvalidInput(FieldViolation(field, f"{len(message.strings.values)} rows are more than {_MOST}"))
        values: list[str | None] = list(message.strings.values)
        for row in message.strings.missing:
            if row >= len(values):
                raise InvalidInput(FieldViolation(f"{field}.strings.missing", f"{row} is beyond {len(values)} rows"))
            values[row] = None
        return Column(message.name, tuple(values))
    if kind is None:
        raise InvalidInput(FieldViolation(field, "holds neither numbers nor strings"))
    array = from_tensor(message.numbers, f"{field}.numbers")
    if array.dtype.kind != "f" or array.ndim != 1:
        name = pb.DataType.Name(message.numbers.dtype).removeprefix("DATA_TYPE_")
        raise InvalidInput(
            FieldViolation(f"{field}.numbers", f"{name} {list(array.shape)} was sent; FLOAT32 or FLOAT64 [rows] is due")
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf and is refused as such
        return Column(message.name, array.astype(np.float32))


def to_columns(table: NDArray[Any], names: Sequence[str]) -> list[pb.Column]:
    """Returns the columns of ``table``, objects (n, features): strings, numbers, and None or NaN where missing.

    Raises:
        ValueError: a value is neither.
    """
    return [_message(name, table[:, i].tolist()) for i, name in enumerate(names)]


def _message(name: str, values: list[Any]) -> pb.Column:
    if any(isinstance(one, str) for one in values):
        missing = [row for row, one in enumerate(values) if is_missing(one)]
        wrong = next((one for one in values if not isinstance(one, str) and not is_missing(one)), None)
        if wrong is not None:
            raise ValueError(f"column {name!r} holds strings, and {wrong!r} beside them")
        texts = ["" if is_missing(one) else one for one in values]
        return pb.Column(name=name, strings=pb.Strings(values=texts, missing=missing))
    try:
        numbers = np.array([np.nan if is_missing(one) else one for one in values], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} holds values that are neither numbers nor strings: {error}") from error
    return pb.Column(name=name, numbers=to_tensor(numbers))
