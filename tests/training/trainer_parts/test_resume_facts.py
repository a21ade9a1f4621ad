"""Resuming with other arguments: what would be another experiment is refused, all of it named; the rest is said and done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import write_manifest
from hf_difflm.training.trainer_parts.resume_facts import ResumeFacts, check_resumable, read_facts, settings_of

SAVING = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 5}


@pytest.fixture
def stopped(make_diffusion_trainer, tmp_path) -> Path:
    """A run of 6 steps whose newest checkpoint is of step 3."""
    make_diffusion_trainer(**SAVING, ema_decay=0.9).train()
    (tmp_path / "run" / "checkpoint-6" / "manifest.json").unlink()
    return tmp_path / "run"


def test_all_settings_that_make_another_experiment_are_named(make_diffusion_trainer, stopped):
    again = make_diffusion_trainer(**SAVING, ema_decay=0.9, learning_rate=0.5, seed=7, adam_beta2=0.9)
    with pytest.raises(UserError) as refused:
        again.train(resume_from_checkpoint=True)
    assert str(refused.value) == (
        f"cannot resume from {stopped / 'checkpoint-3'} with adam_beta2 = 0.9, learning_rate = 0.5 and seed = 7, since it "
        "was started with adam_beta2 = 0.999, learning_rate = 0.01 and seed = 42; give the same recipe and flags, or start "
        "another run"
    )
    with pytest.raises(UserError, match="learning_rate = "):
        again.train(resume_from_checkpoint=str(stopped / "checkpoint-3"))
    assert again.state.global_step == 0


def test_harmless_changes_are_said_once_done_and_logged(make_diffusion_trainer, stopped, capsys):
    settings = {**SAVING, "save_steps": 5, "logging_steps": 1, "ema_decay": 0.9}
    capsys.readouterr()
    make_diffusion_trainer(**settings).train(resume_from_checkpoint=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming with")]
    assert lines == ["resuming with logging_steps = 1 (was 2)", "resuming with save_steps = 5 (was 3)"]
    assert (stopped / "checkpoint-5" / "manifest.json").exists()
    headers = load_run(stopped).headers
    assert [header.config["save_steps"] for header in headers] == [3, 5]
    assert load_run(stopped).column("iter").tolist() == [1, 2, 3, 4, 5, 6]


def test_the_same_arguments_say_nothing(make_diffusion_trainer, stopped, capsys):
    make_diffusion_trainer(**SAVING, ema_decay=0.9).train(resume_from_checkpoint=True)
    assert "resuming with" not in capsys.readouterr().out


def test_other_data_or_another_optimiser_batch_is_another_experiment(make_diffusion_trainer, stopped, train_rows):
    with pytest.raises(UserError, match=r"a training set of 30 sequences, since it was started with 24"):
        make_diffusion_trainer(**SAVING, ema_decay=0.9, train=train_rows(30)).train(resume_from_checkpoint=True)
    with pytest.raises(
        UserError,
        match=r"an optimiser batch of 8 sequences, since it was started with 4; .* 1 keeps the optimiser batch",
    ):
        make_diffusion_trainer(**SAVING, ema_decay=0.9, gradient_accumulation_steps=2).train(
            resume_from_checkpoint=True
        )


def test_another_cut_of_the_same_optimiser_batch_goes_on(make_diffusion_trainer, stopped, capsys):
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    again = make_diffusion_trainer(**SAVING, ema_decay=0.9, **cut)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6
    assert "resuming with gradient_accumulation_steps = 2 (was 1)" in capsys.readouterr().out


def test_a_checkpoint_without_the_moving_average_is_refused_with_a_sentence(make_diffusion_trainer, stopped):
    checkpoint = stopped / "checkpoint-3"
    for name in ("ema.safetensors", "resume.json"):  # as an earlier version wrote it
        (checkpoint / name).unlink()
    write_manifest(checkpoint)
    with pytest.raises(UserError, match=r"checkpoint-3 holds no moving average .*; leave out ema_decay"):
        make_diffusion_trainer(**SAVING, ema_decay=0.9).train(resume_from_checkpoint=True)
    without = make_diffusion_trainer(**SAVING)
    without.train(resume_from_checkpoint=True)
    assert without.state.global_step == 6


@pytest.mark.borders
def test_a_checkpoint_without_the_optimiser_is_refused(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(**SAVING, save_only_model=True).train()
    for given in (True, str(tmp_path / "run/checkpoint-3")):
        with pytest.raises(UserError, match=r"checkpoint-\d holds no state of the optimiser \(save_only_model\)"):
            make_diffusion_trainer(**SAVING).train(resume_from_checkpoint=given)


@pytest.mark.borders
def test_a_best_of_two_metrics_is_refused(make_diffusion_trainer, train_rows, stopped):
    other = {**SAVING, "ema_decay": 0.9, "evaluation": train_rows(8), "metric_for_best_model": "eval_accuracy"}
    sentence = "with metric_for_best_model = 'eval_accuracy', since it was started with 'eval_nll'"
    with pytest.raises(UserError, match=sentence):
        make_diffusion_trainer(**other).train(resume_from_checkpoint=True)


@pytest.mark.borders
def test_blocks_that_would_be_trained_twice_are_refused(make_diffusion_trainer):
    with pytest.raises(UserError, match="ignore_data_skip=True would train on the first blocks of an epoch again"):
        make_diffusion_trainer(**SAVING, ignore_data_skip=True)


def test_a_run_that_has_done_its_last_step_takes_no_further_one(make_diffusion_trainer, tmp_path):
    settings = {**SAVING, "max_steps": 9}  # within the second epoch
    whole = make_diffusion_trainer(**settings)
    whole.train()
    again = make_diffusion_trainer(**settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 9
    run = load_run(tmp_path / "run")
    assert run.column("iter").tolist() == list(range(1, 10))
    assert run.status == "completed"
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert ours.equal(theirs)


@pytest.fixture
def written(tmp_path, make_diffusion_trainer):
    """``written(**changes)``: the facts of a training of 8 sequences a step, and a checkpoint with these facts changed."""

    def call(**changes):
        args = make_diffusion_trainer().args
        now = {"engine": "ddp", "world_size": 2, "global_batch_size": 8, "objective": "mdlm"}
        checkpoint = tmp_path / "checkpoint-3"
        checkpoint.mkdir()
        ResumeFacts(**{**now, "settings": settings_of(args), **changes}).write(checkpoint)
        return checkpoint, ResumeFacts(**now, settings=settings_of(args))

    return call


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"engine": "zero2"},
            "was written under zero2 with 2 processes, and its files mean nothing to ddp with 2 processes",
        ),
        ({"engine": "fsdp2", "world_size": 4}, "under fsdp2 with 4 processes"),
        (
            {"is_stream": True, "world_size": 1},
            "was written by 1 process and cannot be resumed by 2 processes, since its tr",
        ),
        ({"global_batch_size": 16}, "gradient_accumulation_steps 4 keeps the optimiser batch of 16 sequences"),
        ({"global_batch_size": 6}, "lower per_device_train_batch_size and give global_batch_size 6"),
        ({"objective": "mine"}, "objective = 'mdlm', since it was started with 'mine'"),
    ],
)
def test_another_engine_stream_or_batch_is_refused_with_a_way_out(written, changes, sentence):
    checkpoint, now = written(**changes)
    with pytest.raises(UserError, match=sentence):
        check_resumable(checkpoint, now, micro_batches=4)


def test_zero_goes_on_with_its_own_number_of_processes_alone(written):
    checkpoint, now = written(engine="zero3", world_size=4)
    now.engine, now.world_size = "zero3", 2
    with pytest.raises(UserError, match="by 4 processes and cannot be resumed by 2 processes, since ZeRO"):
        check_resumable(checkpoint, now, micro_batches=4)
    now.world_size = 4
    assert check_resumable(checkpoint, now, micro_batches=4) == {}


@pytest.mark.parametrize(
    ("then", "now_"), [(("single", 1), ("ddp", 2)), (("ddp", 4), ("ddp", 2)), (("fsdp2", 8), ("fsdp2", 2))]
)
def test_data_parallel_runs_may_be_cut_anew(written, then, now_):
    checkpoint, now = written(engine=then[0], world_size=then[1])
    now.engine, now.world_size = now_
    assert check_resumable(checkpoint, now, micro_batches=4) == {}


def test_the_settings_read_back_as_they_were_written(make_diffusion_trainer, tmp_path):
    trainer = make_diffusion_trainer(lr_scheduler_kwargs={"num_cycles": 1})
    ResumeFacts("single", 1, 4, "mdlm", settings=settings_of(trainer.args)).write(tmp_path)
    assert read_facts(tmp_path).settings == settings_of(trainer.args)
    assert json.loads((tmp_path / "resume.json").read_text())["settings"]["optim"] == trainer.args.optim.value
    assert read_facts(tmp_path / "nowhere") is None
