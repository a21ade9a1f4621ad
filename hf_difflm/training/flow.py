"""How a run ends: at its last step, at the user's Ctrl-C, or at a number that is not one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..errors import UserError


class TrainingDiverged(UserError):
    """The loss, the gradient norm or a weight is not finite any more."""


class LastStepCallback(TrainerCallback):
    """Log and evaluate after the last step, whatever the intervals."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_log = True
            # With the strategy "epoch" the end of the epoch follows and evaluates.
            control.should_evaluate = args.eval_strategy == IntervalStrategy.STEPS
        return control


class InterruptCallback(TrainerCallback):
    """The first Ctrl-C stops at the next optimiser step with a checkpoint; a second one aborts at once.

    Args:
        on_stop: called once the step is done, before the checkpoint.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.interrupted = False
        self._on_stop = on_stop
        self._previous: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.interrupted = False
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._previous = signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        self.restore()

    def restore(self) -> None:
        """Give the signal back to its former handler; safe to call twice."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.interrupted:
            self._on_stop()
            control.should_log = control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore()
