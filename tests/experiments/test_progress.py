"""The lines on the terminal: those of the text log, as far as there is room."""

from __future__ import annotations

import io
import os
import sys

import pytest
from transformers import TrainerState

from hf_difflm.callbacks.recording.log_lines import evaluation_fields, joined, step_fields
from hf_difflm.experiments import progress
from hf_difflm.experiments.progress import ConsoleCallback

LOGS = {
    "loss": 5.1872,
    "grad_norm": 2.5,
    "learning_rate": 7e-5,
    "tokens_per_sec": 4212.3,
    "noise_level": 1.16,
    "masking_rate": 0.57,
    "accuracy": 0.2334,
    "importance_mean": 0.4603,
}
EVALUATION = {"eval_nll": 2.0, "eval_nll_stderr": 0.01, "eval_ppl": 7.389, "eval_accuracy": 0.5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_on(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, width: int) -> list[str]:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((width, 24)))
    console = ConsoleCallback(bar=False)
    state = TrainerState(global_step=22, max_steps=30, is_world_process_zero=True)
    console.on_train_begin(None, state, None)
    for logs in (LOGS, EVALUATION, {"train_runtime": 3.0}):
        console.on_log(None, state, None, logs=logs)
    console.close()
    console.close()
    return stream.getvalue().splitlines()


def test_a_file_gets_the_whole_lines(monkeypatch):
    assert lines_on(monkeypatch, io.StringIO(), 40) == [
        joined(step_fields(22, 30, LOGS)),
        joined(evaluation_fields(22, 30, EVALUATION)),
    ]


@pytest.mark.parametrize("width", [200, 150, 100, 70])
def test_a_terminal_gets_as_much_as_fits_and_never_less_than_loss_and_noise(monkeypatch, width):
    lines = lines_on(monkeypatch, Terminal(), width)
    assert all(len(line) < width for line in lines)
    assert lines[0].startswith("Step 22/30 | Loss: 5.1872 | ")
    assert "noise_level=1.160, masking_rate=0.570" in lines[0]
    assert "eval_nll: 2.0000 ± 0.0100 nats/token" in lines[1]


def test_what_is_learnt_beside_the_model_goes_first_when_room_is_short(monkeypatch):
    whole = len(joined(step_fields(22, 30, LOGS)))
    assert "importance_mean" in lines_on(monkeypatch, Terminal(), whole + 1)[0]
    narrow = lines_on(monkeypatch, Terminal(), whole)[0]
    assert "importance_mean" not in narrow
    assert "tokens/s" in narrow


def test_other_processes_write_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console = ConsoleCallback(bar=False)
    state = TrainerState(global_step=2, max_steps=4, is_world_process_zero=False)
    console.on_train_begin(None, state, None)
    console.on_log(None, state, None, logs=LOGS)
    assert stream.getvalue() == ""
