"""How a run ends: at its last step, at the user's Ctrl-C, or at a number that is not one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ...callbacks.reports import reports_of
from ...errors import UserError

# Ctrl-C, and what job schedulers send before they kill.
_STOPPING = (signal.SIGINT, signal.SIGTERM)


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


class StepHooks(TrainerCallback):
    """Calls a Trainer where it has no method to override.

    Args:
        after_update: called right after each optimiser step, before any callback can look at the weights.
        left_out: called with what other callbacks did on the training thread, and the seconds it took.
    """

    def __init__(self, after_update: Callable[[], None], left_out: Callable[[str, float], None]) -> None:
        self._after_update = after_update
        self._left_out = left_out

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        reports_of(state).listen(to_left_out=self._left_out)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._after_update()


class InterruptCallback(TrainerCallback):
    """The first Ctrl-C or SIGTERM stops at the next optimiser step with a checkpoint; a second one aborts at once.

    Several processes stop together: they agree at logging steps, where they wait for each other anyway.

    Args:
        on_stop: called once the step is done, before the checkpoint.
        any_rank: whether the flag is set on any process; None where there is one process.
    """

    def __init__(self, on_stop: Callable[[], None], any_rank: Callable[[bool], bool] | None = None) -> None:
        self.interrupted = False
        self._on_stop = on_stop
        self._any_rank = any_rank
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.interrupted = False
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.restore()
            self._previous = {number: signal.signal(number, self._handle) for number in _STOPPING}

    def _handle(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        self.restore()

    def restore(self) -> None:
        """Give the signals back to their former handlers; safe to call twice."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python
        self._previous = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._any_rank is not None:
            if not control.should_log:
                return control
            self.interrupted = self._any_rank(self.interrupted)
        if self.interrupted:
            self._on_stop()
            control.should_log = control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore()
