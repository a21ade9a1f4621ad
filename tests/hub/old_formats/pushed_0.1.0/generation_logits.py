"""From a canvas to the distributions that tokens are drawn from: guidance and processors first, SUBS last."""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

COLDEST = 1e-10
"""Below this temperature logits that differ are so far apart that the likeliest token is meant: dividing would overflow."""


def shaping_processors(config: Any, callers: LogitsProcessorList | None) -> LogitsProcessorList:
    """What says which tokens are likely: the caller's processors and the repetition penalty. Measures see their result."""
    processors = LogitsProcessorList(callers or [])
    if config.repetition_penalty not in (None, 1, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    return processors


def drawing_processors(config: Any) -> LogitsProcessorList:
    """What says how tokens are drawn: temperature, top-k, top-p."""
    processors = LogitsProcessorList()
    if config.temperature not in (None, 1.0) and config.temperature >= COLDEST:
        processors.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k is not None:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        processors.append(TopPLogitsWarper(config.top_p))
    return processors


def forward_at(
    denoiser: Any,
    ids_RW: torch.Tensor,
    attention_RW: torch.Tensor | None,
    flat_N: torch.Tensor,
    guidance_scale: float | None,
    hidden_RW: torch.Tensor | None,
) -> torch.Tensor:
    """(N, V) logits at some positions of the flattened rows.

    With ``hidden_RW`` (bool, the given tokens) they are guided: log p(x | masks) + scale * (log p(x | prompt) -
    log p(x | masks)), from one forward of twice the rows.
    """
    if hidden_RW is None or guidance_scale is None:
        return denoiser(ids_RW, attention_mask=attention_RW, positions=flat_N).logits
    mask_id = denoiser.config.mask_token_id
    both_ids = torch.cat([ids_RW, ids_RW.masked_fill(hidden_RW, mask_id)])
    both_attention = None if attention_RW is None else torch.cat([attention_RW, attention_RW])
    both_positions = torch.cat([flat_N, flat_N + ids_RW.numel()])
    logits = denoiser(both_ids, attention_mask=both_attention, positions=both_positions).logits
    with_prompt_NV, without_NV = (as_float(half).log_softmax(-1) for half in logits.chunk(2))
    guided_NV = without_NV + guidance_scale * (with_prompt_NV - without_NV)
    guided_NV[:, mask_id] = float("-inf")  # -inf less -inf is no number
    return guided_NV


def head_rows(wanted: int, positions: int) -> int:
    """At how many positions the LM head runs where shapes are static: a 64th of all, a 16th, a quarter, or all of them.

    Four sizes are few enough to compile, and hardly more than four times what is wanted, or a 64th of all.
    """
    return next(size for part in (64, 16, 4, 1) if (size := -(-positions // part)) >= wanted)


def as_float(logits: torch.Tensor) -> torch.Tensor:
    """float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
