"""Going on from a checkpoint: which one, whether it fits, and nothing trained twice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ...callbacks.measuring.engines import engine_of
from ...errors import UserError
from ...runs.journal.checkpoints import checkpoints, damage, newest_good
from ..declarations.identity import as_lines
from .base import TrainerPart
from .resume_facts import ResumeFacts, check_resumable, settings_of

logger = logging.getLogger(__name__)
_OPTIMIZER_FILES = ("optimizer*", "global_step*")
"""Of the Trainer (optimizer.pt), of FSDP2 (optimizer.bin), of DeepSpeed (a folder)."""


def find_checkpoint(folder: Path) -> Path | None:
    """The newest good checkpoint of a run, the same on all processes; warns of each that is passed over.

    Only the main process reads and checks them.
    """
    found: list[Path | None] = [None]
    if PartialState().is_main_process:
        found[0], warnings = newest_good(folder)
        for warning in warnings:
            logger.warning(warning)
    return _of_main(found)


class ResumingPart(TrainerPart):
    """Resumes :class:`DiffusionTrainer` from a checkpoint."""

    def _resume_point(self, given: str | bool | None) -> Path | None:
        """The checkpoint to go on from, which fits this training; says what has changed.

        Raises:
            UserError: there is none, it is damaged, or going on from it would be another experiment.
        """
        if not given:
            return None
        if given is True:
            checkpoint = find_checkpoint(self._folder)
            if checkpoint is None:
                raise UserError(f"{self.args.output_dir} has no finished checkpoint to resume from")
        else:
            checkpoint = Path(given)
            why: list[str | None] = [None]
            if self.is_world_process_zero():
                why[0] = damage(checkpoint) if checkpoint.is_dir() else "there is no such folder"
            if (reason := _of_main(why)) is not None:
                others = "; resume_from_checkpoint=True takes the newest good one" if checkpoints(self._folder) else ""
                raise UserError(f"cannot resume from {checkpoint}: {reason}{others}")
        if not any(any(checkpoint.glob(name)) for name in _OPTIMIZER_FILES):
            raise UserError(
                f"{checkpoint} holds no state of the optimiser (save_only_model), so that a resume would begin with a new "
                "one; start another run from its weights (init_from)"
            )
        rows = self._train_batch_size * self.accelerator.num_processes
        for line in as_lines(check_resumable(checkpoint, self._facts(), rows)):
            if self.is_world_process_zero():
                print(line, flush=True)
        return checkpoint

    def _facts(self) -> ResumeFacts:
        dataset = self.train_dataset
        is_stream = bool(getattr(dataset, "is_stream", False))
        return ResumeFacts(
            engine=engine_of(self.args),
            world_size=self.accelerator.num_processes,
            global_batch_size=self.get_total_train_batch_size(self.args),
            objective=self.training_objective.name,
            train_sequences=len(dataset) if hasattr(dataset, "__len__") and not is_stream else None,
            is_stream=is_stream,
            settings=settings_of(self.args),
        )

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        position = super()._init_training_state(max_steps, *args, **kwargs)
        # The intervals that were asked for now, not those that the checkpoint was written with.
        self.state.compute_steps(self.args, max_steps)
        return position

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:  # resumed at its end: the loop would take one step too many
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)


def _of_main(value: list[Any]) -> Any:
    return broadcast_object_list(value)[0] if PartialState().num_processes > 1 else value[0]
