"""Write the run log of any transformers Trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from numbers import Number
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import UserError
from ..runs.document import DocumentWriter
from ..runs.files import JOURNAL_NAME, document_name
from ..runs.journal import Journal, read_records
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
from .run_header import run_record
from .training_clock import TrainingClock

logger = logging.getLogger(__name__)

_NAMES = {"learning_rate": "lr", "num_input_tokens_seen": "tokens_seen"}
_STEP_FIELDS = {name for name in StepRecord.__dataclass_fields__ if name not in ("time", "nonfinite", "extra")}
_ENDINGS = tuple(name for name, status in STATUS_OF_EVENT.items() if name == status)


class RunLogCallback(TrainerCallback):
    """Write ``journal.jsonl`` and the JSON document ``{run_name}.json``; only world process zero writes.

    A Trainer that calls ``on_training_iterations`` gets one row an optimiser step; any other gets one row a log.

    Args:
        log_dir: folder of both files; default: the output folder.
        run_name: name of the run; default: ``args.run_name``, else ``run_{date}_{time}``. A resumed run keeps its name.
        log_save_interval: optimiser steps between rebuilds of the document.
        header: what is known better than this callback can see: ``objective``, ``bound``, ``config`` (instead of the
            training arguments), ``data``, and entries for ``model`` and ``metadata`` (its ``command`` may be a list).
        resume: append to the journal that is there, even from step 0; implied by a Trainer that begins beyond step 0.
        overwrite: replace the run that is there.

    Raises:
        UserError: at the start of training, when the folder holds a run that is neither resumed nor overwritten, or
            cannot be written. Later write errors do not stop the training: they are warned of once and counted.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        run_name: str | None = None,
        log_save_interval: int = 100,
        header: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if resume and overwrite:
            raise UserError("resume and overwrite were both given; choose one of them")
        if log_save_interval < 1:
            raise UserError(f"log_save_interval is {log_save_interval}; give a number of steps of at least 1")
        self.log_dir = log_dir
        self.run_name = run_name
        self.log_save_interval = log_save_interval
        self.header = header or {}
        self.resume = resume
        self.overwrite = overwrite
        self._journal: Journal | None = None
        self._document: DocumentWriter | None = None
        self._clock = TrainingClock()
        self._ending: tuple[str, str | None] = (COMPLETED, None)
        self._running = False
        self._step = 0
        self._logged_step = 0
        self._tokens_seen = 0
        self._last_nll: float | None = None
        self._lost = 0
        self._warned = False

    @property
    def journal_path(self) -> Path | None:
        """Where the journal is; None before training and on other processes than world zero."""
        return None if self._journal is None else self._journal.path

    # ---- hooks of any Trainer ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(self.log_dir or args.output_dir or ".")
        journal = Journal(folder / JOURNAL_NAME)
        resumed = self.resume or state.global_step > 0
        previous = self._previous(journal.path, resumed)
        default = args.run_name or f"run_{datetime.now():%Y%m%d_%H%M%S}"
        name = previous.name if previous else self.run_name or default
        if previous is None and not self.overwrite and (folder / document_name(name)).exists():
            raise UserError(f"{str(folder / document_name(name))!r} exists; choose another run name or log folder")
        step = state.global_step
        record = run_record(args, model, self.header, name, previous.header.run_id if previous else None)
        begun = EventRecord(event="resumed" if resumed else "started", iter=step)
        begun.resumed_from_step = step if resumed else None
        try:
            journal.append(record)
            journal.append(begun)
        except OSError as error:
            raise UserError(
                f"the run log {str(journal.path)!r} cannot be written ({error.strerror}); choose another log folder"
            ) from error
        self._journal, self._document = journal, DocumentWriter(journal.path, self.log_save_interval)
        self._step = self._logged_step = step
        self._tokens_seen = state.num_input_tokens_seen
        self._last_nll = None
        self._ending, self._running = (COMPLETED, None), True
        self._clock = TrainingClock()
        self._rebuild()

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
        if self._journal is None or not logs or "loss" not in logs or step <= self._logged_step:
            return
        steps = step - self._logged_step
        seconds = self._clock.lap()
        record = _step_record(logs, iter=step, steps=steps)
        record.time_ms = 1000 * seconds / steps if record.time_ms is None else record.time_ms
        if record.tokens_seen is not None:
            if record.tokens_per_sec is None and seconds > 0:
                record.tokens_per_sec = (record.tokens_seen - self._tokens_seen) / seconds
            self._tokens_seen = record.tokens_seen
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
        self._append(record)
        self._clock.exclude()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._journal is not None:
            folder = Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            path = Path(os.path.relpath(folder, self._journal.path.parent)).as_posix()
            self._append(CheckpointRecord(iter=state.global_step, path=path, val_loss=self._last_nll))
        self._clock.exclude()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step = state.global_step
        self.close()

    # ---- hook of a Trainer that knows every step ----

    def on_training_iterations(
        self, args: TrainingArguments, state: TrainerState, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write one record an optimiser step; call it once a logging step, before ``log``.

        Args:
            args: the training arguments.
            state: the Trainer's state; ``num_input_tokens_seen`` counts the tokens of these rows already.
            rows: one mapping a step, with ``iter`` and any of the keys of :class:`StepRecord`; ``tokens`` is the number
                of scored tokens in the step. Further numbers are kept.
        """
        if self._journal is None:
            return
        self._clock.lap()  # the rows bring their own times
        tokens_seen = state.num_input_tokens_seen - sum(int(row.get("tokens") or 0) for row in rows)
        records = []
        for row in rows:
            record = _step_record(row)
            if record.tokens_seen is None and row.get("tokens") is not None:
                tokens_seen += int(row["tokens"])
                record.tokens_seen = tokens_seen
            records.append(record)
        self._append_steps(records)

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
        """Write the last event and the final document; harmless where that has been done.

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
        self._finish()

    # ---- writing ----

    def _previous(self, path: Path, resumed: bool) -> Run | None:
        """The run in the journal that is resumed; None for a new run, whose place is cleared or is free."""
        if not path.exists():
            return None
        run = Run.from_records(path, *read_records(path))
        if resumed:
            return run
        if not self.overwrite:
            found = f"the run {run.name!r}" if run else "a journal"
            raise UserError(
                f"{str(path.parent)!r} already holds {found}; resume it, overwrite it or choose another folder"
            )
        if run is not None:
            path.with_name(document_name(run.name)).unlink(missing_ok=True)
        path.unlink()
        return None

    def _append_steps(self, records: Sequence[StepRecord]) -> None:
        for record in records:
            self._append(record)
            self._step = self._logged_step = max(self._logged_step, record.iter)
        if self._document is not None and self._running:
            self._rebuild(self._step)

    def _append(self, record: Record) -> None:
        if self._journal is None:
            return
        try:
            if self._lost:
                message = f"{self._lost} records before this one could not be written"
                self._journal.append(EventRecord(event="records_lost", iter=self._step, message=message))
                self._lost = 0
            self._journal.append(record)
        except OSError as error:
            self._lost += 1
            self._warn(error)
        if not self._running:  # an evaluation or a sample after the end
            self._finish()

    def _finish(self) -> None:
        self._rebuild()
        if self._journal is not None:
            self._journal.close()

    def _rebuild(self, step: int | None = None) -> None:
        """Rebuild the document: now, or if it is due at ``step``."""
        if self._document is None:
            return
        try:
            if step is None:
                self._document.write()
            else:
                self._document.step(step)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logger.warning("the run log cannot be written (%s); training goes on without it", error)
        self._warned = True


def _ending(status: str) -> str:
    if status not in _ENDINGS:
        raise UserError(f"status is {status!r}; a run ends as {', '.join(_ENDINGS)}")
    return status


def _step_record(values: Mapping[str, Any], **known: Any) -> StepRecord:
    """A record of what a Trainer reports, under the log's names; further numbers are kept as they are called."""
    named: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in values.items():
        name = _NAMES.get(name, name)
        if name in _STEP_FIELDS:
            named[name] = value
        elif isinstance(value, Number):
            extra[name] = value
    return StepRecord(**{**named, **known}, extra=extra)
