"""From a canvas to the distributions that tokens are drawn from: guidance and processors first, SUBS last."""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .logit_statistics import Logits, MadeLogits, logits_of, may_delay_head

COLDEST = 1e-10
"""Below this temperature logits that differ are so far apart that the likeliest token is meant: dividing would overflow."""


def shaping_processors(config: Any, callers: LogitsProcessorList | None) -> LogitsProcessorList:
    """What says which tokens are likely: the caller's processors and the repetition penalty. Measures see their result."""
    processors = LogitsProcessorList(callers or [])
    if config.repetition_penalty not in (None, 1, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    return processors


def cutting_processors(config: Any) -> LogitsProcessorList:
    """What says, after the temperature, which tokens are not drawn: top-k, top-p."""
    processors = LogitsProcessorList()
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
    delay_head: bool = False,
    **kwargs: Any,
) -> Logits:
    """(N, V) logits at some positions of the flattened rows, all of them masks.

    With ``delay_head`` they are made when they are asked for, where that is faster.
    """
    if delay_head and may_delay_head(denoiser, len(flat_N)):
        kwargs["delay_head"] = True
    return logits_of(denoiser, denoiser(ids_RW, attention_mask=attention_RW, positions=flat_N, **kwargs))


def guided(logits: Logits, scale: float, mask_id: int) -> MadeLogits:
    """(N, V) log p(x | masks) + scale * (log p(x | prompt) - log p(x | masks)) of (2N, V), those with the prompt first."""
    with_prompt_NV, without_NV = (half.log_softmax(-1) for half in logits.made().chunk(2))
    guided_NV = without_NV + scale * (with_prompt_NV - without_NV)
    guided_NV[:, mask_id] = float("-inf")  # -inf less -inf is no number
    return MadeLogits(guided_NV)


def head_rows(wanted: int, positions: int) -> int:
    """At how many positions the LM head runs where shapes are static: a 64th of all, a 16th, a quarter, or all of them.

    Four sizes are few enough to compile, and hardly more than four times what is wanted, or a 64th of all.
    """
    return next(size for part in (64, 16, 4, 1) if (size := -(-positions // part)) >= wanted)
