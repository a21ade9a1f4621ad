"""A stock Trainer's run log has model FLOPs and their utilisation, where they are known."""

from __future__ import annotations

import pytest
import torch

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.measuring.flops_counter import FlopsCounter
from hf_difflm.errors import UserError
from hf_difflm.flops.network import FAMILIES, Architecture, training_flops
from hf_difflm.runs import load_run


def test_flops_of_a_stock_causal_lm_are_those_of_its_architecture_and_mfu_follows_from_the_time(make_trainer, tmp_path):
    trainer = make_trainer(RunLogCallback(peak_flops=1e9), gradient_accumulation_steps=2)
    trainer.train()
    run = load_run(tmp_path / "out")
    step = training_flops(Architecture.from_config(trainer.model.config.to_dict()), {8: 4}, 4 * 7)
    assert run.column("total_flops").tolist() == pytest.approx([2 * step, 4 * step, 6 * step])
    for row in run.steps:
        assert row.mfu == pytest.approx(100 * step / (row.time_ms / 1000 * 1e9), rel=0.01, abs=1e-3)


def test_evaluation_costs_no_training_flops(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), eval_strategy="steps", eval_steps=1, max_steps=2, logging_steps=1).train()
    total = load_run(tmp_path / "out").column("total_flops")
    assert total[1] == 2 * total[0]


def test_on_a_device_without_a_known_peak_the_mfu_is_null(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), max_steps=2).train()
    (row,) = load_run(tmp_path / "out").steps
    assert row.mfu is None
    assert row.total_flops > 0


def test_a_resumed_run_goes_on_counting_from_its_checkpoint(make_trainer, tmp_path):
    keep = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "max_steps": 4}
    make_trainer(RunLogCallback(), **keep).train()
    whole = load_run(tmp_path / "out").column("total_flops").copy()
    make_trainer(RunLogCallback(), **keep).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert load_run(tmp_path / "out").column("total_flops").tolist() == whole.tolist()


def test_the_model_is_left_without_a_hook(make_trainer):
    trainer = make_trainer(RunLogCallback(), max_steps=1)
    trainer.train()
    assert not trainer.model._forward_pre_hooks


def test_a_model_of_an_unknown_family_is_logged_without_flops(make_trainer, tmp_path, monkeypatch):
    monkeypatch.delitem(FAMILIES, "llama")
    make_trainer(RunLogCallback(), max_steps=2).train()
    (row,) = load_run(tmp_path / "out").steps
    assert (row.total_flops, row.mfu) == (None, None)


def test_the_peak_must_be_above_zero():
    with pytest.raises(UserError, match="peak_flops is 0"):
        RunLogCallback(peak_flops=0)


def test_a_denoiser_in_a_stock_trainer_has_no_flops_rather_than_wrong_ones(tiny_denoiser):
    model = tiny_denoiser().train()
    counter = FlopsCounter(model)
    model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    assert counter.take() is None
