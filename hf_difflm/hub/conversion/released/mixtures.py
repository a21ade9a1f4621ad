"""Qwen3-MoE's network in both directions: SDAR's mixture of experts in blocks, and RND1 with a shift.

Both build Qwen3-MoE's layers from its configuration: the weights of the chosen experts sum to 1 where ``norm_topk_prob`` says
so. SDAR-MoE (arXiv 2510.06303) is told its blocks by whoever calls it; RND1 predicts a token from the position before it.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3MoeConfig

from ....models import MaskedDiffusionConfig
from .qwens import denoiser, sizes
from .values import Values


def sdar_moe_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that ``config.json`` of an SDAR of experts describes.

    Raises:
        UserError: a key is missing, or has a value that no Qwen3-MoE has.
    """
    blocks = values.whole("block_size")
    return denoiser(
        values, _qwen3_moe(values), mask_token_id=values.whole("mask_token_id"), diffusion_block_size=blocks
    )


def rnd1_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that RND1's ``config.json`` describes.

    Raises:
        UserError: a key is missing, or has a value that no Qwen3-MoE has.
    """
    return denoiser(values, _qwen3_moe(values), shift_logits=True, mask_token_id=values.whole("mask_token_id"))


def _qwen3_moe(values: Values) -> Qwen3MoeConfig:
    """Qwen3-MoE's own keys; transformers 5 calls the number of experts another name."""
    values.only("use_sliding_window", False)
    values.only("mlp_only_layers", [])
    values.only("decoder_sparse_step", 1)
    width: dict[str, Any] = {"head_dim": values.whole("head_dim")}  # an attribute that its class does not name
    return Qwen3MoeConfig(
        **sizes(values),
        **width,
        moe_intermediate_size=values.whole("moe_intermediate_size"),
        num_experts=values.whole("num_local_experts" if "num_local_experts" in values else "num_experts"),
        num_experts_per_tok=values.whole("num_experts_per_tok"),
        norm_topk_prob=values.flag("norm_topk_prob"),
        decoder_sparse_step=1,
        mlp_only_layers=[],
        attention_bias=values.flag("attention_bias"),
        use_sliding_window=False,
    )
