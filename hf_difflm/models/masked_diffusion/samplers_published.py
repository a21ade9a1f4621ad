"""The samplers that released models were published with, token for token at temperature 0, their known faults named.

They see raw logits, in the model's type, and may spend a slot on the mask token, which then stays: what every other sampler
rules out. Where their authors' code would overwrite given or settled tokens, or let one row of a batch decide about another,
these do not, and say so: the tokens are the authors' wherever that does not strike. Above temperature 0 the draws are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers.utils import logging

from .sampler_protocol import Block, Drawing, Sampler, Seen

logger = logging.get_logger(__name__)


def even_counts(tokens_B: np.ndarray, step: int, steps: int) -> np.ndarray:
    """(B,) tokens of a step, evenly divided; the first steps have one more where some are over."""
    return tokens_B // steps + (step <= tokens_B % steps)


def dream_counts(masks_B: np.ndarray, step: int, steps: int, eps: float) -> np.ndarray:
    """(B,) masks of so many that Dream's step reveals: rounded down, in float32, all of them in the last step."""
    if step >= steps:
        return masks_B
    times = torch.linspace(1, eps, steps + 1)
    share = 1 - times[step] / times[step - 1]
    return (torch.from_numpy(masks_B).float() * share).long().numpy()


@dataclass(frozen=True)
class PublishedSampler(Sampler):
    """Base: reveals the tokens of highest confidence; of equal ones those that ``torch.topk`` takes over the whole row."""

    draws_first: ClassVar[bool] = True
    draws_mask: ClassVar[bool] = True

    def look(self, block: Block, step: int) -> np.ndarray:
        return block.masked_BL & (self.counts(block, step) > 0)[:, None]

    def counts(self, block: Block, step: int) -> np.ndarray:
        """(B,) tokens to reveal."""
        raise NotImplementedError

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        confidence_N = self.confidence(block.drawing, seen)
        count_R = np.minimum(self.counts(block, step)[seen.rows_R], np.bincount(seen.row_N, minlength=len(seen.rows_R)))
        return _most_confident(confidence_N, count_R, seen.row_N, seen.column_N, seen.ids_RL.shape[1])

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        """(N,) of the token drawn at each position."""
        raise NotImplementedError


@dataclass(frozen=True)
class LLaDASampler(PublishedSampler):
    """``llada`` (``generate.py`` of ML-GSAI/LLaDA, arXiv 2502.09992): the likeliest draws, evenly many in each step.

    The confidence is the probability before temperature, top-k and top-p, in the model's type. Every mask before the end of
    the block may be revealed, but only the block's are counted: one in the prompt takes a slot, and a mask is left.
    """

    name: ClassVar[str] = "llada"

    def start(self, block: Block) -> None:
        counted_B = self._counted(block)
        if (counted_B < block.total_B).any():
            _warn(
                "llada: masks before a block are filled but not counted, so that as many of the block's masks are left over; "
                "fill the holes of a prompt alone first (max_new_tokens=0)"
            )

    def counts(self, block: Block, step: int) -> np.ndarray:
        return even_counts(self._counted(block), step, block.steps)

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        return _probability(_raw(drawing, seen), seen)

    def _counted(self, block: Block) -> np.ndarray:
        return block.holes_BL[:, block.first_column :].sum(-1)


@dataclass(frozen=True)
class DreamSampler(PublishedSampler):
    """``dream`` (``diffusion_generate`` of HKUNLP/Dream): the surest masks, as many as the time says, rounded down.

    The confidence is taken after temperature, top-p and top-k, in the model's type. Each row is counted as if it were alone.
    (``origin``, Dream's rule without confidence, is :class:`AncestralSampler`'s, and not here.)

    Args:
        alg: ``entropy``, ``maskgit_plus`` (the probability of the draw) or ``topk_margin``.
        eps: the last time.

    Raises:
        ValueError: another algorithm, a time outside 0 to 1.
    """

    name: ClassVar[str] = "dream"
    alg: str = "entropy"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _one_of("alg", self.alg, ("entropy", "maskgit_plus", "topk_margin"))
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be between 0 and 1, got {self.eps}")

    def start(self, block: Block) -> None:
        if len(np.unique(block.total_B)) > 1:
            _warn(
                "dream: the rows have unequal numbers of masks; Dream's own code gives all the same count, which leaves "
                "masks in one and masks settled text in another. Here each row is counted alone"
            )
        left_B, idle = block.total_B, 0
        for step in range(1, block.steps):
            count_B = dream_counts(left_B, step, block.steps, self.eps)
            idle += int((count_B < np.minimum(left_B, 1)).any())
            left_B = left_B - count_B
        if idle:
            _warn(
                f"dream: {idle} of {block.steps} steps reveal nothing, and the last reveals {left_B.max()} tokens, since its "
                "counts are rounded down; that many forwards are saved, and fewer steps would do"
            )

    def counts(self, block: Block, step: int) -> np.ndarray:
        return dream_counts(block.remaining(), step, block.steps, self.eps)

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        logits_NV = _raw(drawing, seen) / (drawing.temperature or 1.0)
        logits_NV = _top_k(_top_p(logits_NV, drawing.top_p), drawing.top_k)
        if self.alg == "maskgit_plus":
            return _probability(logits_NV, seen)
        probability_NV = logits_NV.softmax(-1)
        if self.alg == "topk_margin":
            best_N2 = probability_NV.topk(2).values
            return best_N2[:, 0] - best_N2[:, 1]
        return (probability_NV * (probability_NV + 1e-10).log()).sum(-1)


