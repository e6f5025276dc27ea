"""What is known of a model file before it is parsed."""

from __future__ import annotations

MAX_MODEL_BYTES = 1 << 30


def is_pickle(data: bytes) -> bool:
    """Whether it is a pickle of protocols 2 to 5, as which no ONNX file begins.

    Older protocols have no such beginning; they are refused when parsed, as anything else.
    """
    return data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5")
