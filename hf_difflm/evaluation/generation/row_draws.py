"""A causal LM's rows by themselves: each draws with random numbers of its own, and leaves when nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ...models.masked_diffusion.generation_random import TOKEN, RowDraws, draw_tokens
from .options import GenerationOptions


class RowDraw(LogitsProcessor):
    """Draws the next token of each row, and leaves it alone to be the likeliest.

    transformers' own sampling takes the numbers of all rows from one generator, so that a row's text depends on the rows
    beside it.

    Args:
        seeds: of each row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._draws = RowDraws([[seed] for seed in seeds])
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        row_B = np.arange(len(scores))
        uniform_B = self._draws.uniform(TOKEN, self._step, row_B, np.zeros_like(row_B))
        self._step += 1
        tokens_B1 = draw_tokens(scores, torch.from_numpy(uniform_B)).unsqueeze(-1)
        return torch.full_like(scores, float("-inf")).scatter(-1, tokens_B1, 0.0)


class Unwanted(StoppingCriteria):
    """Ends the rows that a streamer's ``unwanted`` names; the batch goes on for the others."""

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer

    def __call__(self, input_ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        return torch.from_numpy(self._streamer.unwanted()).to(input_ids.device)


def drawn_by_row(
    model: Any, options: GenerationOptions, seeds: Sequence[int], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of transformers' ``generate`` by which rows are drawn apart; the likeliest token is taken as ever.

    Args:
        model: whose generation configuration says what the options leave open, as ``generate`` itself reads it.
        options: how.
        seeds: of each row.
        arguments: by which all rows are drawn from one generator.
    """
    if options.temperature == 0:
        return arguments
    of_model = model.generation_config
    temperature = of_model.temperature if options.temperature is None else options.temperature
    top_p = of_model.top_p if options.top_p is None else options.top_p
    shaping = LogitsProcessorList()
    if temperature not in (None, 1, 1.0):
        shaping.append(TemperatureLogitsWarper(float(temperature)))
    if options.top_k:
        shaping.append(TopKLogitsWarper(options.top_k))
    if top_p is not None and top_p < 1:
        shaping.append(TopPLogitsWarper(float(top_p)))
    others = {name: value for name, value in arguments.items() if name not in ("temperature", "top_k", "top_p")}
    return others | {"do_sample": False, "logits_processor": LogitsProcessorList([*shaping, RowDraw(seeds)])}
