"""Logs that other programs have written: the files beside ``make.py`` and a stock Trainer that runs here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FOREIGN_LOGS = Path(__file__).parents[2] / "fixtures" / "foreign_logs"


@pytest.fixture(scope="session")
def foreign_logs() -> Path:
    return FOREIGN_LOGS


@pytest.fixture(scope="session")
def make() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_foreign_logs", FOREIGN_LOGS / "make.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trained(make, tmp_path_factory) -> tuple[Path, list[dict[str, float]]]:
    """The output folder of a stock Trainer with TensorBoard, and what it logged."""
    from transformers import Trainer, TrainingArguments

    out = tmp_path_factory.mktemp("stock") / "my-output"
    arguments = make.arguments(TrainingArguments, output_dir=str(out), report_to=["tensorboard"])
    trainer = Trainer(make.tiny_model(), arguments, train_dataset=make.rows(32), eval_dataset=make.rows(8))
    trainer.train()
    (out / "dump.json").write_text(json.dumps(trainer.state.log_history))
    return out, trainer.state.log_history
