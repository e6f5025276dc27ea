"""Encoded messages: read whole, or joined field by field."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from xai_service.errors import FieldViolation, InvalidInput


def parse(kind: Any, data: bytes) -> Any:
    """Returns the message of class ``kind`` that ``data`` holds. Raises InvalidInput when it holds none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(FieldViolation("request", f"is no {kind.DESCRIPTOR.name}: {error}")) from None


def in_field(number: int, message: bytes) -> bytes:
    """Returns a field that holds an encoded message: tag, length, and the message itself.

    Args:
        number: of the field, 1 to 15.
        message: what it holds.
    """
    head = bytearray((number << 3 | 2,))
    size = len(message)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + message
