"""TensorBoard's event files: their scalars, in the order of writing.

A file is a sequence of TFRecords (length: uint64, its checksum, the bytes of an ``Event``, their checksum), little-endian;
checksums are passed over. What an event holds is read by TensorBoard's own definitions. A scalar is a ``simple_value``
(float32) or a tensor without dimensions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..journal.schema import Record, RunRecord
from .names import is_evaluation, iso_time
from .scalars import EndsWithinRecord, NoScalars, needs, read_points

_HEADER = struct.Struct("<QI")
_FOOTER = 4
_NUMBERS = frozenset({1, 2, 3, 9})  # float, double, int32, int64: bfloat16 and half are not logged
_HPARAMS = "_hparams_/"  # of SummaryWriter.add_hparams, which writes its own file
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
        NoScalars: there is no scalar in them, or none with a step.
    """
    points: list[tuple[int, str, float, str]] = []
    config: dict[str, Any] = {}
    cut: list[Path] = []
    hparams = False
    for path in sorted(paths, key=_first_time):
        try:
            for event in _events(path.read_bytes()):
                for logged in event.summary.value:
                    hparams = hparams or logged.tag.startswith(_HPARAMS)
                    value = _scalar(logged)
                    if isinstance(value, str) and logged.tag == _ARGUMENTS:
                        config = _settings(value)
                    elif isinstance(value, float):
                        points.append((event.step, logged.tag, value, iso_time(event.wall_time)))
        except EndsWithinRecord:
            cut.append(path)
    if points and all(step == 0 for step, _, _, _ in points) and (hparams or not any(map(_evaluates, points))):
        raise NoScalars("its scalars have no steps: all of them are at step 0")
    return read_points(points, RunRecord(run_name=name, config=config), paths[0]), cut


def _evaluates(point: tuple[int, str, float, str]) -> bool:
    """Whether it is of an evaluation, which there may be before the first step."""
    return is_evaluation(point[1].replace("/", "_"))


def _first_time(path: Path) -> tuple[float, str]:
    with path.open("rb") as file:
        head = file.read(4096)
    return next(_events(head)).wall_time, path.name


def _events(content: bytes) -> Iterator[Any]:
    """Yield each ``Event``.

    Raises:
        EndsWithinRecord: the file ends within a record, and all of it was given.
        UserError: TensorBoard is not installed.
    """
    with needs("tensorboard", "event files"):
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event
    place = 0
    while place < len(content):
        start = place + _HEADER.size
        if start > len(content):
            raise EndsWithinRecord("ends within a record")
        place = start + _HEADER.unpack_from(content, place)[0] + _FOOTER
        if place > len(content):
            raise EndsWithinRecord("ends within a record")
        try:
            yield Event.FromString(content[start : place - _FOOTER])
        except DecodeError as error:
            raise EndsWithinRecord("ends within a record") from error


def _scalar(logged: Any) -> float | str | None:
    """The value of a ``Summary.Value``: a number, a text, or None of anything else."""
    from tensorboard.util.tensor_util import make_ndarray

    kind, tensor = logged.WhichOneof("value"), logged.tensor
    if kind == "simple_value":
        return float(logged.simple_value)
    if kind != "tensor":
        return None
    if tensor.string_val:
        return tensor.string_val[0].decode("utf-8", "replace")
    return float(make_ndarray(tensor)) if tensor.dtype in _NUMBERS and not tensor.tensor_shape.dim else None


def _settings(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
