"""Write the run log of any transformers Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import UserError
from ..runs.journal.append_only import Journal
from ..runs.journal.atomic_files import JOURNAL_NAME
from ..runs.journal.reading import find_run
from ..runs.journal.redaction import redact
from ..runs.journal.schema import (
    COMPLETED,
    STATUS_OF_EVENT,
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    Record,
    SampleRecord,
)
from .measuring.training_clock import TrainingClock
from .recording.guarded_writer import LogWriter
from .recording.run_log_start import Place, begin_attempt
from .recording.step_lines import StepLines
from .recording.step_rates import StepRates
from .recording.step_records import SinceEvaluation, step_record, step_records
from .recording.trial_folder import training_folder, trial_of
from .reports import reports_of
from .tracking.wandb_resume import WandbResume

_ENDINGS = tuple(name for name, status in STATUS_OF_EVENT.items() if name == status)


class RunLogCallback(TrainerCallback):
    """Write ``journal.jsonl`` and what is derived from it: ``{run_name}.json`` and ``{experiment_name}_metrics.json``.

    Only world process zero writes. A Trainer that calls ``on_training_iterations`` gets one row an optimiser step; any
    other gets one row a log. A second training in one folder has files of its own: the journal of the run before becomes
    ``{its name}.jsonl``. Where the Trainer resumes from a checkpoint, the run that saved it is gone on with.

    Args:
        log_dir: folder of the files; default: the output folder. A trial of a hyper-parameter search has a folder of its
            own within it, as its checkpoints have.
        run_name: name of the run; default: ``args.run_name``, else the experiment's name, else that of the output folder.
            A resumed run keeps its name; a further run of a folder gets ``-2``, ``-3``, ... after it.
        log_save_interval: optimiser steps between rebuilds of the derived files.
        header: what is known better than this callback can see: ``objective``, ``bound``, ``config`` (instead of the
            training arguments), ``data``, ``parent_run`` (id or path of the run whose weights this one begins with), and
            entries for ``model`` and ``metadata`` (its ``command`` may be a list). What a Trainer of this library knows is
            there by itself (:meth:`fill_header`).
        resume: append to the journal that is there, even from step 0; implied by a Trainer that begins beyond step 0. A
            W&B run is only gone on with where this is given (or the Trainer calls :meth:`resume_trackers`).
        overwrite: replace the run that is there, instead of setting it aside.
        experiment_name: names the metrics file; default: the run's name.
        log_eval_only: keep no steps; each evaluation says what the training since the one before was like.
        peak_flops: dense peak of one device in FLOP/s, for the MFU; default: ``args.peak_flops``, else from a table.

    Raises:
        UserError: at the start of training, when the folder holds a run that another process is writing, or files of
            that name which are no run's, or cannot be written. Later write errors do not stop the training: they are
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
        self._of_trainer: Mapping[str, Any] = {}
        self.resume = resume
        self.overwrite = overwrite
        self.experiment_name = experiment_name
        self.log_eval_only = log_eval_only
        self.peak_flops = peak_flops
        self._log: LogWriter | None = None
        self._lines = StepLines()
        self._output = Path()
        self._clock = TrainingClock()
        self._rates: StepRates | None = None
        self._wandb = WandbResume()
        self._since_evaluation = SinceEvaluation()
        self._ending: tuple[str, str | None] = (COMPLETED, None)
        self._running = self._begun = False
        self._step = self._logged_step = 0
        self._last_nll: float | None = None

    @property
    def journal_path(self) -> Path | None:
        """Where the journal is; None before training and on other processes than world zero."""
        return None if self._log is None else self._log.journal.path

    def fill_header(self, known: Mapping[str, Any]) -> None:
        """Take what a Trainer knows of itself, by the keys of ``header``, which goes before it; call it before training."""
        self._of_trainer = known

    def _whole_header(self) -> dict[str, Any]:
        known, given = self._of_trainer, self.header
        both = {name: {**known.get(name, {}), **given.get(name, {})} for name in ("model", "metadata")}
        return {"experiment_name": self.experiment_name, **known, **given, **both}

    # ---- hooks of any Trainer ----

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.resume:
            self.resume_trackers(args)

    def resume_trackers(self, args: TrainingArguments) -> None:
        """Go on with the W&B run of the run that is resumed; call it before ``train``, since W&B starts before this log."""
        path = self._folder(args) / JOURNAL_NAME
        previous = find_run(path) if args.process_index == 0 and path.exists() else None
        if previous is not None:
            self._wandb.name(args, previous.header.metadata)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._wandb.forget()
        if not state.is_world_process_zero:
            return
        journal = Journal(self._folder(args, trial_of(args, state)) / JOURNAL_NAME)
        self._output = training_folder(args, state)
        resumed = self.resume or state.global_step > 0
        if self._running and self._log is not None:  # it raised: auto_find_batch_size or the user tries again
            resumed = resumed or (self._log.journal.path == journal.path and not self.overwrite)
            self.close("failed", "the training ended with an error")
        step = state.global_step
        place = Place(journal, self._name(args, trial_of(args, state)), resumed, self.overwrite)
        attempt = begin_attempt(place, args, model, self._whole_header(), step)
        self._log = LogWriter(journal, attempt.derived, self.log_save_interval)
        self._step = self._logged_step = step
        self._rates = StepRates(args, state, model, attempt.flops_until(step), self.peak_flops)
        self._since_evaluation = SinceEvaluation()
        self._last_nll = None
        self._ending, self._running, self._begun = (COMPLETED, None), True, False
        self._log.begin(0 if self.log_eval_only else state.max_steps - step)
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
        if self._log is None or self._rates is None or not logs or "loss" not in logs or step <= self._logged_step:
            return
        steps = step - self._logged_step
        seconds = self._clock.lap()
        record = step_record(logs, iter=step, steps=steps)
        self._rates.complete(record, seconds)
        if self.log_eval_only:
            self._since_evaluation.add(record)
        else:
            self._append(record)
        self._logged(record.iter)

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
            folder = self._output / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
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
        if self._log is None or self._rates is None:
            return
        self._clock.lap()  # the rows bring their own times
        self._rates.let_go()  # and their own FLOPs
        self._rates.total_flops += sum(float(row.get("flops") or 0.0) for row in rows)
        totals = state.num_input_tokens_seen, self._rates.total_flops
        if self.log_eval_only:
            for record in step_records(rows, *totals):
                self._since_evaluation.add(record)
        else:
            self._log.append_lines(self._lines.of(rows, *totals), self._step)
        self._logged(max(row["iter"] for row in rows))

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
        self.let_go()
        if self._log is not None:
            self._log.finish()

    def let_go(self) -> None:
        """Take the hook that counts FLOPs off the model; harmless where that has been done."""
        if self._rates is not None:
            self._rates.let_go()

    # ---- writing ----

    def _folder(self, args: TrainingArguments, trial: str | None = None) -> Path:
        return Path(self.log_dir or args.output_dir or ".", trial or "")

    def _name(self, args: TrainingArguments, trial: str | None) -> str:
        folder = Path(args.output_dir or ".").resolve().name
        name = self.run_name or args.run_name or self.experiment_name or folder or "run"
        return name if trial is None else f"{name}-{trial}"

    def _logged(self, step: int) -> None:
        """Steps have been logged up to this one."""
        self._step = self._logged_step = max(self._logged_step, step)
        if self._log is not None and self._running and not self.log_eval_only:
            self._log.rebuild(self._step)
        self._clock.exclude()

    def _append(self, record: Record) -> None:
        if self._log is not None:
            self._log.append(record, self._step)
            if not self._running:  # an evaluation or a sample after the end
                self._log.finish()


def _ending(status: str) -> str:
    if status not in _ENDINGS:
        raise UserError(f"status is {status!r}; a run ends as {', '.join(_ENDINGS)}")
    return status
