"""Builds both sides of a comparison from one set of options: the denoiser and its stock causal twin."""

from __future__ import annotations

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import UserError, did_you_mean
from . import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from .masked_diffusion.noise_schedule import NoiseSchedule
from .options import ModelOptions


def build_denoiser(
    options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int, schedule: NoiseSchedule | None = None
) -> MaskedDiffusionForMaskedLM:
    """A freshly initialised denoiser; the noise schedule is log-linear unless one is given.

    Raises:
        UserError: an unknown backbone, sizes that do not fit together, a tokenizer without a mask token.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("the tokenizer has no mask token; load it with hf_difflm.data.load_tokenizer, which adds one")
    schedule = schedule or NoiseSchedule()
    config = MaskedDiffusionConfig(
        backbone_config=_backbone_config(options, tokenizer, block_size),
        mask_token_id=tokenizer.mask_token_id,
        tie_word_embeddings=options.tie_word_embeddings,
        noise_schedule=schedule.name,
        schedule_exponent=schedule.exponent,
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        **_special_tokens(tokenizer),
    )
    config._attn_implementation = options.attn_implementation
    model = MaskedDiffusionForMaskedLM(config)
    model.generation_config.max_new_tokens = block_size - 1
    return model


def build_causal_lm(options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int) -> PreTrainedModel:
    """A freshly initialised stock causal LM with the same backbone sizes.

    Raises:
        UserError: an unknown backbone, sizes that do not fit together, a backbone transformers has no causal LM for.
    """
    config = _backbone_config(options, tokenizer, block_size)
    config.tie_word_embeddings = options.tie_word_embeddings
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=options.attn_implementation)
    except ValueError as error:
        if "AutoModelForCausalLM" not in str(error):
            raise
        raise UserError(
            f"backbone {options.backbone!r} has no causal LM in transformers, so it cannot be trained with the objective "
            "ar; use a decoder such as llama"
        ) from error
    for name, value in _special_tokens(tokenizer).items():
        setattr(model.generation_config, name, value)
    model.generation_config.max_new_tokens = block_size - 1
    return model


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _backbone_config(options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int) -> PreTrainedConfig:
    """The backbone's configuration: our sizes under the names of its family, no dropout, then ``backbone_config``."""
    if options.backbone not in CONFIG_MAPPING:  # transformers' own and those that hf_difflm has registered
        raise UserError(
            f"backbone {options.backbone!r} is not a transformers model type"
            f"{did_you_mean(options.backbone, CONFIG_MAPPING)}"
        )
    if options.hidden_size % options.num_attention_heads:
        raise UserError(
            f"hidden_size {options.hidden_size} is not a multiple of num_attention_heads {options.num_attention_heads}"
        )
    longest = options.max_position_embeddings or max(block_size, 1024)
    if block_size > longest:
        raise UserError(
            f"block_size {block_size} is over the model's max_position_embeddings {longest}; lower one or raise the other"
        )
    known = AutoConfig.for_model(options.backbone)
    wanted: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_hidden_layers,
        "num_attention_heads": options.num_attention_heads,
        "num_key_value_heads": options.num_attention_heads,
        "head_dim": options.hidden_size // options.num_attention_heads,
        "intermediate_size": options.intermediate_size or -(-options.hidden_size * 8 // 3 // 32) * 32,
        "max_position_embeddings": longest,
        **{name: 0.0 for name in vars(known) if "dropout" in name or name.endswith("pdrop")},
        **_special_tokens(tokenizer),
    }
    # Families differ: GPT-2 has no head_dim, and calls its feed-forward width n_inner.
    wanted = {name: value for name, value in wanted.items() if hasattr(known, name) or name.endswith("_token_id")}
    if hasattr(known, "n_inner"):
        wanted["n_inner"] = options.intermediate_size
    if getattr(known, "intermediate_size", 0) is None:  # the family has a width of its own
        wanted["intermediate_size"] = options.intermediate_size
    for name in ("cls_token_id", "sep_token_id"):
        if hasattr(known, name):
            wanted[name] = None
    wanted.update(options.backbone_config)
    unknown = [name for name in options.backbone_config if not hasattr(known, name)]
    if unknown:
        raise UserError(
            f"backbone_config key {unknown[0]!r} is not one of {options.backbone}'s"
            f"{did_you_mean(unknown[0], vars(known))}"
        )
    try:
        return AutoConfig.for_model(options.backbone, **wanted)
    except (ValueError, TypeError) as error:
        raise UserError(f"backbone {options.backbone!r} refuses this configuration: {error}".splitlines()[0]) from error
