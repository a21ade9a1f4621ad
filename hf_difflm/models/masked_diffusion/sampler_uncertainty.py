"""The uncertainty sampler: four measures, two orders, weights of importance, and a number of tokens that adapts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .logit_statistics import Predictions
from .sampler_protocol import Block, Sampler, Seen, check_reveal_schedule, least_tokens, quota

MEASURES = ("entropy", "max_probability", "margin", "variance")
ORDERS = ("confident_first", "uncertain_first")


@dataclass(frozen=True)
class UncertaintySampler(Sampler):
    """``uncertainty``: reveals by how unsure the model is at a position, u in [0, 1], low = confident.

    Biased where it reveals several tokens a step.

    =============== ==================================================================================
    measure         u, with V tokens (the mask apart) of probabilities p
    =============== ==================================================================================
    entropy         H(p) / log V
    max_probability 1 - max p
    margin          1 - (largest p - second largest p)
    variance        1 - Var(p) / its largest value, which is (1 - sum p^2) / (1 - 1/V)
    =============== ==================================================================================

    With importances (the ``importance`` argument of ``generate``: a (L,) or (B, L) tensor over the canvas, or a
    callable that takes the (R, L) canvas with the likeliest token at each mask it may reveal, and the mask token at
    padding and at what comes later) positions are ordered by u times
    importance: confident first, what is important waits for more context; uncertain first, it comes earlier.

    Args:
        measure: of the table.
        order: ``confident_first`` or ``uncertain_first``.
        budget: reveal in that order as many tokens as have together at most this u, at least one: under ``entropy`` in
            units of H / log V, so 1 is the uncertainty of one token of which nothing is known. None: the schedule.
        reveal_schedule: how many a step without a budget, see :class:`QuotaSampler`.

    Raises:
        ValueError: an unknown measure, order or schedule, a negative budget.
    """

    name: ClassVar[str] = "uncertainty"
    measure: str = "entropy"
    order: str = "confident_first"
    budget: float | None = None
    reveal_schedule: str | list[float] = "linear"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {self.measure!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.budget is not None and not self.budget >= 0:
            raise ValueError(f"budget must be 0 or more, got {self.budget}")
        check_reveal_schedule(self.reveal_schedule)

    @property
    def paces_itself(self) -> bool:
        return self.budget is not None

    def look(self, block: Block, step: int) -> np.ndarray:
        if self.budget is not None:
            return block.masked_BL.copy()
        return block.masked_BL & (quota(self.reveal_schedule, block, step) > 0)[:, None]

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        uncertainty_N = uncertainty(seen.predictions, self.measure)
        rank_N = uncertainty_N * _importance(block, seen, uncertainty_N)
        if self.order == "uncertain_first":
            rank_N = -rank_N
        if self.budget is None:
            count_B = quota(self.reveal_schedule, block, step)
            return seen.first(rank_N, torch.from_numpy(count_B[seen.rows_R]))
        order_RW, _ = seen.ordered(rank_N)
        spent_RW = seen.by_row(uncertainty_N, float("inf")).gather(-1, order_RW).cumsum(-1)
        count_R = (spent_RW <= self.budget).sum(-1).cpu()
        return seen.first(rank_N, count_R.maximum(torch.from_numpy(least_tokens(block, step)[seen.rows_R])))


def uncertainty(predictions: Predictions, measure: str) -> torch.Tensor:
    """(N,) in [0, 1], 0 where one token has all probability; see :class:`UncertaintySampler`.

    ``predictions`` are under SUBS: one of the V columns is the mask's and has no probability.
    """
    tokens = max(predictions.logits.shape[1] - 1, 2)
    if measure == "entropy":
        value_N = predictions.entropy() / math.log(tokens)
    elif measure == "max_probability":
        value_N = 1 - predictions.largest_probability()
    elif measure == "margin":
        value_N = 1 - predictions.margin()
    else:
        value_N = (1 - predictions.sum_of_squares()) / (1 - 1 / tokens)
    return value_N.clamp(0, 1)  # rounding


def _importance(block: Block, seen: Seen, like: torch.Tensor) -> torch.Tensor:
    """(N,) weights of the positions looked at."""
    given = block.importance
    if given is None:
        return torch.ones_like(like)
    row_N, column_N = (torch.from_numpy(index).to(seen.ids_RL.device) for index in (seen.row_N, seen.column_N))
    if isinstance(given, torch.Tensor):
        weights_RL = given[torch.from_numpy(seen.rows_R).to(given.device)]
    else:
        draft_RL = seen.ids_RL.clone()
        draft_RL[row_N, column_N] = seen.predictions.best()
        weights_RL = given(draft_RL)
        if weights_RL.shape != draft_RL.shape:
            raise ValueError(
                f"importance returned {tuple(weights_RL.shape)} weights for a draft of {tuple(draft_RL.shape)} tokens; "
                "return one for each"
            )
    return weights_RL.to(like.device, like.dtype)[row_N, column_N]
