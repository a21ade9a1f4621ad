"""Samplers whose reveal times do not depend on the logits: the head and the draw run only where a token is revealed.

In the reverse process a position is still masked at time t with probability 1 - alpha(t), whatever the tokens. So one
uniform number u fixes the time of its reveal: the one at which 1 - alpha falls to u.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers.utils import logging

from .generation_random import EVENT
from .noise_schedule import NoiseSchedule
from .sampler_protocol import Block, Sampler

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class CachedAncestralSampler(Sampler):
    """``ddpm_cache``: ancestral sampling (MDLM, arXiv 2406.07524); forwards only the rows that reveal something.

    Unbiased as the number of steps grows; in few steps several positions are drawn at once, as if independent.
    """

    name: ClassVar[str] = "ddpm_cache"
    redraws: ClassVar[bool] = False

    def start(self, block: Block) -> None:
        assert block.when_BL is not None
        block.step_BL = reveal_steps(block.schedule, block.steps, block.when_BL)

    def steps(self, block: Block) -> Iterable[int]:
        assert block.step_BL is not None
        return np.unique(block.step_BL[block.holes_BL]).tolist()

    def look(self, block: Block, step: int) -> np.ndarray:
        return block.masked_BL & (block.step_BL == step)


@dataclass(frozen=True)
class AncestralSampler(CachedAncestralSampler):
    """``ddpm``: the texts of ``ddpm_cache`` with a forward of every row in every step, as the papers count them."""

    name: ClassVar[str] = "ddpm"
    every_row: ClassVar[bool] = True

    def steps(self, block: Block) -> Iterable[int]:
        return range(1, block.steps + 1)


@dataclass(frozen=True)
class FirstHittingSampler(CachedAncestralSampler):
    """``first_hitting``: the reverse process in continuous time (arXiv 2409.02908), without discretisation error.

    Positions are revealed in the order of their times, one a forward: unbiased, and what ``ddpm_cache`` of the same
    seed tends to. With more than one a forward it is an approximation.

    Args:
        tokens_per_step: positions revealed together; None: one, or as many as ``max_denoising_steps`` makes necessary,
            which is said once in a warning.

    Raises:
        ValueError: below 1; or, when generating, too few steps for it.
    """

    name: ClassVar[str] = "first_hitting"
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.tokens_per_step is not None and self.tokens_per_step < 1:
            raise ValueError(f"tokens_per_step must be 1 or more, got {self.tokens_per_step}")

    @property
    def paces_itself(self) -> bool:
        return self.tokens_per_step is not None

    def start(self, block: Block) -> None:
        assert block.when_BL is not None
        needed_B = -(-block.total_B // block.steps)
        if self.tokens_per_step is not None and needed_B.max() > self.tokens_per_step:
            raise ValueError(
                f"first_hitting needs {-(-block.total_B.max() // self.tokens_per_step)} steps for {block.total_B.max()} "
                f"tokens, {self.tokens_per_step} a step, but has {block.steps}; raise max_denoising_steps or "
                "tokens_per_step"
            )
        if self.tokens_per_step is None and needed_B.max() > 1:
            logger.warning_once(
                f"first_hitting reveals up to {needed_B.max()} tokens at a time, since {block.total_B.max()} tokens "
                f"have {block.steps} steps: an approximation; it is exact with as many steps as tokens"
            )
        # Late times first; what is no hole comes after all that is.
        order_BL = np.argsort(np.where(block.holes_BL, -block.when_BL, np.inf), axis=-1, kind="stable")
        rank_BL = np.empty_like(order_BL)
        np.put_along_axis(rank_BL, order_BL, np.arange(order_BL.shape[-1])[None], axis=-1)
        together_B = needed_B.clip(1) if self.tokens_per_step is None else self.tokens_per_step
        block.step_BL = rank_BL // np.reshape(together_B, (-1, 1)) + 1


@dataclass(frozen=True)
class ReMDMSampler(Sampler):
    """``remdm``: ancestral sampling that masks revealed tokens again (ReMDM-cap, arXiv 2503.00307).

    Revealed tokens may change: that is its point. The marginals are those of the forward process; unbiased as the steps
    grow and ``eta`` falls, since the events of one step are drawn as if independent.

    Args:
        eta: most probability with which a revealed token is masked again in a step; 0 is ancestral sampling.

    Raises:
        ValueError: ``eta`` outside 0 to 1.
    """

    name: ClassVar[str] = "remdm"
    remasks: ClassVar[bool] = True
    eta: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 and 1, got {self.eta}")

    def look(self, block: Block, step: int) -> np.ndarray:
        if step == block.steps:
            return block.masked_BL.copy()
        masked_t, masked_s = _masked(block, step)
        reveal = (1 - masked_s - (1 - self._remask_probability(block, step)) * (1 - masked_t)) / masked_t
        return self._events(block, step, block.masked_BL, reveal)

    def remask(self, block: Block, step: int) -> np.ndarray | None:
        revealed_BL = block.holes_BL & ~block.masked_BL
        return self._events(block, step, revealed_BL, self._remask_probability(block, step))

    def _remask_probability(self, block: Block, step: int) -> float:
        masked_t, masked_s = _masked(block, step)
        return self.eta if masked_t >= 1 else min(self.eta, masked_s / (1 - masked_t))

    @staticmethod
    def _events(block: Block, step: int, where_BL: np.ndarray, probability: float) -> np.ndarray:
        row_N, column_N = np.nonzero(where_BL)
        events_BL = np.zeros_like(where_BL)
        events_BL[row_N, column_N] = block.uniform(EVENT, step, row_N, column_N) < probability
        return events_BL


def reveal_steps(schedule: NoiseSchedule, steps: int, when_BL: np.ndarray) -> np.ndarray:
    """(B, L) the first of ``steps`` steps after which 1 - alpha is at or below a position's number."""
    times_S = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    masked_S = schedule.mask_probability(times_S).numpy()
    # masked_S falls from 1 to 0: step i is the first with masked_S[i] <= u.
    step_BL = (steps + 1) - np.searchsorted(masked_S[::-1], when_BL, side="right")
    return step_BL.clip(1, steps)


def _masked(block: Block, step: int) -> tuple[float, float]:
    """1 - alpha before and after a step."""
    times = torch.tensor([1 - (step - 1) / block.steps, 1 - step / block.steps], dtype=torch.float64)
    before, after = block.schedule.mask_probability(times).tolist()
    return before, after
