"""A resumed training goes on in its own Weights & Biases run; a new one does not."""

from __future__ import annotations

import multiprocessing
import os
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


def run_files(folder: Path) -> list[str]:
    """Ids of the run files that wandb wrote."""
    return [path.stem.removeprefix("run-") for path in (folder / "wandb").glob("offline-run-*/run-*.wandb")]


def in_a_new_process(target) -> None:
    """wandb reads its environment once a process: what is resumed after a crash is so in a new one."""
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_resume_continues_the_wandb_run_and_a_new_run_begins_another(offline, make_trainer, tmp_path):
    keep = {"save_strategy": "steps", "save_steps": 2, "report_to": "wandb", "logging_steps": 1}

    def first() -> None:
        make_trainer(RunLogCallback(), max_steps=2, **keep).train()

    def resumed() -> None:
        log = RunLogCallback(resume=True)
        make_trainer(log, max_steps=4, **keep).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
        assert "WANDB_RUN_ID" not in os.environ
        assert "WANDB_RESUME" not in os.environ

    def another() -> None:
        make_trainer(RunLogCallback(log_dir=tmp_path / "other"), max_steps=1, **keep).train()

    for target in (first, resumed, another):
        in_a_new_process(target)
    ids = [header.metadata["wandb_run_id"] for header in load_run(tmp_path / "out").headers]
    other = load_run(tmp_path / "other").header.metadata["wandb_run_id"]
    assert ids[0] == ids[1] != other
    assert sorted(run_files(offline)) == sorted([*ids, other])


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
