"""Dream, SDAR and dLLM's A2D models: the weights of Qwen2, Qwen3 or Llama, under their very names.

What is theirs is not in the weights: Dream (arXiv 2508.15487) predicts a token from the position before it, outside its
network; SDAR (arXiv 2510.06303) is told its blocks by whoever calls it; A2D files name neither a mask nor a direction.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from ....models import MaskedDiffusionConfig
from .values import Values


def stock_names(config: MaskedDiffusionConfig, ours: str) -> list[str]:
    """The name in a causal LM of transformers of one of our weights."""
    return [ours.replace("backbone.", "model.", 1)]


def dream_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that Dream's ``config.json`` describes.

    Raises:
        UserError: a key is missing, or has a value that no Qwen2 has.
    """
    return denoiser(values, _qwen2(values), shift_logits=True, mask_token_id=values.whole("mask_token_id"))


def sdar_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that SDAR's ``config.json`` describes.

    Raises:
        UserError: a key is missing, or has a value that no Qwen3 has.
    """
    return denoiser(
        values,
        _qwen3(values),
        mask_token_id=values.whole("mask_token_id"),
        diffusion_block_size=values.whole("block_size"),
    )


def dream_blocks_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that ``config.json`` of a Dream with Qwen3's network and diffusion blocks describes: it does not shift.

    Raises:
        UserError: a key is missing, or has a value that no Qwen3 has.
    """
    return sdar_config(values)


def fast_dllm_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that Fast-dLLM v2's ``config.json`` (arXiv 2509.26328) describes.

    A token is predicted from the position before it, a block's first from the clean text before the block, as its sampler has
    it; its training took the noisy position there.

    Raises:
        UserError: a key is missing, or has a value that no Qwen2 has.
    """
    return denoiser(
        values,
        _qwen2(values),
        shift_logits=True,
        mask_token_id=values.whole("mask_token_id"),
        diffusion_block_size=values.whole("bd_size"),
    )


def diffullama_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that DiffuLLaMA's ``config.json`` (arXiv 2410.17891) describes: a Llama with Dream's shift.

    Raises:
        UserError: a key is missing.
    """
    return denoiser(values, _llama(values), shift_logits=True, mask_token_id=values.whole("mask_token_id"))


def a2d_config(values: Values) -> MaskedDiffusionConfig:
    """The denoiser that ``config.json`` of an A2D model describes.

    Raises:
        UserError: a key is missing.
    """
    build = {"a2d-llama": _llama, "a2d-qwen2": _qwen2, "a2d-qwen3": _qwen3}[values.get("model_type")]
    return denoiser(values, build(values), mask_token_id=values.whole("mask_token_id"))


def denoiser(values: Values, backbone: Any, **fields: Any) -> MaskedDiffusionConfig:
    """A denoiser with this network.

    Raises:
        UserError: whether embeddings are tied is not said.
    """
    return MaskedDiffusionConfig(
        backbone_config=backbone, tie_word_embeddings=values.flag("tie_word_embeddings"), **fields
    )


def sizes(values: Values, intermediate: str = "intermediate_size") -> dict[str, Any]:
    """What all these networks have, under the names of transformers.

    Raises:
        UserError: a key is missing, or another activation.
    """
    values.only("hidden_act", "silu")
    return {
        "vocab_size": values.whole("vocab_size"),
        "hidden_size": values.whole("hidden_size"),
        "intermediate_size": values.whole(intermediate),
        "num_hidden_layers": values.whole("num_hidden_layers"),
        "num_attention_heads": values.whole("num_attention_heads"),
        "num_key_value_heads": values.whole("num_key_value_heads"),
        "hidden_act": "silu",
        "max_position_embeddings": values.whole("max_position_embeddings"),
        "rms_norm_eps": values.number("rms_norm_eps"),
        "rope_parameters": values.rotation(),
        "attention_dropout": 0.0,
    }


def _head_dim(values: Values) -> dict[str, Any]:
    """The width of a head where it is said; elsewhere there is one that fits, and the class takes that."""
    return {"head_dim": values.whole("head_dim")} if "head_dim" in values else {}


def _llama(values: Values) -> LlamaConfig:
    biases: dict[str, Any] = {key: values.flag(key) for key in ("attention_bias", "mlp_bias")}
    return LlamaConfig(**biases, **_head_dim(values), **sizes(values))


def _qwen2(values: Values) -> Qwen2Config:
    values.only("use_sliding_window", False)
    return Qwen2Config(use_sliding_window=False, **_head_dim(values), **sizes(values))


def _qwen3(values: Values) -> Qwen3Config:
    values.only("use_sliding_window", False)
    return Qwen3Config(
        use_sliding_window=False,
        attention_bias=values.flag("attention_bias"),
        head_dim=values.whole("head_dim"),
        **sizes(values),
    )
