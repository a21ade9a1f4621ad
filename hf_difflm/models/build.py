"""Builds both sides of a comparison from one set of options: the denoiser and its stock causal twin."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from . import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from .backbones.check import check_backbone, note_padding
from .backbones.configuration import configured
from .backbones.verdict import Verdict
from .masked_diffusion.both_sides import class_of, kernel_for
from .masked_diffusion.generation_configuration import DENOISING_STEPS
from .masked_diffusion.noise_schedule import NoiseSchedule
from .options import ModelOptions


def build_denoiser(
    options: ModelOptions,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    schedule: NoiseSchedule | None = None,
    *,
    allow_causal_layers: bool = False,
    router_aux_loss: float | None = None,
    diffusion_block_size: int | None = None,
    diffusion_block_start: str = "text",
) -> MaskedDiffusionForMaskedLM:
    """A freshly initialised denoiser; the noise schedule is log-linear unless one is given, and there are no blocks.

    Raises:
        UserError: an unknown backbone, sizes that do not fit together, a tokenizer without a mask token, a backbone that
            does not read both sides (where ``allow_causal_layers``, in none of its layers), or has no router loss where one
            is asked for.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("the tokenizer has no mask token; load it with hf_difflm.data.load_tokenizer, which adds one")
    schedule = schedule or NoiseSchedule()
    backbone = backbone_config(options, tokenizer, block_size)
    verdict = check_backbone(
        backbone,
        causal=False,
        kernel=options.attn_implementation,
        allow_causal_layers=allow_causal_layers,
        router_aux_loss=router_aux_loss,
        is_new=True,
        blocks=diffusion_block_size is not None,
    )
    config = MaskedDiffusionConfig(
        backbone_config=backbone,
        mask_token_id=tokenizer.mask_token_id,
        tie_word_embeddings=options.tie_word_embeddings,
        noise_schedule=schedule.name,
        schedule_exponent=schedule.exponent,
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        diffusion_block_size=diffusion_block_size,
        diffusion_block_start=diffusion_block_start,
        **_special_tokens(tokenizer),
    )
    note_padding(config, verdict)
    config._attn_implementation = options.attn_implementation
    model = MaskedDiffusionForMaskedLM(config)
    model.generation_config.max_new_tokens = block_size - 1
    if diffusion_block_size is not None:
        step_in_each_block(model, block_size)
    return model


def step_in_each_block(model: MaskedDiffusionForMaskedLM, length: int) -> None:
    """Have a text of ``length`` tokens take a step for each of its diffusion blocks, at least, where nobody says how many."""
    config: Any = model.generation_config
    said = config.max_denoising_steps or DENOISING_STEPS
    if (blocks := -(-length // (model.config.diffusion_block_size or length))) > said:
        config.max_denoising_steps = blocks


def build_causal_lm(
    options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int, *, router_aux_loss: float | None = None
) -> PreTrainedModel:
    """A freshly initialised stock causal LM with the same backbone sizes.

    Raises:
        UserError: an unknown backbone, sizes that do not fit together, a backbone transformers has no causal LM for, or
            whose causal LM reads the token that it predicts.
    """
    config = backbone_config(options, tokenizer, block_size)
    check_twin(config, options.attn_implementation, router_aux_loss, is_new=True)
    kernel = kernel_for(class_of(config, AutoModelForCausalLM), options.attn_implementation)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    for name, value in _special_tokens(tokenizer).items():
        setattr(model.generation_config, name, value)
    model.generation_config.max_new_tokens = block_size - 1
    return model


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def backbone_config(options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int) -> PreTrainedConfig:
    """The configuration of the backbone that both sides are built around.

    Raises:
        UserError: an unknown backbone, sizes or keys that do not fit.
    """
    config = configured(options, len(tokenizer), _special_tokens(tokenizer), block_size)
    config.tie_word_embeddings = options.tie_word_embeddings
    return config


def check_twin(
    config: PreTrainedConfig, kernel: str, router_aux_loss: float | None = None, *, is_new: bool = False
) -> Verdict | None:
    """Refuse a configuration that makes no causal LM.

    Raises:
        UserError: transformers has none of this family, or it reads the token that it predicts.
    """
    if class_of(config, AutoModelForCausalLM) is None:
        raise UserError(
            f"backbone {config.model_type!r} has no causal LM in transformers, so it cannot be trained with the objective "
            "ar; use a decoder such as llama"
        )
    return check_backbone(config, causal=True, kernel=kernel, router_aux_loss=router_aux_loss, is_new=is_new)
