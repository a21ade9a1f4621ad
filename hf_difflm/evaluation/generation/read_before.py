"""What a model has read of a text that goes on: keys and values from one turn of a conversation to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ...models.loading import is_denoiser
from ...models.masked_diffusion.generation_prefix import KeptPrefix


def keeps_anything(model: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether a model can leave what it has read to the next generation, with these arguments of ``generate``."""
    return keeps_blocks(model, arguments) if is_denoiser(model.config) else new_cache(model) is not None


def keeps_blocks(model: Any, arguments: Mapping[str, Any]) -> bool:
    """Return the same of a denoiser: with diffusion blocks, and without guidance, which reads prompts as masks, too."""
    scales = (arguments.get("guidance_scale"), getattr(model.generation_config, "guidance_scale", None))
    scale = next((scale for scale in scales if scale is not None), 1)
    off = getattr(model.generation_config, "use_cache", None) is False
    return model.config.diffusion_block_size is not None and scale == 1 and not off


def causal_cache(model: Any, kept: KeptPrefix, ids_P: torch.Tensor) -> DynamicCache | None:
    """Return what is kept of a (P,) prompt for ``generate`` of a causal LM, an empty cache where that is nothing.

    The last token is always read: the first new one is predicted from it. None: see :func:`new_cache`.
    """
    fresh = new_cache(model)
    if fresh is None:
        return None
    ids = ids_P[:-1].cpu().numpy()
    cache, _ = kept.take(ids, np.arange(len(ids)))
    return fresh if cache is None else cache


def keep_causal(kept: KeptPrefix, cache: DynamicCache, ids_L: torch.Tensor) -> None:
    """Keep what a causal LM has read of (L,) prompt and text, where its cache holds that."""
    read = cache.get_seq_length()
    if 0 < read <= len(ids_L) and _is_plain(cache):
        kept.keep(cache, ids_L[:read].cpu().numpy(), np.arange(read))


def new_cache(model: Any) -> DynamicCache | None:
    """Return an empty cache of a causal LM that can be cut back to any token.

    None where there is none: layers with a state or a sliding window have no way back, and some networks keep nothing.
    """
    if getattr(model, "_is_stateful", False) or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if _is_plain(cache) else None


def _is_plain(cache: DynamicCache) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)
