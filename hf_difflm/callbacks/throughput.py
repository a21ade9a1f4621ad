"""How fast a Trainer trains, what it waits for, and what it does beside training."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..flops.network import mfu
from ..runs.journal.schema import MeasurementRecord
from .measuring.device_peak import device_peak
from .measuring.device_use import DeviceUtilization, host_memory_mb, peak_memory_mb
from .measuring.flops_counter import FlopsCounter
from .measuring.phase_clock import PhaseClock
from .measuring.token_counter import TokenCounter
from .reports import Reports, reports_of

_DECIMALS = 3


@dataclass
class _Rows:
    """What a Trainer that knows each step has told about its steps since the last report."""

    steps: int = 0
    seconds: float = 0.0
    tokens: float = 0.0
    flops: float | None = None


class ThroughputCallback(TrainerCallback):
    """Publish how fast the training is, at logging steps, as a measurement of the run log.

    Everything is that of the steps since the last report, evaluation, saving, sampling and so on left out:
    ``throughput/step_time_ms``; ``tokens_per_sec`` over all processes, ``tokens_per_sec_per_device``; ``mfu`` in per cent;
    ``data_wait_s``, the part of the training time that was spent fetching batches, of the process that waited longest.
    What was left out, in seconds, each on its own: ``evaluation_s``, ``saving_s`` and whatever other callbacks say,
    e.g. ``sampling_s``. Of the machine: ``peak_memory_mb`` (device) and ``host_memory_mb``, both MiB, since the process
    began, of the process with the most; ``device_utilization``, per cent of the last second, mean of the devices. Null
    is what is not known.

    Tokens are those a Trainer counts as scored if it tells (``on_training_iterations``), else what
    ``include_num_input_tokens_seen`` has counted, else the ``input_ids`` of the forward passes, padding included. With
    ``torch_compile`` forward passes are not counted, nor are the FLOPs of a Trainer that does not tell them.

    Args:
        interval: report at the first log that is at least so many optimiser steps after the last report; None: at each
            log; 0: never.
        peak_flops: dense peak of one device in FLOP/s; default: ``args.peak_flops``, else from a table.

    Raises:
        UserError: ``interval`` is negative, ``peak_flops`` is not positive.
    """

    def __init__(self, interval: int | None = None, peak_flops: float | None = None) -> None:
        if interval is not None and interval < 0:
            raise UserError(f"interval is {interval}; give a number of steps, or 0 to measure no throughput")
        if peak_flops is not None and not peak_flops > 0:
            raise UserError(f"peak_flops is {peak_flops}; give the FLOP/s of one device, e.g. 312e12")
        self.interval = interval
        self.peak_flops = peak_flops
        self._clock = PhaseClock()
        self._tokens: TokenCounter | None = None
        self._flops: FlopsCounter | None = None
        self._reports: Reports | None = None

    # ---- hooks of any Trainer ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self.interval == 0:
            return
        self._reports = reports_of(state)
        self._clock = clock = PhaseClock()
        self._reports.listen(to_left_out=clock.leave_out_as)
        self._begun = False
        self._reported_step = state.global_step
        self._tokens_seen = state.num_input_tokens_seen
        self._rows: _Rows | None = None
        self.let_go()
        if model is not None and not args.torch_compile:  # it would compile a hook, and again for each new count
            self._tokens, self._flops = TokenCounter(model), FlopsCounter(model)
            for counter in (self._tokens, self._flops):  # a Trainer that fails calls no hook: they go with this at last
                weakref.finalize(self, counter.remove)
        self._peak = device_peak(args, model) if self.peak_flops is None else self.peak_flops
        self._device, self._ranks = args.device, args.world_size  # to ask takes longer than most answers
        self._utilization = DeviceUtilization(self._device)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._reports is not None and not self._begun:  # trackers take seconds to start, which are no training time
            self._begun = True
            self._clock.restart()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._clock.step_begins()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._clock.boundary()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._reports is None or not logs:
            return
        steps = state.global_step - self._reported_step
        if "loss" in logs and steps >= (self.interval or 1):
            self._publish(state, {**self._rates(state, steps), **self._apart()})
            self._reported_step = state.global_step
        elif "train_runtime" in logs and "loss" not in logs and self._clock.apart:  # what came after the last step
            self._publish(state, self._apart())

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._clock.phase("evaluation")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._clock.phase("saving")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.let_go()
        self._reports = None

    # ---- hook of a Trainer that knows every step ----

    def on_training_iterations(
        self, args: TrainingArguments, state: TrainerState, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take times, tokens and FLOPs of the steps from the Trainer; the rows are those of the run log."""
        if self._reports is None:
            return
        self.let_go()
        known = self._rows = self._rows or _Rows()
        for row in rows:
            known.steps += 1
            known.seconds += row["time_ms"] / 1e3
            known.tokens += row.get("tokens") or 0
            if row.get("flops") is not None:
                known.flops = (known.flops or 0.0) + row["flops"]

    # ---- numbers ----

    def _rates(self, state: TrainerState, steps: int) -> dict[str, float | None]:
        seconds = self._clock.lap()
        # In one piece, so that several processes have one thing to tell each other.
        own = [
            _take(self._tokens),
            _take(self._flops),
            self._clock.take_data_wait(),
            peak_memory_mb(self._device),
            host_memory_mb(),
            self._utilization.percent(),
        ]
        ranks = self._ranks
        all_tokens, all_flops, waits, device, host, busy = zip(*_over_processes(own, self._device, ranks), strict=True)
        tokens, flops = _total(all_tokens), _total(all_flops)
        seen = state.num_input_tokens_seen - self._tokens_seen
        self._tokens_seen = state.num_input_tokens_seen
        if seen > 0:  # over all processes already
            tokens = float(seen)
        rows, self._rows = self._rows, None
        if rows is not None:
            steps, seconds, tokens, flops = rows.steps, rows.seconds, rows.tokens, rows.flops
        rate = tokens / seconds if tokens is not None and seconds > 0 else None
        use = _total(busy)
        return {
            "step_time_ms": 1e3 * seconds / steps,
            "tokens_per_sec": rate,
            "tokens_per_sec_per_device": None if rate is None else rate / ranks,
            "mfu": mfu(flops, seconds, ranks, self._peak),
            "data_wait_s": _most(waits),
            "peak_memory_mb": _most(device),
            "host_memory_mb": _most(host),
            "device_utilization": None if use is None else use / ranks,
        }

    def _apart(self) -> dict[str, float | None]:
        return {f"{name}_s": seconds for name, seconds in self._clock.take_apart().items()}

    def _publish(self, state: TrainerState, numbers: Mapping[str, float | None]) -> None:
        if self._reports is None or not state.is_world_process_zero:
            return
        metrics = {
            f"throughput/{name}": None if number is None else round(number, _DECIMALS)
            for name, number in numbers.items()
        }
        self._reports.publish(MeasurementRecord(iter=state.global_step, source="throughput", metrics=metrics))

    def let_go(self) -> None:
        """Take the counters off the model; harmless where that has been done."""
        for counter in (self._tokens, self._flops):
            if counter is not None:
                counter.remove()
        self._tokens = self._flops = None


def _take(counter: TokenCounter | FlopsCounter | None) -> float | None:
    return None if counter is None else counter.take()


def _over_processes(own: Sequence[float | None], device: torch.device, ranks: int) -> list[Sequence[float | None]]:
    """Return the numbers of each process; all processes call it at the same log."""
    if ranks == 1:
        return [own]
    values_N = torch.tensor([math.nan if number is None else number for number in own], dtype=torch.float64)
    gathered = gather(values_N[None].to(device)).tolist()
    return [[None if math.isnan(number) else number for number in row] for row in gathered]


def _total(numbers: Sequence[float | None]) -> float | None:
    """The sum over processes; None where one does not know its own."""
    known = [number for number in numbers if number is not None]
    return float(sum(known)) if len(known) == len(numbers) else None


def _most(numbers: Sequence[float | None]) -> float | None:
    """The greatest of the processes; None where one does not know its own."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None
