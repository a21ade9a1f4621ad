"""The network of a run, and whether it runs at all."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from ..models.backbones.check import check_backbone
from ..models.backbones.verdict import Verdict
from ..models.build import backbone_config, build_causal_lm, build_denoiser, check_twin
from ..models.loading import load_config
from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from ..training.declarations.complaints import complaints_about
from .recipe_settings import Settings
from .starting_point import block_start, load_start


def build_model(settings: Settings, tokenizer: Any) -> Any:
    """The network that the objective trains: with the weights it begins with, else drawn from the global generator.

    Raises:
        UserError: the options do not make a network that runs.
    """
    with complaints_about("the network cannot be built", "check backbone, its sizes and attn_implementation"):
        model = _build_model(settings, tokenizer)
    if settings.model.attn_implementation in ("sdpa", "eager"):  # the others may need the GPU, where it is not yet
        ids_BL = torch.full((1, settings.data.block_size), tokenizer.bos_token_id)
        with (
            complaints_about(
                f"a {settings.model.backbone} network of these sizes does not run",
                "check backbone, hidden_size, num_attention_heads and backbone_config",
            ),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            starts = {}
            if getattr(model.config, "diffusion_block_start", "text") == "answer":
                starts["answer_starts"] = torch.ones(1, dtype=torch.long)
            model(input_ids=ids_BL, **starts)
    return model


def parameters_said(model: Any) -> str:
    """How many parameters a network has, and how many of them are trained where that is not all."""
    every, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    return f"{every:,} parameters" + ("" if trained == every else f", {trained:,} of them trained")


def check_network(settings: Settings, tokenizer: Any) -> Verdict | None:
    """Refuse a network that is not what the objective asks of it, before data are read and anything is built.

    Returns:
        What was measured of it; None where nothing was.

    Raises:
        UserError: see :func:`~hf_difflm.models.backbones.check.check_backbone`.
    """
    kernel, causal = settings.model.attn_implementation, settings.training["objective"] == "ar"
    blocks = settings.training["diffusion_block_size"]
    if settings.training["objective"] == "bd3lm" and blocks is None:
        raise UserError(
            "objective bd3lm needs diffusion_block_size, the tokens of a block; add it, as --diffusion-block-size 16"
        )
    if settings.training["objective"] == "bd3lm" and settings.data.sft and settings.data.sft_turns == "all":
        raise UserError(
            "sft_turns all is not there yet for the objective bd3lm, whose blocks begin at one answer; take last, or train "
            "with objective mdlm"
        )
    router_aux_loss = settings.training["router_aux_loss"]
    config: Any
    if settings.start is not None:
        config = load_config(settings.start.folder, settings.start.name)
    else:
        config = backbone_config(settings.model, tokenizer, settings.data.block_size)
    if causal:
        return check_twin(config, kernel, router_aux_loss, is_new=settings.start is None)
    return check_backbone(
        getattr(config, "backbone_config", None) or config,
        causal=False,
        kernel=kernel,
        allow_causal_layers=settings.training["allow_causal_layers"],
        router_aux_loss=router_aux_loss,
        is_new=settings.start is None,
        blocks=blocks is not None,
    )


def _build_model(settings: Settings, tokenizer: Any) -> Any:
    block_size, training = settings.data.block_size, settings.training
    if settings.start is not None:
        return load_start(settings, settings.start, tokenizer)
    if training["objective"] == "ar":
        return build_causal_lm(settings.model, tokenizer, block_size, router_aux_loss=training["router_aux_loss"])
    schedule = NoiseSchedule(
        training["noise_schedule"], training["schedule_exponent"], training["sigma_min"], training["sigma_max"]
    )
    return build_denoiser(
        settings.model,
        tokenizer,
        block_size,
        schedule,
        allow_causal_layers=training["allow_causal_layers"],
        router_aux_loss=training["router_aux_loss"],
        diffusion_block_size=training["diffusion_block_size"],
        diffusion_block_start=block_start(settings),
    )
