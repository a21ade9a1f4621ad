"""TensorBoard's event files: their scalars, in the order of writing, without TensorBoard.

A file is a sequence of TFRecords (length: uint64, its checksum, the bytes of an ``Event``, their checksum), little-endian;
checksums are passed over. A scalar is a ``simple_value`` (float32) or a tensor without dimensions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..journal.schema import Record, RunRecord
from .names import iso_time
from .scalars import read_points
from .wire import BrokenMessage, fields, only_bytes

_HEADER = struct.Struct("<QI")
_FOOTER = 4
_MOST = 1 << 31  # a record is smaller; what seems longer is no record
# Of Event, Summary.Value and TensorProto, by the numbers of their fields.
_WALL_TIME, _STEP, _VERSION, _SUMMARY = 1, 2, 3, 5
_VALUE, _TAG, _SIMPLE_VALUE, _TENSOR = 1, 1, 2, 8
_DTYPE, _SHAPE, _CONTENT, _STRINGS = 1, 2, 4, 8
# dtype: the field that holds values of it, and how they lie there and in the content; bfloat16 and half are not logged.
_NUMBERS = {1: (5, "<f"), 2: (6, "<d"), 3: (7, "<i"), 9: (10, "<q")}
_ARGUMENTS = "args/text_summary"  # transformers' TrainingArguments as JSON


def is_event_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one: its first record says ``brain.Event:``."""
    if len(head) < _HEADER.size:
        return False
    length, _ = _HEADER.unpack_from(head)
    return length < 1024 and b"brain.Event:" in head[_HEADER.size : _HEADER.size + length]


def read_event_files(paths: Sequence[Path], name: str) -> tuple[list[Record], list[Path]]:
    """Return the records of event files of one folder, read one after another, and those that end within a record.

    The settings that a transformers Trainer writes beside its scalars become those of the run.

    Raises:
        NoScalars: there is no scalar in them.
    """
    points: list[tuple[int, str, float, str]] = []
    config: dict[str, Any] = {}
    cut: list[Path] = []
    for path in sorted(paths, key=_first_time):
        content = path.read_bytes()
        try:
            for time, step, message in _values(content):
                tag, value = _scalar(message)
                if isinstance(value, str) and tag == _ARGUMENTS:
                    config = _settings(value)
                elif isinstance(value, float):
                    points.append((step, tag, value, iso_time(time)))
        except BrokenMessage:
            cut.append(path)
    return read_points(points, RunRecord(run_name=name, config=config), paths[0]), cut


def _first_time(path: Path) -> tuple[float, str]:
    with path.open("rb") as file:
        head = file.read(4096)
    time = next((time for time, _, _ in _events(head, whole=False)), 0.0)
    return time, path.name


def _values(content: bytes) -> Iterator[tuple[float, int, bytes]]:
    for time, step, event in _events(content):
        for summary in only_bytes(event, _SUMMARY):
            yield from ((time, step, value) for value in only_bytes(summary, _VALUE))


def _events(content: bytes, whole: bool = True) -> Iterator[tuple[float, int, bytes]]:
    """Yield time, step and bytes of each event.

    Raises:
        BrokenMessage: the file ends within a record, and all of it was given.
    """
    place = 0
    while place < len(content):
        start = place + _HEADER.size
        length = _HEADER.unpack_from(content, place)[0] if start <= len(content) else _MOST
        if start + length + _FOOTER > len(content):
            if whole:
                raise BrokenMessage("ends within a record")
            return
        event = content[start : start + length]
        known = dict(fields(event))
        time, step = known.get(_WALL_TIME), known.get(_STEP, 0)
        seconds = struct.unpack("<d", time)[0] if isinstance(time, bytes) else 0.0
        number = step if isinstance(step, int) else 0
        yield seconds, number - (1 << 64) if number >> 63 else number, event
        place = start + length + _FOOTER


def _scalar(message: bytes) -> tuple[str, float | str | None]:
    """Tag and value of a summary: a number, a text, or None of anything else."""
    known = dict(fields(message))
    tag, simple, tensor = known.get(_TAG), known.get(_SIMPLE_VALUE), known.get(_TENSOR)
    name = tag.decode("utf-8", "replace") if isinstance(tag, bytes) else ""
    if isinstance(simple, bytes):
        return name, float(struct.unpack("<f", simple)[0])
    return name, _of_tensor(tensor) if isinstance(tensor, bytes) else None


def _of_tensor(tensor: bytes) -> float | str | None:
    known = dict(fields(tensor))
    strings = known.get(_STRINGS)
    if isinstance(strings, bytes):
        return strings.decode("utf-8", "replace")
    number = _NUMBERS.get(known.get(_DTYPE, 0))  # type: ignore[arg-type]
    if number is None or known.get(_SHAPE, b"") != b"":  # a shape without dimensions is empty
        return None
    field, layout = number
    held = known.get(_CONTENT) or known.get(field, 0)
    if isinstance(held, bytes):
        return float(struct.unpack(layout, held)[0]) if len(held) == struct.calcsize(layout) else _packed(held)
    return float(held - (1 << 64) if held >> 63 else held)


def _packed(held: bytes) -> float | None:
    """One whole number in a packed field of varints."""
    (value,) = (value for _, value in fields(b"\x08" + held))
    return float(value - (1 << 64) if value >> 63 else value) if isinstance(value, int) else None


def _settings(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
