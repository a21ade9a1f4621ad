"""Small causal LMs as they are published: with the special tokens of their family, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_difflm.data.tokenizers import byte_characters

_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_GPT2_SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 32}
_NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# Name: special tokens, roles in the tokenizer, whether it puts BOS before a text, configuration.
STOCK: dict[str, tuple[list[str], dict[str, str], bool, dict[str, Any]]] = {
    "gpt2": (  # one token for both ends, none to pad with
        ["<|endoftext|>"],
        {role: "<|endoftext|>" for role in ("bos_token", "eos_token", "unk_token")},
        False,
        {"model_type": "gpt2", "vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256, **_GPT2_SIZES},
    ),
    "llama": (  # BOS before each text, none to pad with
        ["<s>", "</s>"],
        {"bos_token": "<s>", "eos_token": "</s>"},
        True,
        {"model_type": "llama", "vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257, **_GROUPED, **_SIZES}
        | {"max_position_embeddings": 256},
    ),
    "qwen3": (  # no BOS, two ends, a long context, more rows than tokens
        ["<|endoftext|>", "<|im_end|>"],
        {"eos_token": "<|im_end|>"},
        False,
        {
            "model_type": "qwen3",
            "vocab_size": 300,
            "bos_token_id": None,
            "eos_token_id": [257, 256],
            **_GROUPED,
            **_SIZES,
        }
        | {"max_position_embeddings": 32768, "tie_word_embeddings": True},
    ),
    "gpt_neox": (  # no role for any token
        ["<|x|>"],
        {},
        False,
        {"model_type": "gpt_neox", "vocab_size": 257, "max_position_embeddings": 256, **_NONE, **_SIZES},
    ),
}


def stock_model(folder: Path, name: str, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Write the causal LM ``name`` of :data:`STOCK` with random weights, and its tokenizer."""
    specials, roles, begins, known = STOCK[name]
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    if begins:
        bos = roles["bos_token"]
        ids = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    torch.manual_seed(0)
    values = {**known, **config}
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    AutoModelForCausalLM.from_config(settings, dtype=dtype).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder
