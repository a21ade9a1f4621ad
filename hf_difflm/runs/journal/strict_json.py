"""JSON as the standard has it: no NaN, no Infinity, whatever Python objects come in."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any


def plain(value: Any, path: str = "", nonfinite: list[str] | None = None) -> Any:
    """Return ``value`` as dicts, lists, strings, numbers, booleans and None that JSON can hold.

    Non-finite numbers become None and their dotted place is appended to ``nonfinite``. NumPy and torch scalars become
    Python numbers; sets are sorted; any other object becomes its string.
    """
    if value is None or isinstance(value, (str, bool)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if nonfinite is not None:
            nonfinite.append(path)
        return None
    if isinstance(value, Enum):
        return plain(value.value, path, nonfinite)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{path}.{key}" if path else str(key), nonfinite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}.{place}", nonfinite) for place, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return plain(value.item(), path, nonfinite)
    return str(value)


def dumps(value: Any, **options: Any) -> str:
    """Return strict JSON text of a :func:`plain` value, in ASCII so that a lone surrogate cannot break a file."""
    return _encoder(**options).encode(value)


def dumps_line(value: Any) -> str:
    """Return strict JSON text of a :func:`plain` value without a space, for a line of a journal."""
    return _LINE.encode(value)


@functools.cache  # to make one costs as much as to encode a record
def _encoder(**options: Any) -> json.JSONEncoder:
    return json.JSONEncoder(allow_nan=False, **options)


_LINE = _encoder(separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def loads(text: str | bytes) -> Any:
    """Return the value of JSON text; ``NaN`` and infinities, which other programs write, become None.

    Raises:
        ValueError: it is no JSON; nesting deeper than Python can follow counts as none.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
