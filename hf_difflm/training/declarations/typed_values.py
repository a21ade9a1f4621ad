"""From the text of a flag or the value of a YAML key to a typed and checked value: the one place that does it."""

from __future__ import annotations

import enum
import json
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ...errors import UserError, did_you_mean
from .fields import Field

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NONE_WORDS = ("none", "null")

_RANGE = frozenset({"min", "max", "above", "below"})

Reader = Callable[[Any], Any]  # from text or a YAML value to one type; raises TypeError or ValueError


def typed_value(field: Field, value: Any) -> Any:
    """Return ``value`` (text, or what YAML gives) as the type ``field`` declares, within its range and choices.

    Raises:
        UserError: the value has another type, is out of range, or is none of the choices.
    """
    allowed = alternatives(field.hint)
    optional = type(None) in allowed
    kinds = [kind for kind in allowed if kind is not type(None)]
    if optional and (value is None or (isinstance(value, str) and value.lower() in NONE_WORDS)):
        return None
    choices = _choices(field, kinds)
    if choices:
        if isinstance(value, str):
            value = field.metadata.get("other_names", {}).get(value, value)
        return _one_of(field.name, choices, value, optional)
    typed = _read(field, kinds, value, optional)
    if field.name == "max_steps" and typed != -1 and typed < 1:
        raise UserError(f"max_steps must be -1 or a positive integer, got {shown(value)}")
    return typed


def check_value(field: Field, value: Any) -> None:
    """Check what a Python caller gives: a number against the range of ``field``, text against its choices.

    Raises:
        UserError: see :func:`typed_value`; other values are left to who reads them.
    """
    value = getattr(value, "value", value)  # a member of an enumeration
    value = value.item() if hasattr(value, "item") else value  # a number of NumPy's
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_word = isinstance(value, str) and bool(field.metadata.get("choices") or field.metadata.get("words"))
    if is_word or (is_number and (_RANGE & field.metadata.keys() or field.name == "max_steps")):
        typed_value(field, value)


def _read(field: Field, kinds: list[Any], value: Any, optional: bool) -> Any:
    readers = sorted({_reader(field.name, kind) for kind in kinds}, key=_READERS.index)
    for reader in readers:
        try:
            typed = reader(value)
        except (TypeError, ValueError):
            continue
        if _in_range(typed, field.metadata):
            return typed
        break
    kind_words = " or ".join(_in_words(reader, field.metadata) for reader in readers)
    or_none = ", or none" if optional else ""
    raise UserError(f"{field.name} must be {kind_words}{or_none}, got {shown(value)}")


def shown(value: Any) -> str:
    """Return ``value`` as an error sentence quotes it: numbers bare even if they came as text, other text in quotes."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return repr(value)
        return value if value.strip() and value.isascii() else repr(value)
    return repr(value)


def alternatives(hint: Any) -> list[Any]:
    """Return the plain types of a hint: ``Optional[int]`` -> int, NoneType; ``Literal[False]`` -> bool."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in alternatives(part)]
    if get_origin(hint) is Literal:
        return [type(part) for part in get_args(hint)]
    origin = get_origin(hint) or hint
    return [dict if isinstance(origin, type) and issubclass(origin, Mapping) else origin]


def _choices(field: Field, kinds: list[Any]) -> tuple[str, ...]:
    """Return the allowed words: those the field declares, else the values of its enumeration and ours beside them."""
    if field.metadata.get("choices"):
        return tuple(field.metadata["choices"])
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    return (*(str(member.value) for kind in enums for member in kind), *field.metadata.get("words", ()))


def _one_of(name: str, choices: tuple[str, ...], value: Any, optional: bool) -> str:
    if value is False and "no" in choices:
        return "no"  # YAML 1.1 reads a bare `no` as false
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    or_none = ", or none" if optional else ""
    raise UserError(f"{name} must be one of {', '.join(choices)}{or_none}, got {shown(value)}{hint}")


def _in_range(value: Any, metadata: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    return (
        value >= metadata.get("min", -math.inf)
        and value <= metadata.get("max", math.inf)
        and value > metadata.get("above", -math.inf)
        and value < metadata.get("below", math.inf)
    )


def _in_words(reader: Reader, metadata: Mapping[str, Any]) -> str:
    """Return what ``reader`` takes, with its bounds: "a number above 0", "a positive integer"."""
    words = _WORDS[reader]
    if reader not in (_integer, _number):
        return words
    if reader is _integer and metadata.get("min") == 1 and "max" not in metadata:
        return "a positive integer"
    named = {"above": "above", "min": "at least", "below": "below", "max": "at most"}
    bounds = [f"{text} {metadata[key]:g}" for key, text in named.items() if key in metadata]
    return " ".join([words, " and ".join(bounds)]) if bounds else words


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE_WORDS + FALSE_WORDS:
        return value.lower() in TRUE_WORDS
    raise ValueError(value)


def _number(value: Any) -> float:
    # YAML 1.1 reads 3e-4 as text, so numbers come as text from recipes too.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)
    number = _number(value)  # 1e3 and 5.0 are integers too
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def _text(value: Any) -> str:
    # 20220301 in a recipe is meant as a name; 1.10 or a date would not survive YAML, so they need quotes.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(value)
    return str(value)


def _mapping(value: Any) -> dict[str, Any]:
    read = json.loads(value) if isinstance(value, str) else value
    if not isinstance(read, dict):
        raise TypeError(value)
    return read


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise TypeError(value)
    return list(value)


# In the order in which they are tried: the strictest reading of a text first.
_READERS: list[Reader] = [_mapping, _boolean, _integer, _number, _text, _words]
_BY_TYPE: dict[Any, Reader] = {
    dict: _mapping,
    bool: _boolean,
    int: _integer,
    float: _number,
    str: _text,
    list: _words,
}
_WORDS: dict[Reader, str] = {
    _mapping: "a mapping (as JSON on the command line)",
    _boolean: "true or false",
    _integer: "an integer",
    _number: "a number",
    _text: "text (in a recipe: put it in quotes)",
    _words: "a comma-separated list",
}


def _reader(name: str, kind: Any) -> Reader:
    if kind not in _BY_TYPE:
        raise UserError(f"{name} cannot be set by a recipe or a flag: set it on DiffusionTrainingArguments in Python")
    return _BY_TYPE[kind]
