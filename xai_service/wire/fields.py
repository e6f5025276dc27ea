"""Fields of messages that are written by hand."""

from __future__ import annotations


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
