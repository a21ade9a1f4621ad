"""Configurations of small networks of any family."""

from __future__ import annotations

from hf_difflm.models.backbones.configuration import configured
from hf_difflm.models.options import ModelOptions

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}


def small(backbone: str, **backbone_config):
    """The configuration of a small network of that family, for texts of 64 tokens."""
    options = ModelOptions(
        backbone=backbone,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        backbone_config=backbone_config,
    )
    config = configured(options, 128, SPECIAL, 64)
    config.is_causal = False
    return config
