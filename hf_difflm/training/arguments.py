"""``TrainingArguments`` with the fields and defaults of :class:`DiffusionOptions`."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments

from ..errors import UserError
from ..evaluation.likelihood.draws import Draws
from .launch.processes import asked_engine, build_models_whole, check_launch, check_sharding, use_one_gpu
from .options import DiffusionOptions


@dataclass
class DiffusionTrainingArguments(DiffusionOptions, TrainingArguments):  # type: ignore[misc]
    """Everything the Trainer takes, plus the fields of :class:`DiffusionOptions`.

    ``global_batch_size`` sets the accumulation from the number of processes and ``per_device_train_batch_size``; an
    explicit ``gradient_accumulation_steps`` above 1 wins over it.

    Raises:
        UserError: a launch that would do something else (:func:`check_launch`); a global batch size that cannot be cut;
            numbers of evaluation draws that do not go together.
    """

    def __post_init__(self) -> None:
        check_launch(use_cpu=self.use_cpu, bf16=self.bf16, fp16=self.fp16, fsdp=self.fsdp, deepspeed=self.deepspeed)
        check_sharding(asked_engine(self.fsdp, self.deepspeed), ema=self.ema_decay is not None)
        Draws(self.eval_replicates, self.target_stderr, self.max_eval_replicates)  # a check
        super().__post_init__()
        build_models_whole()
        # The incomplete optimiser batch at the end of an epoch is dropped: padding it by repetition would make the
        # result depend on the number of processes.
        self.dataloader_drop_last = True
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every parameter takes part in every step
        if self.metric_for_best_model in (None, "loss"):
            self.metric_for_best_model = "eval_nll"
            self.greater_is_better = False
        if self.n_gpu > 1:
            use_one_gpu(self.n_gpu)
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
                f"use a multiple of {self.world_size}, or a number of processes that divides {self.global_batch_size} "
                "(to resume, the latter)"
            )
        self.per_device_train_batch_size = min(self.per_device_train_batch_size, share)
        self.gradient_accumulation_steps, rest = divmod(share, self.per_device_train_batch_size)
        if rest:
            processes = "" if self.world_size == 1 else f"{self.world_size} processes x "
            raise UserError(
                f"global_batch_size {self.global_batch_size} is not a multiple of {processes}"
                f"per_device_train_batch_size {self.per_device_train_batch_size}; change one of them"
            )
