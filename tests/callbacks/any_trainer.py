"""The Trainers a callback must work in: a stock one on a classifier and on a causal LM, ours, and TRL's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_difflm.data import load_tokenizer

KINDS = ("classifier", "causal", "diffusion", "sft")
_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_trainer(kind: str, folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    """A Trainer of a kind on a tiny model and bytes: 6 steps of 4 rows of 12 tokens, a log each 2 steps, no clipping cut.

    Args:
        kind: one of :data:`KINDS`.
        folder: the output folder.
        callbacks: as in any Trainer.
        arguments: training arguments that differ from these.
    """
    tokenizer = load_tokenizer("bytes")
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    } | arguments
    torch.manual_seed(0)
    given = {"callbacks": list(callbacks), "processing_class": tokenizer}
    if kind == "classifier":
        model: Any = BertForSequenceClassification(
            BertConfig(vocab_size=260, max_position_embeddings=64, num_labels=3, **_SIZES)
        )
        rows = [{**row, "labels": place % 3} for place, row in enumerate(_rows(24))]
        return Trainer(model, TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:8], **given)
    if kind == "diffusion":
        from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

        return DiffusionTrainer(
            _denoiser(),
            DiffusionTrainingArguments(**{"eval_replicates": 1, "save_log_to_json": False, **settings}),
            _rows(24),
            _rows(8),
            tokenizer,
            callbacks=list(callbacks),
        )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=260, max_position_embeddings=64, **_SIZES))
    if kind == "causal":
        rows = [{**row, "labels": row["input_ids"]} for row in _rows(24)]
        return Trainer(model, TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:8], **given)
    if kind == "sft":
        return _sft(model, settings, given)
    raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")


def _rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": [256, *torch.randint(97, 103, (11,), generator=generator).tolist()]} for _ in range(count)]


def _denoiser() -> Any:
    from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

    backbone = LlamaConfig(vocab_size=260, max_position_embeddings=64, **_SIZES)
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))


def _sft(model: Any, settings: dict[str, Any], given: dict[str, Any]) -> Trainer:
    import pytest

    trl = pytest.importorskip("trl")
    tokenizer: PreTrainedTokenizerBase = given["processing_class"]
    texts = Dataset.from_dict({"text": [tokenizer.decode(row["input_ids"][1:]) for row in _rows(24)]})
    config = trl.SFTConfig(**{"max_length": 12, "bf16": False, "gradient_checkpointing": False, **settings})
    return trl.SFTTrainer(model=model, args=config, train_dataset=texts, eval_dataset=texts.select(range(8)), **given)
