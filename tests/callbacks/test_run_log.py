from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Trainer, TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.derived.document import build_document


def test_a_stock_trainer_gets_header_steps_evaluations_checkpoints_and_a_document(make_trainer, tmp_path):
    header = {
        "objective": "ar",
        "bound": "exact",
        "data": {"fingerprint": "f"},
        "metadata": {"command": ["x.py", "--token", "hunter2"]},
    }
    trainer = make_trainer(
        RunLogCallback(header=header),
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        include_num_input_tokens_seen="all",
    )
    trainer.train()
    run = load_run(tmp_path / "out")
    assert (run.name, run.objective, run.bound, run.status) == ("tiny", "ar", "exact", "completed")
    assert [(step.iter, step.steps) for step in run.steps] == [(2, 2), (4, 2), (6, 2)]
    logged = [row for row in trainer.state.log_history if "loss" in row]
    for step, row in zip(run.steps, logged, strict=True):
        assert step.loss == pytest.approx(row["loss"], rel=1e-6)  # rounded to the digits of float32
        assert step.lr == pytest.approx(row["learning_rate"], rel=1e-8)
        assert step.grad_norm == pytest.approx(row["grad_norm"])
        assert step.time_ms is not None
        assert step.time_ms > 0
        assert step.tokens_per_sec is not None
    assert run.tokens_seen == 6 * 2 * 8
    assert [record.iter for record in run.evaluations] == [3, 6]
    evaluated = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert [record.nll for record in run.evaluations] == evaluated
    assert [(c.iter, c.path, c.val_loss) for c in run.checkpoints] == [
        (3, "checkpoint-3", evaluated[0]),
        (6, "checkpoint-6", evaluated[1]),
    ]
    assert run.header.model["parameters"] == sum(p.numel() for p in trainer.model.parameters())
    assert run.header.model["type"] == "llama"
    assert run.config["learning_rate"] == trainer.args.learning_rate
    metadata = run.header.metadata
    assert (metadata["world_size"], metadata["device"], metadata["dtype"], metadata["engine"]) == (
        1,
        "cpu",
        "float32",
        "single",
    )
    assert metadata["command"] == "python x.py --token [redacted]"
    assert {"torch", "transformers", "hf_difflm", "python"} <= set(metadata["versions"])
    document = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert document == build_document(run)


def test_secrets_of_the_arguments_never_reach_the_log(make_trainer, tmp_path):
    make_trainer(RunLogCallback(header={"config": {"hub_token": "hunter2"}}), max_steps=1, hub_token="hunter2").train()
    for path in (tmp_path / "out").iterdir():
        assert "hunter2" not in path.read_text()


class _PerStepTrainer(Trainer):
    """Delivers one row a step before each log, as a Trainer that keeps its losses on the device does."""

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            begin = self.state.global_step - 1
            rows = [
                {"iter": begin + n, "loss": logs["loss"] + n, "lr": 1e-3, "time_ms": 5.0, "tokens": 16, "x": n}
                for n in (0, 1)
            ]
            self.state.num_input_tokens_seen += 32
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "on_training_iterations"):
                    callback.on_training_iterations(self.args, self.state, rows)
        super().log(logs, *args, **kwargs)


def test_rows_of_each_step_replace_the_rows_of_the_log(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), trainer_class=_PerStepTrainer).train()
    run = load_run(tmp_path / "out")
    assert [step.iter for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [step.tokens_seen for step in run.steps] == [16, 32, 48, 64, 80, 96]
    assert {step.time_ms for step in run.steps} == {5.0}
    assert [step.extra["x"] for step in run.steps] == [0, 1] * 3


def test_a_resumed_training_keeps_journal_name_and_id_and_repeats_no_step(make_trainer, tmp_path):
    keep = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    whole = make_trainer(**keep, output_dir=str(tmp_path / "whole"))
    whole.train()
    make_trainer(RunLogCallback(run_name="mine"), max_steps=6, **keep).train()
    before = load_run(tmp_path / "out")
    make_trainer(RunLogCallback(run_name="other"), max_steps=6, **keep).train(
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2")
    )
    after = load_run(tmp_path / "out")
    assert (after.name, after.header.run_id) == ("mine", before.header.run_id)
    assert [step.iter for step in after.steps] == [1, 2, 3, 4, 5, 6]
    assert [record.iter for record in after.checkpoints] == [2, 4, 6]
    assert [event.event for event in after.events] == ["started", "completed", "resumed", "completed"]
    assert after.events[2].resumed_from_step == 2
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert [step.loss for step in after.steps] == pytest.approx(losses)


def test_resuming_where_no_checkpoint_was_finished_starts_at_step_zero_and_says_so(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), max_steps=3, logging_steps=1).train()
    make_trainer(RunLogCallback(resume=True), max_steps=2, logging_steps=1).train()
    run = load_run(tmp_path / "out")
    assert [step.iter for step in run.steps] == [1, 2]
    assert run.events[2].resumed_from_step == 0


