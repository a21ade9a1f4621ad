"""LLaDA-MoE (arXiv 2509.24389): Qwen3-MoE's network, whose chosen experts' weights are never made to sum to 1.

The authors' code has that written in, whatever ``norm_topk_prob`` says, and reads neither the router's score function nor its
groups nor the scaling factor; values of these that would say something else are refused.
"""

from __future__ import annotations

import re

from transformers import Qwen3MoeConfig

from ....models import MaskedDiffusionConfig
from .qwens import sizes, stock_names
from .values import Values

_EXPERTS = re.compile(r"backbone\.layers\.(\d+)\.mlp\.experts\.(gate_up_proj|down_proj)")


def llada_moe_names(config: MaskedDiffusionConfig, ours: str) -> list[str]:
    """The names in LLaDA-MoE's files of one of our weights; those of a layer's experts stand behind each other in ours."""
    if not (found := _EXPERTS.fullmatch(ours)):
        return stock_names(config, ours)
    experts = range(config.backbone_config.num_experts)
    parts = ("gate_proj", "up_proj") if found[2] == "gate_up_proj" else ("down_proj",)
    return [f"model.layers.{found[1]}.mlp.experts.{e}.{part}.weight" for e in experts for part in parts]


def llada_moe_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that LLaDA-MoE's ``config.json`` describes.

    Raises:
        UserError: a key is missing, or has a value that this network does not have.
    """
    values.only("qk_layernorm", True)
    values.only("moe_router_enable_expert_bias", False, None)
    values.only("moe_router_score_function", "softmax", None)
    values.only("clip_qkv", None)
    values.only("shared_expert_intermediate_size", None, 0)
    values.only("partial_rotary_factor", 1, 1.0)
    values.only("routed_scaling_factor", 1, 1.0, None)
    values.only("attention_bias", False)
    values.only("moe_layer_freq", [1] * values.whole("num_hidden_layers"))
    backbone = Qwen3MoeConfig(
        **sizes(values, intermediate="expert_intermediate_size"),
        moe_intermediate_size=values.whole("expert_intermediate_size"),
        num_experts=values.whole("num_experts"),
        num_experts_per_tok=values.whole("num_experts_per_tok"),
        norm_topk_prob=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        attention_bias=False,
        use_sliding_window=False,
    )
    return MaskedDiffusionConfig(
        backbone_config=backbone,
        tie_word_embeddings=values.flag("tie_word_embeddings"),
        mask_token_id=values.whole("mask_token_id"),
    )
