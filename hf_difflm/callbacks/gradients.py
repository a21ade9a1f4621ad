"""Gradient norms as they were before clipping: global, of each part of the model and of each layer; in any Trainer."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..errors import UserError
from ..runs.journal.schema import MeasurementRecord
from .measuring.included import Included
from .measuring.parameter_groups import GroupedParameter, NormSums, parameter_groups, rounded
from .measuring.tensor_norms import engine_with_its_own_weights, is_deepspeed, local_part, sharding_of, tensor_norms
from .reports import reports_of

logger = logging.getLogger(__name__)

_KEPT = "gradient norms by group are not available: the gradients are kept by the training engine"
# To ask an enumeration for a member takes longer than all else at a step that reports nothing.
_EPOCH, _STEPS = IntervalStrategy.EPOCH, IntervalStrategy.STEPS


class _Trained:
    """The parameters that are trained, how each is cut over processes, and what their norms are summed into."""

    def __init__(self, parameters: list[GroupedParameter]) -> None:
        self.parameters = [item.parameter for item in parameters]
        self.shardings = [sharding_of(parameter) for parameter in self.parameters]
        self.sums = NormSums(parameters)
        self.sharded = any(self.shardings)

    def are(self, parameters: Sequence[torch.Tensor]) -> bool:
        """Whether these are the parameters, in this order."""
        return len(parameters) == len(self.parameters) and all(map(operator.is_, parameters, self.parameters))


@dataclass
class _Taken:
    """The norms of one step, (N,) on the device, of these parameters, whether each had a gradient, and was clipped."""

    step: int
    norms_N: torch.Tensor
    trained: _Trained
    there: list[bool]
    clipped: bool = True


class GradientNormCallback(TrainerCallback):
    """Report ``grad_norm/global``, ``grad_norm/attention`` and so on, and ``grad_norm/layer_00``, at logging steps.

    A :class:`DiffusionTrainer` keeps the norms that its clipping takes anyway. Any other Trainer clips before any hook, so
    there the norms of the clipped gradients are taken, all in one pass on the device, and multiplied by what clipping
    divided by: the norm that the Trainer logs over that of the clipped gradients. So ``global`` is the logged norm; with
    weights in bfloat16 that is known to three digits only. Under float16 the loss scale is gone by then. Without a logged
    norm the numbers are those of the clipped gradients. What has no gradient is left out; what is not finite is null.

    The norms are whole under DDP, FSDP2 and tensor parallelism. Where an engine keeps the gradients (DeepSpeed), or
    wraps the weights (FSDP1), there are none, which is said once.

    Args:
        interval: optimiser steps between reports, each at the next logging step; None: every logging step; 0: never. Where
            logging is by epoch, the norms are taken at every step, since it cannot be known which one is the last.
        include: patterns of the names that are reported, ``["global", "layer_0*"]``; default: all.

    Raises:
        UserError: the interval is negative, or ``include`` is no list of patterns.
    """

    def __init__(self, interval: int | None = None, include: Sequence[str] | None = None) -> None:
        if interval is not None and interval < 0:
            raise UserError(f"the interval of gradient norms is {interval}; give a number of steps, or 0 for none")
        self.interval = interval
        self._included = Included(include)
        self._parameters: list[GroupedParameter] = []
        self._trained: dict[tuple[bool, ...], _Trained] = {}
        self._available = True
        self._logs_by_steps = False
        self._reported = 0
        self._taken: _Taken | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._trained, self._taken = {}, None
        self._available = not (is_deepspeed(args) or engine_with_its_own_weights(model))
        self._parameters = parameter_groups(model) if self._available else []
        if not self._available and self.interval != 0:
            logger.warning(_KEPT)
        self._reported = state.global_step
        self._logs_by_steps = args.logging_strategy == _STEPS

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        step = state.global_step + 1
        # Most steps end here; the first Python after a backward pass finds no cache warm, so it should be little.
        if self._logs_by_steps and 1 < step < state.max_steps and step % state.logging_steps:
            return
        if not self._available or not self._is_due(step) or not _may_log(step, args, state):
            return
        trained = self._those_trained()
        kept = reports_of(state).gradient_norms
        if kept is not None and kept.step == step and trained.are(kept.parameters):
            self._taken = _Taken(step, kept.norms_N, trained, [True] * len(trained.parameters), clipped=False)
            return
        gradients = [parameter.grad for parameter in trained.parameters]
        there = [gradient is not None for gradient in gradients]
        if not any(there):
            self._available = False
            logger.warning(_KEPT)
            return
        if not state.is_world_process_zero and not trained.sharded:
            return
        parts = [None if gradient is None else local_part(gradient) for gradient in gradients]
        norms_N = tensor_norms(parts, trained.shardings, trained.parameters[0].device)
        self._taken = _Taken(step, norms_N, trained, there)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._taken is None or not logs or "loss" not in logs:
            return
        taken, self._taken = self._taken, None
        step = taken.step
        if step != state.global_step:
            return
        self._reported = step
        if not state.is_world_process_zero:
            return
        norms = [norm if has else None for norm, has in zip(taken.norms_N.tolist(), taken.there, strict=True)]
        sums = taken.trained.sums.of(norms)
        scale = _clipped_by(sums["global"], logs.get("grad_norm")) if taken.clipped else 1.0
        metrics = {f"grad_norm/{label}": rounded(norm * scale) for label, norm in sums.items()}
        reports_of(state).publish(MeasurementRecord(iter=step, source="gradients", metrics=self._included.of(metrics)))

    def _those_trained(self) -> _Trained:
        """What is frozen may change from step to step."""
        flags = tuple(item.parameter.requires_grad for item in self._parameters)
        found = self._trained.get(flags)
        if found is None:
            trained = [item for item, flag in zip(self._parameters, flags, strict=True) if flag]
            found = self._trained[flags] = _Trained(trained)
        return found

    def _is_due(self, step: int) -> bool:
        if self.interval is None:
            return True
        return self.interval > 0 and step // self.interval > self._reported // self.interval


def _may_log(step: int, args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the Trainer may log after a step; some log the last one whatever the interval."""
    if step >= state.max_steps or (step == 1 and args.logging_first_step):
        return True
    strategy = args.logging_strategy
    return strategy == _EPOCH or (strategy == _STEPS and step % max(int(state.logging_steps), 1) == 0)


def _clipped_by(clipped: float, logged: Any) -> float:
    """Return what the gradients must be multiplied by to undo the clipping."""
    if logged is None:
        return 1.0
    logged = float(logged)
    if not math.isfinite(logged):
        return math.nan  # a clip by such a norm leaves zeros or NaN
    return logged / clipped if clipped > 0 else 1.0
