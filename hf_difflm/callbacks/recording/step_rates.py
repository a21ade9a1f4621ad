"""How fast the steps of any Trainer were, from its logs and from the shapes that went through its model."""

from __future__ import annotations

import weakref
from typing import Any

from transformers import TrainerState, TrainingArguments

from ...flops.network import mfu
from ...runs.journal.schema import StepRecord
from ..measuring.device_peak import device_peak
from ..measuring.flops_counter import FlopsCounter
from .step_records import round_times


class StepRates:
    """Totals of tokens and FLOPs since the first step of a run, and what they make of each logged record.

    Args:
        args: the training arguments.
        state: the Trainer's state at the begin of the training.
        model: whose FLOPs are counted, where its family is known.
        total_flops: those of the run before this training.
        peak_flops: dense peak of one device in FLOP/s; default: ``args.peak_flops``, else from a table.
    """

    def __init__(
        self,
        args: TrainingArguments,
        state: TrainerState,
        model: Any,
        total_flops: float = 0.0,
        peak_flops: float | None = None,
    ) -> None:
        self.total_flops = total_flops
        self._tokens_seen = state.num_input_tokens_seen
        self._peak = device_peak(args, model) if peak_flops is None else peak_flops
        self._processes = args.world_size
        # Dynamo would compile the hook of the counter into the model, and again for each new count.
        self._flops = FlopsCounter(model) if model is not None and not args.torch_compile else None
        if self._flops is not None:
            weakref.finalize(self, self._flops.remove)  # a Trainer that fails calls no hook: it goes with this at last

    def complete(self, record: StepRecord, seconds: float) -> None:
        """Write times, rates and totals into the record of the steps that took so many seconds."""
        record.time_ms = 1000 * seconds / record.steps if record.time_ms is None else record.time_ms
        if record.tokens_seen is not None:
            if record.tokens_per_sec is None and seconds > 0:
                record.tokens_per_sec = (record.tokens_seen - self._tokens_seen) / seconds
            self._tokens_seen = record.tokens_seen
        flops = self._flops.take() if self._flops is not None else None
        if flops is not None:
            flops *= self._processes
            self.total_flops += flops
            record.total_flops = self.total_flops
            record.mfu = mfu(flops, seconds, self._processes, self._peak)
        round_times(record)

    def let_go(self) -> None:
        """Take the counter off the model; harmless where that has been done."""
        if self._flops is not None:
            self._flops.remove()
            self._flops = None
