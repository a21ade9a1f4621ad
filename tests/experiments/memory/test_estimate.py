"""The estimate of ``doctor --recipe`` against what a real training allocates, and its parts against counts of their own."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from allocated import DEEP, allocated_at_most, rows

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.memory.estimate import USABLE, estimate_memory
from hf_difflm.experiments.memory.labelled_positions import most_labelled
from hf_difflm.experiments.memory.sharding import Network, gradient_bytes, held_bytes
from hf_difflm.experiments.recipe_settings import Settings, load_settings
from hf_difflm.experiments.trainer_arguments import training_arguments
from hf_difflm.objectives import BlockDiffusionObjective, CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.adaptive.masking import corrupt, draw
from hf_difflm.objectives.adaptive.odds_scaling import centred_r
from hf_difflm.training import DiffusionTrainer
from hf_difflm.training.optimization.matrices import hidden_matrices
from hf_difflm.training.optimization.muon import Muon

SMALL = {"block_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE = {"block_size": 96, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE_VOCABULARY = {**SMALL, "backbone_config": {"vocab_size": 6000}}
CASES = {
    "small": {**SMALL, "per_device_train_batch_size": 8},
    "accumulated, averaged": {
        **SMALL,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
    },
    "deep": {**DEEP, "per_device_train_batch_size": 8},
    "deep, checkpointing": {**DEEP, "per_device_train_batch_size": 8, "gradient_checkpointing": True},
    "wide, checkpointing, accumulated": {
        **WIDE,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
    },
    "bf16": {**DEEP, "per_device_train_batch_size": 8, "bf16": True},
    "large vocabulary": {**LARGE_VOCABULARY, "per_device_train_batch_size": 16},
    "large vocabulary, in chunks": {**LARGE_VOCABULARY, "per_device_train_batch_size": 16, "head_chunk_rows": 64},
    "large vocabulary, bf16, sgd": {
        **LARGE_VOCABULARY,
        "per_device_train_batch_size": 16,
        "bf16": True,
        "optim": "sgd",
    },
    "gpt2": {**SMALL, "backbone": "gpt2", "per_device_train_batch_size": 8},
    "pairs": {**LARGE_VOCABULARY, "noise_sampling": "pairs", "per_device_train_batch_size": 8},
    "static shapes": {**LARGE_VOCABULARY, "static_shapes": True, "per_device_train_batch_size": 4},
}
QUICK = {"small", "accumulated, averaged", "large vocabulary"}


def allocated_by_training(settings: Settings, tmp_path: Path, sequences: int) -> int:
    """Bytes in use at most while the settings are trained on so many sequences."""
    tokenizer = load_tokenizer("bytes")
    data = rows(sequences, settings.data.block_size)

    def run() -> DiffusionTrainer:
        arguments = training_arguments(settings, tmp_path / "run")
        trainer = DiffusionTrainer(build_model(settings, tokenizer), arguments, data, None, tokenizer)
        trainer.train()
        return trainer

    return allocated_at_most(run, tmp_path / "trace.json")


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_estimate_is_within_15_per_cent_of_what_a_real_training_allocates(case, objective, tmp_path):
    quiet = {"use_cpu": True, "save_strategy": "no", "eval_strategy": "no", "save_log_to_json": False}
    flags = {**CASES[case], **quiet, "objective": objective, "max_steps": 3}
    settings = load_settings(None, flags, beside=("mdlm", "ar"))
    estimate = estimate_memory(settings)
    measured = allocated_by_training(settings, tmp_path, 32)
    print(f"estimate / measured = {estimate.training / measured:.3f}")
    assert estimate.training == pytest.approx(measured, rel=0.15)


BLOCKS = {
    "small": {**SMALL, "diffusion_block_size": 8, "per_device_train_batch_size": 8},
    "pairs": {
        **LARGE_VOCABULARY,
        "diffusion_block_size": 16,
        "noise_sampling": "pairs",
        "per_device_train_batch_size": 8,
    },
    "time": {**LARGE_VOCABULARY, "diffusion_block_size": 16, "loss_form": "time", "per_device_train_batch_size": 16},
    "growing": {**LARGE_VOCABULARY, "diffusion_block_size_schedule": "1,16", "per_device_train_batch_size": 16},
    "deep, checkpointing": {
        **DEEP,
        "diffusion_block_size": 4,
        "per_device_train_batch_size": 8,
        "gradient_checkpointing": True,
    },
}


@pytest.mark.parametrize(
    "case", [case if case == "small" else pytest.param(case, marks=pytest.mark.slow) for case in BLOCKS]
)
def test_the_estimate_of_block_diffusion_is_within_15_per_cent_of_what_a_real_training_allocates(case, tmp_path):
    quiet = {"use_cpu": True, "save_strategy": "no", "eval_strategy": "no", "save_log_to_json": False}
    settings = load_settings(None, {**BLOCKS[case], **quiet, "objective": "bd3lm", "max_steps": 3})
    estimate = estimate_memory(settings)
    measured = allocated_by_training(settings, tmp_path, 64)
    print(f"estimate / measured = {estimate.training / measured:.3f}")
    assert estimate.training == pytest.approx(measured, rel=0.15)


@pytest.mark.borders
def test_a_head_in_chunks_is_estimated_in_chunks():
    """Fake tensors are of a type of their own, but no special heads."""
    options = {**LARGE_VOCABULARY, "use_cpu": True, "per_device_train_batch_size": 16}
    whole, chunked = (estimate_memory(load_settings(None, {**options, "head_chunk_rows": rows})) for rows in (0, 64))
    assert chunked.logits < whole.logits / 3
    assert chunked.training < 0.7 * whole.training


ADAPTIVE = {
    "P1": {**DEEP, "importance": "none", "position_bias": 1.0},
    "P2": {**LARGE_VOCABULARY, "importance": "frequency_only"},
    "P3": {**LARGE_VOCABULARY, "importance": "full", "curriculum": "thirds"},
    "P3, bf16": {**DEEP, "bf16": True, "ema_decay": 0.9},
    "watching": {**SMALL, "masking": "time_only", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", ADAPTIVE)
@pytest.mark.slow
def test_the_estimate_of_adaptive_masking_is_within_15_per_cent_of_what_a_real_training_allocates(case, tmp_path):
    quiet = {"use_cpu": True, "save_strategy": "no", "eval_strategy": "no", "save_log_to_json": False}
    options = {"objective": "atat", "per_device_train_batch_size": 16, "max_steps": 6, **ADAPTIVE[case], **quiet}
    settings = load_settings(None, options)
    measured = allocated_by_training(settings, tmp_path, 128)
    estimate = estimate_memory(settings)
    print(f"estimate / measured = {estimate.training / measured:.3f}")
    assert estimate.training == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("objective", "replicates"), [("mdlm", 1), ("mdlm", 2), ("ar", 1), ("atat", 1), ("bd3lm", 1)])
def test_the_estimate_of_an_evaluation_is_within_15_per_cent_of_what_one_allocates(objective, replicates, tmp_path):
    quiet = {"use_cpu": True, "save_strategy": "no", "save_log_to_json": False, "eval_replicates": replicates}
    options = {**LARGE_VOCABULARY, **quiet, "objective": objective, "per_device_eval_batch_size": 16}
    if objective == "bd3lm":
        options |= {"diffusion_block_size": 16}
    settings = load_settings(None, {**options, "optim": "sgd"})
    tokenizer = load_tokenizer("bytes")
    data = rows(32, settings.data.block_size)
    arguments = training_arguments(settings, tmp_path / "run")

    def run() -> DiffusionTrainer:
        trainer = DiffusionTrainer(build_model(settings, tokenizer), arguments, data, data, tokenizer)
        trainer.evaluate()
        return trainer

    measured = allocated_at_most(run, tmp_path / "trace.json")
    assert estimate_memory(settings).evaluation == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("rows_", "batch"), [(1, 1), (4, 4), (4, 32), (8, 24), (16, 512)])
def test_no_micro_batch_has_more_labelled_positions_than_the_bound_and_one_comes_near(rows_, batch):
    training = load_settings(None, {}).training
    scored = 63
    bound = most_labelled(training, rows_, scored + 1, batch)
    objective = MaskedDiffusionObjective(0)
    most = 0
    for step in range(400):
        masked = objective.corrupt(
            np.ones((batch, scored), dtype=bool), NoiseKey(3, step, np.arange(batch), batch)
        ).masked_BL
        most = max(most, int(masked.reshape(-1, rows_ * scored).sum(-1).max()))
    assert most <= bound
    assert most >= 0.95 * bound - rows_


@pytest.mark.parametrize("law", ["uniform", "bell"])
@pytest.mark.parametrize(("rows_", "batch"), [(1, 1), (4, 4), (4, 32), (8, 24), (16, 512)])
def test_no_micro_batch_of_blocks_has_more_labelled_positions_than_the_bound_and_one_comes_near(rows_, batch, law):
    options = {"objective": "bd3lm", "diffusion_block_size": 8, "count_law": law, "block_size": 64}
    bound = most_labelled(load_settings(None, options).training, rows_, 64, batch)
    objective = BlockDiffusionObjective(0, 8, count_law=CountLaw(law))
    most, scored = 0, np.ones((batch, 64), dtype=bool)
    scored[:, 0] = False
    for step in range(40 if batch == 512 else 400):
        masked = objective.corrupt(scored, NoiseKey(3, step, np.arange(batch), batch)).masked_RL
        most = max(most, int(masked.reshape(-1, rows_ * 64).sum(-1).max()))
    assert most <= bound
    assert most >= 0.8 * bound - rows_  # the first block has fewer tokens, and jitter leaves the ends of strata


@pytest.mark.parametrize("options", [{"noise_sampling": "iid"}, {"loss_form": "time", "noise_schedule": "cosine"}])
def test_other_noise_stays_below_what_is_planned_for_it(options):
    training = load_settings(None, options).training
    planned = most_labelled(training, 8, 65, 64)
    objective = MaskedDiffusionObjective(0, training["loss_form"], training["noise_sampling"])
    ones = np.ones((64, 64), dtype=bool)
    counts = [
        objective.corrupt(ones, NoiseKey(1, s, np.arange(64), 64)).masked_BL.reshape(8, -1).sum(-1) for s in range(40)
    ]
    assert np.mean(counts) < planned <= 8 * 64
    assert np.mean(np.concatenate(counts) <= planned) > 0.99


@pytest.mark.parametrize("sign", [-1, 1])
def test_no_schedules_hide_more_than_what_is_planned_for_adaptive_masks(sign):
    """Some tokens far more important than the others, or far less; in micro-batches of 8 of an optimiser batch of 64."""
    planned = most_labelled(load_settings(None, {"objective": "atat"}).training, 8, 65, 64)
    ones = np.ones((64, 64), dtype=bool)
    most = 0.0
    for share in (1, 8, 16, 32, 48):
        log_r = np.zeros((64, 64))
        log_r[:, :share] = sign * 10.0
        r = centred_r(log_r, ones.astype(float))
        draws = [draw(ones, NoiseKey(1, step, np.arange(64), 64)) for step in range(40)]
        counts = np.array([corrupt(ones, r, *each).masked_BL.reshape(8, -1).sum(-1) for each in draws])
        assert np.mean(counts <= planned) > 0.99
        most = max(most, counts.max())
    assert 0.8 * planned < most <= 8 * 64


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "objective": "ar", "ema_decay": 0.9}])
def test_the_suggested_micro_batch_is_the_largest_that_fits_of_all_that_divide_the_batch(options):
    def settings(rows_: int) -> Any:
        more = {"per_device_train_batch_size": rows_, "global_batch_size": 24, "per_device_eval_batch_size": 1}
        return load_settings(None, {**SMALL, "num_hidden_layers": 1, **more, **options})

    totals = {rows_: estimate_memory(settings(rows_), devices=2).total for rows_ in (1, 2, 3, 4, 6, 12)}
    for room in (0.3, 1.2, 100.0):
        memory = int(room * totals[4] / USABLE)
        fitting = [rows_ for rows_, total in totals.items() if total <= int(USABLE * memory)]
        estimate = estimate_memory(settings(4), devices=2, device_memory=memory)
        assert estimate.largest_micro_batch == max(fitting, default=0)
        assert estimate.largest_accumulation == (12 // max(fitting) if fitting else None)
        assert estimate.fits == (room >= 1)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_the_states_of_an_optimizer_are_as_large_as_torch_makes_them(name, make):
    weight = torch.nn.Parameter(torch.ones(300, 70))
    optimizer = make([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    states = sum(value.nbytes for value in optimizer.state[weight].values() if value.ndim)
    held = held_bytes(Network(weight.numel(), 0, 0), "ddp", 1, half=False, optimizer=name, average=False)
    assert held == {"weights": weight.nbytes, "optimizer": states, "average": 0, "buffers": 0}


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_muon_keeps_one_state_of_matrices_and_two_of_all_else(tiny_denoiser, tiny_causal, objective):
    model = tiny_denoiser() if objective == "mdlm" else tiny_causal()
    matrices, others = hidden_matrices(model)
    optimizer = Muon([{"params": matrices, "muon": True}, {"params": others}])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    outside = sum(p.numel() for name, p in model.named_parameters() if ".layers." not in name)
    size = sum(p.numel() for p in model.parameters())
    held = held_bytes(Network(size, 0, outside), "ddp", 1, half=False, optimizer="muon", average=False)
    assert held["optimizer"] == pytest.approx(states, rel=0.01)  # norms within layers are the rest
    assert held["optimizer"] <= states
    with pytest.raises(UserError, match="zero2 does not train with optim muon"):
        held_bytes(Network(size, 0, outside), "zero2", 2, half=False, optimizer="muon", average=False)


def test_an_unknown_optimizer_is_taken_for_adam_and_that_is_said():
    estimate = estimate_memory(load_settings(None, {**SMALL, "optim": "galore_adamw"}))
    assert estimate.optimizer == 8 * estimate.parameters
    assert estimate.assumed == ["optim galore_adamw: as large as Adam's states"]


def test_engines_divide_what_they_share_among_the_devices():
    network, size = Network(1_000_000, 100_000, 200_000), 1_000_000

    def of(engine: str, devices: int) -> tuple[Any, ...]:
        average = engine != "zero3"
        held = held_bytes(network, engine, devices, half=True, optimizer="adamw_torch", average=average)
        gradients = gradient_bytes(network, engine, devices, half=True)
        return (held["weights"], gradients, held["optimizer"], held["average"])

    assert of("ddp", 1) == of("ddp", 4) == (4 * size, None, 8 * size, 4 * size)
    assert of("fsdp2", 4) == (size, size, 2 * size, size)
    # 2 bytes of weight and gradient; Adam's 8, the float32 weights' 4 and the gradients' 4 shared
    assert of("zero1", 4) == (2 * size, 2 * size, 4 * size, 4 * size)
    assert of("zero2", 4) == (2 * size, size // 2, 4 * size, 4 * size)
    assert of("zero3", 4) == (size // 2, size // 2, 4 * size, 0)


def test_sharded_weights_need_no_half_precision_copies_and_ddp_needs_buckets():
    options = {**SMALL, "bf16": True, "global_batch_size": 8}
    one, ddp, fsdp = (
        estimate_memory(load_settings(None, options), *cut) for cut in [(1, "ddp"), (2, "ddp"), (2, "fsdp2")]
    )
    assert (one.buffers, ddp.buffers) == (0, 4 * one.parameters)
    assert fsdp.weights == 2 * one.parameters
    assert fsdp.activations < ddp.activations


def test_checkpointing_is_estimated_from_both_sides():
    kept = estimate_memory(load_settings(None, DEEP))
    recomputed = estimate_memory(load_settings(None, {**DEEP, "gradient_checkpointing": True}))
    assert (kept.checkpointing, recomputed.checkpointing) == (False, True)
    assert kept.other_checkpointing == recomputed.total < 0.6 * kept.total
    assert recomputed.other_checkpointing == kept.total


@pytest.mark.slow
def test_a_network_of_hundreds_of_millions_is_estimated_without_allocating_it():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    estimate = estimate_memory(load_settings("openwebtext", sizes), devices=8)
    assert estimate.parameters > 350e6
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 0.5 * 4 * estimate.parameters


@pytest.mark.parametrize(
    ("options", "cut", "sentence"),
    [
        ({"global_batch_size": 8}, (3, "ddp"), "global_batch_size 8 cannot be divided among 3 processes"),
        ({"ema_decay": 0.9}, (2, "zero3"), "zero3 keeps no moving average of the weights"),
        ({"backbone": "lama"}, (1, "ddp"), "did you mean 'llama'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(options, cut, sentence):
    with pytest.raises(UserError, match=sentence):
        estimate_memory(load_settings(None, {**SMALL, **options}), *cut)
