"""Say at once when a training goes wrong, and stop it if that is wanted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..runs.journal.schema import FAILED, EventRecord, MeasurementRecord, Record, SampleRecord
from ..runs.journal.tables import printable
from .measuring.alarms import Alarm, GradientAlarm, LossAlarm, PlateauAlarm, check_kinds, judge_sample, judge_waiting
from .reports import Reports, reports_of

logger = logging.getLogger(__name__)

_PAUSE_STEPS = 100
_FEW_TOKENS = 20  # of a text: the most frequent one of so few says little


class AlertCallback(TrainerCallback):
    """Watch a training for six alarms: an event ``alert`` in the run log, a line on the terminal, a stop on request.

    - ``loss_spike``: a loss 8 robust standard deviations and 20 % above the median of the 50 before it, or not finite;
    - ``exploding_gradients``: a pre-clip gradient norm above 10 times such a median, or not finite;
    - ``vanishing_gradients``: one below 1e-4 of it, or below 1e-7;
    - ``data_stall``: in two reports of :class:`ThroughputCallback` in a row more than half of the time, and more than a
      second, was waiting for data (what other callbacks do at the end of a step looks the same, but not twice);
    - ``degenerate_samples``: more than half of a text of at least 20 tokens is one token, where it was drawn by
      :class:`GenerationSamplesCallback` (greedy texts of a sound model repeat themselves too, so they are no alarm).
    - ``unigram_plateau``: a loss within 2 % of the entropy of the training set's token frequencies for a tenth of the
      training, and at least 20 steps (:class:`DiffusionTrainer` knows that entropy, a stock Trainer does not).

    A Trainer that tells each step (``on_training_iterations``) is judged by steps, any other by what it logs. After an
    alert its kind is silent for 100 steps.

    Args:
        fail_on: kinds that stop the training at the logging step that finds them, with a checkpoint; ``"all"`` for each,
            ``"none"`` for none.
            :attr:`failure` then says why.

    Attributes:
        failure: the sentence of the alarm that stopped the training; None where none did.

    Raises:
        UserError: ``fail_on`` names an unknown kind.
    """

    def __init__(self, fail_on: str | Iterable[str] = ()) -> None:
        self.fail_on = check_kinds([fail_on] if isinstance(fail_on, str) else list(fail_on))
        self.failure: str | None = None
        self._reports: Reports | None = None

    # ---- hooks of any Trainer ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.failure = None
        self._loss, self._gradients = LossAlarm(), GradientAlarm()
        self._silent_until: dict[str, int] = {}
        self._knows_steps = False
        self._throughput_step: int | None = None
        self._stalled = False
        self._stop = False
        self._reports = reports_of(state)
        entropy = self._reports.unigram_entropy
        warmup, muon = args.get_warmup_steps(state.max_steps), getattr(args, "optim", "") == "muon"
        self._plateau = PlateauAlarm(entropy, state.max_steps, warmup, muon) if entropy else None
        if state.is_world_process_zero:
            self._reports.listen(self._hear)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> TrainerControl:
        if self._reports is None or not logs or "loss" not in logs:
            return control
        if not self._knows_steps and state.is_world_process_zero:
            self._judge_step(state.global_step, logs)
        if self.fail_on and self._agreed_to_stop(args):
            control.should_training_stop = control.should_save = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._reports = None

    # ---- hook of a Trainer that knows every step ----

    def on_training_iterations(
        self, args: TrainingArguments, state: TrainerState, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Judge each of the steps since the last logging step."""
        self._knows_steps = True
        if state.is_world_process_zero:
            for row in rows:
                self._judge_step(row["iter"], row)

    # ---- judging ----

    def _judge_step(self, step: int, values: Mapping[str, Any]) -> None:
        for watch, name in ((self._loss, "loss"), (self._plateau, "loss"), (self._gradients, "grad_norm")):
            if watch is None:
                continue
            if values.get(name) is not None:
                self._raise(watch.judge(step, float(values[name])))

    def _hear(self, record: Record) -> None:
        """Judge what other callbacks publish."""
        if isinstance(record, SampleRecord):
            few = record.extra.get("length", _FEW_TOKENS) < _FEW_TOKENS
            if few or record.extra.get("top_share") is None or record.extra.get("mode") == "greedy":
                return
            self._raise(judge_sample(record.iter, record.extra["top_share"], record.prompt))
        elif isinstance(record, MeasurementRecord):
            waited, step_ms = (record.metrics.get(f"throughput/{name}") for name in ("data_wait_s", "step_time_ms"))
            if waited is None or step_ms is None:
                return
            before, self._throughput_step = self._throughput_step, record.iter
            if before is None:  # the loader's workers start
                return
            alarm = judge_waiting(record.iter, waited, max(waited, (record.iter - before) * step_ms / 1e3))
            if self._stalled:
                self._raise(alarm)
            self._stalled = alarm is not None

    def _raise(self, alarm: Alarm | None) -> None:
        if alarm is None or self._reports is None or alarm.step < self._silent_until.get(alarm.kind, 0):
            return
        self._silent_until[alarm.kind] = alarm.step + _PAUSE_STEPS
        numbers = {"kind": alarm.kind, "value": alarm.value, "bound": alarm.bound}
        self._reports.publish(EventRecord(event="alert", iter=alarm.step, message=alarm.message, extra=numbers))
        _say(f"alert: {printable(alarm.message)}")
        if alarm.kind in self.fail_on and not self._stop:
            self._stop = True
            self.failure = f"{alarm.message} ({alarm.kind}), so the run was stopped"
            self._reports.ending = (FAILED, self.failure)

    def _agreed_to_stop(self, args: TrainingArguments) -> bool:
        """World process zero decides, and tells the others at the same logging step."""
        if args.world_size == 1:
            return self._stop
        flag = torch.tensor(float(self._stop), device=args.device)
        torch.distributed.broadcast(flag, src=0)
        self._stop = bool(flag)
        return self._stop


def _say(line: str) -> None:
    """Write a line to stderr, above the progress bars."""
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stderr)
