"""The size and kind of the network: one declaration for the denoiser and for its autoregressive twin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NOISE_SCHEDULES = ("loglinear", "linear", "cosine", "polynomial", "geometric")


@dataclass
class ModelOptions:
    """The architecture both objectives share; ``vocab_size`` comes from the tokenizer."""

    backbone: str = field(
        default="llama",
        metadata={"help": "transformers model type of the network, e.g. llama, qwen3, gpt2, modernbert; or dit, bdh"},
    )
    hidden_size: int = field(default=256, metadata={"help": "width of the network", "min": 1})
    intermediate_size: int | None = field(
        default=None,
        metadata={
            "help": "width of the feed-forward layers; default: 8/3 of hidden_size, up to a multiple of 32",
            "min": 1,
        },
    )
    num_hidden_layers: int = field(default=4, metadata={"help": "number of layers", "min": 1})
    num_attention_heads: int = field(default=4, metadata={"help": "number of attention heads", "min": 1})
    max_position_embeddings: int | None = field(
        default=None,
        metadata={"help": "longest sequence the model takes; default: the larger of block_size and 1024", "min": 2},
    )
    tie_word_embeddings: bool = field(default=True, metadata={"help": "use one matrix for embeddings and LM head"})
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "attention kernel: sdpa, eager, flash_attention_2, flex_attention"}
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "run, checkpoint, model folder or model on the Hub whose weights, architecture and tokenizer training "
            "begins with"
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of the model on the Hub; default: main"}
    )
    backbone_config: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "further keys of the backbone's configuration, as JSON or a YAML mapping"},
    )
