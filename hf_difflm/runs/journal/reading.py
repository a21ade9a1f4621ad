"""Read a journal back as a run: plainly where it is small, by columns where it is large."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import IO

from ...errors import UserError
from .append_only import parse_lines, read_records
from .run import Run
from .schema import EventRecord, Record
from .steps import Steps

logger = logging.getLogger(__name__)

# From here on pyarrow saves more time than its import takes; and than it takes to begin, where it has been imported.
_LARGE = 8 << 20
_WORTH_IT = 1 << 16
_TRIES = 3


def find_run(path: Path) -> Run | None:
    """Return the run of a journal file; None where it holds no header.

    Raises:
        OSError: the file cannot be read.
    """
    enough = _WORTH_IT if "pyarrow.json" in sys.modules else _LARGE
    if path.stat().st_size < enough or importlib.util.find_spec("pyarrow") is None:
        return Run.from_records(path, *read_records(path))
    from .arrow import ArrowReader

    reader = ArrowReader(path)
    run = Run.from_records(path, reader)
    if run is not None:
        run.damaged_lines = reader.damaged
    return run


def read_journal(path: Path) -> Run:
    """Return the run of a journal file.

    Raises:
        UserError: the file cannot be read or holds no header.
    """
    try:
        run = find_run(path)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"the journal {str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    if run is None:
        found = "not one record of the kind 'run'" if size else "an empty file"
        raise UserError(f"{str(path)!r} is not the journal of a run (found {found}); give a run folder or its journal")
    if run.damaged_lines:
        logger.warning("%s: %d damaged lines were skipped", path, run.damaged_lines)
    return run


class GrowingRun:
    """The run of a journal that grows, written by this process or another: each reading parses what is new alone.

    Args:
        path: the journal; between readings whole lines are appended to it, nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run: Run | None = None
        self._end = 0

    def read(self) -> tuple[Run, bool]:
        """Return the run, and whether all that the reading before found is in it still.

        Raises:
            UserError: the file cannot be read or holds no header.
        """
        before, run = self._run, None
        try:
            if before is not None and self._path.stat().st_size >= self._end:
                run = self._extended(before)
        except OSError:
            run = None
        if run is None:  # the first time, or the file is another one
            run = self._anew()
            before = None
        self._run = run
        return run, before is not None

    def _anew(self) -> Run:
        for _ in range(_TRIES):
            size = self._size()
            run = read_journal(self._path)
            if self._size() == size:  # else something was written meanwhile, read or not: who knows
                with self._path.open("rb") as file:
                    self._end = _end_of_lines(file, size)
                return run
        # It grows faster than it is read: up to here, line by line.
        with self._path.open("rb") as file:
            self._end = _end_of_lines(file, size)
            file.seek(0)
            lines = file.read(self._end).splitlines(keepends=True)
        return Run.from_records(self._path, *parse_lines(lines)) or run

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _extended(self, run: Run) -> Run | None:
        """The run with what was appended; None where that takes something back."""
        with self._path.open("rb") as file:
            file.seek(self._end)
            whole, line_break, _ = file.read().rpartition(b"\n")  # the rest is a line in the making
        self._end += len(whole) + len(line_break)
        records, damaged = parse_lines((whole + line_break).splitlines(keepends=True))
        if any(isinstance(record, EventRecord) and record.resumed_from_step is not None for record in records):
            return None
        # Events first: what a resume superseded is gone already.
        known: list[Record | Steps] = [
            *run.headers,
            *run.events,
            run.steps,
            *run.evaluations,
            *run.checkpoints,
            *run.samples,
            *run.measurements,
        ]
        return Run.from_records(
            self._path, [*known, *records], run.damaged_lines + damaged, headline_set=run.headline_set
        )


def _end_of_lines(file: IO[bytes], size: int) -> int:
    """Where the last whole line of the first ``size`` bytes ends."""
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        length = min(_WORTH_IT, start)
        start -= length
        file.seek(start)
        tail = file.read(length) + tail
    return start + tail.rfind(b"\n") + 1
