"""What DiffusionTrainer tells its run log: FLOPs, utilisation, epochs, names, and how the run ended."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from transformers import TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.measuring import training_clock
from hf_difflm.data import DataOptions, prepare_data
from hf_difflm.flops.network import Architecture, training_flops
from hf_difflm.runs import load_run
from hf_difflm.training.trainer_parts import step_log, window


def run_of(trainer):
    return load_run(trainer.args.output_dir)


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_the_flops_of_a_step_are_those_of_its_sequences_and_of_the_positions_it_labelled(
    make_diffusion_trainer, objective
):
    trainer = make_diffusion_trainer(
        objective=objective, logging_steps=1, peak_flops=1e9, gradient_accumulation_steps=2
    )
    trainer.train()
    run = run_of(trainer)
    architecture = Architecture.from_config(trainer.model.config.to_dict())
    assert architecture.causal == (objective == "ar")
    scored = 11  # of 12 tokens: the first is BOS
    # The masking rate is the share of the scored tokens that were predicted, in each sequence.
    rates = [1.0] * 6 if objective == "ar" else run.column("masking_rate")
    labelled = [8 * scored * rate for rate in rates]
    expected = [training_flops(architecture, {12: 8}, count) for count in labelled]
    totals = run.column("total_flops")
    assert [totals[0], *(totals[1:] - totals[:-1])] == pytest.approx(expected)
    assert trainer.state.total_flos == pytest.approx(totals[-1])
    for row, flops in zip(run.steps, expected, strict=True):
        assert row.mfu == pytest.approx(100 * flops / (row.time_ms / 1e3 * 1e9), rel=0.01, abs=2e-3)
    document = json.loads((run.path.parent / f"{run.name}.json").read_text())
    assert document["summary"]["avg_mfu"] > 0


def test_padding_is_no_work_of_the_model(make_diffusion_trainer, train_rows):
    ragged = train_rows(8, ragged=True)
    trainer = make_diffusion_trainer(objective="ar", train=ragged, max_steps=1, logging_steps=1, global_batch_size=8)
    trainer.train()
    architecture = Architecture.from_config(trainer.model.config.to_dict())
    expected = sum(training_flops(architecture, {len(r["input_ids"]): 1}, len(r["input_ids"]) - 1) for r in ragged)
    assert run_of(trainer).column("total_flops")[-1] == pytest.approx(expected)


def test_on_a_cpu_the_mfu_is_null_unless_the_peak_is_given(make_diffusion_trainer):
    trainer = make_diffusion_trainer(logging_steps=1, max_steps=2)
    trainer.train()
    assert [row.mfu for row in run_of(trainer).steps] == [None, None]


def test_each_step_knows_its_epoch_and_each_epoch_its_loss(make_diffusion_trainer):
    trainer = make_diffusion_trainer(max_steps=9, experiment_name="exp")  # 6 steps an epoch
    trainer.train()
    run = run_of(trainer)
    assert run.column("epoch").tolist() == pytest.approx([n / 6 for n in range(1, 10)])
    metrics = json.loads((run.path.parent / "exp_metrics.json").read_text())
    losses = run.column("loss")
    assert (metrics["model_type"], metrics["epochs"]) == ("MDLM", [1, 2])
    assert metrics["epoch_losses"] == pytest.approx([losses[:6].mean(), losses[6:].mean()])


def test_a_resumed_run_has_the_totals_of_an_uninterrupted_one(make_diffusion_trainer, tmp_path):
    keep = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    whole = make_diffusion_trainer(output_dir=str(tmp_path / "whole"), **keep)
    whole.train()
    make_diffusion_trainer(**keep, max_steps=6).train()
    again = make_diffusion_trainer(**keep)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    ours, theirs = run_of(again), run_of(whole)
    for name in ("total_flops", "tokens_seen", "epoch", "loss", "iter"):
        assert ours.column(name).tolist() == theirs.column(name).tolist(), name


def test_evaluations_alone_are_logged_where_that_is_asked_for(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(
        evaluation=train_rows(4, seed=1),
        eval_strategy="steps",
        eval_steps=3,
        logging_steps=1,
        log_eval_only=True,
        run_name="few",
    )
    trainer.train()
    run = run_of(trainer)
    assert len(run.steps) == 0
    assert [(e.iter, e.train_loss is not None, e.tokens_seen) for e in run.evaluations] == [
        (3, True, 132),
        (6, True, 264),
    ]
    assert run.name == "few"


class Kill(TrainerCallback):
    """Sends a signal to the training in its second step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_as_interrupted_with_a_checkpoint_and_a_summary(make_diffusion_trainer, number):
    before = signal.getsignal(number)
    trainer = make_diffusion_trainer(Kill(number), logging_steps=100)
    trainer.train()
    run = run_of(trainer)
    assert (run.status, run.events[-1].iter, len(run.steps)) == ("interrupted", 2, 2)
    document = json.loads((run.path.parent / f"{run.name}.json").read_text())
    assert (document["status"], document["summary"]["final_iter"]) == ("interrupted", 2)
    assert [c.path for c in run.checkpoints] == ["checkpoint-2"]
    assert signal.getsignal(number) == before
    again = make_diffusion_trainer()
    again.train(resume_from_checkpoint=True)
    assert run_of(again).status == "completed"
    assert run_of(again).column("iter").tolist() == [1, 2, 3, 4, 5, 6]


