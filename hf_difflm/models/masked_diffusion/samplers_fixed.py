"""Samplers whose order is fixed before a text is begun: the head and the draw run only where a token is revealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .sampler_protocol import Block, Sampler, check_reveal_schedule, revealed_share


@dataclass(frozen=True)
class LeftToRightSampler(Sampler):
    """``left_to_right``: the order of reading, as an autoregressive model writes.

    Biased where it reveals several tokens a step.

    Args:
        reveal_schedule: how many a step, see :class:`QuotaSampler`.

    Raises:
        ValueError: another schedule, negative weights.
    """

    name: ClassVar[str] = "left_to_right"
    reveal_schedule: str | list[float] = "linear"

    def __post_init__(self) -> None:
        check_reveal_schedule(self.reveal_schedule)

    def start(self, block: Block) -> None:
        order_BL = np.argsort(np.where(block.holes_BL, self.turns(block), np.inf), axis=-1, kind="stable")
        rank_BL = np.empty_like(order_BL)
        np.put_along_axis(rank_BL, order_BL, np.arange(order_BL.shape[-1])[None], axis=-1)
        block.step_BL = np.ones_like(rank_BL)
        for step in range(1, block.steps):  # later by one for each step before which too few are revealed
            share = revealed_share(self.reveal_schedule, step, block.steps)
            block.step_BL += rank_BL >= np.ceil(block.total_B * share - 1e-9)[:, None]

    def turns(self, block: Block) -> np.ndarray:
        """(B, L) numbers of which the lower is revealed first."""
        return block.place_BL

    def look(self, block: Block, step: int) -> np.ndarray:
        return block.masked_BL & (block.step_BL == step)


@dataclass(frozen=True)
class RandomOrderSampler(LeftToRightSampler):
    """``random_order``: one permutation of the positions, the same for all texts. Biased where several a step.

    Args:
        order_seed: of the permutation; what a position's turn is does not depend on how long the text is.
        reveal_schedule: how many a step, see :class:`QuotaSampler`.

    Raises:
        ValueError: another schedule, negative weights, a negative seed.
    """

    name: ClassVar[str] = "random_order"
    order_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order_seed < 0:
            raise ValueError(f"order_seed must be 0 or more, got {self.order_seed}")

    def turns(self, block: Block) -> np.ndarray:
        turn_L = np.random.Generator(np.random.Philox(self.order_seed)).random(int(block.place_BL.max()) + 1)
        return turn_L[block.place_BL]
