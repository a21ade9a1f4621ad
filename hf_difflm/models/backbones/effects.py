"""Sizes that are given and change nothing of a network are refused: its parameters are counted without making them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig

from ...errors import UserError
from ..options import ModelOptions

_KEY_VALUE = re.compile(r"(^|_)(kv|key_value)_heads$|^multi_query_group")
_FEED_FORWARD = re.compile(r"intermediate_size|ffn|^n_inner$|^d_ff$|^dff$|^dim_ff$")

Make = Callable[..., PreTrainedConfig]
"""From changed fields to the configuration with them."""


def refuse_without_effect(options: ModelOptions, feed_forward: str | None, make: Make) -> None:
    """Refuse sizes that a family takes and does not use.

    Args:
        options: what was given.
        feed_forward: what the family calls the width of its feed-forward layers.
        make: gives the configuration of these options, with further changes.

    Raises:
        UserError: one has no effect.
    """
    config: Any = make()
    name = options.backbone
    depth = getattr(config, "num_hidden_layers", None)
    wanted = options.num_hidden_layers
    if depth not in (None, wanted) and make(num_hidden_layers=wanted + 1).num_hidden_layers == depth:
        raise UserError(
            f"num_hidden_layers {wanted} has no effect: backbone {name!r} has {depth} layers by fields of its own; set "
            f"these in backbone_config, and num_hidden_layers to their number"
        )
    if options.max_position_embeddings is not None and not hasattr(config, "max_position_embeddings"):
        raise UserError(
            f"max_position_embeddings {options.max_position_embeddings} has no effect: backbone {name!r} has no such limit; "
            "leave it out"
        )
    given = {key: key for key in options.backbone_config if _KEY_VALUE.search(key) or _FEED_FORWARD.search(key)}
    if options.intermediate_size is not None and feed_forward is not None:
        given["intermediate_size"] = feed_forward
    for label, field in given.items():
        value = getattr(config, field, None)
        if type(value) is int and _changes_nothing(config, make, field, value):
            others = [key for key in vars(config) if "intermediate_size" in key and key != field]
            instead = f", or set {others[0]} in backbone_config" if others and _FEED_FORWARD.search(field) else ""
            raise UserError(
                f"{label} {options.backbone_config.get(label, value)} has no effect: no layer of backbone {name!r} takes it "
                f"in this configuration; leave it out{instead}"
            )


def _changes_nothing(config: PreTrainedConfig, make: Make, field: str, value: int) -> bool:
    """Whether the network has the same parameters with another value of that field."""
    heads = getattr(config, "num_attention_heads", None)
    other = 16 * value if not _KEY_VALUE.search(field) else heads if value != heads and heads else 1
    try:
        return other != value and _shapes(make(**{field: other})) == _shapes(config)
    except Exception:  # that it cannot be built is said where it is built
        return False


def _shapes(config: PreTrainedConfig) -> list[tuple[int, ...]]:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return [tuple(parameter.shape) for parameter in AutoModel.from_config(config).parameters()]
