"""What is logged of each optimiser step, fetched from the device at logging steps alone."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers.optimization import get_wsd_schedule
from transformers.trainer_utils import IntervalStrategy

from ...callbacks.reports import reports_of
from ...flops.network import mfu
from ...runs.journal.schema import EventRecord
from ..optimization.muon import muon_of
from ..optimization.named import named_optimizer
from ..optimization.stable_decay import STABLE_DECAY, stable_decay_kwargs
from ..schedule_free import SCHEDULE_FREE, learning_rate_of, set_warmup
from .base import TrainerPart


class StepLogPart(TrainerPart):
    """Logs the optimiser steps of :class:`DiffusionTrainer`."""

    _adamw_learning_rate: float | None = None

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: Any,
        model: Any,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: Any,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        # Called after each optimiser step, and once more at the end of an epoch.
        if self._window.has_open_step():
            self.training_objective.after_step(self.state.global_step)
            self._window.close_step(
                self.state.global_step, grad_norm, learning_rate or 0.0, self.state.epoch, self._adamw_learning_rate
            )
        if self.control.should_log and self._window:
            self._log_window(tr_loss)
        busy = self.control.should_evaluate or self.control.should_save
        super()._maybe_log_save_evaluate(
            tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate
        )
        if busy:
            self._window.restart_clock()

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """As the Trainer's own, with Muon beside its names."""
        return named_optimizer(args, model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.optim.startswith(SCHEDULE_FREE):
            set_warmup(optimizer or self.optimizer, self.args.get_warmup_steps(num_training_steps))
        if self.lr_scheduler is None and self.args.lr_scheduler_type == STABLE_DECAY:
            warmup = self.args.get_warmup_steps(num_training_steps)
            given: Any = self.args.lr_scheduler_kwargs or {}
            kwargs = stable_decay_kwargs(given, warmup, num_training_steps)
            scheduled: Any = optimizer or self.optimizer
            self.lr_scheduler = get_wsd_schedule(scheduled, warmup, num_training_steps=num_training_steps, **kwargs)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        own = learning_rate_of(self.optimizer)
        return super()._get_learning_rate() if own is None else own

    def _note_learning_rates(self) -> None:
        """Keep the rate of AdamW's weights beside Muon's, which the step just taken had; the schedule moves it next."""
        muon = muon_of(self.optimizer)
        self._adamw_learning_rate = None if muon is None else muon.adamw_learning_rate

    def _log_window(self, tr_loss: torch.Tensor) -> None:
        """Fetch the steps since the last logging step and report them; the one place where training waits."""
        rows = self._window.fetch(self.accelerator.gather, self.args.device, self.accelerator.num_processes)
        self._total_loss_scalar += sum(row["loss"] for row in rows)
        tr_loss -= tr_loss
        self._globalstep_last_logged = self.state.global_step
        tokens = sum(row["tokens"] for row in rows)
        for row in rows:
            row["mfu"] = mfu(row.get("flops"), row["time_ms"] / 1e3, self.accelerator.num_processes, self._peak)
        self.state.num_input_tokens_seen += tokens
        self.store_flos()
        start = time.perf_counter()
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "on_training_iterations"):
                callback.on_training_iterations(self.args, self.state, rows)
        if self.is_world_process_zero():
            for row in rows:
                if (what := self.training_objective.transition(row["iter"] - 1)) is not None:
                    reports_of(self.state).publish(EventRecord(event="curriculum", iter=row["iter"], message=what))
        self._window.leave_out(time.perf_counter() - start)
        last = rows[-1]
        seconds = sum(row["time_ms"] for row in rows) / 1e3
        logs = {
            "loss": sum(row["loss"] for row in rows) / len(rows),
            "grad_norm": last["grad_norm"],
            "learning_rate": last["lr"],
            "tokens_per_sec": tokens / seconds,
            "time_ms": 1e3 * seconds / len(rows),
        }
        skip = ("iter", "tokens", "flops", "epoch", "loss", "grad_norm", "lr", "tokens_per_sec", "time_ms")
        logs.update({name: value for name, value in last.items() if name not in skip and value is not None})
        self.log(logs)
        bad = [
            (row["iter"], name, row[name])
            for row in rows
            for name in ("loss", "grad_norm")
            # A float16 scaler skips steps whose gradients overflow: there an infinite norm is part of the method.
            if not math.isfinite(row[name]) and not (name == "grad_norm" and self.accelerator.scaler is not None)
        ]
        if bad:
            step, name, value = bad[0]
            self._diverged(f"{name} became {value} at step {step}")

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Nothing: ``num_input_tokens_seen`` is of scored tokens, counted above; those of the inputs would come on top."""

    def _logs_after_this_step(self) -> bool:
        step = self.state.global_step + 1
        if self.args.logging_strategy == IntervalStrategy.EPOCH and self._train_order is not None:
            steps_per_epoch = len(self._train_order) // self.get_total_train_batch_size(self.args)
            return step % steps_per_epoch == 0 or step >= self.state.max_steps
        return (
            step % max(self.state.logging_steps, 1) == 0
            or step >= self.state.max_steps
            or (step == 1 and self.args.logging_first_step)
        )
