"""Activation checkpointing, bfloat16, accumulation and torch.compile change the cost of a training, not what it learns.

Each flag trains with everything on - moving average, evaluation, samples, checkpoints, run log - stops, resumes, and is
compared with the training without it. Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes.two_processes import run_as_one_of_them, run_two_processes
from safetensors import safe_open
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm.callbacks import GenerationSamplesCallback
from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.options import ModelOptions
from hf_difflm.objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey
from hf_difflm.runs import load_run
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

STEPS, CUT = 8, 4
# The largest relative difference that the numbers of the run log may have.
FLAGS: dict[str, tuple[dict[str, Any], float]] = {
    "gradient_checkpointing": ({"gradient_checkpointing": True}, 1e-6),
    "bf16": ({"bf16": True}, 2e-2),
    "accumulation": ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 1e-5),
    "torch_compile": ({"torch_compile": True}, 1e-4),
    "all": (
        {
            "gradient_checkpointing": True,
            "bf16": True,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "torch_compile": True,
        },
        2e-2,
    ),
}
COMPILED = {"torch_compile", "all"}  # seconds of C++ compiler
CASES = [
    pytest.param(
        name,
        objective,
        marks=[pytest.mark.slow, pytest.mark.timeout(1800)] if name in COMPILED else [],
        id=f"{name}-{objective}",
    )
    for name in FLAGS
    for objective in ("mdlm", "ar")
]


def rows(count: int, length: int = 12) -> list[dict[str, Any]]:
    generator = np.random.default_rng(count)
    return [
        {"input_ids": [256, *(97 + generator.integers(0, 6, length - 1)).tolist()], "num_bytes": length - 1}
        for _ in range(count)
    ]


def make_trainer(folder: Path, objective: str, **arguments: Any) -> DiffusionTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=260, tie_word_embeddings=True, initializer_range=0.2, **sizes)
    model: Any = LlamaForCausalLM(backbone)
    if objective == "mdlm":
        model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    tokenizer = load_tokenizer("bytes")
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "objective": objective,
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": CUT,
        "eval_replicates": 2,
        "save_strategy": "steps",
        "save_steps": CUT,
        "save_total_limit": None,
        "ema_decay": 0.9,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    samples = GenerationSamplesCallback(prompts=["ab"], interval=CUT, max_new_tokens=4)
    settings = DiffusionTrainingArguments(**{**defaults, **arguments})
    return DiffusionTrainer(model, settings, rows(24), rows(6), tokenizer, callbacks=[samples])


def train_and_resume(folder: Path, objective: str, **arguments: Any) -> dict[str, Any]:
    """Train to the end, and once more the second half, from the checkpoint in the middle."""
    whole = make_trainer(folder / "whole", objective, **arguments)
    whole.train()
    again = make_trainer(folder / "again", objective, **arguments)
    again.train(resume_from_checkpoint=str(folder / "whole" / f"checkpoint-{CUT}"))
    return {"whole": outcome(whole), "again": outcome(again)}


def outcome(trainer: DiffusionTrainer) -> dict[str, Any]:
    run = load_run(trainer.args.output_dir) if trainer.is_world_process_zero() else None
    return {
        "losses": [step.loss for step in run.steps] if run else None,
        "nlls": [evaluation.metrics["eval_nll"] for evaluation in run.evaluations] if run else None,
        "samples": len(run.samples) if run else None,
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
        "average": [shadow.clone() for shadow in trainer.ema._shadow] if trainer.ema else None,
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Both objectives without any of the flags."""
    folder = tmp_path_factory.mktemp("plain")
    return {objective: train_and_resume(folder / objective, objective) for objective in ("mdlm", "ar")}


