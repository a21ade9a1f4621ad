"""The text log: a line a log and an evaluation of any Trainer, whole after a kill, told apart after a resume."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.recording.log_lines import evaluation_fields, joined, step_fields, validation_fields
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.callbacks.text_log import TextLogCallback
from hf_difflm.runs.journal.schema import EventRecord

ROOT = Path(__file__).parents[2]


def lines_of(folder: Path) -> list[str]:
    return (folder / "train.log").read_text().splitlines()


def steps_of(lines: list[str]) -> list[int]:
    """Steps of the lines about training."""
    return [int(found[1]) for line in lines if (found := re.match(r"Step (\d+)/\d+ \| Loss: ", line))]


def test_every_trainer_gets_a_line_a_log_and_a_line_an_evaluation(any_trainer, tmp_path):
    text = TextLogCallback()
    trainer = any_trainer(text, eval_strategy="steps", eval_steps=3)
    trainer.train()
    lines = lines_of(tmp_path / "out")
    assert text.path == tmp_path / "out" / "train.log"
    assert re.fullmatch(r"started at \d{4}-\d\d-\d\dT.*", lines[0])
    history = [log for log in trainer.state.log_history if "loss" in log]
    assert steps_of(lines) == [log["step"] for log in history]
    for line, log in zip([line for line in lines if "| Loss" in line], history, strict=True):
        assert f"Step {log['step']}/6 | Loss: {log['loss']:.4f}" in line
        assert f"LR: {log['learning_rate']:.2e} | grad_norm={log['grad_norm']:.3f}" in line
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert [line.split(" | ")[1].split(" ±")[0] for line in lines if "val_loss" in line] == [
        f"val_loss: {loss:.4f}" for loss in losses
    ]
    assert len(losses) == 2
    assert ("noise_level=" in lines[1]) == (any_trainer.kind == "diffusion")


def test_perplexity_is_told_of_language_models_alone(any_trainer, tmp_path):
    trainer = any_trainer(TextLogCallback(), eval_strategy="steps", eval_steps=6)
    trainer.train()
    (line,) = [line for line in lines_of(tmp_path / "out") if "val_loss" in line]
    loss = next(log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log)
    if any_trainer.kind == "classifier":
        assert "perplexity" not in line
    else:
        assert f"perplexity: {math.exp(loss):.2f}" in line


def test_it_lies_beside_the_run_log_even_if_that_is_added_later(make_trainer, tmp_path):
    trainer = make_trainer(TextLogCallback(), RunLogCallback(log_dir=tmp_path / "logs"))
    trainer.train()
    assert steps_of(lines_of(tmp_path / "logs")) == [2, 4, 6]
    assert not (tmp_path / "out" / "train.log").exists()


def test_a_resumed_run_says_where_it_goes_on_before_it_writes_a_step_again(make_trainer, tmp_path):
    make_trainer(TextLogCallback(), save_strategy="steps", save_steps=3, logging_steps=1).train()
    trainer = make_trainer(TextLogCallback(), save_strategy="steps", save_steps=3, logging_steps=1)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    lines = lines_of(tmp_path / "out")
    (resumed,) = [place for place, line in enumerate(lines) if line.startswith("resumed from step 3 at ")]
    assert steps_of(lines[:resumed]) == [1, 2, 3, 4, 5, 6]
    assert steps_of(lines[resumed:]) == [4, 5, 6]


def test_overwrite_begins_the_file_anew(make_trainer, tmp_path):
    make_trainer(TextLogCallback()).train()
    make_trainer(TextLogCallback(overwrite=True)).train()
    lines = lines_of(tmp_path / "out")
    assert steps_of(lines) == [2, 4, 6]
    assert [line for line in lines if "started" in line or "resumed" in line] == lines[:1]


def test_what_was_torn_gets_a_line_of_its_own(make_trainer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").write_text("started\nStep 2/6 | Lo")
    make_trainer(TextLogCallback()).train()
    lines = lines_of(tmp_path / "out")
    assert lines[1] == "Step 2/6 | Lo"
    assert lines[2].startswith("resumed from step 0 at ")


@pytest.mark.slow
def test_a_kill_loses_no_line_that_was_logged(tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT / "tests" / "callbacks")!r}, {str(ROOT)!r}]
from pathlib import Path
from any_trainer import build_trainer
from transformers import TrainerCallback
from hf_difflm.callbacks.text_log import TextLogCallback
class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
build_trainer("causal", Path({str(tmp_path)!r}), TextLogCallback(), Kill()).train()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    content = (tmp_path / "train.log").read_bytes()
    assert content.endswith(b"\n")
    assert steps_of(content.decode().splitlines()) == [2, 4]


def test_a_file_that_cannot_be_written_is_one_warning_and_the_training_goes_on(make_trainer, tmp_path, caplog):
    (tmp_path / "out" / "train.log").mkdir(parents=True)
    trainer = make_trainer(TextLogCallback())
    trainer.train()
    assert trainer.state.global_step == 6
    (warning,) = [record.getMessage() for record in caplog.records if "train.log" in record.getMessage()]
    assert warning.endswith("cannot be written (Is a directory); the training goes on")


def test_events_are_told_in_one_line_that_drives_no_terminal(make_trainer, tmp_path):
    class Tell(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                publish = reports_of(state).publish
                publish(EventRecord(event="alert", iter=3, message="loss\nis \x1b[31m9 \ud800"))
                publish(EventRecord(event="curriculum", iter=3, message="curriculum stage 1 -> 2 (medium)"))
                publish(EventRecord(event="pause"))

    make_trainer(TextLogCallback(), Tell()).train()
    lines = lines_of(tmp_path / "out")
    place = next(number for number, line in enumerate(lines) if "alert" in line)
    assert lines[place : place + 3] == [
        "Step 3/6 | alert: loss is \\x1b[31m9 \\ud800",
        "Step 3/6 | curriculum stage 1 -> 2 (medium)",
        "pause",
    ]


def test_its_time_is_left_out_of_the_training(make_trainer):
    told: list[tuple[str, float]] = []

    class Listen(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            reports_of(state).listen(to_left_out=lambda what, seconds: told.append((what, seconds)))

    make_trainer(TextLogCallback(), Listen(), eval_strategy="steps", eval_steps=6).train()
    assert [what for what, _ in told] == ["text_log"] * 4
    assert all(0 < seconds < 1 for _, seconds in told)


def test_the_weights_are_those_of_a_training_without_it(any_trainer):
    weights = []
    for callbacks in ([], [TextLogCallback()]):
        trainer = any_trainer(*callbacks)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(*weights)


# ---- the lines themselves ----

LOGS = {
    "loss": 5.18725,
    "grad_norm": 2.5,
    "learning_rate": 7e-5,
    "tokens_per_sec": 4212.3,
    "time_ms": 30.0,
    "noise_level": 1.16,
    "noise_level_min": 0.1,
    "masking_rate": 0.57,
    "accuracy": 0.2334,
    "importance_mean": 0.4603,
    "curriculum_stage": 3,
    "entropy": 1.25,
    "epoch": 0.5,
}


def test_a_step_line_names_what_the_seed_greps_for():
    assert joined(step_fields(22, 30, LOGS)) == (
        "Step 22/30 | Loss: 5.1872 | LR: 7.00e-05 | grad_norm=2.500 | noise_level=1.160, masking_rate=0.570 | "
        "accuracy=0.233 | 4,212 tokens/s | importance_mean: 0.4603, curriculum_stage: 3 | entropy: 1.25"
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_numbers_that_are_none_are_still_a_line(loss):
    assert joined(step_fields(1, 2, {"loss": loss, "note": "x", "flag": True})) == f"Step 1/2 | Loss: {loss}"


def test_evaluations_have_our_names_on_the_terminal_and_those_of_text_logs_in_the_file():
    metrics = {
        "eval_loss": 2.0,
        "eval_nll": 2.0,
        "eval_nll_stderr": 0.01,
        "eval_ppl": 7.389,
        "eval_accuracy": 0.5,
        "eval_native_nll": 2.25,
        "eval_bound": "nelbo",
        "eval_runtime": 3.0,
    }
    assert joined(evaluation_fields(3, 6, metrics)) == (
        "Step 3/6 | eval_nll: 2.0000 ± 0.0100 nats/token | eval_ppl: 7.39 | eval_accuracy: 0.500"
    )
    assert joined(validation_fields(3, 6, metrics)) == (
        "Step 3/6 | val_loss: 2.0000 ± 0.0100 | perplexity: 7.39 | accuracy: 0.500 | native_nll: 2.2500"
    )


def test_one_of_several_evaluation_sets_is_named():
    metrics = {"eval_news_loss": 2.0, "eval_news_runtime": 1.0}
    assert joined(validation_fields(3, 6, metrics)) == "Step 3/6 | news | val_loss: 2.0000"
