"""The Trainer's arguments, from the settings of a run."""

from __future__ import annotations

import sys
from pathlib import Path

from ..training.arguments import DiffusionTrainingArguments
from ..training.declarations.argument_checks import check_values
from ..training.declarations.complaints import complaints_about
from ..training.objective_choice import adaptive_settings
from .recipe_settings import Settings


def training_arguments(settings: Settings, folder: Path) -> DiffusionTrainingArguments:
    """The Trainer's arguments, with its complaints as one sentence; progress bars are for terminals."""
    check_values(settings.training)
    if settings.training["objective"] == "atat":
        adaptive_settings(settings.training)  # says what is wrong before any data are read
    quiet = {"disable_tqdm": not sys.stderr.isatty(), "log_level_replica": "error"}
    with complaints_about("these training arguments do not work here", "change or leave out the one it names"):
        return DiffusionTrainingArguments(output_dir=str(folder), **{**quiet, **settings.training})
