"""Llama with queries and keys rotated in float32 whatever the weights are, as LLaDA (arXiv 2502.09992) does it.

transformers rotates in the precision of the weights. In float32 both are one; in bfloat16 the logits of LLaDA differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class _Float32RotaryEmbedding(LlamaRotaryEmbedding):
    """Cosines and sines, which are not rounded to the precision of the hidden states.

    ``from_pretrained`` computes the frequencies of modules whose class has RotaryEmbedding in its name, and of no others.
    """

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x.new_empty(0, dtype=torch.float32), position_ids)


class _Float32RotatedAttention(LlamaAttention):
    """Llama's attention; queries and keys are rounded after they are rotated and not before."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        shape = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = position_embeddings  # type: ignore[misc]  # the backbone always has them
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key = (
            rotated.type_as(value) for rotated in apply_rotary_pos_emb(query.to(wide), key.to(wide), cos, sin)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        hidden, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(hidden.reshape(*shape, -1).contiguous()), weights


def rotate_in_float32(backbone: nn.Module) -> None:
    """Let a Llama rotate in float32; its weights and their names stay.

    Raises:
        ValueError: it is no Llama.
    """
    layers: Any = getattr(backbone, "layers", ())
    if type(getattr(backbone, "rotary_emb", None)) is not LlamaRotaryEmbedding or not layers:
        raise ValueError(f"rotate_in_float32 is for backbones of Llama, got {type(backbone).__name__}; leave it out")
    backbone.rotary_emb.__class__ = _Float32RotaryEmbedding
    for layer in layers:
        layer.self_attn.__class__ = _Float32RotatedAttention


__all__ = ["rotate_in_float32"]
