"""Protocol buffers on the wire: the fields of a message as they lie in its bytes, without a schema.

Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class BrokenMessage(ValueError):
    """Bytes that are no message."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: an int for a varint, else the bytes (of fixed width, or as long as they say).

    Raises:
        BrokenMessage: it ends within a field, or is no message.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise BrokenMessage(f"wire type {kind}")
        if place + length > len(message):
            raise BrokenMessage("ends within a field")
        yield key >> 3, message[place : place + length]
        place += length


def only_bytes(message: bytes, number: int) -> list[bytes]:
    """Return the values of one field that are bytes, in their order."""
    return [value for found, value in fields(message) if found == number and isinstance(value, bytes)]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise BrokenMessage("ends within a number")
