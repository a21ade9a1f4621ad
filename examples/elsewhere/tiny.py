"""What the examples in this folder train on: a tiny Llama over bytes, rows of one sentence, and the callbacks that watch."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hf_difflm.callbacks import (
    AlertCallback,
    DashboardCallback,
    GradientNormCallback,
    ModelStatisticsCallback,
    RunLogCallback,
    ThroughputCallback,
)

TEXT = "To be, or not to be, that is the question. "


def llama(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of two layers."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))


def rows(tokenizer: PreTrainedTokenizerBase, length: int = 48) -> Dataset:
    """32 windows of the text, each of ``length`` tokens that are all scored."""
    ids = tokenizer(3 * TEXT)["input_ids"]
    windows = [ids[start : start + length] for start in range(32)]
    data = Dataset.from_dict({"input_ids": windows})
    return data.add_column("labels", windows).add_column("attention_mask", [[1] * length] * len(windows))


def watching() -> list[Any]:
    """The run log first, which gets what the others find."""
    return [
        RunLogCallback(),
        ThroughputCallback(),
        GradientNormCallback(),
        ModelStatisticsCallback(interval=50),
        AlertCallback(),
        DashboardCallback(viz_interval=50),
    ]
