"""The exact likelihood of a masked diffusion model that reveals in a deterministic order (DUEL, arXiv 2603.01367).

A rule names the positions S(z) to reveal next from what is revealed, z. Then log p(x) is the sum, over steps and over the
positions in S(z), of log mu(x_i | z): the law of the sampler that draws those positions from mu at temperature 1, apart
from each other, and reveals them. It is normalised, since S never looks at what it has not revealed. The loop and the
rules are those of ``generate``; the true tokens stand in for the drawn ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import UserError
from ...models.masked_diffusion.generation_canvas import Canvas
from ...models.masked_diffusion.generation_configuration import merged_config
from ...models.masked_diffusion.generation_loop import DenoisingLoop
from ...models.masked_diffusion.generation_random import RowDraws
from ...models.masked_diffusion.sampler_protocol import Block
from ...objectives import Batch
from .exact_options import ExactOrder
from .sums import NOISE_BINS, LikelihoodSums, merge, unit_places

Revealed = Callable[[int], object]


class ScoringLoop(DenoisingLoop):
    """The denoising loop, which scores and reveals the true tokens of its holes.

    Args:
        model: a masked diffusion model.
        ids_BL: tokens, masks nowhere.
        scored_BL: bool, which of them are scored.
        attention_BL: 0 at padding; None where there is none.
        order: in which they are revealed. Where it reveals several tokens a step all rows must have as many holes in
            each of its blocks, since K tokens a step are ceil(n / K) steps of equal parts.
        revealed: called with the number of tokens of each step.

    """

    def __init__(
        self,
        model: Any,
        ids_BL: torch.Tensor,
        scored_BL: torch.Tensor,
        attention_BL: torch.Tensor | None,
        order: ExactOrder,
        revealed: Revealed | None = None,
    ) -> None:
        mask_id, device = model.config.mask_token_id, model.device
        given = {
            "sampler": order.sampler,
            "sampler_config": order.parameters,
            "max_new_tokens": 0,
            "do_sample": True,
            "temperature": 1.0,
            **dict.fromkeys(("top_k", "top_p", "repetition_penalty", "guidance_scale", "eos_token_id")),
        }
        config = merged_config(None, model.generation_config, {}, given)
        canvas = Canvas(ids_BL.masked_fill(scored_BL, mask_id), attention_BL, 0, mask_id, None, device)
        super().__init__(model, canvas, config, None, RowDraws([]))  # nothing is drawn
        self.order, self.revealed = order, revealed
        self.true_BL = ids_BL.to(device)
        self._found: list[tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]] = []

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each scored token when it was revealed, in nats (0 elsewhere), and whether it was the likeliest.

        Both (B, L), float64 and bool.
        """
        log_p_BL, likeliest_BL = np.zeros(self.canvas.holes_BL.shape), np.zeros(self.canvas.holes_BL.shape, dtype=bool)
        if self._found:
            rows, columns, log_p, likeliest = zip(*self._found, strict=True)
            where = np.concatenate(rows), np.concatenate(columns)
            log_p_BL[where] = torch.cat(log_p).cpu().numpy()
            likeliest_BL[where] = torch.cat(likeliest).cpu().numpy()
        return log_p_BL, likeliest_BL

    def blocks(self) -> Iterator[tuple[int, np.ndarray, int]]:
        for wanted_BL in blocks_of(self.canvas.holes_BL, self.order.block_length):
            most = int(wanted_BL.sum(-1).max())
            yield -(-most // (self.order.tokens_per_step or 1)), wanted_BL, self.canvas.length

    def _draw(
        self,
        block: Block,
        step: int,
        texts_NL: torch.Tensor | None,
        logits_NV: torch.Tensor,
        row_N: np.ndarray,
        column_N: np.ndarray,
    ) -> torch.Tensor:
        device = logits_NV.device
        tokens_N = self.true_BL[torch.from_numpy(row_N).to(device), torch.from_numpy(column_N).to(device)]
        log_p_N = logits_NV.gather(-1, tokens_N[:, None]).squeeze(-1) - logits_NV.logsumexp(-1)
        self._found.append((row_N, column_N, log_p_N, logits_NV.argmax(-1) == tokens_N))
        if self.revealed is not None:
            self.revealed(len(row_N))
        return tokens_N


def blocks_of(holes_BL: np.ndarray, block_length: int | None) -> Iterator[np.ndarray]:
    """Yield the (B, L) bool holes of each block, of ``block_length`` columns counted from the first hole of a row."""
    if block_length is None:
        yield holes_BL.copy()
        return
    number_BL = (np.arange(holes_BL.shape[1])[None] - holes_BL.argmax(-1)[:, None]) // block_length
    for number in range(int(number_BL.max()) + 1):
        if (wanted_BL := holes_BL & (number_BL == number)).any():
            yield wanted_BL


@dataclass(frozen=True)
class ExactScorer:
    """Scores batches of clean tokens under one order.

    Args:
        model: a masked diffusion model, in evaluation mode.
        order: see :class:`~hf_difflm.evaluation.likelihood.exact_options.ExactOrder`.
        data_unit: "documents" or "blocks", by which likelihoods are added up.
    """

    model: Any
    order: ExactOrder
    data_unit: str

    @torch.no_grad()
    def __call__(self, batches: Iterable[Batch], revealed: Revealed | None = None) -> LikelihoodSums:
        """One replicate, since nothing is drawn.

        Args:
            batches: as in :func:`~hf_difflm.evaluation.likelihood.evaluate.evaluate_likelihood`.
            revealed: called with the number of tokens that each step has revealed.

        Raises:
            UserError: parameters of the order that its sampler does not take.
        """
        return merge([self._batch(batch, revealed) for batch in batches])

    def _batch(self, batch: Batch, revealed: Revealed | None) -> LikelihoodSums:
        scored_BL = (batch["labels"] != -100).numpy()
        ids, units_BL = unit_places(batch, self.data_unit)
        nll_BL, correct_BL = np.zeros(scored_BL.shape), np.zeros(scored_BL.shape, dtype=bool)
        forwards = 0
        for rows in self._together(scored_BL):
            attention = batch.get("attention_mask")
            loop = self._loop(
                batch["input_ids"][rows],
                torch.from_numpy(scored_BL[rows]),
                None if attention is None else attention[rows],
                revealed,
            )
            loop.run()
            log_p_RL, correct_BL[rows] = loop.scores()
            nll_BL[rows] = -log_p_RL
            forwards += int(loop.forwards_B.sum())
        unit_S = np.searchsorted(ids, units_BL[scored_BL])
        return LikelihoodSums(
            unit_ids=ids,
            unit_nll_KU=np.bincount(unit_S, nll_BL[scored_BL], minlength=len(ids))[None],
            excess_KU=np.zeros((1, len(ids))),
            unit_tokens=np.bincount(unit_S, minlength=len(ids)),
            correct_K=np.array([correct_BL.sum()]),
            predicted_K=np.array([scored_BL.sum()]),
            bins_K3N=np.zeros((1, 3, NOISE_BINS)),
            num_bytes=int(batch["num_bytes"].sum()) if "num_bytes" in batch else None,
            forwards=forwards,
        )

    def _loop(self, *given: Any) -> ScoringLoop:
        ids, scored, attention, revealed = given
        try:
            return ScoringLoop(self.model, ids, scored, attention, self.order, revealed)
        except ValueError as error:  # of the sampler's parameters
            raise UserError(f"--tokens-per-step or --exact-order: {error}") from error

    def _together(self, scored_BL: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the rows that share forwards: those with as many holes in each block, where several tokens are revealed."""
        rows = np.flatnonzero(scored_BL.any(-1))
        if (self.order.tokens_per_step or 1) == 1:
            if len(rows):
                yield rows
            return
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in rows:
            blocks = blocks_of(scored_BL[row : row + 1], self.order.block_length)
            alike[tuple(int(wanted.sum()) for wanted in blocks)].append(int(row))
        yield from map(np.array, alike.values())


def forwards_of(scored_BL: np.ndarray, order: ExactOrder) -> np.ndarray:
    """(B,) forwards that each row takes; where the order says itself how many tokens a step reveals, the most it can take."""
    each = (-(-wanted.sum(-1) // (order.tokens_per_step or 1)) for wanted in blocks_of(scored_BL, order.block_length))
    return np.sum(list(each), axis=0)
