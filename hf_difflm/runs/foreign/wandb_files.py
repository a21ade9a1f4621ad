"""Weights & Biases' offline files (``run-ID.wandb``): history, settings, name and end of a run.

A file is ``:W&B``, its magic number and version (7 bytes), then LevelDB's log format: blocks of 32 KiB with records in
pieces (checksum: uint32, length: uint16, kind: uint8); checksums are passed over. The records are messages of the kind
``Record`` and read by W&B's own definitions. Values are JSON text, so that a number is the one that was logged.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..journal.schema import EventRecord, Record, RunRecord
from ..journal.strict_json import plain
from .names import iso_time
from .scalars import EndsWithinRecord, needs, read_rows

_MAGIC = b":W&B"
_FILE_HEADER, _BLOCK = 7, 1 << 15
_PIECE = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def is_wandb_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one."""
    return head.startswith(_MAGIC)


def read_wandb_file(path: Path, name: str) -> tuple[list[Record], bool]:
    """Return the records of an offline run, and whether its file ends within a record, as that of a killed run does.

    Raises:
        NoScalars: no scalar was logged.
        TypeError: a quantity of ours is no number.
        UserError: W&B is not installed.
    """
    with needs("wandb", "*.wandb files"):
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2
    messages: Any = wandb_internal_pb2  # which is made of a description as it is imported
    header = RunRecord(run_name=name)
    rows: list[dict[str, Any]] = []
    ending: EventRecord | None = None
    cut = False
    try:
        for message in _records(path.read_bytes()):
            record = messages.Record.FromString(message)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                rows.append(_history(record.history))
            elif kind == "config":
                _update(header.config, record.config)
            elif kind == "run":
                _describe(header, record.run)
            elif kind == "exit":
                failed = f"exit code {record.exit.exit_code}" if record.exit.exit_code else None
                ending = EventRecord(event="failed" if failed else "completed", message=failed)
    except (EndsWithinRecord, DecodeError):
        cut = True
    header.config = {key: value for key, value in plain(header.config).items() if key != "_wandb"}
    records = read_rows(rows, header, path)
    if ending is not None:
        ending.time = max((iso_time(row.get("_timestamp")) for row in rows), default="")
        records.append(ending)
    return records, cut


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records, joined from their pieces.

    Raises:
        EndsWithinRecord: the file ends within one.
    """
    place, joined = _FILE_HEADER, b""
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < _PIECE.size:  # too short for a piece: zeros
            place += left
            continue
        if place + _PIECE.size > len(content):
            raise EndsWithinRecord("ends within a record")
        _, length, kind = _PIECE.unpack_from(content, place)
        place += _PIECE.size
        if place + length > len(content) or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            raise EndsWithinRecord("ends within a record")
        piece = content[place : place + length]
        place += length
        joined = piece if kind in (_FULL, _FIRST) else joined + piece
        if kind in (_FULL, _LAST):
            yield joined
            joined = b""
    if joined:
        raise EndsWithinRecord("ends within a record")


def _history(history: Any) -> dict[str, Any]:
    row = {".".join(_keys(item)): _value(item) for item in history.item}
    return row if "_step" in row or not history.HasField("step") else {**row, "_step": history.step.num}


def _keys(item: Any) -> list[str]:
    return [item.key] if item.key else list(item.nested_key)


def _value(item: Any) -> Any:
    """What was logged; None where it is no JSON."""
    try:
        return json.loads(item.value_json)
    except ValueError:
        return None


def _update(config: dict[str, Any], changed: Any) -> None:
    for item in changed.update:
        *outer, last = _keys(item)
        inner = config
        for key in outer:
            found = inner.setdefault(key, {})
            inner = found if isinstance(found, dict) else {}
        inner[last] = _value(item)


def _describe(header: RunRecord, run: Any) -> None:
    header.run_id, header.run_name = run.run_id or header.run_id, run.display_name or header.run_name
    _update(header.config, run.config)
    if run.HasField("start_time"):
        header.time = iso_time(run.start_time.seconds + run.start_time.nanos / 1e9)
