"""LLaDA (Nie et al., arXiv 2502.09992): Llama's network under the names of OLMo, read in both directions.

Measured on its authors' code: no row is permuted, nothing transposed or fused, and "ff_out" names two things, the last
projection of each block and the head. Queries and keys are rotated in float32 whatever the weights are.
"""

from __future__ import annotations

import re

from transformers import LlamaConfig

from ....errors import UserError
from ....models import MaskedDiffusionConfig
from .values import Values

_LAYER = re.compile(r"backbone\.layers\.(\d+)\.(.+)")
_TOP = {
    "backbone.embed_tokens.weight": "model.transformer.wte.weight",
    "backbone.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ff_norm.weight",
    "self_attn.q_proj.weight": "q_proj.weight",
    "self_attn.k_proj.weight": "k_proj.weight",
    "self_attn.v_proj.weight": "v_proj.weight",
    "self_attn.o_proj.weight": "attn_out.weight",
    "mlp.gate_proj.weight": "ff_proj.weight",
    "mlp.up_proj.weight": "up_proj.weight",
    "mlp.down_proj.weight": "ff_out.weight",
}


def llada_names(config: MaskedDiffusionConfig, ours: str) -> list[str]:
    """The name in LLaDA's files of one of our weights."""
    if found := _LAYER.fullmatch(ours):
        return [f"model.transformer.blocks.{found[1]}.{_IN_LAYER[found[2]]}"]
    return [_TOP[ours]]


def llada_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that LLaDA's ``config.json`` describes.

    Raises:
        UserError: a key is missing, or has a value that no Llama has.
    """
    values.only("block_type", "llama")
    values.only("activation_type", "silu")
    values.only("layer_norm_type", "rms")
    values.only("layer_norm_with_affine", True)
    values.only("rope", True)
    values.only("block_group_size", 1)
    values.only("bias_for_layer_norm", False, None)
    for key in ("alibi", "attention_layer_norm", "input_emb_norm", "include_bias", "include_qkv_bias", "scale_logits"):
        values.only(key, False)
    width, heads = values.whole("d_model"), values.whole("n_heads")
    backbone = LlamaConfig(
        vocab_size=values.whole("vocab_size" if values.get("embedding_size") is None else "embedding_size"),
        hidden_size=width,
        intermediate_size=_inner(values, width),
        num_hidden_layers=values.whole("n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_key_value_heads(values, heads),
        head_dim=width // max(heads, 1),
        hidden_act="silu",
        max_position_embeddings=values.whole("max_sequence_length"),
        rms_norm_eps=values.number("rms_norm_eps"),
        rope_parameters={"rope_type": "default", "rope_theta": values.number("rope_theta")},
        attention_bias=False,
        mlp_bias=False,
        attention_dropout=0.0,
    )
    return MaskedDiffusionConfig(
        backbone_config=backbone,
        mask_token_id=values.whole("mask_token_id"),
        tie_word_embeddings=values.flag("weight_tying"),
        shift_logits=False,
        rotate_in_float32=values.flag("rope_full_precision"),
    )


def _inner(values: Values, width: int) -> int:
    if values.get("mlp_hidden_size") is None:
        return values.whole("mlp_ratio") * width
    return values.whole("mlp_hidden_size")


def _key_value_heads(values: Values, heads: int) -> int:
    one = values.get("multi_query_attention")
    if values.get("n_kv_heads") is None:
        return 1 if one is True else heads
    if one is not None and values.whole("n_kv_heads") != (1 if one else heads):
        raise UserError(
            f"{values.name} has n_kv_heads {values.get('n_kv_heads')} and multi_query_attention {one}, which contradict each "
            "other; correct its config.json"
        )
    return values.whole("n_kv_heads")
