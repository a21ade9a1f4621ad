"""The network of a run, and whether it runs at all."""

from __future__ import annotations

from typing import Any

import torch

from ..models.build import build_causal_lm, build_denoiser
from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from ..training.declarations.complaints import complaints_about
from .recipe_settings import Settings
from .starting_point import load_start


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
            model(input_ids=ids_BL)
    return model


def _build_model(settings: Settings, tokenizer: Any) -> Any:
    block_size, training = settings.data.block_size, settings.training
    if settings.start is not None:
        return load_start(settings, settings.start, tokenizer)
    if training["objective"] == "ar":
        return build_causal_lm(settings.model, tokenizer, block_size)
    schedule = NoiseSchedule(
        training["noise_schedule"], training["schedule_exponent"], training["sigma_min"], training["sigma_max"]
    )
    return build_denoiser(settings.model, tokenizer, block_size, schedule)