@dataclass(frozen=True)
class InBlocksSampler(PublishedSampler):
    """Base of samplers of block diffusion: a whole block's tokens divided evenly among its steps, or all that are sure.

    Args:
        denoising_steps: steps that a whole block is divided into; None: as many as it has tokens.
        threshold: all masks of more confidence are revealed, where they are as many as the step's part.

    Raises:
        ValueError: no positive number of steps; in ``start``: a model without diffusion blocks, fewer steps than needed.
    """

    denoising_steps: int | None = None
    threshold: float = 0.95

    def __post_init__(self) -> None:
        if self.denoising_steps is not None and self.denoising_steps < 1:
            raise ValueError(f"denoising_steps must be a positive integer, got {self.denoising_steps}")

    def start(self, block: Block) -> None:
        size = self._size(block)
        most, part = int(block.total_B.max()), [self._part(size, step) for step in range(1, size + 1)]
        needed = int(np.searchsorted(np.cumsum(part), most)) + 1
        if most and needed > block.steps:
            raise ValueError(
                f"sampler {self.name} needs {needed} steps for {most} tokens of a block, but max_denoising_steps leave it "
                f"{block.steps}; raise them, or lower denoising_steps (of a block) in sampler_config"
            )
        if (block.holes_BL[:, -1] & ((block.place_BL[:, -1] + 1) % size > 0)).any():
            _warn(
                f"{self.name}: the text ends inside a block of {size} tokens; the authors' code fills that block to its end, "
                "and its other tokens see what is there. Ask for as many new tokens as end with a block to have the same"
            )

    def counts(self, block: Block, step: int) -> np.ndarray:
        return np.minimum(block.remaining(), self._part(self._size(block), step))

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        confidence_N, part = self.confidence(block.drawing, seen), self._part(self._size(block), step)
        sure_N = confidence_N > self.threshold
        enough_R = np.bincount(seen.row_N[sure_N.cpu().numpy()], minlength=len(seen.rows_R)) >= part
        chosen_N = self._part_of_it(block, step, seen, confidence_N, ~enough_R)
        enough_N = torch.from_numpy(enough_R[seen.row_N]).to(sure_N.device)
        return sure_N.where(enough_N, chosen_N)

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        logits_NV = _raw(drawing, seen) / (drawing.temperature or 1.0)
        return _probability(_top_p(_top_k(logits_NV, drawing.top_k), drawing.top_p), seen)

    def _part_of_it(
        self, block: Block, step: int, seen: Seen, confidence_N: torch.Tensor, here_R: np.ndarray
    ) -> torch.Tensor:
        """(N,) bool: the step's part of some rows, or what masks there are."""
        size = self._size(block)
        count_R = np.where(here_R, self.counts(block, step)[seen.rows_R], 0)
        place_N = block.place_BL[seen.rows_R[seen.row_N], seen.column_N] % size
        return _most_confident(confidence_N, count_R, seen.row_N, place_N, size)

    def _part(self, size: int, step: int) -> int:
        steps = self.denoising_steps or size
        return int(even_counts(np.array(size), step, steps)) if step <= steps else 0

    def _size(self, block: Block) -> int:
        if block.size is None:
            raise ValueError(
                f"sampler {self.name} is for a model with diffusion blocks, but this one has none; llada with block_length "
                "is the like for it"
            )
        return block.size


