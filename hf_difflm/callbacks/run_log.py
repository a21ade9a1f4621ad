"""Write the run log of any transformers Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import UserError
from ..runs.derived import derived_files
from ..runs.files import JOURNAL_NAME, remove_leftovers
from ..runs.flops import mfu
from ..runs.journal import Journal
from ..runs.journal_reading import find_run
from ..runs.redaction import redact
from ..runs.run import Run
from ..runs.schema import (
    COMPLETED,
    STATUS_OF_EVENT,
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    Record,
    SampleRecord,
    StepRecord,
)
from .device_peak import device_peak
from .flops_counter import FlopsCounter
from .log_writer import LogWriter
from .reports import reports_of
from .run_header import run_record
from .step_records import SinceEvaluation, round_times, step_record, step_records
from .training_clock import TrainingClock
from .wandb_resume import WandbResume

_ENDINGS = tuple(name for name, status in STATUS_OF_EVENT.items() if name == status)


class RunLogCallback(TrainerCallback):
    """Write ``journal.jsonl`` and what is derived from it: ``{run_name}.json`` and ``{experiment_name}_metrics.json``.

    Only world process zero writes. A Trainer that calls ``on_training_iterations`` gets one row an optimiser step; any
    other gets one row a log.

    Args:
        log_dir: folder of the files; default: the output folder.
        run_name: name of the run; default: ``args.run_name``, else the experiment's name, else ``run_{date}_{time}``. A
            resumed run keeps its name.
        log_save_interval: optimiser steps between rebuilds of the derived files.
        header: what is known better than this callback can see: ``objective``, ``bound``, ``config`` (instead of the
            training arguments), ``data``, ``parent_run`` (id or path of the run whose weights this one begins with), and
            entries for ``model`` and ``metadata`` (its ``command`` may be a list).
        resume: append to the journal that is there, even from step 0; implied by a Trainer that begins beyond step 0. A
            W&B run is only gone on with where this is given (or the Trainer calls :meth:`resume_trackers`).
        overwrite: replace the run that is there.
        experiment_name: names the metrics file; default: the run's name.
        log_eval_only: keep no steps; each evaluation says what the training since the one before was like.
        peak_flops: dense peak of one device in FLOP/s, for the MFU; default: ``args.peak_flops``, else from a table.

    Raises:
        UserError: at the start of training, when the folder holds a run that is neither resumed nor overwritten, that
            another process is writing, or cannot be written. Later write errors do not stop the training: they are
            warned of once and counted.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        run_name: str | None = None,
        log_save_interval: int = 100,
        header: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        experiment_name: str | None = None,
        log_eval_only: bool = False,
        peak_flops: float | None = None,
    ) -> None:
        if resume and overwrite:
            raise UserError("resume and overwrite were both given; choose one of them")
        if log_save_interval < 1:
            raise UserError(f"log_save_interval is {log_save_interval}; give a number of steps of at least 1")
        if peak_flops is not None and not peak_flops > 0:
            raise UserError(f"peak_flops is {peak_flops}; give the FLOP/s of one device, e.g. 312e12")
        self.log_dir = log_dir
        self.run_name = run_name
        self.log_save_interval = log_save_interval
        self.header = header or {}
        self.resume = resume
        self.overwrite = overwrite
        self.experiment_name = experiment_name
        self.log_eval_only = log_eval_only
        self.peak_flops = peak_flops
        self._log: LogWriter | None = None
        self._clock = TrainingClock()
        self._flops: FlopsCounter | None = None
        self._peak: float | None = None
        self._wandb = WandbResume()
        self._since_evaluation = SinceEvaluation()
        self._ending: tuple[str, str | None] = (COMPLETED, None)
        self._running = False
        self._begun = False
        self._step = 0
        self._logged_step = 0
        self._tokens_seen = 0
        self._total_flops = 0.0
        self._last_nll: float | None = None

    @property
    def journal_path(self) -> Path | None:
        """Where the journal is; None before training and on other processes than world zero."""
        return None if self._log is None else self._log.journal.path

    # ---- hooks of any Trainer ----

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.resume:
            self.resume_trackers(args)

    def resume_trackers(self, args: TrainingArguments) -> None:
        """Go on with the W&B run of the run that is resumed; call it before ``train``, since W&B starts before this log."""
        path = self._folder(args) / JOURNAL_NAME
        if args.process_index == 0 and path.exists():
            previous = find_run(path)
            if previous is not None:
                self._wandb.name(args, previous.header.metadata)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._wandb.forget()
        if not state.is_world_process_zero:
            return
        journal = Journal(self._folder(args) / JOURNAL_NAME)
        resumed = self.resume or state.global_step > 0
        if self._running and self._log is not None:  # it raised: auto_find_batch_size or the user tries again
            resumed = resumed or (self._log.journal.path == journal.path and not self.overwrite)
            self.close("failed", "the training ended with an error")
        step = state.global_step
        try:
            previous = self._claim(args, journal, resumed)
            # Under one run id all attempts have one name.
            name = previous.name if previous else self._name(args)
            header = {"experiment_name": self.experiment_name, **self.header}
            if previous is not None:
                header["experiment_name"] = previous.headers[0].experiment_name
            record = run_record(args, model, header, name, previous.header.run_id if previous else None)
            begun = EventRecord(event="resumed" if resumed else "started", iter=step)
            begun.resumed_from_step = step if resumed else None
            journal.append(record)
            journal.append(begun)
        except OSError as error:
            journal.close()
            advice = "choose another log folder"
            if isinstance(error, BlockingIOError):
                advice = (
                    "wait until it has ended (a training of this process that failed holds it until its Trainer is "
                    f"deleted), or {advice}"
                )
            raise UserError(
                f"the run log {str(journal.path)!r} cannot be written ({error.strerror}); {advice}"
            ) from error
        for path in derived_files(journal.path.parent, name, record.experiment_name):
            remove_leftovers(path)
        self._log = LogWriter(journal, self.log_save_interval)
        self._step = self._logged_step = step
        self._tokens_seen = state.num_input_tokens_seen
        self._total_flops = _flops_until(previous, step)
        self._since_evaluation = SinceEvaluation()
        self._last_nll = None
        self._ending, self._running = (COMPLETED, None), True
        self._begun = False
        self._peak = device_peak(args, model) if self.peak_flops is None else self.peak_flops
        # Dynamo would compile the hook of the counter into the model, and again for each new count.
        self._flops = FlopsCounter(model) if model is not None and not args.torch_compile else None
        self._log.rebuild()
        self._clock = TrainingClock()
        reports = reports_of(state)
        reports.journal_path = journal.path
        reports.listen(self._append, lambda what, seconds: self._clock.leave_out(seconds))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._begun:  # other callbacks begin after this one, which is no training
            self._begun = True
            self._clock.lap()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step = state.global_step
        self._clock.boundary()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step
        if self._log is None or not logs or "loss" not in logs or step <= self._logged_step:
            return
        steps = step - self._logged_step
        seconds = self._clock.lap()
        record = step_record(logs, iter=step, steps=steps)
        record.time_ms = 1000 * seconds / steps if record.time_ms is None else record.time_ms
        if record.tokens_seen is not None:
            if record.tokens_per_sec is None and seconds > 0:
                record.tokens_per_sec = (record.tokens_seen - self._tokens_seen) / seconds
            self._tokens_seen = record.tokens_seen
        flops = self._flops.take() if self._flops is not None else None
        if flops is not None:
            flops *= args.world_size
            self._total_flops += flops
            record.total_flops = self._total_flops
            record.mfu = mfu(flops, seconds, args.world_size, self._peak)
        round_times(record)
        self._append_steps([record])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        record = EvaluationRecord(iter=state.global_step, metrics=dict(metrics or {}))
        self._last_nll = record.nll
        self._since_evaluation.describe(record)
        self._append(record)
        if self.log_eval_only and self._log is not None and self._running:
            self._log.rebuild(state.global_step)
        self._clock.exclude()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._log is not None:
            folder = Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            path = Path(os.path.relpath(folder, self._log.journal.path.parent)).as_posix()
            self._append(CheckpointRecord(iter=state.global_step, path=path, val_loss=self._last_nll))
        self._clock.exclude()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step = state.global_step
        self.close(*(reports_of(state).ending or ()))

    # ---- hook of a Trainer that knows every step ----

    def on_training_iterations(
        self, args: TrainingArguments, state: TrainerState, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write one record an optimiser step; call it once a logging step, before ``log``.

        Args:
            args: the training arguments.
            state: the Trainer's state; ``num_input_tokens_seen`` counts the tokens of these rows already.
            rows: one mapping a step, with ``iter`` and any of the keys of :class:`StepRecord`; ``tokens`` and ``flops``
                are the scored tokens and the model FLOPs of the step. Further numbers are kept.
        """
        if self._log is None:
            return
        self._clock.lap()  # the rows bring their own times
        if self._flops is not None:  # and their own FLOPs
            self._flops.remove()
            self._flops = None
        self._total_flops += sum(float(row.get("flops") or 0.0) for row in rows)
        self._append_steps(step_records(rows, state.num_input_tokens_seen, self._total_flops))

    # ---- for those who use the log ----

    def record_sample(self, step: int, prompt: str, text: str, **extra: Any) -> None:
        """Write down a text the model wrote after ``step`` optimiser steps; call it once training has begun.

        On other processes than world zero nothing happens. Numbers and words in ``extra`` are kept beside the text.
        """
        self._append(SampleRecord(iter=step, prompt=prompt, text=text, extra=extra))

    def mark(self, status: str, message: str | None = None) -> None:
        """Say how the training will have ended: ``"interrupted"`` or ``"failed"``, with a message."""
        self._ending = (_ending(status), message)

    def close(self, status: str | None = None, message: str | None = None) -> None:
        """Write the last event and the final derived files; harmless where that has been done.

        Args:
            status: ``completed``, ``interrupted`` or ``failed``; default: what :meth:`mark` said, else ``completed``.
            message: a sentence about it.
        """
        if not self._running:
            return
        if status is not None:
            self._ending = (_ending(status), message)
        event, said = self._ending
        self._append(EventRecord(event=event, iter=self._step, message=redact(said)))
        self._running = False
        if self._flops is not None:
            self._flops.remove()
        if self._log is not None:
            self._log.finish()

    # ---- writing ----

    def _folder(self, args: TrainingArguments) -> Path:
        return Path(self.log_dir or args.output_dir or ".")

    def _name(self, args: TrainingArguments) -> str:
        return self.run_name or args.run_name or self.experiment_name or f"run_{datetime.now():%Y%m%d_%H%M%S}"

    def _claim(self, args: TrainingArguments, journal: Journal, resumed: bool) -> Run | None:
        """Open the journal; return the run in it that is resumed, or None for a new run, for which its place is cleared."""
        folder = journal.path.parent
        previous = find_run(journal.path) if journal.path.exists() else None
        if not resumed and not self.overwrite:
            if journal.path.exists():
                found = f"the run {previous.name!r}" if previous else "a journal"
                raise UserError(
                    f"{str(folder)!r} already holds {found}; resume it, overwrite it or choose another folder"
                )
            for path in derived_files(folder, self._name(args), self.experiment_name):
                if path.exists():
                    raise UserError(f"{str(path)!r} exists; choose another run name or log folder")
        journal.open()  # and lock it: nothing of a run that is alive is deleted
        if resumed:
            return previous
        journal.clear()
        if previous is not None:
            for path in derived_files(folder, previous.name, previous.headers[0].experiment_name):
                path.unlink(missing_ok=True)
        return None

    def _append_steps(self, records: Sequence[StepRecord]) -> None:
        for record in records:
            if self.log_eval_only:
                self._since_evaluation.add(record)
            else:
                self._append(record)
            self._step = self._logged_step = max(self._logged_step, record.iter)
        if self._log is not None and self._running and not self.log_eval_only:
            self._log.rebuild(self._step)
        self._clock.exclude()

    def _append(self, record: Record) -> None:
        if self._log is None:
            return
        self._log.append(record, self._step)
        if not self._running:  # an evaluation or a sample after the end
            self._log.finish()


def _ending(status: str) -> str:
    if status not in _ENDINGS:
        raise UserError(f"status is {status!r}; a run ends as {', '.join(_ENDINGS)}")
    return status


def _flops_until(run: Run | None, step: int) -> float:
    """Model FLOPs up to a step, as the log has them."""
    if run is None:
        return 0.0
    total = run.steps.up_to(step).column("total_flops")
    return float(np.nan_to_num(total).max(initial=0.0))