def test_a_slow_log_is_no_time_of_training(make_diffusion_trainer, monkeypatch):
    class Clock:
        """The real time, and what is pretended to have passed besides."""

        passed = 0.0

        def perf_counter(self):
            return time.perf_counter() + self.passed

        def __getattr__(self, name):
            return getattr(time, name)

    clock = Clock()
    for module in (training_clock, step_log, window):
        monkeypatch.setattr(module, "time", clock)

    class Slow(TrainerCallback):
        def on_training_iterations(self, args, state, rows):
            clock.passed += 1e4

    trainer = make_diffusion_trainer(Slow(), logging_steps=1, max_steps=3)
    trainer.train()
    assert clock.passed == 3e4
    assert max(run_of(trainer).column("time_ms")) < 1e6


def test_a_run_log_that_the_user_gives_knows_what_the_trainers_own_knows(make_diffusion_trainer, tmp_path):
    own = make_diffusion_trainer(max_steps=2)
    own.train()
    header = {"metadata": {"note": "mine"}, "bound": "my own"}
    given = make_diffusion_trainer(RunLogCallback(header=header), max_steps=2, output_dir=str(tmp_path / "given"))
    given.train()
    ours, theirs = run_of(own).header, run_of(given).header
    assert theirs.objective == ours.objective == "mdlm"
    assert (ours.bound, theirs.bound, theirs.metadata["note"]) == ("nelbo", "my own", "mine")
    for name in ("backbone", "unigram_entropy"):
        assert theirs.metadata[name] == ours.metadata[name] is not None
    assert set(theirs.metadata) == {*ours.metadata, "note"}


@pytest.mark.parametrize("mine", [False, True])
def test_the_log_tells_of_prepared_data(make_diffusion_trainer, tokenizer, tmp_path, mine):
    data = prepare_data(DataOptions(dataset="markov", block_size=12, max_train_blocks=24, max_eval_blocks=4), tokenizer)
    callbacks = [RunLogCallback()] if mine else []
    make_diffusion_trainer(*callbacks, train=data.train, evaluation=data.eval, max_steps=1).train()
    kept = load_run(tmp_path / "run").header.data
    assert (kept["fingerprint"], kept["source_nll"], kept["notes"]) == (data.fingerprint, data.source_nll, data.notes)
    assert data.notes
    assert kept["counts"]["train"]["blocks"] == 24
    other = make_diffusion_trainer(train=data.train.select(range(8)), max_steps=1)  # is other data
    other.train()
    assert set(run_of(other).header.data) == {"train_fingerprint"}
