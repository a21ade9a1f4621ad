"""One set of weights is evaluated, kept in ``best/``, saved by ``save_model`` and, where asked for, left in the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.training.launch.processes import check_sharding

pytestmark = pytest.mark.borders

BEST = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "load_best_model_at_end": True}


class Spoil(TrainerCallback):
    """Makes the weights bad once a step is done, so that the last evaluation is not the best."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                for parameter in kwargs["model"].parameters():
                    if parameter.requires_grad:
                        parameter.mul_(3.0)


def evaluations(trainer: Any) -> dict[int, float]:
    return {entry["step"]: entry["eval_nll"] for entry in trainer.state.log_history if "eval_nll" in entry}


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() <= other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("save_steps", [2, 6])  # each best step has a checkpoint, or none has
def test_the_model_has_the_best_weights_that_were_evaluated(
    make_diffusion_trainer, train_rows, tmp_path, ema_decay, save_steps
):
    trainer = make_diffusion_trainer(
        Spoil(5), evaluation=train_rows(8, seed=5), ema_decay=ema_decay, save_steps=save_steps, **BEST
    )
    trainer.train()
    found = evaluations(trainer)
    best = min(found.values())
    assert found[6] > best + 0.1
    assert same(weights_of(trainer.model), load_file(tmp_path / "run/best/model.safetensors"))
    assert trainer.evaluate()["eval_nll"] == best == trainer.state.best_metric
    trainer.save_model(str(tmp_path / "saved"))
    assert same(weights_of(trainer.model), load_file(tmp_path / "saved/model.safetensors"))


