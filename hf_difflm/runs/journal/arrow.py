"""Large journals: the step records are parsed by pyarrow straight into columns, the few others one by one."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json

from .append_only import parse_lines
from .schema import STEP_NUMBERS, EventRecord, Record, StepRecord
from .steps import Steps, finite

# Small enough for the processor's cache, large enough that a call to pyarrow costs nothing.
_BLOCK = 1 << 22
_THREADS = 4
# How every step record of ours begins; a record that begins otherwise is read one by one, and as well.
_PREFIX = b'{"type":"step",'
_SCHEMA = pa.schema(
    [("type", pa.string()), ("time", pa.string()), ("iter", pa.int64())]
    + [(name, pa.float64()) for name in STEP_NUMBERS if name != "iter"]
    + [("nonfinite", pa.list_(pa.string()))]
)


class ArrowReader:
    """Iterate over a journal: records, and :class:`Steps` for many step records at once, in the order of the file.

    Only against an event ``resumed`` is the order of steps kept: nothing else depends on it.

    Args:
        path: the journal.

    Attributes:
        damaged: lines that could not be read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = 0

    def __iter__(self) -> Iterator[Record | Steps]:
        # pyarrow and NumPy let go of the GIL, so blocks are parsed side by side; no more of them than threads are held.
        threads = min(_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            pending: deque[Future[tuple[list[Record | Steps], int]]] = deque()
            for block in self._blocks():
                pending.append(pool.submit(_parse_block, block))
                if len(pending) > threads:
                    yield from self._taken(pending.popleft())
            while pending:
                yield from self._taken(pending.popleft())

    def _blocks(self) -> Iterator[bytes]:
        """Blocks of whole lines, and at last a line without its line break."""
        rest = b""
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                if end:
                    yield block[:end]
        if rest:
            yield rest

    def _taken(self, parsed: Future[tuple[list[Record | Steps], int]]) -> list[Record | Steps]:
        items, damaged = parsed.result()
        self.damaged += damaged
        return items


def _parse_block(block: bytes) -> tuple[list[Record | Steps], int]:
    """What some whole lines hold, and how many of them are damaged."""
    bytes_M = np.frombuffer(block, dtype=np.uint8)
    ends_N = np.flatnonzero(bytes_M == ord("\n")) + 1
    starts_N = np.concatenate([[0], ends_N])[: len(ends_N)]
    is_step_N = _begin_with(bytes_M, starts_N, _PREFIX)
    others, damaged = _parse_others(block, starts_N, ends_N, is_step_N)
    steps = _parse_steps(block, starts_N, ends_N, is_step_N) if len(ends_N) else None
    if steps is None or any(isinstance(record, StepRecord) for _, record in others):
        # Damaged, torn, or of another kind than we write: line by line, which says which.
        records, damaged = parse_lines(io.BytesIO(block))
        return list(records), damaged
    items: list[Record | Steps] = []
    emitted = 0
    for before, record in others:
        if isinstance(record, EventRecord) and record.event == "resumed":
            items.append(steps[emitted:before])
            emitted = before
        items.append(record)
    return [*items, steps[emitted:] if emitted else steps], damaged


def _parse_others(
    block: bytes, starts_N: np.ndarray, ends_N: np.ndarray, is_step_N: np.ndarray
) -> tuple[list[tuple[int, Record]], int]:
    """The records of the other lines, each with the number of step lines before it, and how many are damaged."""
    before_N = np.cumsum(is_step_N)
    found: list[tuple[int, Record]] = []
    damaged = 0
    for line in np.flatnonzero(~is_step_N).tolist():
        records, bad = parse_lines([block[starts_N[line] : ends_N[line]]])
        found += [(int(before_N[line]), record) for record in records]
        damaged += bad
    return found, damaged


def _begin_with(bytes_M: np.ndarray, starts_N: np.ndarray, prefix: bytes) -> np.ndarray:
    """(N,) bool: whether the line at each start begins with the prefix."""
    found_N = starts_N + len(prefix) <= len(bytes_M)
    for place, byte in enumerate(prefix):
        found_N[found_N] = bytes_M[starts_N[found_N] + place] == byte
    return found_N


def _parse_steps(block: bytes, starts_N: np.ndarray, ends_N: np.ndarray, is_step_N: np.ndarray) -> Steps | None:
    """The columns of the step lines; None where they are not all plain step records of numbers."""
    count = int(is_step_N.sum())
    if count == 0:
        return Steps.from_records([])
    if not block.isascii():  # pyarrow does not check UTF-8 here
        return None
    if count < len(is_step_N):
        # Cut out each run of step lines in one piece.
        edges = np.diff(np.concatenate([[0], is_step_N.astype(np.int8), [0]]))
        firsts, lasts = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
        view = memoryview(block)
        block = b"".join(view[starts_N[a] : ends_N[b]] for a, b in zip(firsts, lasts, strict=True))
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=2 * _BLOCK),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=_SCHEMA),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != count or table["iter"].null_count:
        return None
    return _steps(table.combine_chunks())


def _steps(table: pa.Table) -> Steps | None:
    columns: dict[str, np.ndarray] = {}
    integers = set()
    for field in table.schema:
        column = table[field.name]
        if field.name in ("type", "time", "nonfinite") or column.null_count == len(column):
            continue
        if pa.types.is_integer(field.type):
            integers.add(field.name)
        elif not pa.types.is_floating(field.type):
            return None
        columns[field.name] = finite(column.to_numpy().astype(np.float64, copy=False))
    rows = len(columns["iter"])
    steps = columns.get("steps")
    columns["steps"] = np.ones(rows) if steps is None else np.where(np.isnan(steps), 1.0, steps)
    flags = table["nonfinite"]
    flagged = {} if flags.null_count == rows else {row: names for row, names in enumerate(flags.to_pylist()) if names}
    return Steps(columns, integers, _times(table["time"]), flagged)


def _times(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bytes; without making a Python object of each, since our times are all of one length."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    _, offsets, data = array.buffers()
    offsets_N = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    widths_N = np.diff(offsets_N)
    width = int(widths_N[0])
    if width and not array.null_count and (widths_N == width).all():
        return np.frombuffer(data, dtype=f"S{width}", count=len(array), offset=int(offsets_N[0]))
    return np.array([(time or "").encode() for time in array.to_pylist()], dtype=bytes)
