"""What masked LMs do to a hidden state before the projection to the vocabulary: a dense layer, an activation, a norm.

Published weights were trained with that transform, so an encoder without it would be another model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.modernbert.modeling_modernbert import ModernBertPredictionHead

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")


class DenseHeadTransform(nn.Module):
    """Dense layer, activation, layer norm: (..., D) to (..., D), under the names that BERT gives them."""

    def __init__(self, width: int, activation: str, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[activation]
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden)))


def head_transform(config: Any) -> nn.Module | None:
    """The transform in the masked LM of the backbone with this configuration, freshly initialised; None where it has none."""
    if config.model_type == "modernbert":
        return ModernBertPredictionHead(config)
    if config.model_type == "distilbert":
        return DenseHeadTransform(config.dim, config.activation, 1e-12)
    if config.model_type in _BERT_LIKE:
        # RoBERTa's head has GELU, whatever the layers below have.
        activation = config.hidden_act if config.model_type == "bert" else "gelu"
        return DenseHeadTransform(config.hidden_size, activation, config.layer_norm_eps)
    return None


def has_head_bias(config: Any) -> bool:
    """Whether the vocabulary projection in the masked LM of that backbone has a bias."""
    if config.model_type in _BERT_LIKE:
        return True
    if config.model_type == "modernbert":
        return config.decoder_bias
    return getattr(config, "head_bias", False)


__all__ = ["DenseHeadTransform", "has_head_bias", "head_transform"]