@pytest.mark.parametrize(("name", "objective"), CASES)
def test_a_flag_changes_neither_losses_nor_evaluations_nor_a_resumed_run(name, objective, plain, tmp_path):
    arguments, tolerance = FLAGS[name]
    result, expected = train_and_resume(tmp_path, objective, **arguments), plain[objective]
    assert len(result["whole"]["losses"]) == STEPS
    assert result["whole"]["losses"] == pytest.approx(expected["whole"]["losses"], rel=tolerance)
    assert result["whole"]["nlls"] == pytest.approx(expected["whole"]["nlls"], rel=tolerance)
    assert result["whole"]["samples"] == expected["whole"]["samples"] > 0
    # A resumed run is the run that was never stopped, with the flag as without.
    assert result["again"]["losses"] == pytest.approx(result["whole"]["losses"][CUT:], rel=max(1e-6, tolerance / 10))
    for ours, theirs in zip(result["again"]["average"], result["whole"]["average"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-5 if name not in COMPILED else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_compiled_weights_are_saved_under_their_own_names(objective, tmp_path):
    plainly, compiled = tmp_path / "plain", tmp_path / "compiled"
    make_trainer(plainly, objective, max_steps=CUT).train()
    make_trainer(compiled, objective, max_steps=CUT, torch_compile=True).train()
    for file in (f"checkpoint-{CUT}/model.safetensors", f"checkpoint-{CUT}/ema.safetensors", "best/model.safetensors"):
        with safe_open(plainly / file, "pt") as ours, safe_open(compiled / file, "pt") as theirs:
            assert set(theirs.keys()) == set(ours.keys())


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "graphs"), [("mdlm", 3), ("ar", 1)])
def test_a_changing_number_of_labelled_rows_does_not_compile_again_and_nothing_breaks_the_graph(
    objective, graphs, tmp_path
):
    """Masked diffusion has three graphs: its first step, any number of rows, and any number with the accuracy."""
    torch._dynamo.reset()
    counters.clear()
    quiet = {"eval_strategy": "no", "save_strategy": "no", "ema_decay": None}
    trainer = make_trainer(tmp_path, objective, torch_compile=True, max_steps=12, **quiet)
    trainer.train()
    assert counters["stats"]["unique_graphs"] <= graphs
    assert counters["graph_break"] == {}


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2", "modernbert"])
def test_checkpointing_keeps_far_fewer_bytes_for_the_backward_pass_and_gives_the_same_gradients(backbone, objective):
    if (backbone, objective) == ("modernbert", "ar"):
        pytest.skip("transformers has no causal ModernBERT")
    tokenizer = load_tokenizer("bytes")
    options = ModelOptions(backbone=backbone, hidden_size=32, num_hidden_layers=6, num_attention_heads=2)
    torch.manual_seed(0)
    model: Any = (build_causal_lm if objective == "ar" else build_denoiser)(options, tokenizer, 64)
    loss_of = CausalObjective() if objective == "ar" else MaskedDiffusionObjective(tokenizer.mask_token_id)
    batch = Collator(tokenizer)(rows(4, 64))
    model.train()

    def step() -> tuple[int, float, list[torch.Tensor]]:
        model.zero_grad()
        owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        saved: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in owned:
                saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = loss_of(model, batch, NoiseKey(0, 0, np.arange(4), 4), 4 * 63)
        size = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
        output.loss.backward()
        return size, output.loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    bytes_kept, loss, gradients = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bytes_recomputed, same_loss, same_gradients = step()
    assert bytes_recomputed < 0.4 * bytes_kept
    assert same_loss == loss
    for ours, theirs in zip(same_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for objective in ("mdlm", "ar"):
        for name in ("gradient_checkpointing", "bf16"):
            half = {**FLAGS[name][0], "per_device_train_batch_size": 2}
            results[name, objective] = train_and_resume(folder / name / objective, objective, **half)
    if os.environ["RANK"] == "0":
        torch.save(results, folder / "rank0.pt")


@pytest.mark.slow
def test_two_processes_with_each_flag_learn_what_one_learns_without(plain, tmp_path):
    run_two_processes(__file__, tmp_path, timeout=500)
    results = torch.load(tmp_path / "rank0.pt", weights_only=False)
    assert len(results) == 4
    for (name, objective), result in results.items():
        tolerance = max(FLAGS[name][1], 1e-4)
        expected = plain[objective]["whole"]
        assert result["whole"]["losses"] == pytest.approx(expected["losses"], rel=tolerance)
        assert result["whole"]["nlls"] == pytest.approx(expected["nlls"], rel=tolerance)
        assert result["again"]["losses"] == pytest.approx(
            result["whole"]["losses"][CUT:], rel=max(1e-5, tolerance / 10)
        )


if __name__ == "__main__":
    run_as_one_of_them(main)
