"""The exact likelihood of a masked diffusion model that reveals in a deterministic order (DUEL, arXiv 2603.01367).

A rule names the positions S(z) to reveal next from what is revealed, z. Then log p(x) is the sum, over steps and over the
positions in S(z), of log mu(x_i | z): the law of the sampler that draws those positions from mu at temperature 1, apart
from each other, and reveals them. It is normalised, since S never looks at what it has not revealed. The loop and the
rules are those of ``generate``; the true tokens stand in for the drawn ones.

A model with diffusion blocks reveals in that order within each block, block after block, each given the clean text before
it: log p(x) is the sum over blocks, and of blocks of one token that of an autoregressive model, whatever the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import UserError
from ...models.masked_diffusion.diffusion_blocks import number_from
from ...models.masked_diffusion.generation_canvas import Canvas
from ...models.masked_diffusion.generation_configuration import merged_config
from ...models.masked_diffusion.generation_loop import DenoisingLoop
from ...models.masked_diffusion.generation_random import RowDraws
from ...models.masked_diffusion.logit_statistics import Predictions
from ...models.masked_diffusion.sampler_protocol import Block
from ...objectives import Batch
from .batches import rows_at_once
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
        number_BL: see :func:`block_numbers`.
        order: in which they are revealed. Where it reveals several tokens a step all rows must have as many holes in
            each of its blocks, since K tokens a step are ceil(n / K) steps of equal parts.
        revealed: called with the number of tokens of each step.

    """

    is_known = True

    def __init__(
        self,
        model: Any,
        ids_BL: torch.Tensor,
        scored_BL: torch.Tensor,
        attention_BL: torch.Tensor | None,
        number_BL: np.ndarray,
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
        self.number_BL, self.order, self.revealed = number_BL, order, revealed
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

    def run(self) -> None:
        if self.diffusion_blocks is None:
            super().run()
            return
        # All rows at once: in generate, those with as many steps for each block.
        here_B = self.canvas.holes_BL.sum(-1) > 0
        self._fill(self.diffusion_blocks.blocks(here_B, self._steps().tolist()), here_B)

    def blocks(self) -> Iterator[tuple[int, np.ndarray, int]]:
        for number, steps in enumerate(self._steps().tolist()):
            if steps:
                yield steps, self.canvas.holes_BL & (self.number_BL == number), self.canvas.length

    def _steps(self) -> np.ndarray:
        """(N,) the steps of each block: those of the row that has most."""
        return steps_of(holes_by_block(self.canvas.holes_BL, self.number_BL), self.order).max(0)

    def _draw(
        self,
        block: Block,
        step: int,
        texts_NL: torch.Tensor | None,
        predictions: Predictions,
        row_N: np.ndarray,
        column_N: np.ndarray,
    ) -> torch.Tensor:
        device = self.true_BL.device
        tokens_N = self.true_BL[torch.from_numpy(row_N).to(device), torch.from_numpy(column_N).to(device)]
        log_p_N = predictions.log_probability(tokens_N)
        self._found.append((row_N, column_N, log_p_N, predictions.best() == tokens_N))
        if self.revealed is not None:
            self.revealed(len(row_N))
        return tokens_N


def block_numbers(scored_BL: np.ndarray, attention_BL: np.ndarray | None, order: ExactOrder, config: Any) -> np.ndarray:
    """(B, L) the block that each position is in, the first of its row with a scored token being 0.

    Blocks are those of the model, which are counted in tokens of the text or, with ``diffusion_block_start: answer``, anew
    from the first scored one; of a model that has none they are of ``order.block_length`` columns from the first scored one.
    """
    first_B1 = scored_BL.argmax(-1)[:, None]
    if (size := getattr(config, "diffusion_block_size", None)) is None:
        columns_BL = np.arange(scored_BL.shape[1])[None] - first_B1
        return columns_BL // (order.block_length or scored_BL.shape[1])
    real_BL = np.ones(scored_BL.shape, dtype=bool) if attention_BL is None else attention_BL != 0
    places_BL = (real_BL.cumsum(-1) - 1).clip(0)
    starts_B1 = np.take_along_axis(places_BL, first_B1, axis=-1) * (config.diffusion_block_start == "answer")
    number_BL = number_from(places_BL, starts_B1, size)
    return number_BL - np.take_along_axis(number_BL, first_B1, axis=-1)


def holes_by_block(holes_BL: np.ndarray, number_BL: np.ndarray) -> np.ndarray:
    """(B, N) holes of each row in each of the N blocks up to the last that has any."""
    rows_X, numbers_X = np.nonzero(holes_BL)[0], number_BL[holes_BL]
    holes_BN = np.zeros((len(holes_BL), int(numbers_X.max(initial=-1)) + 1), dtype=np.int64)
    np.add.at(holes_BN, (rows_X, numbers_X), 1)
    return holes_BN


def steps_of(holes_BN: np.ndarray, order: ExactOrder) -> np.ndarray:
    """(B, N) steps of each block; where the order says itself how many tokens a step reveals, the most it can take."""
    return -(-holes_BN // (order.tokens_per_step or 1))


@dataclass(frozen=True)
class ExactScorer:
    """Scores batches of clean tokens under one order.

    Args:
        model: a masked diffusion model, in evaluation mode, with diffusion blocks or without.
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

    def forwards(self, batch: Batch) -> np.ndarray:
        """(B,) forwards that each row takes; where the order says itself how many tokens a step reveals, the most."""
        scored_BL, _, number_BL = self._numbered(batch)
        return steps_of(holes_by_block(scored_BL, number_BL), self.order).sum(-1)

    def _numbered(self, batch: Batch) -> tuple[np.ndarray, torch.Tensor | None, np.ndarray]:
        """What is scored, the attention mask, and :func:`block_numbers`."""
        scored_BL, attention_BL = (batch["labels"] != -100).numpy(), batch.get("attention_mask")
        mask_BL = None if attention_BL is None else attention_BL.numpy()
        return scored_BL, attention_BL, block_numbers(scored_BL, mask_BL, self.order, self.model.config)

    def _batch(self, batch: Batch, revealed: Revealed | None) -> LikelihoodSums:
        scored_BL, attention_BL, number_BL = self._numbered(batch)
        ids, units_BL = unit_places(batch, self.data_unit)
        nll_BL, correct_BL = np.zeros(scored_BL.shape), np.zeros(scored_BL.shape, dtype=bool)
        forwards = 0
        for rows in self._together(scored_BL, number_BL):
            loop = self._loop(
                batch["input_ids"][rows],
                torch.from_numpy(scored_BL[rows]),
                None if attention_BL is None else attention_BL[rows],
                number_BL[rows],
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

    def _loop(
        self,
        ids_RL: torch.Tensor,
        scored_RL: torch.Tensor,
        attention_RL: torch.Tensor | None,
        number_RL: np.ndarray,
        revealed: Revealed | None,
    ) -> ScoringLoop:
        try:
            return ScoringLoop(self.model, ids_RL, scored_RL, attention_RL, number_RL, self.order, revealed)
        except ValueError as error:  # of the sampler's parameters
            raise UserError(f"--tokens-per-step or --exact-order: {error}") from error

    def _together(self, scored_BL: np.ndarray, number_BL: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the rows that share forwards.

        Where several tokens are revealed these are rows with as many holes in each block, and never more than have
        :data:`~.batches.MOST_LOGITS` logits at a step.
        """
        holes_BN, tokens = holes_by_block(scored_BL, number_BL), self.order.tokens_per_step or 1
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in np.flatnonzero(scored_BL.any(-1)).tolist():
            alike[tuple(holes_BN[row]) if tokens > 1 else ()].append(row)
        seen = tokens if self.order.is_fixed else int(holes_BN.max(initial=1))
        at_once = rows_at_once(seen, self.model.config.vocab_size)
        for rows in alike.values():
            yield from (np.array(rows[first : first + at_once]) for first in range(0, len(rows), at_once))
