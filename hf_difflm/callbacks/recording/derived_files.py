"""The files that are derived from a journal, kept fresh beside the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ...runs.derived.rebuild import write_derived
from ...runs.journal.atomic_files import remove_leftovers
from .process import JournalProcess

logger = logging.getLogger(__name__)


class DerivedFiles:
    """Rebuild the files derived from a journal every few steps, in a process of its own, which training never waits for.

    The process is started by :meth:`begin` where the training is long enough to need it: a short one has none.

    Args:
        journal: the journal.
        paths: the files, see :func:`hf_difflm.runs.derived.rebuild.derived_files`.
        interval: optimiser steps between rebuilds; one also waits 100 times as long as the last rebuild took.
    """

    def __init__(self, journal: Path, paths: Sequence[Path], interval: int) -> None:
        self._journal = journal
        self._paths = paths
        self._interval = interval
        self._last_step: int | None = None
        self._process: JournalProcess | None = None
        self._beside = True

    def begin(self, steps: int) -> None:
        """A training of so many optimiser steps begins: to start a process takes as long as a hundred logs."""
        if steps <= self._interval:
            return
        try:
            self._started()
        except OSError as error:
            self._give_up(error)

    def step(self, step: int) -> None:
        """Have the files rebuilt if that is due after this many optimiser steps."""
        if self._last_step is None:
            self._last_step = step - 1
        if step - self._last_step >= self._interval and self._beside:
            self._last_step = step
            self._ask(step)

    def _ask(self, step: int) -> None:
        try:
            self._started().ask(str(step))
        except OSError as error:
            self._give_up(error)

    def _started(self) -> JournalProcess:
        if self._process is None:
            self._process = JournalProcess(
                "hf_difflm.runs.derived.process",
                [str(self._journal.absolute())],
                [],
                "what is derived from the journal could not be kept fresh",
            )
        return self._process

    def _give_up(self, error: OSError) -> None:
        """There are no more processes, or there is no more memory."""
        self._beside = False
        logger.warning("what is derived from the journal is written at the end alone (%s)", error)

    def write(self) -> None:
        """Rebuild the files now, here, and end the process.

        Raises:
            UserError: the journal is gone or holds no run any more.
            OSError: a file cannot be written.
        """
        self._end_process()
        write_derived(self._journal)

    def remove(self) -> None:
        """Delete the files, and make no more before :meth:`write`: their room may be needed for the journal.

        Raises:
            OSError: a file cannot be deleted.
        """
        self._end_process()
        self._beside = False
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()
            for path in self._paths:
                remove_leftovers(path)