def test_a_run_is_replaced_where_that_is_asked_for(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), max_steps=2).train()
    make_trainer(RunLogCallback(overwrite=True, run_name="new"), max_steps=4).train()
    run = load_run(tmp_path / "out")
    assert (run.name, run.steps[-1].iter) == ("new", 4)
    assert not (tmp_path / "out" / "tiny.json").exists()


def test_a_document_never_replaces_a_file_that_is_not_its_own(make_trainer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny.json").write_text("{}")
    with pytest.raises(UserError, match="exists"):
        make_trainer(RunLogCallback(), max_steps=1).train()
    assert (tmp_path / "out" / "tiny.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"log_save_interval": 0}, "log_save_interval is 0"), ({"resume": True, "overwrite": True}, "choose one")],
)
def test_bad_arguments_are_refused_with_a_sentence(arguments, words):
    with pytest.raises(UserError, match=words):
        RunLogCallback(**arguments)


def test_a_log_folder_that_cannot_be_written_is_refused_with_a_sentence(make_trainer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_trainer(RunLogCallback(log_dir=tmp_path / "file" / "log"), max_steps=1).train()


class _Stop(TrainerCallback):
    def __init__(self, log: RunLogCallback, raises: bool = False) -> None:
        self.log, self.raises = log, raises

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            if self.raises:
                raise RuntimeError("broken")
            self.log.mark("interrupted", "Ctrl-C")
            control.should_training_stop = True


def test_a_marked_training_ends_as_interrupted_with_its_message(make_trainer, tmp_path):
    log = RunLogCallback()
    make_trainer(log, _Stop(log)).train()
    run = load_run(tmp_path / "out")
    assert run.status == "interrupted"
    assert (run.events[-1].message, run.events[-1].iter) == ("Ctrl-C", 2)


def test_a_training_that_raises_keeps_its_records_and_can_be_closed_as_failed(make_trainer, tmp_path):
    log = RunLogCallback()
    with pytest.raises(RuntimeError, match="broken"):
        make_trainer(log, _Stop(log, raises=True), logging_steps=1).train()
    run = load_run(tmp_path / "out")
    assert [step.iter for step in run.steps] == [1]
    assert run.status == "running"
    log.close("failed", "broken")
    log.close("completed")  # closed already
    assert load_run(tmp_path / "out").status == "failed"
    assert json.loads((tmp_path / "out" / "tiny.json").read_text())["status"] == "failed"
    with pytest.raises(UserError, match="status is 'done'"):
        log.mark("done")


def test_evaluations_and_samples_after_the_end_are_logged_too(make_trainer, tmp_path):
    log = RunLogCallback()
    trainer = make_trainer(log, max_steps=2)
    log.record_sample(0, "", "before the training there is no run")
    trainer.train()
    trainer.evaluate()
    log.record_sample(2, "The", "end", temperature=0.5)
    document = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert document["status"] == "completed"
    assert document["summary"]["best_val_iter"] == 2
    (sample,) = document["samples"]
    assert (sample["iter"], sample["prompt"], sample["text"], sample["temperature"]) == (2, "The", "end", 0.5)


def test_only_world_process_zero_writes(make_trainer, tmp_path):
    trainer = make_trainer(RunLogCallback(), max_steps=2)
    trainer.is_world_process_zero = lambda: False
    trainer.train()
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_a_full_disk_does_not_stop_the_training_and_the_log_says_what_is_missing(make_trainer, tmp_path, caplog):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class Disk(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            full = state.global_step in (1, 2, 3)
            size = (tmp_path / "out" / "journal.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10 if full else limits[0], limits[1]))

    try:
        make_trainer(RunLogCallback(), Disk(), logging_steps=1).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    run = load_run(tmp_path / "out")
    assert [step.iter for step in run.steps] == [1, 5, 6]
    assert [event.message for event in run.events if event.event == "records_lost"] == [
        "3 records before this one could not be written"
    ]
    assert caplog.text.count("cannot be written") == 1


_TRAINING = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from hf_difflm.callbacks import RunLogCallback
class Tell(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        print(state.global_step, flush=True)
ids = torch.randint(0, 32, (64, 8))
sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
args = TrainingArguments(sys.argv[1], per_device_train_batch_size=2, max_steps=100000, logging_steps=1,
                         save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", run_name="killed")
Trainer(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), args,
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        callbacks=[RunLogCallback(log_save_interval=5), Tell()]).train()
"""


@pytest.mark.slow
def test_a_killed_training_loses_at_most_one_record_and_reads_as_running(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _TRAINING, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(60)]
        process.kill()
        lines += process.stdout.readlines()
    told = max(int(line) for line in lines if line.strip().isdigit())
    run = load_run(tmp_path)
    assert [step.iter for step in run.steps] == list(range(1, len(run.steps) + 1))
    assert told >= 30
    assert len(run.steps) >= told - 1
    assert run.status == "running"
    document = json.loads((tmp_path / "killed.json").read_text())
    assert document["status"] == "running"
