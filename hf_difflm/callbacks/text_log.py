"""A log for people, tail and grep, beside the run log: one line a logging step and an evaluation."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..runs.journal.schema import EventRecord, Record, now
from ..runs.journal.tables import printable
from .recording.log_lines import TEXT_LOG_NAME, joined, step_fields, validation_fields
from .recording.trial_folder import trial_of
from .reports import reports_of

logger = logging.getLogger(__name__)


class TextLogCallback(TrainerCallback):
    """Write ``train.log``: ``Step 20/100 | Loss: 5.0430 | LR: 1.00e-04 | ...`` at each log of any Trainer, and
    ``Step 20/100 | val_loss: 2.1004 | perplexity: 8.17`` at each evaluation; alerts and other events in between.

    Each line is appended in one write, so a kill -9 tears none. Before its first line a training says ``started``, or
    ``resumed from step N`` where the file has lines already: those beyond N are of the attempt before. Only world process
    zero writes. What cannot be written is warned of once; the training goes on.

    Args:
        log_dir: folder of the file; default: where the run log is, or else the output folder.
        overwrite: begin the file anew where training begins at step 0.
    """

    def __init__(self, log_dir: str | Path | None = None, overwrite: bool = False) -> None:
        self.log_dir = log_dir
        self.overwrite = overwrite
        self._path: Path | None = None
        self._max_steps = 0
        self._is_causal = False
        self._warned = False

    @property
    def path(self) -> Path | None:
        """The file; None before training and on other processes than world zero."""
        return self._path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._path = None
        if state.is_world_process_zero:
            reports_of(state).listen(to_records=self._hear)
            self._is_causal = _is_causal_lm(model)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Not in on_train_begin: the run log may be among the later callbacks.
        if state.is_world_process_zero and self._path is None:
            self._begin(args, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._path is None or not logs or "loss" not in logs:
            return
        start = time.perf_counter()
        self._write(joined(step_fields(state.global_step, state.max_steps, logs)))
        reports_of(state).leave_out("text_log", time.perf_counter() - start)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._path is None or not metrics:
            return
        start = time.perf_counter()
        known = dict(metrics)
        if self._is_causal and "eval_ppl" not in known and isinstance(known.get("eval_loss"), float):
            known["eval_ppl"] = _exponential(known["eval_loss"])
        self._write(joined(validation_fields(state.global_step, state.max_steps, known)))
        reports_of(state).leave_out("text_log", time.perf_counter() - start)

    # ---- writing ----

    def _hear(self, record: Record) -> None:
        if isinstance(record, EventRecord) and self._path is not None:
            step = "" if record.iter is None else f"Step {record.iter}/{self._max_steps} | "
            said = " ".join(printable(record.message or "").split())
            if not said.startswith(record.event):
                said = f"{record.event}: {said}" if said else record.event
            self._write(step + said)

    def _begin(self, args: TrainingArguments, state: TrainerState) -> None:
        journal = reports_of(state).journal_path
        if self.log_dir is None and journal is not None:
            folder = journal.parent
        else:
            folder = Path(self.log_dir or args.output_dir or ".", trial_of(args, state) or "")
        self._path = folder / TEXT_LOG_NAME
        self._max_steps = state.max_steps
        self._warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.overwrite and state.global_step == 0:
                self._path.unlink(missing_ok=True)
            there = self._path.exists() and self._path.stat().st_size > 0
            torn = there and not _ends_in_line_break(self._path)
        except OSError as error:
            self._warn(error)
            return
        begun = f"resumed from step {state.global_step}" if there else "started"
        self._write(("\n" if torn else "") + f"{begun} at {now()}")

    def _write(self, line: str) -> None:
        if self._path is None:
            return
        try:
            # Opened for each line: no training that fails leaves it open, and nothing waits in a buffer.
            place = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(place, f"{line}\n".encode(errors="backslashreplace"))
            finally:
                os.close(place)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s cannot be written (%s); the training goes on", self._path, error.strerror)


def _ends_in_line_break(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _is_causal_lm(model: Any) -> bool:
    """Whether the exponential of its evaluation loss is a perplexity."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    inner = getattr(model, "module", model)  # of a model in a data-parallel wrapper
    return type(inner).__name__ in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def _exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
