"""Norms and histograms of weights and activations, and how far a step moves the weights; in any Trainer."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.journal.schema import MeasurementRecord
from .measuring.activation_hooks import ActivationHooks
from .measuring.device_fetch import DeviceFetch
from .measuring.histograms import Histogram, add_over_processes, keeper
from .measuring.included import Included
from .measuring.parameter_groups import GroupedParameter, NormSums, parameter_groups, rounded, unwrapped
from .measuring.tensor_norms import engine_with_its_own_weights, is_deepspeed, local_part, sharding_of, tensor_norms
from .reports import reports_of

logger = logging.getLogger(__name__)


class ModelStatisticsCallback(TrainerCallback):
    """Report each ``interval`` optimiser steps, and after the last one, what weights and activations are like.

    Metrics, of ``global``, each group of parameters (``attention``, ...) and each layer (``layer_00``, ...):

    - ``param_norm/...``: the norm of the weights after the step, frozen ones too;
    - ``update_ratio/...``: ||after - before|| / ||before|| of the weights that are trained, in that very step;
    - ``activation/layer_00/mean``, ``rms``, ``max_abs``: of the layer's output, over all tokens of the step on all
      processes, padding left out;
    - ``activation/layer_00/dead_share``: the share of units of the MLP that are dead: the output of its activation
      function is 0 for each of these tokens (ReLU), or less than 1e-3 in magnitude (SiLU, GELU). Not for experts.

    Histograms: ``weights/attention``, ... and ``activation/layer_00``, ...

    A step that reports holds a copy of the trained weights on the device while the optimiser steps, and a few numbers
    a layer; other steps cost nothing. Under ``torch.compile`` there are no activations. DDP, FSDP2 and DeepSpeed up to
    ZeRO-2 give the numbers of the whole model; under ZeRO-3 and FSDP1 there are only activations.

    Args:
        interval: optimiser steps between reports; 0: never.
        histograms: whether to make histograms, too.
        include: patterns of the names that are reported, ``["update_ratio/*", "activation/layer_0*"]``, of metrics and
            histograms; default: all.

    Raises:
        UserError: the interval is negative, or ``include`` is no list of patterns.
    """

    def __init__(self, interval: int = 500, histograms: bool = True, include: Sequence[str] | None = None) -> None:
        if interval < 0:
            raise UserError(f"the interval of model statistics is {interval}; give a number of steps, or 0 for none")
        self.interval = interval
        self.histograms = histograms
        self._included = Included(include)
        self._weights: list[GroupedParameter] = []
        self._sharded = False
        self._watched: nn.Module | None = None
        self._hooks: ActivationHooks | None = None
        self._hooks_go: weakref.finalize[Any, Any] | None = None
        self._before: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.let_go()
        if self.interval == 0:
            return
        engine = engine_with_its_own_weights(model)
        if engine is not None:
            logger.warning("there will be no statistics of weights: %s holds them in its own form", engine)
        found = parameter_groups(model) if engine is None else []
        # What is quantised is no number before its scale is known.
        self._weights = [p for p in found if p.parameter.is_floating_point() and p.parameter.element_size() > 1]
        self._sharded = any(sharding_of(item.parameter) for item in self._weights)
        watches = not (_is_compiled(args, model) or args.n_gpu > 1)
        self._watched = unwrapped(model) if watches else None
        if not watches:
            logger.warning("there will be no statistics of activations: the model is compiled or copied to each device")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if not self._is_due(state.global_step + 1, state):
            return
        self.let_go()
        if self._watched is not None:
            self._hooks = ActivationHooks(self._watched, self.histograms)
            # A Trainer that fails calls no hook of a callback: they go with this one at last.
            self._hooks_go = weakref.finalize(self, self._hooks.remove)
        if is_deepspeed(args):
            self._note_weights(state)  # the hook before its optimiser's step comes too late

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._is_due(state.global_step + 1, state):
            return
        start = time.perf_counter()
        if self._before is None:
            self._note_weights(state)
        seconds = time.perf_counter() - start
        if self._hooks is not None:
            seconds += self._hooks.seconds
        reports_of(state).leave_out("statistics", seconds)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._is_due(state.global_step, state):
            return
        if args.device.type != "cpu":
            torch.accelerator.synchronize(args.device)  # what is still to be done is training; the fetch waits anyway
        start = time.perf_counter()
        metrics: dict[str, Any] = {}
        histograms: dict[str, Any] = {}
        fetch = DeviceFetch()
        if self._weights and (state.is_world_process_zero or self._sharded):
            self._report_weights(fetch, metrics, histograms)
        if self._hooks is not None:
            self._hooks.report(fetch, metrics, histograms)
        if state.is_world_process_zero:
            fetch.run()
            kept = self._included.of(metrics, histograms)
            record = MeasurementRecord(iter=state.global_step, source="statistics", metrics=kept)
            record.histograms = self._included.of(histograms, metrics) or None
            reports_of(state).publish(record)
        self.let_go()
        reports_of(state).leave_out("statistics", time.perf_counter() - start)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.let_go()

    def _is_due(self, step: int, state: TrainerState) -> bool:
        return self.interval > 0 and (step % self.interval == 0 or step >= state.max_steps)

    def let_go(self) -> None:
        """Take the hooks off the model; harmless where that has been done."""
        if self._hooks_go is not None:
            self._hooks_go()
        self._hooks = self._hooks_go = self._before = None

    @property
    def _trained(self) -> list[GroupedParameter]:
        return [item for item in self._weights if item.parameter.requires_grad]

    def _note_weights(self, state: TrainerState) -> None:
        """Keep the weights as they are before the step, and their norms."""
        if self._trained and (state.is_world_process_zero or self._sharded):
            parts = [local_part(item.parameter) for item in self._trained]
            self._before = _norms(self._trained, parts), [part.clone() for part in parts]

    def _report_weights(self, fetch: DeviceFetch, metrics: dict[str, Any], histograms: dict[str, Any]) -> None:
        def tell_norms(norms: list[float]) -> None:
            sums = NormSums(self._weights).of(norms)
            metrics.update({f"param_norm/{label}": rounded(norm) for label, norm in sums.items()})

        fetch.add(_norms(self._weights, [local_part(item.parameter) for item in self._weights]), tell_norms)
        if self._before is not None:
            before_N, moved = self._before
            trained = self._trained
            with torch.no_grad():  # in place: no second copy
                torch._foreach_sub_(moved, [local_part(item.parameter) for item in trained])

            def tell_ratios(norms: list[float]) -> None:
                sums = NormSums(trained)
                before, change = sums.of(norms[: len(trained)]), sums.of(norms[len(trained) :])
                ratios = {
                    f"update_ratio/{label}": rounded(change[label] / before[label]) for label in change if before[label]
                }
                metrics.update(ratios)

            fetch.add(torch.cat([before_N, _norms(trained, moved)]), tell_ratios)
        if self.histograms:
            for group, histogram in self._weight_histograms().items():
                fetch.add(histogram.pack(), keeper(histograms, f"weights/{group}"))

    def _weight_histograms(self) -> dict[str, Histogram]:
        """Of each group; of several kinds of shards, which cannot be added up over the same processes, of none."""
        shardings = {sharding for item in self._weights if (sharding := sharding_of(item.parameter))}
        if len(shardings) > 1:
            return {}
        processes = next(iter(shardings), ())
        first = all(dist.get_rank(group) == 0 for group in processes)
        parts: dict[str, list[torch.Tensor]] = {}
        for item in self._weights:
            found = parts.setdefault(item.group, [])
            if first or sharding_of(item.parameter):  # what all hold is counted once
                found.append(local_part(item.parameter))
        histograms: dict[str, Histogram] = {}
        for group in parts:
            device = next(item.parameter.device for item in self._weights if item.group == group)
            histograms[group] = Histogram(device)
            histograms[group].add_all(parts[group])
        add_over_processes(list(histograms.values()), processes)
        return histograms


def _norms(items: list[GroupedParameter], parts: list[torch.Tensor]) -> torch.Tensor:
    return tensor_norms(parts, [sharding_of(item.parameter) for item in items], items[0].parameter.device)


def _is_compiled(args: TrainingArguments, model: nn.Module) -> bool:
    if args.torch_compile or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        return True
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
