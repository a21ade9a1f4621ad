"""The arithmetic of the optimiser batch, and arguments that are refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments


def arguments(**settings) -> DiffusionTrainingArguments:
    return DiffusionTrainingArguments(output_dir="unused", use_cpu=True, **settings)


@given(micro_batch=st.integers(1, 64), accumulation=st.integers(1, 64))
def test_accumulation_follows_from_the_global_batch_size(micro_batch, accumulation):
    made = arguments(global_batch_size=micro_batch * accumulation, per_device_train_batch_size=micro_batch)
    assert made.gradient_accumulation_steps == accumulation
    assert made.per_device_train_batch_size == micro_batch
    assert made.global_batch_size == micro_batch * accumulation


def test_without_a_global_batch_size_it_is_the_product():
    assert arguments(per_device_train_batch_size=4, gradient_accumulation_steps=3).global_batch_size == 12
    assert arguments(per_device_train_batch_size=4).global_batch_size == 4


def test_an_explicit_accumulation_wins():
    made = arguments(global_batch_size=64, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert (made.gradient_accumulation_steps, made.global_batch_size) == (2, 8)


def test_a_micro_batch_is_never_larger_than_the_optimiser_batch():
    made = arguments(global_batch_size=4, per_device_train_batch_size=32)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (4, 1)


def test_a_global_batch_size_that_cannot_be_cut_is_named():
    with pytest.raises(UserError, match=r"global_batch_size 10 .* per_device_train_batch_size 4"):
        arguments(global_batch_size=10, per_device_train_batch_size=4)


def test_several_cpu_processes_without_use_cpu_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UserError, match=r"2 processes .*--use-cpu"):
        DiffusionTrainingArguments(output_dir="unused")


def test_defaults_are_those_of_the_contracts():
    made = arguments()
    assert (made.metric_for_best_model, made.greater_is_better) == ("eval_nll", False)
    assert made.logging_nan_inf_filter is False
    assert made.dataloader_drop_last is True
    assert made.report_to == []


def test_another_metric_for_the_best_model_is_kept():
    assert arguments(metric_for_best_model="eval_accuracy", greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize("objective", ["mdlm", "ar", "gpt"])
def test_objective_and_model_must_fit(objective, tiny_denoiser, tiny_causal, tokenizer):
    model = tiny_causal() if objective == "mdlm" else tiny_denoiser()
    with pytest.raises(UserError, match=objective):
        DiffusionTrainer(model, arguments(objective=objective), processing_class=tokenizer)


def test_a_training_set_smaller_than_an_optimiser_batch_is_refused(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(train=train_rows(7), per_device_train_batch_size=8)
    with pytest.raises(UserError, match=r"7 sequences.* 8"):
        trainer.train()


def test_a_run_without_an_evaluation_set_trains_without_evaluating(make_diffusion_trainer):
    trainer = make_diffusion_trainer(eval_strategy="steps", eval_steps=2, save_log_to_json=False)
    trainer.train()
    assert not any("eval_nll" in entry for entry in trainer.state.log_history)
    with pytest.raises(UserError, match="eval_dataset"):
        trainer.evaluate()
