"""The diffusion transformer of MDLM (arXiv 2406.07524): adaLN blocks with rotary attention, both directions.

Modules have the names of the published checkpoints, so that weights map one to one. Two things differ: the embedding is a
``nn.Embedding``, and the vocabulary projection of ``output_layer`` is the LM head of the denoiser around this network.
The block is that of DiT (arXiv 2212.09748), with norms that have a scale and no shift of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from .dit_configuration import DiTConfig


class DiTLayerNorm(nn.Module):
    """Layer norm with a scale, computed in float32 at least."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        wide_BLD = hidden_BLD if hidden_BLD.dtype == torch.float64 else hidden_BLD.float()
        normed_BLD = F.layer_norm(wide_BLD, self.weight.shape, eps=self.eps)
        return (normed_BLD * self.weight).to(hidden_BLD.dtype)


class DiTNoiseEmbedder(nn.Module):
    """(B,) noise levels to (B, C): their cosines and sines at falling frequencies, then two dense layers."""

    def __init__(self, frequencies: int, width: int):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma_B: torch.Tensor) -> torch.Tensor:
        half = self.frequencies // 2
        steps_F = torch.arange(half, dtype=torch.float32, device=sigma_B.device) / half
        angles_BF = sigma_B.float()[:, None] * torch.exp(-math.log(10000.0) * steps_F)
        waves_BF = torch.cat([angles_BF.cos(), angles_BF.sin()], dim=-1)
        return self.mlp(F.pad(waves_BF, (0, self.frequencies % 2)).to(next(self.mlp.parameters()).dtype))


class DiTModulation(nn.Linear):
    """(B, C) conditioning to shifts, scales and gates; zero at first, so that each block begins as the identity."""


class DiTAttention(nn.Module):
    """Rotary attention in both directions, by the kernel of ``attn_implementation``; the block has the projections."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        self.is_causal = False
        self.num_key_value_groups = 1

    def forward(
        self, qkv_BL3D: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], mask: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = self.config.num_attention_heads
        qkv_3BHLK = qkv_BL3D.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv_3BHLK.unbind(0)
        query, key = _rotate(query, *turn), _rotate(key, *turn)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _eager_attention)
        out_BLHK, weights = attend(self, query, key, value, mask, dropout=0.0, scaling=query.shape[-1] ** -0.5)
        return out_BLHK.flatten(2), weights


class DiTBlock(GradientCheckpointingLayer):
    """Attention and feed-forward layer, each between a modulated norm and a gate."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size or 4 * config.hidden_size
        self.dropout = config.dropout
        self.norm1 = DiTLayerNorm(width, config.layer_norm_eps)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention = DiTAttention(config)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = DiTLayerNorm(width, config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))
        self.adaLN_modulation = DiTModulation(config.conditioning_size, 6 * width)

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        conditioning_BC: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any = None,
    ) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(conditioning_BC)[:, None].chunk(6, dim=-1)
        seen_BLD = self.norm1(hidden_BLD) * (1 + scale1) + shift1
        mixed_BLD, _ = self.attention(self.attn_qkv(seen_BLD), turn, attention_mask)
        hidden_BLD = hidden_BLD + gate1 * self._drop(self.attn_out(mixed_BLD))
        seen_BLD = self.norm2(hidden_BLD) * (1 + scale2) + shift2
        return hidden_BLD + gate2 * self._drop(self.mlp(seen_BLD))

    def _drop(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        return F.dropout(hidden_BLD, self.dropout, self.training)


class DiTFinalNorm(nn.Module):
    """The last modulated norm."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.norm_final = DiTLayerNorm(config.hidden_size, config.layer_norm_eps)
        self.adaLN_modulation = DiTModulation(config.conditioning_size, 2 * config.hidden_size)

    def forward(self, hidden_BLD: torch.Tensor, conditioning_BC: torch.Tensor) -> torch.Tensor:
        shift, scale = self.adaLN_modulation(conditioning_BC)[:, None].chunk(2, dim=-1)
        return self.norm_final(hidden_BLD) * (1 + scale) + shift


class DiTPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = DiTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DiTBlock"]  # noqa: RUF012 - as in transformers
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DiTBlock, "attentions": DiTAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DiTModulation):
            init.zeros_(module.weight)
            init.zeros_(module.bias)


class DiTModel(DiTPreTrainedModel):
    """The network without its vocabulary projection.

    Args:
        config: the configuration.
    """

    def __init__(self, config: DiTConfig):
        super().__init__(config)
        self.vocab_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.sigma_map = DiTNoiseEmbedder(config.frequency_embedding_size, config.conditioning_size)
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.num_hidden_layers)])
        self.output_layer = DiTFinalNorm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vocab_embed

    def set_input_embeddings(self, value: Any) -> None:
        self.vocab_embed = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        sigma: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Read a sequence in both directions.

        Args:
            input_ids: (B, L) ids.
            attention_mask: (B, L), 0 at padding.
            position_ids: (B, L) or (1, L); 0 .. L - 1 by default.
            inputs_embeds: (B, L, D) in place of ``input_ids``.
            sigma: (B,) noise levels; None: 0 for all, as networks without time conditioning are told.
            kwargs: what other backbones take, unused.

        Returns:
            (B, L, D) ``last_hidden_state`` after the last modulated norm.
        """
        hidden_BLD = self.vocab_embed(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)[None]
        turn = self._turn(position_ids, hidden_BLD.dtype)
        mask = create_bidirectional_mask(self.config, hidden_BLD, attention_mask)
        if sigma is None:
            sigma = torch.zeros(1, device=hidden_BLD.device)
        conditioning_BC = F.silu(self.sigma_map(sigma))
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, conditioning_BC, turn, mask)
        return BaseModelOutput(last_hidden_state=self.output_layer(hidden_BLD, conditioning_BC))

    def _turn(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, L, K) cosines and sines of the rotation at each position."""
        width = self.config.hidden_size // self.config.num_attention_heads
        steps_F = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device) / width
        angles_B1LF = position_ids[:, None, :, None].float() / self.config.rotary_base**steps_F
        angles_B1LK = torch.cat([angles_B1LF, angles_B1LF], dim=-1)
        return angles_B1LK.cos().to(dtype), angles_B1LK.sin().to(dtype)


def _rotate(states_BHLK: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (k, k + K/2) of each head (RoFormer, arXiv 2104.09864, in the layout of GPT-NeoX)."""
    first, second = states_BHLK.chunk(2, dim=-1)
    cos, sin = cos.to(states_BHLK.dtype), sin.to(states_BHLK.dtype)  # autocast may have narrowed the states
    return states_BHLK * cos + torch.cat([-second, first], dim=-1) * sin


def _eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores_BHLL = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHLL = scores_BHLL + attention_mask
    weights_BHLL = scores_BHLL.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights_BHLL @ value).transpose(1, 2), weights_BHLL


__all__ = ["DiTModel", "DiTPreTrainedModel"]
