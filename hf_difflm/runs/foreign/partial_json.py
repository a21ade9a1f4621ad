"""What is whole in a JSON file that was cut off: by a crash, or by a program that writes in place."""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_AFTER_NUMBER = tuple(",]} \t\r\n")
_SPACE = re.compile(r"[ \t\r\n]*")


def salvage(text: str) -> Any:
    """Return the value of JSON text up to where it breaks off.

    Of a list the elements that are whole are kept, of an object the members that are; the last member of an object is
    salvaged in turn where it is a list or an object. None where nothing is whole.
    """
    try:
        return _value(text, _skip(text, 0))
    except RecursionError:
        return None


def _value(text: str, place: int) -> Any:
    whole, value, _ = _read(text, place)
    if whole:
        return value
    opening = text[place : place + 1]
    if opening == "[":
        return _list(text, place + 1)
    return _object(text, place + 1) if opening == "{" else None


def _list(text: str, place: int) -> list[Any]:
    items: list[Any] = []
    while True:
        place = _skip(text, place)
        whole, value, place = _read(text, place)
        if not whole:
            return items
        items.append(value)
        place = _skip(text, place)
        if text[place : place + 1] != ",":
            return items
        place += 1


def _object(text: str, place: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    while True:
        whole, key, place = _read(text, _skip(text, place))
        colon = _skip(text, place)
        if not whole or not isinstance(key, str) or text[colon : colon + 1] != ":":
            return members
        start = _skip(text, colon + 1)
        whole, value, place = _read(text, start)
        if not whole:
            rest = _value(text, start)
            return members if rest is None else {**members, key: rest}
        members[key] = value
        place = _skip(text, place)
        if text[place : place + 1] != ",":
            return members
        place += 1


def _read(text: str, place: int) -> tuple[bool, Any, int]:
    """Whether a whole value begins at ``place``, the value, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, place)
    except ValueError:
        return False, None, place
    if isinstance(value, (int, float)) and not isinstance(value, bool) and text[end : end + 1] not in _AFTER_NUMBER:
        return False, None, place  # the file ends within it: it may lack digits
    return True, value, end


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
