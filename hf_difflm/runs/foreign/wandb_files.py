"""Weights & Biases' offline files (``run-ID.wandb``): history, settings, name and end of a run, without W&B.

A file is ``:W&B``, its magic number and version (7 bytes), then LevelDB's log format: blocks of 32 KiB with records in
pieces (checksum: uint32, length: uint16, kind: uint8). The records are messages of the kind ``Record``; checksums are passed
over. Values are JSON text, so that a number is the one that was logged.
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
from .scalars import read_rows
from .wire import BrokenMessage, fields, only_bytes

_MAGIC = b":W&B"
_FILE_HEADER, _BLOCK = 7, 1 << 15
_PIECE = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# Of Record and what is in it, by the numbers of their fields.
_HISTORY, _CONFIG, _RUN, _EXIT = 2, 5, 17, 18
_HISTORY_ITEM, _HISTORY_STEP = 1, 2
_UPDATE, _KEY, _NESTED_KEY, _VALUE_JSON = 1, 1, 2, 16
_RUN_ID, _RUN_CONFIG, _DISPLAY_NAME, _START_TIME = 1, 4, 8, 17
_EXIT_CODE = 1


def is_wandb_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one."""
    return head.startswith(_MAGIC)


def read_wandb_file(path: Path, name: str) -> tuple[list[Record], bool]:
    """Return the records of an offline run, and whether its file ends within a record, as that of a killed run does.

    Raises:
        NoScalars: no scalar was logged.
        TypeError: a quantity of ours is no number.
    """
    header = RunRecord(run_name=name)
    rows: list[dict[str, Any]] = []
    ending: EventRecord | None = None
    cut = False
    try:
        for message in _records(path.read_bytes()):
            for number, value in fields(message):
                if not isinstance(value, bytes):
                    continue
                if number == _HISTORY:
                    rows.append(_history(value))
                elif number == _CONFIG:
                    _update(header.config, value)
                elif number == _RUN:
                    _describe(header, value)
                elif number == _EXIT:
                    code = dict(fields(value)).get(_EXIT_CODE, 0)
                    failed = f"exit code {int(code)}" if code else None
                    ending = EventRecord(event="failed" if failed else "completed", message=failed)
    except BrokenMessage:
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
        BrokenMessage: the file ends within one.
    """
    place, joined = _FILE_HEADER, b""
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < _PIECE.size:  # too short for a piece: zeros
            place += left
            continue
        if place + _PIECE.size > len(content):
            raise BrokenMessage("ends within a record")
        _, length, kind = _PIECE.unpack_from(content, place)
        place += _PIECE.size
        if place + length > len(content) or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            raise BrokenMessage("ends within a record")
        piece = content[place : place + length]
        place += length
        joined = piece if kind in (_FULL, _FIRST) else joined + piece
        if kind in (_FULL, _LAST):
            yield joined
            joined = b""
    if joined:
        raise BrokenMessage("ends within a record")


def _history(message: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for number, value in fields(message):
        if number == _HISTORY_ITEM and isinstance(value, bytes):
            keys, found = _item(value)
            row[".".join(keys)] = found
        elif number == _HISTORY_STEP and isinstance(value, bytes):
            row.setdefault("_step", dict(fields(value)).get(1, 0))
    return row


def _item(message: bytes) -> tuple[list[str], Any]:
    """The keys that lead to a value, and the value; None where it is written in a later version's way."""
    keys = [key.decode("utf-8", "replace") for key in (only_bytes(message, _KEY) + only_bytes(message, _NESTED_KEY))]
    values = only_bytes(message, _VALUE_JSON)
    try:
        return keys, json.loads(values[0]) if values else None
    except ValueError:
        return keys, None


def _update(config: dict[str, Any], message: bytes) -> None:
    for update in only_bytes(message, _UPDATE):
        keys, value = _item(update)
        inner = config
        for key in keys[:-1]:
            found = inner.setdefault(key, {})
            inner = found if isinstance(found, dict) else {}
        inner[keys[-1]] = value


def _describe(header: RunRecord, message: bytes) -> None:
    known = dict(fields(message))
    for number, name in ((_RUN_ID, "run_id"), (_DISPLAY_NAME, "run_name")):
        if isinstance(text := known.get(number), bytes) and text:
            setattr(header, name, text.decode("utf-8", "replace"))
    if isinstance(config := known.get(_RUN_CONFIG), bytes):
        _update(header.config, config)
    if isinstance(time := known.get(_START_TIME), bytes):
        parts = dict(fields(time))
        seconds, nanos = parts.get(1, 0), parts.get(2, 0)
        if isinstance(seconds, int) and isinstance(nanos, int):
            header.time = iso_time(seconds + nanos / 1e9)
