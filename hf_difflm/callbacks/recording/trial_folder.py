"""Where a training puts its checkpoints: a trial of a hyper-parameter search has a folder of its own."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerState, TrainingArguments

if TYPE_CHECKING:
    from transformers import Trainer


def training_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the output folder of the training whose hook is being called, within it that of the trial if there is one."""
    trainer = _calling_trainer() if state.is_hyper_param_search else None
    if trainer is None:
        return Path(args.output_dir or ".", state.trial_name or "")
    return Path(trainer._get_output_dir(trainer._trial))


def trial_of(args: TrainingArguments, state: TrainerState) -> str | None:
    """Return the name of the trial that is being trained; None where no hyper-parameters are searched."""
    if not state.is_hyper_param_search:
        return None
    return training_folder(args, state).name


def _calling_trainer() -> Trainer | None:
    """A Trainer tells its callbacks the arguments of all trials, not the trial; but it is among their callers."""
    from transformers import Trainer  # takes seconds where no training runs

    frame = inspect.currentframe()
    try:
        while frame is not None:
            trainer: Any = frame.f_locals.get("self")
            if isinstance(trainer, Trainer):
                return trainer
            frame = frame.f_back
    finally:
        del frame  # it would keep alive what the caller has
    return None
