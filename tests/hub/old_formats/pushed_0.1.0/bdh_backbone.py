"""BDH, "The Dragon Hatchling" (arXiv 2509.26507, section 3: BDH-GPU): linear attention among many neurons, shared layers.

With x the residual stream (D), LN a layer norm without weights and R the rotation by position, a layer is, in each head,

    q = ReLU(x E)        activations of N neurons, few of them active
    a = LN(sum over the positions s that are seen of (R q . R q_s) x_s)        no softmax, no scaling
    x <- LN(x + LN([q * ReLU(a E_v)] over all heads, D_out))

The causal model sees the positions before a token. The denoiser, ``is_causal = False``, sees all others: a token's own
position stays out, since the residual stream has it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .bdh_configuration import BdhConfig


class BdhLayerNorm(nn.Module):
    """Layer norm without weights, computed in float32 at least."""

    def __init__(self, config: BdhConfig):
        super().__init__()
        self.eps = config.layer_norm_eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        return F.layer_norm(hidden.to(wide), hidden.shape[-1:], eps=self.eps).to(hidden.dtype)


class BdhBlock(GradientCheckpointingLayer):
    """One layer; the model applies it again and again."""

    def __init__(self, config: BdhConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.width = config.neurons // self.heads
        self.encoder = nn.Linear(config.hidden_size, config.neurons, bias=False)
        self.value_encoder = nn.Parameter(torch.empty(self.heads, config.hidden_size, self.width))
        self.decoder = nn.Linear(config.neurons, config.hidden_size, bias=False)
        self.norm = BdhLayerNorm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        seen_BHLS: torch.Tensor,
        past_key_values: Any = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """Apply the layer.

        Args:
            hidden_BLD: (B, L, D) residual stream.
            rotation: cosines and sines, (B or 1, 1, L, N) both.
            seen_BHLS: (B or 1, 1, L, S) bool, which of the S positions, those in the cache first, a query sees.
            past_key_values: cache of rotated activations and residual streams.
            layer: number of this application, for the cache.
        """
        query_BHLN = self.encoder(hidden_BLD).unflatten(-1, (self.heads, self.width)).transpose(1, 2).relu()
        rotated_BHLN = key_BHSN = _rotate(query_BHLN, *rotation)
        value_B1SD = hidden_BLD.unsqueeze(1)
        if past_key_values is not None:
            key_BHSN, value_B1SD = past_key_values.update(key_BHSN, value_B1SD, layer)
        scores_BHLS = (rotated_BHLN @ key_BHSN.transpose(-1, -2)).masked_fill(~seen_BHLS, 0.0)
        attended_BHLD = self.norm(scores_BHLS @ value_B1SD)
        active_BHLN = self.dropout(query_BHLN * (attended_BHLD @ self.value_encoder).relu())
        update_BLD = self.norm(self.decoder(active_BHLN.transpose(1, 2).flatten(-2)))
        return self.norm(hidden_BLD + update_BLD)


class BdhPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = BdhConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # Its attention is products of matrices: what kernel is asked for makes no difference.
    _supports_sdpa = True
    _no_split_modules = ["BdhBlock"]  # noqa: RUF012 - as in transformers

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BdhBlock):
            init.normal_(module.value_encoder, mean=0.0, std=self.config.initializer_range)


class BdhModel(BdhPreTrainedModel):
    """Token ids to hidden states.

    Args:
        config: the configuration.
    """

    def __init__(self, config: BdhConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = BdhLayerNorm(config)
        self.block = BdhBlock(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Encode sequences.

        Args:
            input_ids: (B, L) ids.
            attention_mask: (B, S), 0 at padding, with what is in the cache; None where there is none.
            position_ids: (B, L); None: counted from what is in the cache.
            past_key_values: what was read before; of the causal model alone.
            inputs_embeds: (B, L, D) instead of ids.
            use_cache: whether to return a cache.
            output_hidden_states: whether to return the residual stream before each layer and after the last.
            kwargs: not used.

        Raises:
            ValueError: a cache for a model that is not causal: what comes later would change it.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("BDH needs input_ids or inputs_embeds")
            inputs_embeds = self.embed_tokens(input_ids)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if not self.config.is_causal:
            if past_key_values is not None:
                raise ValueError("a BDH model with is_causal = False takes no cache, since later tokens change it")
            use_cache = False
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = inputs_embeds.shape[1]
        places_L = torch.arange(past, past + length, device=inputs_embeds.device)
        seen_BHLS = self._seen(places_L, past + length, attention_mask)
        rotation = self._rotation(places_L[None] if position_ids is None else position_ids, inputs_embeds.dtype)
        hidden_BLD = self.norm(inputs_embeds)
        states = [hidden_BLD]
        for layer in range(self.config.num_hidden_layers):
            hidden_BLD = self.block(hidden_BLD, rotation, seen_BHLS, past_key_values, layer)
            states.append(hidden_BLD)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_BLD,
            past_key_values=past_key_values,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _seen(self, places_L: torch.Tensor, size: int, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(B or 1, 1, L, S) bool: the positions before a query, or all but its own; never padding."""
        keys_S = torch.arange(size, device=places_L.device)
        seen_LS = keys_S < places_L[:, None] if self.config.is_causal else keys_S != places_L[:, None]
        if attention_mask is None:
            return seen_LS[None, None]
        return seen_LS[None, None] & (attention_mask != 0)[:, None, None, :]

    def _rotation(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, (B or 1, 1, L, N): both neurons of the pair (2 i, 2 i + 1) turn by position base^(-2 i / N)."""
        width = self.config.neurons // self.config.num_attention_heads
        steps_F = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device) / width
        turns_BLF = position_ids[..., None].float() * (self.config.rotary_base**-steps_F / (2 * math.pi))
        angles_B1LN = (turns_BLF % 1 * (2 * math.pi)).repeat_interleave(2, dim=-1)[:, None]
        return angles_B1LN.cos().to(dtype), angles_B1LN.sin().to(dtype)


class BdhForCausalLM(BdhPreTrainedModel, GenerationMixin):
    """BDH with a language-modelling head, as any causal LM of transformers.

    Args:
        config: the configuration.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - as in transformers

    def __init__(self, config: BdhConfig):
        super().__init__(config)
        self.model = BdhModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at each position.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see :class:`BdhModel`.
            labels: (B, L) ids, shifted in here, -100 where there is no loss.
            logits_to_keep: compute the logits of the last so many positions, 0 for all.
            kwargs: of the backbone and the loss.
        """
        hidden = {name: kwargs.pop(name) for name in ("output_hidden_states",) if name in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **hidden,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BLV = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BLV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BLV,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


def _rotate(states_BHLN: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs of neighbouring neurons (RoFormer, arXiv 2104.09864)."""
    cos, sin = cos.to(states_BHLN.dtype), sin.to(states_BHLN.dtype)  # autocast may have narrowed the states
    turned_BHLN = torch.stack([-states_BHLN[..., 1::2], states_BHLN[..., ::2]], dim=-1).flatten(-2)
    return states_BHLN * cos + turned_BHLN * sin


__all__ = ["BdhForCausalLM", "BdhModel", "BdhPreTrainedModel"]
