"""Published MDLM checkpoints (``kuleshov-group/mdlm-owt``, arXiv 2406.07524) as denoisers, without the code beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ...errors import UserError
from ...models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from ...models.file_names import INDEX, WEIGHTS
from ...models.masked_diffusion.dit_configuration import DiTConfig
from .language_models import load_denoiser

# Weights that have other names here; all others have the same.
RENAMED = {
    "backbone.vocab_embed.embedding": "backbone.vocab_embed.weight",
    "backbone.output_layer.linear.weight": "lm_head.weight",
    "backbone.output_layer.linear.bias": "lm_head.bias",
}
_COMPUTED = "backbone.rotary_emb.inv_freq"  # follows from the sizes
_GPT2, _GPT2_SIZE = "openai-community/gpt2", 50257


class MDLMConfig(PreTrainedConfig):
    """``config.json`` of the published checkpoints; the fields are theirs."""

    model_type = "mdlm"

    vocab_size: int = 50258
    model_length: int = 1024
    hidden_dim: int = 768
    cond_dim: int = 128
    n_blocks: int = 12
    n_heads: int = 12
    dropout: float = 0.1
    time_conditioning: bool = False


# Known to transformers, it needs no code from the repository.
AutoConfig.register(MDLMConfig.model_type, MDLMConfig, exist_ok=True)


def tokenizer_of(folder: Path, config: MDLMConfig) -> str:
    """The tokenizer of a checkpoint: its own, where it has one, else GPT-2's, where the size is that of it and a mask.

    Raises:
        UserError: neither.
    """
    if (folder / "tokenizer.json").exists():
        return str(folder)
    if config.vocab_size == _GPT2_SIZE + 1:
        return _GPT2
    raise UserError(
        f"the checkpoint has no tokenizer, and its {config.vocab_size} tokens are not GPT-2's; name it with --tokenizer"
    )


def convert_mdlm(
    folder: Path, config: MDLMConfig, tokenizer: PreTrainedTokenizerBase, name: str
) -> MaskedDiffusionForMaskedLM:
    """A denoiser with the weights of a published checkpoint, in the precision they are stored in.

    Args:
        folder: with safetensors.
        config: its configuration.
        tokenizer: with a mask token, all its tokens known to the model.
        name: what the user knows the source as.

    Raises:
        UserError: weights that cannot be read or do not fit, time conditioning, another vocabulary.
    """
    if config.time_conditioning:
        raise UserError(
            f"{name} is conditioned on the time (time_conditioning), which no denoiser here is told; give another"
        )
    if len(tokenizer) != config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens with the mask, but {name} has {config.vocab_size}; name the one "
            "it was trained with (--tokenizer, --mask-token)"
        )
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.n_blocks,
        "num_attention_heads": config.n_heads,
        "conditioning_size": config.cond_dim,
        "max_position_embeddings": config.model_length,
        "dropout": config.dropout,
    }
    special: dict[str, Any] = {
        role: getattr(tokenizer, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    try:
        denoiser = MaskedDiffusionConfig(
            backbone_config=DiTConfig(**sizes, **special),
            mask_token_id=tokenizer.mask_token_id,
            tie_word_embeddings=False,
            **special,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"the sizes in the configuration of {name} make no network: {error}") from error
    weights = {RENAMED.get(key, key): value for key, value in _stored(folder, name).items() if key != _COMPUTED}
    dtype = next(iter(weights.values())).dtype if weights else torch.float32
    return load_denoiser(denoiser, weights, dtype, name)


def _stored(folder: Path, name: str) -> dict[str, torch.Tensor]:
    files = [WEIGHTS]
    if not (folder / WEIGHTS).exists():
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    try:
        return {key: value for file in files for key, value in load_file(folder / file).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights of {name} cannot be read ({error}); download them again") from error
