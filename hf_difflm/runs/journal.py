"""The append-only journal: the truth about a run, from which everything else is derived."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from .schema import Record, decode, encode

_BLOCK = 1 << 16


class Journal:
    """Append records to a JSONL file: one ``write`` on an O_APPEND descriptor a record, synchronous, no buffer.

    What has been appended survives the death of the process. A line that a crash has torn is removed before the first
    append. The file is opened at the first append and again after :meth:`close`.

    Args:
        path: the file; its folder is made where it is missing.

    Raises:
        OSError: the file cannot be opened or written; a record that did not fit is taken back whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def append(self, record: Record) -> None:
        """Write one record."""
        payload = encode(record).encode("ascii") + b"\n"
        if self._descriptor is None:
            self._descriptor = self._open()
        written = os.write(self._descriptor, payload)
        if written < len(payload):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file; harmless where it is closed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        _repair(descriptor)
        return descriptor


def read_records(path: Path) -> tuple[list[Record], int]:
    """Return the records of a journal and the number of damaged lines, which are skipped.

    A last line without a line break that is no complete record was torn by a crash: it is ignored and not counted.
    """
    records: list[Record] = []
    damaged = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = decode(json.loads(line))
            except (ValueError, TypeError, AttributeError):  # no JSON, a field missing, no JSON object
                damaged += line.endswith(b"\n")
                continue
            if record is not None:
                records.append(record)
    return records, damaged


def _repair(descriptor: int) -> None:
    """Cut a torn last line off; complete one that lacks only its line break."""
    size = os.fstat(descriptor).st_size
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        length = min(_BLOCK, start)
        start -= length
        tail = os.pread(descriptor, length, start) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    try:
        json.loads(torn)
    except ValueError:
        os.ftruncate(descriptor, size - len(torn))
    else:
        os.write(descriptor, b"\n")
