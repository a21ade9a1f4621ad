"""The sizes at which a training step is timed: the demo's, and one whose vocabulary is that of GPT-2 and a mask."""

from __future__ import annotations

from typing import Any

VOCABULARY = 50_258
_FLAGS: dict[str, dict[str, Any]] = {
    "demo": {},
    "large_vocabulary": {
        "block_size": 256,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "backbone_config": {"vocab_size": VOCABULARY},
        "global_batch_size": 8,
        "per_device_train_batch_size": 8,
    },
    "toy": {
        "dataset": "markov",
        "block_size": 33,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "global_batch_size": 4,
        "per_device_train_batch_size": 4,
    },
}
SIZES = tuple(_FLAGS)


def flags_of(size: str) -> dict[str, Any]:
    """Return what a size says beyond the recipe ``demo``; the text is the demo's, whatever the vocabulary."""
    return dict(_FLAGS[size])
