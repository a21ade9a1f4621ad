"""From a canvas to the distributions that tokens are drawn from: guidance and processors first, SUBS last."""

from __future__ import annotations

from typing import Any

import numpy as np
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


class Reader:
    """Forwards rows of a canvas: with guidance twice, under static shapes with one of a few numbers of positions.

    Args:
        denoiser: called with ids, attention mask and positions.
        config: a complete generation config.
        given_BL: bool, the given tokens that guidance hides; None where it is not asked for.
        delay_head: logits may be made when they are asked for, where that is faster.
        keep_mask: the mask token keeps its logit.
    """

    def __init__(
        self, denoiser: Any, config: Any, given_BL: torch.Tensor | None, delay_head: bool, keep_mask: bool = False
    ) -> None:
        self._denoiser, self._given_BL, self._scale = denoiser, given_BL, config.guidance_scale
        self.is_static = config.static_shapes
        self._delay_head = delay_head and given_BL is None and not self.is_static and not keep_mask
        self._keep_mask = keep_mask

    @property
    def is_guided(self) -> bool:
        """Whether each row is forwarded twice: the second half of a batch does not know the prompts."""
        return self._given_BL is not None

    def __call__(
        self,
        ids_RW: torch.Tensor,
        attention_RW: torch.Tensor | None,
        flat_N: np.ndarray,
        rows_R: np.ndarray,
        columns_RW: np.ndarray | None = None,
        **kwargs: Any,
    ) -> Logits:
        """(N, V) logits at some positions of the flattened rows, all of them masks.

        With guidance log p(x | masks) + scale * (log p(x | prompt) - log p(x | masks)), from one forward.

        Args:
            ids_RW: what is read.
            attention_RW: 0 at padding; None where there is none.
            flat_N: positions.
            rows_R, columns_RW: of the canvas; None: all columns.
            kwargs: passed to the denoiser; tensors are one number a row.
        """
        device, mask_id = ids_RW.device, self._denoiser.config.mask_token_id
        if self._given_BL is not None:
            given_RW = self._given_BL[torch.from_numpy(rows_R).to(device)]
            if columns_RW is not None:
                given_RW = given_RW.gather(1, torch.from_numpy(columns_RW).to(device))
            flat_N = np.concatenate([flat_N, flat_N + ids_RW.numel()])
            ids_RW = torch.cat([ids_RW, ids_RW.masked_fill(given_RW, mask_id)])
            attention_RW = None if attention_RW is None else torch.cat([attention_RW, attention_RW])
            kwargs = {name: one.repeat(2) if isinstance(one, torch.Tensor) else one for name, one in kwargs.items()}
        wanted = len(flat_N)
        if self.is_static:
            flat_N = np.pad(flat_N, (0, head_rows(wanted, ids_RW.numel()) - wanted))
        if self._delay_head and may_delay_head(self._denoiser, wanted):
            kwargs["delay_head"] = True
        if self._keep_mask:
            kwargs["keep_mask_logit"] = True
        positions_N = torch.from_numpy(flat_N).to(device)
        logits = logits_of(
            self._denoiser, self._denoiser(ids_RW, attention_mask=attention_RW, positions=positions_N, **kwargs)
        )
        if self.is_static:
            logits = MadeLogits(logits.made()[:wanted])
        if self._given_BL is None:
            return logits
        with_prompt_NV, without_NV = (half.log_softmax(-1) for half in logits.made().chunk(2))
        guided_NV = without_NV + self._scale * (with_prompt_NV - without_NV)
        if not self._keep_mask:
            guided_NV[:, mask_id] = float("-inf")  # -inf less -inf is no number
        return MadeLogits(guided_NV)


def head_rows(wanted: int, positions: int) -> int:
    """At how many positions the LM head runs where shapes are static: a 64th of all, a 16th, a quarter, or all of them.

    Four sizes are few enough to compile, and hardly more than four times what is wanted, or a 64th of all.
    """
    return next(size for part in (64, 16, 4, 1) if (size := -(-positions // part)) >= wanted)
