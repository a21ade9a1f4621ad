"""Write a journal and what is derived from it, and let no full disk stop a training."""

from __future__ import annotations

import errno
import logging

from ..errors import UserError
from ..runs.derived import DerivedWriter
from ..runs.journal import RECORDS_LOST, Journal
from ..runs.schema import EventRecord, Record

logger = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LogWriter:
    """Append to a journal and keep its derived files fresh; errors are warned of once, and what is lost is counted.

    Args:
        journal: open, with its header.
        interval: optimiser steps between rebuilds of the derived files.
    """

    def __init__(self, journal: Journal, interval: int) -> None:
        self.journal = journal
        self._derived = DerivedWriter(journal.path, interval)
        self._lost = 0
        self._warned = False

    def append(self, record: Record, step: int) -> None:
        """Write one record, and first how many could not be written before it; ``step`` is where training is.

        On a full disk the derived files make room for an event: how a run ended is known to the journal alone.
        """
        try:
            try:
                self._append(record, step)
            except OSError as error:
                if error.errno not in _FULL or not isinstance(record, EventRecord):
                    raise
                self._derived.remove()
                self._append(record, step)
        except (OSError, UserError) as error:
            self._lost += 1
            self._warn(error)

    def rebuild(self, step: int | None = None) -> None:
        """Rebuild the derived files: now, or if that is due at ``step``."""
        try:
            if step is None:
                self._derived.write()
            else:
                self._derived.step(step)
        except (OSError, UserError) as error:  # a disk that is full, a journal that someone has deleted
            self._warn(error)

    def finish(self) -> None:
        """Rebuild the derived files and let go of the journal."""
        self.rebuild()
        self.journal.close()

    def _append(self, record: Record, step: int) -> None:
        if self._lost:
            which = "1 record" if self._lost == 1 else f"{self._lost} records"
            message = f"{which} before this one could not be written"
            self.journal.append(EventRecord(event=RECORDS_LOST, iter=step, message=message))
            self._lost = 0
        self.journal.append(record)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("the run log cannot be written (%s); training goes on without it", error)
        self._warned = True
