"""What a model folder consists of, for all that check, copy or download one."""

from __future__ import annotations

CONFIG, WEIGHTS, INDEX, TOKENIZER_CONFIG = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer_config.json",
)
CARD, CHAT_TEMPLATE = "README.md", "chat_template.jinja"
GENERATION = "generation_config.json"
BESIDE = (
    GENERATION,
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE,
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "importance.safetensors",
)
"""All that loading needs besides configuration and weights, and what an importance estimator has learned."""
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
"""Ends of names of files that run code when they are loaded."""
