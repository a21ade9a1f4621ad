"""A resumed training goes on in its own Weights & Biases run; a new one does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.runs import load_run

wandb = pytest.importorskip("wandb")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


RESUMED = """
import os, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from hf_difflm.callbacks import RunLogCallback
folder = sys.argv[1]
sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
args = TrainingArguments(folder, per_device_train_batch_size=2, max_steps=4, logging_steps=1, save_strategy="no",
                         use_cpu=True, disable_tqdm=True, report_to="wandb")
Trainer(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), args,
        train_dataset=[{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (8, 8))],
        callbacks=[RunLogCallback(resume=True)]).train(resume_from_checkpoint=folder + "/checkpoint-2")
assert not {"WANDB_RUN_ID", "WANDB_RESUME"} & os.environ.keys()
"""


@pytest.mark.slow
def test_a_resume_goes_on_in_the_wandb_run_of_the_journal(offline, make_trainer, tmp_path):
    """In a process of its own, as after a crash: wandb reads its environment once a process."""
    before = RunLogCallback(header={"metadata": {"wandb_run_id": "before77"}})
    make_trainer(before, max_steps=2, save_strategy="steps", save_steps=2).train()
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    environment.pop("WANDB_SERVICE", None)  # one that another test has begun
    command = [sys.executable, "-c", RESUMED, str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=120)
    run = load_run(tmp_path / "out")
    assert [header.metadata["wandb_run_id"] for header in run.headers] == ["before77", "before77"]
    assert (run.status, run.column("iter").tolist()) == ("completed", [2, 4])
    assert [path.name for path in (offline / "wandb").glob("offline-run-*/run-*.wandb")] == ["run-before77.wandb"]


def test_without_wandb_among_the_reporters_the_environment_is_left_alone(offline, make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "run", type("Run", (), {"id": "abc"})())
    make_trainer(RunLogCallback(), max_steps=1).train()
    assert load_run(tmp_path / "out").header.metadata["wandb_run_id"] == "abc"
    monkeypatch.setattr(wandb, "run", None)
    trainer = make_trainer(RunLogCallback(resume=True), max_steps=2)
    assert "WANDB_RUN_ID" not in os.environ
    trainer.train()
    assert "wandb_run_id" not in load_run(tmp_path / "out").header.metadata


def test_a_run_id_of_the_users_own_wins(offline, make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "run", type("Run", (), {"id": "abc"})())
    make_trainer(RunLogCallback(), max_steps=1).train()
    monkeypatch.setattr(wandb, "run", None)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    make_trainer(RunLogCallback(resume=True), report_to="wandb")
    assert os.environ["WANDB_RUN_ID"] == "mine"
    assert "WANDB_RESUME" not in os.environ
