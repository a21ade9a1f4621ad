"""Pictures of a training while it trains, drawn by another process from the run log."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.reading.dashboard_names import FOLDER, MOST_SAMPLES
from .recording.drawing_process import DrawingProcess
from .reports import reports_of

logger = logging.getLogger(__name__)


class DashboardCallback(TrainerCallback):
    """Draw a dashboard every few steps, in any Trainer that also has a :class:`RunLogCallback`.

    In the folder: ``training_step_{step}.png``, ``training_latest.png``, ``metrics_history.json``, ``text_samples.json``.
    All are drawn from the journal by a niced process of its own, which dies with this one, so training never waits for a
    picture; where it is slower than training, those it left out are drawn after the training, in order. Of more than 200
    pictures about evenly spaced ones are kept, and late ones are not drawn. Pictures beyond the step at which training
    begins are of another run or attempt and are deleted with the first new one.

    After the training :attr:`drawing_cpu_seconds` says what the drawing took. Where the run log ends after this callback
    (it was given later in the list), the last picture may come a moment after ``train`` has returned; :meth:`close` waits.

    Args:
        viz_interval: optimiser steps between pictures; one shows what has been logged by then, so nothing is drawn where
            no log has come since the last.
        folder: where the files go; default: ``dashboard`` beside the journal.
        journal: the journal of this training; default: that of the Trainer's run log.
        display_samples: how many of the newest texts a picture shows, at most 10; 0: none.

    Raises:
        UserError: the interval or the number of samples is out of its range.
    """

    def __init__(
        self,
        viz_interval: int = 50,
        folder: str | Path | None = None,
        journal: str | Path | None = None,
        display_samples: int = 5,
    ) -> None:
        if viz_interval < 1:
            raise UserError(f"viz_interval is {viz_interval}; give a number of steps of at least 1")
        if not 0 <= display_samples <= MOST_SAMPLES:
            raise UserError(f"display_samples is {display_samples}; give a number from 0 to {MOST_SAMPLES}")
        self.viz_interval = viz_interval
        self.display_samples = display_samples
        self.folder = folder
        self.journal = journal
        self.drawing_cpu_seconds: float | None = None
        self._process: DrawingProcess | None = None
        self._begun = False
        self._log_ends_first = True
        self._asked = 0
        self._news = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._process is not None:  # of a training that failed
            self._process.stop()
            self._process = None
        self.drawing_cpu_seconds = None
        self._begun = self._news = False
        self._asked = state.global_step
        # Set already: the run log comes before this callback in each hook, also in the last.
        self._log_ends_first = self.journal is not None or reports_of(state).journal_path is not None
        if self._log_ends_first and state.is_world_process_zero:
            self._begin(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # By now everything about the step before is in the journal, whatever the order of the callbacks.
        if not self._news:
            if not self._begun and state.is_world_process_zero:
                start = time.perf_counter()
                self._begin(state)
                reports_of(state).leave_out("dashboard", time.perf_counter() - start)
            return
        step = state.global_step
        if step // self.viz_interval > self._asked // self.viz_interval and self._process is not None:
            self._process.ask(str(step))
            self._asked, self._news = step, False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._news = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._process is None:
            return
        if self._log_ends_first:
            self.close()
        else:
            self._process.ask("end wait")

    def close(self) -> None:
        """Draw the last picture and end the drawing process; harmless where that has been done."""
        if self._process is not None:
            self._process.close()
            self.drawing_cpu_seconds = self._process.cpu_seconds
            self._process = None

    def let_go(self) -> None:
        """The same as :meth:`close`, for a Trainer that failed: it wants its last picture most."""
        self.close()

    def _begin(self, state: TrainerState) -> None:
        self._begun = True
        journal = self.journal or reports_of(state).journal_path
        if journal is None:
            logger.warning(
                "DashboardCallback draws the run log: add a RunLogCallback; training goes on without pictures"
            )
            return
        journal = Path(journal)
        folder = Path(self.folder) if self.folder is not None else journal.parent / FOLDER
        self._process = DrawingProcess(journal, folder, state.global_step, self.display_samples)
