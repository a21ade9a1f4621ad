"""Wall-clock time of training, and of each thing a Trainer does beside it."""

from __future__ import annotations

import time
from collections import defaultdict

from .training_clock import TrainingClock


class PhaseClock(TrainingClock):
    """A :class:`TrainingClock` that also tells what the excluded time went into, and how long training waited for data.

    Attributes:
        apart: seconds by name of what was no training, e.g. ``evaluation``.
        data_wait: seconds of training between the end of a step (or what followed it) and the next one's begin, in which a
            Trainer fetches the batches of a whole optimiser step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apart: defaultdict[str, float] = defaultdict(float)
        self.data_wait = 0.0

    def restart(self) -> None:
        """Begin now: nothing so far was training or anything else."""
        self.lap()
        self.apart.clear()
        self.data_wait = 0.0

    def step_begins(self) -> None:
        """The batches of the next step are there."""
        now = time.perf_counter()
        if now > self._boundary:
            self.data_wait += now - self._boundary
        self._boundary = now

    def phase(self, name: str) -> None:
        """What has passed since the last boundary was ``name`` and no training."""
        before = self._excluded
        self.exclude()
        self.apart[name] += self._excluded - before

    def leave_out_as(self, name: str, seconds: float) -> None:
        """The last ``seconds`` were ``name`` and no training."""
        self.leave_out(seconds)
        self.apart[name] += seconds

    def take_apart(self) -> dict[str, float]:
        """Return the seconds of each thing that was no training since the last call."""
        taken = dict(self.apart)
        self.apart.clear()
        return taken

    def take_data_wait(self) -> float:
        """Return the seconds that training has waited for data since the last call."""
        taken, self.data_wait = self.data_wait, 0.0
        return taken
