"""Tiny models ready to be served, in float64: no draw falls between the roundings of two batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm.data import load_tokenizer
from hf_difflm.data.conversations.chat_template import complete_chat_template
from hf_difflm.evaluation.targets import Target
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

BOS, EOS, PAD, MASK = 256, 257, 258, 259
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONE = {"vocab_size": 260, "max_position_embeddings": 64, "initializer_range": 0.5, **SIZES}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def target_of(kind: str) -> Target:
    """``mdlm``, ``bd3lm`` (blocks of 4) or ``ar``, untrained."""
    torch.manual_seed(0)
    if kind == "ar":
        model: Any = LlamaForCausalLM(LlamaConfig(**BACKBONE, **SPECIAL, tie_word_embeddings=True))
    else:
        more = {"diffusion_block_size": 4} if kind == "bd3lm" else {}
        config = MaskedDiffusionConfig(backbone_config=LlamaConfig(**BACKBONE), mask_token_id=MASK, **SPECIAL, **more)
        model = MaskedDiffusionForMaskedLM(config)
    tokenizer = load_tokenizer("bytes")
    complete_chat_template(tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (BOS, EOS, MASK)
    return Target(model.double().eval(), tokenizer, kind != "ar", "tiny", {"dataset": "bytes"}, None, Path())