@dataclass(frozen=True)
class SDARSampler(InBlocksSampler):
    """``sdar`` (``block_diffusion_generate`` of JetAstra/SDAR, arXiv 2510.06303).

    The confidence is taken after temperature, top-k and top-p, in the model's type: at temperature 0, which the authors' code
    does not take, it is 1 everywhere as with ``top_k=1``, so that ties decide, and ``low_confidence_dynamic`` takes a block
    at once. (``entropy_bounded`` raises there, and is not here.)

    Args:
        remasking: ``low_confidence_dynamic``, ``low_confidence_static`` (no threshold) or ``sequential``.

    Raises:
        ValueError: another strategy.
    """

    name: ClassVar[str] = "sdar"
    threshold: float = 0.85
    remasking: str = "low_confidence_dynamic"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("remasking", self.remasking, ("low_confidence_dynamic", "low_confidence_static", "sequential"))

    def start(self, block: Block) -> None:
        super().start(block)
        if block.drawing.temperature == 0 and self.remasking != "sequential":
            _warn(
                "sdar: at temperature 0 every confidence is 1, so that torch.topk's order of equal numbers decides, and a "
                "block is filled in one step by low_confidence_dynamic; the sampler llada2 compares probabilities there"
            )

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        if self.remasking == "low_confidence_dynamic":
            return super().choose(block, step, seen)
        part, size = self._part(self._size(block), step), self._size(block)
        if self.remasking == "low_confidence_static":
            everywhere_R = np.ones(len(seen.rows_R), dtype=bool)
            return self._part_of_it(block, step, seen, self.confidence(block.drawing, seen), everywhere_R)
        place_N = block.place_BL[seen.rows_R[seen.row_N], seen.column_N] % size
        first_R = np.full(len(seen.rows_R), size)
        np.minimum.at(first_R, seen.row_N, place_N)
        chosen_N = place_N < first_R[seen.row_N] + part
        self._warn_overwritten(
            np.bincount(seen.row_N[chosen_N], minlength=len(first_R)) < np.minimum(part, size - first_R)
        )
        return torch.from_numpy(chosen_N)

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        if drawing.temperature == 0:
            return torch.ones(len(seen.row_N), dtype=drawing.dtype, device=seen.ids_RL.device)
        return super().confidence(drawing, seen)

    def _part_of_it(
        self, block: Block, step: int, seen: Seen, confidence_N: torch.Tensor, here_R: np.ndarray
    ) -> torch.Tensor:
        self._warn_overwritten(here_R & (block.remaining()[seen.rows_R] < self._part(self._size(block), step)))
        return super()._part_of_it(block, step, seen, confidence_N, here_R)

    def _warn_overwritten(self, rows_R: np.ndarray) -> None:
        if rows_R.any():
            _warn(
                "sdar: a step's part is more than the masks that are left in a block, where the authors' code overwrites "
                "tokens of the prompt or settled ones; here they stay. With denoising_steps of the block length it cannot be"
            )


@dataclass(frozen=True)
class LLaDA2Sampler(InBlocksSampler):
    """``llada2`` (``generate`` of LLaDA2.0's modelling file): as ``sdar``, but never more than the masks that are left.

    At temperature 0 the confidence is the probability of the likeliest token, and top-k and top-p change nothing.
    """

    name: ClassVar[str] = "llada2"

    def confidence(self, drawing: Drawing, seen: Seen) -> torch.Tensor:
        if drawing.temperature == 0:
            return _probability(_raw(drawing, seen), seen)
        return super().confidence(drawing, seen)


def _most_confident(
    confidence_N: torch.Tensor, count_R: np.ndarray, row_N: np.ndarray, place_N: np.ndarray, width: int
) -> torch.Tensor:
    """(N,) bool: so many of each row; of equal ones those that ``torch.topk`` finds among all ``width`` places of the row."""
    index_N, where_N = (torch.from_numpy(some).to(confidence_N.device) for some in (row_N, place_N))
    confidence_RW = confidence_N.new_full((len(count_R), width), float("-inf"))
    confidence_RW[index_N, where_N] = confidence_N
    chosen_RW = torch.zeros_like(confidence_RW, dtype=torch.bool)
    for row, count in enumerate(count_R.tolist()):
        chosen_RW[row, confidence_RW[row].topk(count).indices] = True
    return chosen_RW[index_N, where_N]


def _raw(drawing: Drawing, seen: Seen) -> torch.Tensor:
    """(N, V) logits in the model's type, the mask token's among them."""
    return seen.predictions.logits.made().to(drawing.dtype)


def _probability(logits_NV: torch.Tensor, seen: Seen) -> torch.Tensor:
    """(N,) of the drawn tokens."""
    assert seen.tokens_N is not None
    return logits_NV.softmax(-1).gather(-1, seen.tokens_N.unsqueeze(-1)).squeeze(-1)


def _top_k(logits_NV: torch.Tensor, k: int | None) -> torch.Tensor:
    if k is None:
        return logits_NV
    least_N1 = logits_NV.topk(min(k, logits_NV.shape[-1])).values[:, -1:]
    return logits_NV.masked_fill(logits_NV < least_N1, float("-inf"))


def _top_p(logits_NV: torch.Tensor, p: float | None) -> torch.Tensor:
    """The likeliest tokens whose probabilities before them do not add up to more than p."""
    if p is None or p >= 1:
        return logits_NV
    sorted_NV, order_NV = logits_NV.sort(descending=True)
    above_NV = sorted_NV.softmax(-1).cumsum(-1) > p
    above_NV = torch.cat([torch.zeros_like(above_NV[:, :1]), above_NV[:, :-1]], dim=-1)
    return logits_NV.masked_fill(torch.zeros_like(above_NV).scatter(-1, order_NV, above_NV), float("-inf"))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _warn(sentence: str) -> None:
    logger.warning_once(sentence)
