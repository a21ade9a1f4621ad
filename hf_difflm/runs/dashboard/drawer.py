"""Draws the dashboard of a journal again and again while it grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ..journal.reading import GrowingRun
from ..journal.run import Run
from ..journal.schema import RUNNING
from ..journal.strict_json import dumps
from ..reading.dashboard_names import SHOWN_SAMPLES
from .figure import up_to
from .files import KEPT_PICTURES, HistoryWriter, clean, pictures, thin_pictures, write_picture

_POLL_SECONDS = 0.05
_LATE_SECONDS = 100.0


class Drawer:
    """One dashboard and its folder; each drawing reads what is new in the journal alone.

    Args:
        journal: the journal, which another process writes.
        folder: where the files go.
        begin: step at which the training begins: pictures of later steps, left from before, are deleted before the first.
        samples: how many of them a picture shows.
    """

    def __init__(self, journal: Path, folder: Path, begin: int | None = None, samples: int = SHOWN_SAMPLES) -> None:
        self._run = GrowingRun(journal)
        self._folder = folder
        self._begin = begin
        self._history = HistoryWriter(folder)
        self._samples = samples
        self._pictures = 0
        self._problem: str | None = None

    def draw(self, step: int | None = None, wait: float = 0.0) -> Path | None:
        """Draw the run up to a step, or as it is and its last files; return the newest picture.

        A problem is kept for :meth:`account`: None is returned, and the next drawing tries again.

        Args:
            step: optimiser steps; None for the end of the run.
            wait: seconds to wait at most for the journal to say how the run ended.
        """
        try:
            run = self._read(wait)
            if self._begin is not None:
                clean(self._folder, self._begin)
                self._begin = None
            if step is not None:
                run = up_to(run, step)
            latest = write_picture(run, self._folder, run.last_step if step is None else step, self._samples)
            self._pictures += 1
            thin_pictures(self._folder)
            if step is None:
                self._history.write(run)
            else:
                self._history.write_if_due(run)
        except (OSError, UserError) as error:  # a full disk, a journal that someone has deleted
            self._problem = str(error)
            return None
        return latest

    def draw_late(self, steps: Sequence[int]) -> None:
        """Draw the pictures that nobody had time for while it trained, in order, for at most 100 seconds.

        None where there would be more than 200 in all: of those evenly spaced ones are enough.
        """
        there = pictures(self._folder)
        steps = sorted(set(steps) - there.keys())
        if len(steps) + len(there) > KEPT_PICTURES:
            return
        deadline = time.monotonic() + _LATE_SECONDS
        try:
            run = self._read(0.0)
            for step in steps:
                if time.monotonic() > deadline:
                    self._problem = f"for the pictures from step {step} on there was no time"
                    return
                if step < run.last_step:
                    write_picture(up_to(run, step), self._folder, step, self._samples, is_latest=False)
                    self._pictures += 1
        except (OSError, UserError) as error:
            self._problem = str(error)

    def account(self) -> str:
        """Return what this process did as JSON: its processor seconds, how many pictures, the last problem."""
        return dumps({"cpu_seconds": time.process_time(), "pictures": self._pictures, "problem": self._problem})

    def _read(self, wait: float) -> Run:
        deadline = time.monotonic() + wait
        while (run := self._run.read()[0]).status == RUNNING and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return run
