"""Write a journal and what is derived from it, and let no full disk stop a training."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ...runs.journal.append_only import RECORDS_LOST, Journal
from ...runs.journal.schema import EventRecord, Record
from .derived_files import DerivedFiles

logger = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LogWriter:
    """Append to a journal and keep its derived files fresh; errors are warned of once, and what is lost is counted.

    Args:
        journal: open, with its header.
        derived: the files that are derived from it.
        interval: optimiser steps between rebuilds of the derived files.
    """

    def __init__(self, journal: Journal, derived: Sequence[Path], interval: int) -> None:
        self.journal = journal
        self._derived = DerivedFiles(journal.path, derived, interval)
        self._lost = 0
        self._warned = False

    def begin(self, steps: int) -> None:
        """Rebuild the derived files, and get ready for a training of so many optimiser steps."""
        self.rebuild()
        self._derived.begin(steps)

    def append(self, record: Record, step: int) -> None:
        """Write one record; see :meth:`append_all`."""
        self.append_all([record], step)

    def append_all(self, records: Sequence[Record], step: int) -> None:
        """Write records, and first how many could not be written before them; ``step`` is where training is.

        On a full disk the derived files make room for an event: how a run ended is known to the journal alone.
        """
        try:
            try:
                self._append_all(records, step)
            except OSError as error:
                if error.errno not in _FULL or not any(isinstance(record, EventRecord) for record in records):
                    raise
                self._derived.remove()
                self._append_all(records, step)
        except OSError as error:
            self._lost += len(records)
            self._warn(error)

    def append_lines(self, lines: Sequence[str], step: int) -> None:
        """Write records that are no events and have been encoded already; see :meth:`append_all`."""
        try:
            self._tell_lost(step)
            self.journal.append_lines(lines)
        except OSError as error:
            self._lost += len(lines)
            self._warn(error)

    def rebuild(self, step: int | None = None) -> None:
        """Rebuild the derived files: now and here, or beside the training if that is due at ``step``."""
        if step is not None:
            self._derived.step(step)
            return
        try:
            self._derived.write()
        except (OSError, UserError) as error:  # a disk that is full, a journal that someone has deleted
            self._warn(error)

    def finish(self) -> None:
        """Rebuild the derived files and let go of the journal."""
        self.rebuild()
        self.journal.close()

    def _append_all(self, records: Sequence[Record], step: int) -> None:
        self._tell_lost(step)
        self.journal.append_all(records)

    def _tell_lost(self, step: int) -> None:
        if self._lost:
            which = "1 record" if self._lost == 1 else f"{self._lost} records"
            message = f"{which} before this one could not be written"
            self.journal.append(EventRecord(event=RECORDS_LOST, iter=step, message=message))
            self._lost = 0

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("the run log cannot be written (%s); training goes on without it", error)
        self._warned = True
