"""Samplers that look at every mask and reveal where the model is sure: more to the point in few steps, but biased.

What is drawn decides in ``low_confidence`` and ``maskgit_plus`` whether it is kept, so they prefer likely tokens even one
at a time. The others choose places by what is revealed already: one token a step they follow the chain rule in an order
of their own, which is right where the denoiser is exact, and biased where several tokens are drawn apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .sampler_protocol import Block, Sampler, Seen, check_reveal_schedule, gumbel_noise, least_tokens, quota


@dataclass(frozen=True)
class QuotaSampler(Sampler):
    """Base: reveals the positions of lowest :meth:`rank`, as many in a step as a reveal schedule says.

    Args:
        reveal_schedule: ``linear`` (equal parts), ``cosine`` (few at first) or a list of weights of equal stretches of
            the way, such as ``[1, 1, 2, 4]``. Whichever: everything is revealed after the last step.

    Raises:
        ValueError: another schedule, negative weights.
    """

    reveal_schedule: str | list[float] = "linear"

    def __post_init__(self) -> None:
        check_reveal_schedule(self.reveal_schedule)

    def look(self, block: Block, step: int) -> np.ndarray:
        return block.masked_BL & (quota(self.reveal_schedule, block, step) > 0)[:, None]

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        count_B = quota(self.reveal_schedule, block, step)
        return seen.first(self.rank(block, step, seen), torch.from_numpy(count_B[seen.rows_R]))

    def rank(self, block: Block, step: int, seen: Seen) -> torch.Tensor:
        """(N,) low: revealed first."""
        raise NotImplementedError


@dataclass(frozen=True)
class LowConfidenceSampler(QuotaSampler):
    """``low_confidence`` (LLaDA, arXiv 2502.09992): draws everywhere, keeps the likeliest draws. Biased."""

    name: ClassVar[str] = "low_confidence"
    draws_first: ClassVar[bool] = True

    def rank(self, block: Block, step: int, seen: Seen) -> torch.Tensor:
        return -_drawn_log_probability(seen)


@dataclass(frozen=True)
class MaskGITPlusSampler(QuotaSampler):
    """``maskgit_plus`` (MaskGIT, arXiv 2202.04200): the same with Gumbel noise on the confidence. Biased.

    Args:
        choice_temperature: scale of the noise on the log-probability in the first step; it falls linearly to 0.

    Raises:
        ValueError: a negative temperature.
    """

    name: ClassVar[str] = "maskgit_plus"
    draws_first: ClassVar[bool] = True
    choice_temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.choice_temperature < math.inf:
            raise ValueError(f"choice_temperature must be 0 or more, got {self.choice_temperature}")

    def rank(self, block: Block, step: int, seen: Seen) -> torch.Tensor:
        confidence_N = _drawn_log_probability(seen)
        scale = self.choice_temperature * (1 - step / block.steps)
        return -(confidence_N + scale * gumbel_noise(block, step, seen, confidence_N))


@dataclass(frozen=True)
class TopKMarginSampler(QuotaSampler):
    """``topk_margin`` (arXiv 2502.06768): where the likeliest token is furthest ahead of the next.

    Biased where it reveals several tokens a step.
    """

    name: ClassVar[str] = "topk_margin"

    def rank(self, block: Block, step: int, seen: Seen) -> torch.Tensor:
        return -seen.predictions.margin()


@dataclass(frozen=True)
class EntropySampler(QuotaSampler):
    """``entropy``: where the entropy is lowest (Dream's rule). Biased where it reveals several tokens a step."""

    name: ClassVar[str] = "entropy"

    def rank(self, block: Block, step: int, seen: Seen) -> torch.Tensor:
        return seen.predictions.entropy()


@dataclass(frozen=True)
class AdaptiveSampler(Sampler):
    """Base: as many tokens a step as can be told apart now; at least one, and more where steps would run out."""

    @property
    def paces_itself(self) -> bool:
        return True

    def look(self, block: Block, step: int) -> np.ndarray:
        return block.masked_BL.copy()


@dataclass(frozen=True)
class EntropyBoundedSampler(AdaptiveSampler):
    """``entropy_bounded`` (EB-sampler, arXiv 2505.24857): lowest entropies first, as many as stay within a bound.

    The sum of their entropies less the largest bounds what drawing them apart can lose (their mutual information).
    Biased where it reveals several tokens a step, by no more than that.

    Args:
        bound: that sum, in nats a step; 0 reveals one token a step, or several that are certain.

    Raises:
        ValueError: a negative bound.
    """

    name: ClassVar[str] = "entropy_bounded"
    bound: float = 0.1

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"bound must be 0 or more nats, got {self.bound}")

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        entropy_N = seen.predictions.entropy()
        _, entropy_RW = seen.ordered(entropy_N)
        # Sorted, so the largest of the first k is the k-th: what is left is the sum of those before it.
        before_RW = entropy_RW.cumsum(-1) - entropy_RW
        fits_RW = entropy_RW.isfinite() & (before_RW <= self.bound)
        count_R = fits_RW.sum(-1).cpu().maximum(torch.from_numpy(least_tokens(block, step)[seen.rows_R]))
        return seen.first(entropy_N, count_R)


@dataclass(frozen=True)
class ConfidenceThresholdSampler(AdaptiveSampler):
    """``confidence_threshold`` (Fast-dLLM, arXiv 2505.22618): all positions whose likeliest token is above a
    probability, at least one. Biased where it reveals several tokens a step.

    Args:
        threshold: that probability.

    Raises:
        ValueError: a threshold outside 0 to 1.
    """

    name: ClassVar[str] = "confidence_threshold"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        doubt_N = 1 - seen.predictions.largest_probability()
        sure_RW = seen.by_row((doubt_N < 1 - self.threshold).to(doubt_N.dtype), 0.0)
        count_R = sure_RW.sum(-1).long().cpu().maximum(torch.from_numpy(least_tokens(block, step)[seen.rows_R]))
        return seen.first(doubt_N, count_R)


def _drawn_log_probability(seen: Seen) -> torch.Tensor:
    assert seen.tokens_N is not None
    return seen.predictions.log_probability(seen.tokens_N)
