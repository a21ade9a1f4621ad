"""Trainings of a few steps that need torch, transformers and accelerate alone: what every stack must run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_difflm.callbacks import (
    AlertCallback,
    DashboardCallback,
    GenerationSamplesCallback,
    GradientNormCallback,
    ImportanceSamplesCallback,
    ModelStatisticsCallback,
    RunLogCallback,
    ThroughputCallback,
    TrackerCallback,
)
from hf_difflm.data import load_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "learning_rate": 1e-2,
    "logging_steps": 2,
    "save_strategy": "no",
    "eval_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}


def rows(count: int) -> list[dict[str, Any]]:
    """Rows of 12 bytes after a BOS, drawn from six letters."""
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": [256, *torch.randint(97, 103, (11,), generator=generator).tolist()]} for _ in range(count)]


def causal_lm() -> LlamaForCausalLM:
    """A Llama of two layers over bytes."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=260, max_position_embeddings=64, **SIZES))


def every_callback() -> list[Any]:
    """All ten but ``Logger``, which is no TrainerCallback."""
    return [
        RunLogCallback(peak_flops=1e12),
        ThroughputCallback(peak_flops=1e12),
        GradientNormCallback(),
        ModelStatisticsCallback(interval=4),
        GenerationSamplesCallback(["", "ab"], interval=4, max_new_tokens=4, reference_model=None),
        ImportanceSamplesCallback(lambda model: torch.linspace(0, 1, 3), [97, 98, 99], interval=4),
        TrackerCallback(),
        AlertCallback(),
        DashboardCallback(viz_interval=4),
    ]


def stock_trainer(folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
    """transformers' own Trainer on the causal LM, with evaluation and checkpoints at step 4."""
    data = [{**row, "labels": row["input_ids"]} for row in rows(24)]
    settings = {**SETTINGS, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    args = TrainingArguments(str(folder), **{**settings, **arguments})
    return Trainer(
        causal_lm(),
        args,
        train_dataset=data,
        eval_dataset=data[:8],
        processing_class=load_tokenizer("bytes"),
        callbacks=list(callbacks),
    )


def our_trainer(folder: Path, objective: str, **arguments: Any) -> Any:
    """A ``DiffusionTrainer`` on a model for the objective."""
    from hf_difflm import (
        DiffusionTrainer,
        DiffusionTrainingArguments,
        MaskedDiffusionConfig,
        MaskedDiffusionForMaskedLM,
    )

    blocks = {"diffusion_block_size": 4} if objective == "bd3lm" else {}
    torch.manual_seed(0)
    backbone = LlamaConfig(vocab_size=260, max_position_embeddings=64, **SIZES)
    model = (
        causal_lm()
        if objective == "ar"
        else MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, **blocks))
    )
    settings = {"eval_replicates": 2, "save_log_to_json": True, "warmup_steps": 0, **SETTINGS, **arguments}
    args = DiffusionTrainingArguments(output_dir=str(folder), objective=objective, **settings)
    return DiffusionTrainer(model, args, rows(24), rows(8), load_tokenizer("bytes"))
