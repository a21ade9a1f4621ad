"""The callbacks that watch a run from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..callbacks import (
    AlertCallback,
    DashboardCallback,
    GenerationSamplesCallback,
    GradientNormCallback,
    ImportanceSamplesCallback,
    ModelStatisticsCallback,
    ThroughputCallback,
    TrackerCallback,
)
from ..callbacks.generation import Prompt
from ..callbacks.text_log import TextLogCallback
from ..data import PreparedData
from ..data.collator import IGNORED
from ..data.conversations.messages import MESSAGES
from ..evaluation.generation.line_files import read_lines
from ..evaluation.generation.prompts import prompts_of_file
from ..evaluation.quality.reference_model import check_reference
from ..objectives.adaptive.objective import AdaptiveMaskingObjective
from ..training.declarations.monitoring_options import MonitoringOptions
from ..training.trainer import DiffusionTrainer

_PROMPT_TOKENS = 32


@dataclass
class Monitoring:
    """The callbacks of a run whose findings are asked for after the training; None where one is switched off."""

    samples: GenerationSamplesCallback | None
    alerts: AlertCallback | None


def add_monitoring(trainer: DiffusionTrainer, options: MonitoringOptions, data: PreparedData) -> Monitoring:
    """Add the callbacks that the options ask for to a Trainer that has its run log.

    Raises:
        UserError: a value that cannot be used; a file of prompts that cannot be read.
    """
    callbacks: list[TrainerCallback] = [
        ThroughputCallback(options.throughput_interval),
        GradientNormCallback(options.gradient_interval),
        ModelStatisticsCallback(options.statistics_interval),
    ]
    if options.reference_model is not None and options.generate_interval and trainer.is_world_process_zero():
        check_reference(options.reference_model)
    samples = _samples(trainer, options, data) if options.generate_interval else None
    alerts = AlertCallback(options.fail_on) if options.alerts or options.fail_on else None
    importance = _importance(trainer, options, data)
    callbacks += [callback for callback in (samples, importance, alerts) if callback is not None]
    if trainer.args.report_to:
        callbacks.append(TrackerCallback(log_checkpoints=options.wandb_log_checkpoints))
    if options.text_log and trainer.args.save_log_to_json:
        callbacks.append(TextLogCallback())
    if options.viz_interval and trainer.args.save_log_to_json:
        callbacks.append(DashboardCallback(options.viz_interval))
    for callback in callbacks:
        trainer.add_callback(callback)
    return Monitoring(samples, alerts)


def _samples(trainer: DiffusionTrainer, options: MonitoringOptions, data: PreparedData) -> GenerationSamplesCallback:
    file = options.generation_prompts
    prompts = _beginnings(trainer, data) if file is None else _of_file(file)
    return GenerationSamplesCallback(
        prompts,
        options.generate_interval,
        # The model takes longer texts than it is trained on, but what it has not learnt costs most.
        options.generation_max_new_tokens or max(data.block_size - 1 - min(_PROMPT_TOKENS, data.block_size // 4), 1),
        reference_model=options.reference_model,
        weights=trainer.evaluated_weights,
    )


def _importance(
    trainer: DiffusionTrainer, options: MonitoringOptions, data: PreparedData
) -> ImportanceSamplesCallback | None:
    """What the importance estimator says of the first evaluation block; None where there is no estimator to ask."""
    objective = trainer.training_objective
    interval = options.viz_interval or options.generate_interval
    if not interval or not isinstance(objective, AdaptiveMaskingObjective) or not objective.settings.learns:
        return None
    reader, batch = objective.reader, trainer.data_collator([data.eval[0]])

    def read(model: Any) -> np.ndarray:
        with torch.no_grad(), trainer.accelerator.autocast():
            found = reader(model, batch, trainer.args.device)
        assert found is not None  # there is an estimator
        return found.values_BL[0]

    return ImportanceSamplesCallback(read, batch["input_ids"][0].tolist(), interval)


def _of_file(file: str) -> Sequence[Prompt]:
    """Lines of text, or of JSON with messages or a prompt."""
    if Path(file).suffix != ".jsonl":
        return read_lines(file, "generation_prompts")
    prompts = prompts_of_file(file, chat=True)
    return [p.text if p.messages is None else {**p.extra, MESSAGES: p.messages} for p in prompts]


def _beginnings(trainer: DiffusionTrainer, data: PreparedData) -> Sequence[Prompt]:
    """No prompt, and how the evaluation text begins; of conversations the very ids of the first two prompts."""
    if "labels" in data.eval[0]:
        rows = [data.eval[place] for place in range(min(2, len(data.eval)))]
        return [row["input_ids"][row["labels"] == IGNORED].tolist() for row in rows]
    beginning = data.eval[0]["input_ids"][1 : 1 + min(_PROMPT_TOKENS, data.block_size // 4)]
    # Cut in the middle of a character, it ends in what stands for no character and takes more tokens than before.
    return ["", trainer.processing_class.decode(beginning, skip_special_tokens=True).rstrip("\ufffd")]
