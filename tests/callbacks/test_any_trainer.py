"""All callbacks together, in every kind of Trainer."""

from __future__ import annotations

import pickle

import pytest
import torch
from any_trainer import build_trainer
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_difflm.callbacks import (
    AlertCallback,
    DashboardCallback,
    GenerationSamplesCallback,
    GradientNormCallback,
    ModelStatisticsCallback,
    RunLogCallback,
    ThroughputCallback,
    TrackerCallback,
)
from hf_difflm.runs import compare_runs, load_run, write_report
from hf_difflm.runs.comparing.best import best_run, best_text
from hf_difflm.runs.showing.overview import show_text


def test_the_run_log_of_any_trainer_has_its_logged_losses(any_trainer, tmp_path):
    trainer = any_trainer(RunLogCallback(run_name="tiny"))
    trainer.train()
    run = load_run(tmp_path / "out")
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert run.status == "completed"
    assert len(logged) == 3
    if any_trainer.kind == "diffusion":  # a row for every step
        assert run.column("loss").reshape(3, 2).mean(1) == pytest.approx(logged, rel=1e-5)
    else:
        assert run.column("loss") == pytest.approx(logged)


def everything() -> list:
    """Each callback, as often as it can."""
    return [
        RunLogCallback(run_name="tiny"),
        ThroughputCallback(),
        GradientNormCallback(),
        ModelStatisticsCallback(interval=2),
        GenerationSamplesCallback(["", "ab"], interval=2, max_new_tokens=4),
        AlertCallback(),
        TrackerCallback(),
        DashboardCallback(viz_interval=2),
    ]


def test_all_callbacks_at_once_change_nothing_of_the_training(any_trainer, tmp_path):
    plain = any_trainer()
    plain.train()
    watched = any_trainer(*everything(), output_dir=str(tmp_path / "watched"))
    watched.train()
    for (name, expected), got in zip(
        plain.model.state_dict().items(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, got), name
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (plain, watched)]
    assert losses[0] == losses[1]
    run = load_run(tmp_path / "watched")
    sources = {record.source for record in run.measurements}
    assert {"gradients", "statistics", "throughput"} <= sources
    assert ("samples" in sources) == (any_trainer.kind != "classifier")
    assert (tmp_path / "watched" / "dashboard" / "training_latest.png").exists()


@pytest.mark.borders
def test_the_loss_of_a_classifier_has_no_unit(tmp_path):
    trainer = build_trainer("classifier", tmp_path, RunLogCallback(), eval_strategy="steps", eval_steps=3)
    trainer.train()
    run = load_run(tmp_path)
    page, *_ = write_report([run], tmp_path / "page.md")
    said = [show_text(run, 100), compare_runs([run]).to_text(100), page.read_text(), best_text(best_run([run]))]
    assert len(run.evaluations) == 2
    assert [text for text in said if "nats" in text or "nll" in text] == []
    assert "eval_loss" in said[-1]


def test_early_stopping_on_eval_loss_works_beside_them(any_trainer, tmp_path):
    class Stuck(TrainerCallback):
        """No evaluation is better than the first."""

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_loss"] = 1.0

    trainer = any_trainer(
        *everything()[:-1],
        Stuck(),
        EarlyStoppingCallback(early_stopping_patience=2),
        max_steps=20,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=any_trainer.kind != "diffusion",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 6
    run = load_run(tmp_path / "out")
    assert [evaluation.iter for evaluation in run.evaluations] == [2, 4, 6]
    assert run.status == "completed"


class Fail(TrainerCallback):
    """Raises at the begin of a step, once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.step = 0
            raise RuntimeError("out of memory")


@pytest.mark.slow
def test_a_training_that_failed_can_be_resumed_in_the_same_process(any_trainer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer = any_trainer(*everything(), Fail(4), **settings)
    with pytest.raises(RuntimeError):
        trainer.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    run = load_run(tmp_path / "out")
    assert run.status == "completed"
    assert [event.event for event in run.events if event.event != "alert"] == [
        "started",
        "failed",
        "resumed",
        "completed",
    ]
    assert sorted(set(run.column("iter"))) == ([1, 2, 3, 4, 5, 6] if any_trainer.kind == "diffusion" else [2, 4, 6])
    assert len(run.column("iter")) == len(set(run.column("iter")))
    left = [hook for module in trainer.model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert left == []


def test_the_state_of_a_watched_training_can_be_pickled(make_trainer):
    trainer = make_trainer(RunLogCallback(run_name="tiny"), AlertCallback())
    trainer.train()
    assert pickle.loads(pickle.dumps(trainer.state)).global_step == 6
