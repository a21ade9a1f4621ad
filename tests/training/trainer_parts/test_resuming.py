"""Evaluation and interruption leave no trace: the same weights, bit for bit, however a run was watched or cut."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import newest_good

STEPS = 9  # of 6 an epoch: into the second one


def state(trainer) -> dict[str, torch.Tensor]:
    """Weights, average and optimiser state under their names."""
    found = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    if trainer.ema is not None:
        found |= {f"ema.{i}": shadow.clone() for i, shadow in enumerate(trainer.ema._shadow)}
    optimiser = trainer.optimizer.state_dict()["state"]
    return found | {f"optimizer.{i}.{name}": value for i, values in optimiser.items() for name, value in values.items()}


def assert_bit_equal(ours, theirs) -> None:
    ours, theirs = state(ours), state(theirs)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_evaluations_in_between_change_nothing(make_diffusion_trainer, train_rows, objective, tmp_path):
    def run(name: str, **settings):
        arguments = {"objective": objective, "ema_decay": 0.9, "save_log_to_json": False, "logging_steps": 3}
        trainer = make_diffusion_trainer(
            output_dir=str(tmp_path / name), evaluation=train_rows(6, seed=1), **arguments, **settings
        )
        trainer.train()
        return trainer

    plain = run("plain")
    assert_bit_equal(run("each", eval_strategy="steps", eval_steps=1, eval_seed=5), plain)
    assert_bit_equal(run("some", eval_strategy="steps", eval_steps=2, eval_replicates=3), plain)


def test_evaluating_twice_is_bit_equal_and_moves_no_generator(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(evaluation=train_rows(10, ragged=True, seed=1))
    generator = torch.get_rng_state()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), generator)
    for clock in ("eval_runtime", "eval_samples_per_second"):
        first.pop(clock), second.pop(clock)
    assert first == second


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(4, 1), (2, 2)])
@pytest.mark.parametrize("cut", [1, 6, 7], ids=["first-epoch", "between-epochs", "second-epoch"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    make_diffusion_trainer, tiny_denoiser, train_rows, tmp_path, cut, micro_batch, accumulation
):
    settings = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": cut,
        "save_total_limit": None,
        "ema_decay": 0.9,
        "warmup_steps": 3,
        "evaluation": train_rows(6, seed=1),
    }
    whole = make_diffusion_trainer(**settings)
    whole.train()
    resumed = make_diffusion_trainer(model=tiny_denoiser(seed=99), **settings)
    torch.manual_seed(12345)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{cut}"))
    assert resumed.state.global_step == STEPS
    assert_bit_equal(resumed, whole)
    assert resumed.evaluate()["eval_nll"] == whole.evaluate()["eval_nll"]
    assert resumed.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()


def test_a_checkpoint_between_two_logging_steps_loses_no_token_and_no_row(make_diffusion_trainer, tmp_path):
    """Saved at step 3, logged at 2, 4, 6: step 3 is neither lost nor logged twice."""
    settings = {"logging_steps": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = make_diffusion_trainer(**settings)
    whole.train()
    resumed = make_diffusion_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.num_input_tokens_seen == whole.state.num_input_tokens_seen == 6 * 4 * 11


class Crash(TrainerCallback):
    """Ends the process as far as the Trainer can tell: in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize(
    "case", [case if case < 3 else pytest.param(case, marks=pytest.mark.slow) for case in range(12)]
)
def test_killed_at_any_step_and_resumed_it_equals_the_uninterrupted_run(
    make_diffusion_trainer, tiny_denoiser, tiny_causal, train_rows, tmp_path, case
):
    """Steps, intervals, accumulation and objective at random; 6 or 3 steps are an epoch."""
    draw = random.Random(case)
    objective, steps = draw.choice(("mdlm", "ar")), draw.randint(5, 13)
    settings = {
        "objective": objective,
        "max_steps": steps,
        "gradient_accumulation_steps": draw.choice((1, 2)),
        "ema_decay": draw.choice((None, 0.9)),
        "logging_steps": draw.randint(1, 4),
        "eval_strategy": "steps",
        "eval_steps": draw.randint(1, 5),
        "save_strategy": "steps",
        "save_steps": draw.randint(1, 4),
        "save_total_limit": draw.choice((1, 2, None)),
        "evaluation": train_rows(5, seed=1),
        "run_name": "run",
    }
    whole = make_diffusion_trainer(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    kill = draw.randint(settings["save_steps"] + 1, steps)
    with pytest.raises(RuntimeError, match="killed"):
        make_diffusion_trainer(Crash(kill), **settings).train()
    model = tiny_denoiser(seed=99) if objective == "mdlm" else tiny_causal(seed=99)
    resumed = make_diffusion_trainer(model=model, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_bit_equal(resumed, whole)
    ours, theirs = load_run(tmp_path / "run"), load_run(tmp_path / "whole")
    assert ours.column("iter").tolist() == list(range(1, steps + 1))
    for name in (
        "loss",
        "lr",
        "grad_norm",
        "accuracy",
        "tokens_seen",
        "total_flops",
        "epoch",
        "noise_level",
        "masking_rate",
    ):
        np.testing.assert_array_equal(ours.column(name), theirs.column(name), name)
    assert [(e.iter, e.nll) for e in ours.evaluations] == [(e.iter, e.nll) for e in theirs.evaluations]
    assert (resumed.state.best_metric, resumed.state.best_global_step) == (
        whole.state.best_metric,
        whole.state.best_global_step,
    )
    best = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert best[0] == best[1]


def test_a_damaged_newest_checkpoint_is_skipped(make_diffusion_trainer, tmp_path, caplog):
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None, "save_log_to_json": False}
    whole = make_diffusion_trainer(**settings)
    whole.train()
    run = tmp_path / "run"
    weights = run / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (run / "checkpoint-4" / "manifest.json").unlink()
    good, warnings = newest_good(run)
    assert good == run / "checkpoint-2"
    assert len(warnings) == 2
    resumed = make_diffusion_trainer(**settings)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-6" in caplog.text
    assert_bit_equal(resumed, whole)


def test_resuming_where_nothing_was_finished_is_refused(make_diffusion_trainer, tmp_path: Path):
    with pytest.raises(UserError, match="no finished checkpoint"):
        make_diffusion_trainer().train(resume_from_checkpoint=True)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(make_diffusion_trainer, tmp_path):
    def run(name: str, seed: int):
        trainer = make_diffusion_trainer(output_dir=str(tmp_path / name), seed=seed, save_log_to_json=False)
        trainer.train()
        return trainer

    assert_bit_equal(run("a", 1), run("b", 1))
    with pytest.raises(AssertionError):
        assert_bit_equal(run("c", 1), run("d", 2))
