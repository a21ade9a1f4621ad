"""Wall-clock time of training alone, measured from outside through a Trainer's hooks."""

from __future__ import annotations

import time


class TrainingClock:
    """Seconds of training between two logs, without what evaluation and saving took.

    A Trainer finishes a step, logs, evaluates and saves, in this order, and calls a hook after each. So what has passed
    at the hook of an evaluation or a checkpoint since the hook before it was not training.
    """

    def __init__(self) -> None:
        self._started = self._boundary = time.perf_counter()
        self._excluded = 0.0

    def boundary(self) -> None:
        """A step ended or was logged: training up to here."""
        self._boundary = time.perf_counter()

    def exclude(self) -> None:
        """An evaluation or a checkpoint ended: no training since the last boundary."""
        now = time.perf_counter()
        self._excluded += now - self._boundary
        self._boundary = now

    def leave_out(self, seconds: float) -> None:
        """The last ``seconds`` were no training."""
        self._excluded += seconds
        self._boundary += seconds  # what is excluded up to the next hook must not count them again

    def lap(self) -> float:
        """Return the seconds of training since the last lap, and begin the next."""
        now = time.perf_counter()
        seconds = now - self._started - self._excluded
        self._started, self._boundary, self._excluded = now, now, 0.0
        return seconds
