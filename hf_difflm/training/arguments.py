"""``TrainingArguments`` with the fields and defaults of :class:`DiffusionOptions`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from ..errors import UserError
from .options import DiffusionOptions

logger = logging.getLogger(__name__)


@dataclass
class DiffusionTrainingArguments(DiffusionOptions, TrainingArguments):  # type: ignore[misc]
    """Everything the Trainer takes, plus the fields of :class:`DiffusionOptions`.

    ``global_batch_size`` sets the accumulation from the number of processes and ``per_device_train_batch_size``; an
    explicit ``gradient_accumulation_steps`` above 1 wins over it.

    Raises:
        UserError: several CPU processes without ``use_cpu``; a global batch size that cannot be cut evenly.
    """

    def __post_init__(self) -> None:
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size > 1 and not self.use_cpu and not torch.accelerator.is_available():
            raise UserError(
                f"{world_size} processes were started on a machine without an accelerator, and without --use-cpu they would "
                "train without each other; add --use-cpu"
            )
        super().__post_init__()
        # The incomplete optimiser batch at the end of an epoch is dropped: padding it by repetition would make the
        # result depend on the number of processes.
        self.dataloader_drop_last = True
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every parameter takes part in every step
        if self.metric_for_best_model in (None, "loss"):
            self.metric_for_best_model = "eval_nll"
            self.greater_is_better = False
        if self.n_gpu > 1:
            logger.warning(
                "using 1 of %d GPUs; to use them all: accelerate launch --multi_gpu --num_processes %d cli.py ...",
                self.n_gpu,
                self.n_gpu,
            )
            self._n_gpu = 1
        self._derive_accumulation()

    def _derive_accumulation(self) -> None:
        if self.global_batch_size is None or self.gradient_accumulation_steps > 1:
            self.global_batch_size = (
                self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps
            )
            return
        share, rest = divmod(self.global_batch_size, self.world_size)
        if rest:
            raise UserError(
                f"global_batch_size {self.global_batch_size} cannot be divided among {self.world_size} processes; "
                f"use a multiple of {self.world_size}"
            )
        self.per_device_train_batch_size = min(self.per_device_train_batch_size, share)
        self.gradient_accumulation_steps, rest = divmod(share, self.per_device_train_batch_size)
        if rest:
            processes = "" if self.world_size == 1 else f"{self.world_size} processes x "
            raise UserError(
                f"global_batch_size {self.global_batch_size} is not a multiple of {processes}"
                f"per_device_train_batch_size {self.per_device_train_batch_size}; change one of them"
            )