def test_weights_that_were_best_before_the_first_step_come_back(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(
        Spoil(1), evaluation=train_rows(8, seed=5), eval_on_start=True, learning_rate=1e-8, save_steps=6, **BEST
    )
    before = weights_of(trainer.model)
    trainer.train()
    assert trainer.state.best_global_step == 0
    assert same(before, weights_of(trainer.model))


def test_adapters_have_the_best_weights_too(adapt: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    trainer = adapt(Spoil(5), ema_decay=0.9, **BEST | {"save_steps": 2})
    trainer.train()
    best = min(evaluations(trainer).values())
    assert evaluations(trainer)[6] > best
    assert trainer.evaluate()["eval_nll"] == pytest.approx(best, rel=1e-6)


def test_save_model_writes_what_is_evaluated(make_diffusion_trainer, train_rows, tmp_path):
    trainer = make_diffusion_trainer(
        evaluation=train_rows(8, seed=5), ema_decay=0.9, eval_strategy="steps", eval_steps=6, save_strategy="steps"
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved/model.safetensors")
    assert same(saved, load_file(tmp_path / "run/best/model.safetensors"))
    assert not same(saved, weights_of(trainer.model))  # which are those that were trained
    loaded = load_target(str(tmp_path / "saved"), use_cpu=True)
    trainer.model = loaded.model
    trainer.ema = trainer._average = None
    assert trainer.evaluate()["eval_nll"] == evaluations(trainer)[6]


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp2"])
def test_best_weights_at_the_end_are_refused_where_weights_are_sharded(engine):
    check_sharding(engine, ema=False)
    with pytest.raises(UserError, match=f"load_best_model_at_end does not work under {engine}"):
        check_sharding(engine, ema=False, load_best_model_at_end=True)


# ---- optimisers that keep an average themselves ----


class TwoPoints(torch.optim.SGD):
    """Plain steps at y; x, an average of them, is what such an optimiser has found."""

    training = False

    def train(self) -> None:
        if not self.training:
            self._to("y")
        self.training = True

    def eval(self) -> None:
        if self.training:
            self._to("x")
        self.training = False

    @torch.no_grad()
    def _to(self, point: str) -> None:
        for parameter in self.param_groups[0]["params"]:
            if "x" in self.state[parameter]:
                if point == "x":
                    self.state[parameter]["y"] = parameter.clone()
                parameter.copy_(self.state[parameter][point])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert self.training
        super().step()
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["x"] = parameter.clone() if "x" not in state else state["x"].lerp(parameter, 0.2)
        self.param_groups[0]["scheduled_lr"] = 0.125


def averaging(make_diffusion_trainer: Any, rows: Any, folder: Path, tokenizer: Any, **arguments: Any) -> Any:
    plain = make_diffusion_trainer()
    settings = {**plain.args.to_dict(), "output_dir": str(folder), "save_strategy": "steps", "save_steps": 3}
    known = {name: settings[name] for name in ("max_steps", "logging_steps", "use_cpu", "disable_tqdm", "warmup_steps")}
    known |= {name: settings[name] for name in ("output_dir", "save_strategy", "save_steps", "eval_replicates")}
    return DiffusionTrainer(
        plain.model,
        DiffusionTrainingArguments(per_device_train_batch_size=4, eval_steps=3, **known, **arguments),
        rows(24),
        rows(8, seed=5),
        tokenizer,
        optimizers=(TwoPoints(plain.model.parameters(), lr=0.05), None),
    )


def test_the_average_of_the_optimiser_is_what_is_evaluated_and_saved(
    make_diffusion_trainer, train_rows, tokenizer, tmp_path
):
    trainer = averaging(make_diffusion_trainer, train_rows, tmp_path / "run", tokenizer)
    trainer.train()
    trained = weights_of(trainer.model)
    with trainer.evaluated_weights():
        found = weights_of(trainer.model)
    assert same(trained, weights_of(trainer.model))
    assert not same(trained, found)
    for folder in ("run/best", "saved"):
        trainer.save_model(str(tmp_path / "saved"))
        assert same(load_file(tmp_path / folder / "model.safetensors"), found)
    assert same(load_file(tmp_path / "run/checkpoint-6/model.safetensors"), trained)
    numbers = evaluations(trainer)
    last = load_target(str(tmp_path / "run/checkpoint-6"), use_cpu=True)
    assert same(weights_of(last.model), found)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert set(rates) == {0.125}  # what the optimiser says that it took
    other = make_diffusion_trainer(model=last.model, evaluation=train_rows(8, seed=5))
    assert other.evaluate()["eval_nll"] == numbers[6]


def test_evaluating_and_saving_change_nothing_of_the_training(make_diffusion_trainer, train_rows, tokenizer, tmp_path):
    one = averaging(make_diffusion_trainer, train_rows, tmp_path / "one", tokenizer)
    other = averaging(make_diffusion_trainer, train_rows, tmp_path / "two", tokenizer, eval_strategy="no")
    one.train()
    other.train()
    assert same(weights_of(one.model), weights_of(other.model))


def test_two_averages_are_refused(make_diffusion_trainer, train_rows, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"ema_decay is 0\.9, but TwoPoints evaluates an average of its own"):
        averaging(make_diffusion_trainer, train_rows, tmp_path / "run", tokenizer, ema_decay=0.9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"optim": "schedule_free_adamw"}, "lr_scheduler_type is cosine; set lr_scheduler_type to constant"),
        (
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "ema_decay": 0.9},
            "evaluates an average of its own; leave ema_decay out",
        ),
        ({"optim": "galore_adamw_layerwise"}, "within the backward pass.*choose galore_adamw$"),
        ({"optim": "galore_adafactor_layerwise"}, "choose galore_adafactor$"),
        ({"optim": "apollo_adamw_layerwise"}, "choose apollo_adamw$"),
        ({"optim": "lomo"}, "optim lomo changes each weight within the backward pass"),
        ({"optim": "adalomo"}, "optim adalomo changes each weight within the backward pass"),
    ],
)
def test_optimisers_whose_log_would_say_what_no_step_did_are_refused(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_noise_of_embeddings_over_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionTrainingArguments, "world_size", 2)
    with pytest.raises(UserError, match="neftune_noise_alpha 5 draws the same noise on each of 2 processes"):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, neftune_noise_alpha=5.0)


@pytest.mark.parametrize("optim", ["schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"])
def test_schedule_free_itself(make_diffusion_trainer, train_rows, tmp_path, optim):
    """The package, where it is installed: its x is evaluated, and a share as warm-up is so many steps."""
    pytest.importorskip("schedulefree")
    settings = {"optim": optim, "lr_scheduler_type": "constant", "warmup_steps": 0.5, "logging_steps": 1}
    settings |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    trainer = make_diffusion_trainer(evaluation=train_rows(8, seed=5), **settings)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    if optim != "schedule_free_radam":
        assert rates == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2, 1e-2, 1e-2])
    assert all(math.isfinite(rate) and rate <= 1e-2 for rate in rates)
    with trainer.evaluated_weights():
        assert same(load_file(tmp_path / "run/checkpoint-6/ema.safetensors"), weights_of(trainer.model))
    again = make_diffusion_trainer(evaluation=train_rows(8, seed=5), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-3"))
    assert same(weights_of(trainer.model), weights_of(again.model))
