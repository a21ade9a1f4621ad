"""The arithmetic of the optimiser batch, and arguments that are refused with a sentence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

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


@pytest.mark.borders
@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        *(
            (name, False)
            for name in ("eval_nll", "nll", "eval_ppl", "ppl", "eval_bpb", "eval_native_nll", "eval_wiki_nll")
        ),
        *((name, False) for name in ("loss", "eval_loss", None)),
        *((name, True) for name in ("accuracy", "eval_accuracy", "eval_wiki_accuracy")),
    ],
)
def test_the_direction_of_our_metrics_is_known_to_the_best_checkpoint_and_to_plateaus(metric, greater):
    asked = {"eval_strategy": "steps", "metric_for_best_model": metric}
    assert arguments(**asked).greater_is_better is greater
    made = arguments(**asked, greater_is_better=greater, lr_scheduler_type="reduce_lr_on_plateau")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = get_scheduler(
        made.lr_scheduler_type, optimizer, scheduler_specific_kwargs=dict(made.lr_scheduler_kwargs, patience=0)
    )
    for value in (0.1, 0.2, 0.3):
        plateau.step(value)
    assert (plateau.get_last_lr() == [1.0]) == greater  # rising is good where greater is better


@pytest.mark.borders
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"metric_for_best_model": "f1"},
            "metric_for_best_model is 'f1', which no evaluation of DiffusionTrainer has; take one of eval_",
        ),
        ({"metric_for_best_model": "eval_replicates"}, "not known whether more is better"),
        ({"metric_for_best_model": "eval_ppl", "greater_is_better": True}, "eval_ppl is better when it is lower"),
        (
            {
                "lr_scheduler_type": "reduce_lr_on_plateau",
                "eval_strategy": "steps",
                "lr_scheduler_kwargs": {"mode": "max"},
            },
            "mode='max', but eval_nll is better when it is lower",
        ),
    ],
)
def test_a_direction_that_is_not_known_or_wrong_is_a_sentence(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        arguments(**asked)


def test_of_a_metric_of_the_users_own_the_user_says_it():
    for greater in (True, False):
        assert arguments(metric_for_best_model="f1", greater_is_better=greater).greater_is_better is greater


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


@pytest.mark.borders
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True puts the batches"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches=True would divide each micro-batch"),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 3}}},
            "num_steps 3 in gradient_accumulation_kwargs",
        ),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True would change the optimiser batch"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 would make the loss no likelihood bound"),
    ],
    ids=["dispatch", "split", "num_steps", "auto", "smoothing"],
)
def test_what_would_make_another_batch_or_loss_is_refused(tmp_path, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        DiffusionTrainingArguments(str(tmp_path), use_cpu=True, **fields)
