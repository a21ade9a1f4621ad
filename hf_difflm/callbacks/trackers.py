"""Write to the Trainer's trackers what its own integrations do not: texts, histograms, measurements, settings, files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..runs.dashboard.importance_map import map_of
from ..runs.journal.redaction import redact
from ..runs.journal.schema import EventRecord, MeasurementRecord, Record, SampleRecord
from ..runs.journal.strict_json import plain
from .recording.trial_folder import training_folder
from .reports import Reports, reports_of
from .tracking.backends import Backend, TensorBoardBackend
from .tracking.formats import Bins, bins_of
from .tracking.open_trackers import open_trackio, open_wandb, tensorboard_callback

logger = logging.getLogger(__name__)


class TrackerCallback(TrainerCallback):
    """Write what the other callbacks publish into the W&B run, TensorBoard writer or Trackio run the Trainer has open.

    Samples become a table (TensorBoard: a text for each prompt), measurements scalars and histograms, the importance of
    a text's tokens also a text (the tenths of importance below its letters), events texts and W&B alerts, and the
    settings hyper-parameters of TensorBoard's HParams tab, next to the Trainer's own scalars and on the same axis. Only
    world process zero writes; where no tracker is open nothing happens.

    Args:
        tb_writer: a ``SummaryWriter``; default: that of the Trainer's own ``TensorBoardCallback``.
        log_checkpoints: keep each checkpoint as a W&B artifact of the type ``model``: a copy, optimiser state included,
            with the aliases ``step-{n}`` and, for the best so far, ``best``.
        config: the settings for the HParams tab; default: the training arguments.
    """

    def __init__(
        self, tb_writer: Any = None, log_checkpoints: bool = False, config: Mapping[str, Any] | None = None
    ) -> None:
        self.tb_writer = tb_writer
        self.log_checkpoints = log_checkpoints
        self.config = config
        self._tensorboard: TensorBoardCallback | None = None
        self._writer: Any = None
        self._own_writer: Any = None
        self._reports: Reports | None = None
        self._samples: list[SampleRecord] = []
        self._training = False

    # ---- hooks ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._training, self._samples, self._writer = True, [], None
        self._reports = reports_of(state)
        self._reports.listen(self._write)
        self._tensorboard = tensorboard_callback()
        if self.tb_writer is None and self._tensorboard is None and "tensorboard" in (args.report_to or ()):
            self._own_writer = _writer_of_its_own(training_folder(args, state))
        wandb_run = open_wandb()
        if wandb_run is not None and "wandb" not in (args.report_to or ()):
            wandb_run.define_axis()
        tensorboard = self._tensorboard_backend()
        if tensorboard is not None:  # W&B and Trackio get the arguments from transformers' own callbacks
            tensorboard.log_hparams(_flat(args.to_dict() if self.config is None else self.config), {})

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write_samples()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._write_samples()
        # The last log of a training, just before the Trainer's own callback closes the writer.
        if self._training and "train_runtime" in (logs or {}) and "loss" not in (logs or {}):
            tensorboard = self._tensorboard_backend()
            if tensorboard is not None:
                tensorboard.end_hparams()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        wandb_run = open_wandb()
        if not self.log_checkpoints or self._reports is None or wandb_run is None:
            return
        folder = training_folder(args, state) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if not folder.is_dir():
            logger.warning("there is no checkpoint %s, so it becomes no artifact", folder)
            return
        start = time.perf_counter()
        aliases = [f"step-{state.global_step}"]
        if state.best_global_step == state.global_step:
            aliases.append("best")
        metadata = {"step": state.global_step, "epoch": state.epoch, "best_metric": state.best_metric}
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"model-{wandb_run.run.id}")
        wandb_run.log_artifact(name, "model", str(folder), aliases, metadata)
        self._reports.leave_out("artifact", time.perf_counter() - start)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write_samples()
        self._training = False
        if self._own_writer is not None:
            self._own_writer.close()

    # ---- writing ----

    def _backends(self) -> list[Backend]:
        """What is open now: trackers are closed, and opened again, while a Trainer lives."""
        return [one for one in (open_wandb(), open_trackio(), self._tensorboard_backend()) if one is not None]

    def _tensorboard_backend(self) -> TensorBoardBackend | None:
        current = self.tb_writer or getattr(self._tensorboard, "tb_writer", None) or self._own_writer
        self._writer = current or self._writer  # one that has been closed opens a further file in its folder
        return None if self._writer is None else TensorBoardBackend(self._writer)

    def _write(self, record: Record) -> None:
        if isinstance(record, SampleRecord):
            if self._samples and self._samples[0].iter != record.iter:
                self._write_samples()
            self._samples.append(record)  # the texts of a step make one table
        elif isinstance(record, MeasurementRecord):
            self._write_measurement(record)
        elif isinstance(record, EventRecord):
            for backend in self._backends():
                backend.alert(record.event, record.message or "", record.iter or 0)
        if not self._training:
            self._write_samples()
            tensorboard = self._tensorboard_backend()
            if tensorboard is not None:
                tensorboard.flush()

    def _write_measurement(self, record: MeasurementRecord) -> None:
        numbers = {name: value for name, value in record.metrics.items() if _is_number(value)}
        bins: dict[str, Bins] = {}
        for name, counted in (record.histograms or {}).items():
            histogram = bins_of(counted)
            if histogram is not None:
                bins[name] = histogram
        importance = map_of(record)
        for backend in self._backends():
            backend.log_metrics(numbers, record.iter)
            backend.log_histograms(bins, record.iter)
            if importance is not None:
                backend.log_text("importance_text/text", importance.lines(), record.iter)

    def _write_samples(self) -> None:
        if not self._samples:
            return
        start = time.perf_counter()
        samples, self._samples = self._samples, []
        extra = list(dict.fromkeys(name for sample in samples for name in sample.extra))
        columns = ["step", "prompt", "text", *extra]
        rows = [[one.iter, one.prompt, one.text, *(one.extra.get(name) for name in extra)] for one in samples]
        for backend in self._backends():
            backend.log_table("samples", columns, rows, samples[0].iter)
        if self._reports is not None:
            self._reports.leave_out("trackers", time.perf_counter() - start)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the HParams tab takes them: numbers, booleans and texts; without secrets."""
    clean = redact(plain(dict(config)))
    return {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in clean.items()
        if value is not None and value != "" and value != [] and value != {}
    }


def _writer_of_its_own(folder: Path) -> Any:
    """A writer for a Trainer that reports to TensorBoard where its writer cannot be found.

    In a folder of its own: of several files that grow in one folder at a time TensorBoard reads but the last.
    """
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "runs" / "hf_difflm"))
